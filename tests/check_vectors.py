#!/usr/bin/env python3
"""Recomputes the vectors with the standard library alone: a second implementation of
docs/format.md in another language. Field numbers and types are read out of meshchain.proto.

    python3 tests/check_vectors.py          exit code 0: all agree, 1: a vector differs
"""

import json
import pathlib
import re
import struct
import sys

import check_evidence
import ed25519
from target_rule import canonical_authority, canonical_path
from trees import leaf_hash, root_of_inclusion, roots_of_consistency, sha256, tree_root
from xxhash64 import xxhash64

HERE = pathlib.Path(__file__).resolve().parent
ENTRY = struct.Struct(">BB16s8s32s32s")


# --- canonical protobuf ---------------------------------------------------------------------


def read_proto(text):
    """{message: [(tag, name, type, repeated)]}, ascending by tag; enums count as integers."""
    messages = {}
    for name, body in re.findall(r"^message (\w+) \{(.*?)^\}", text, re.M | re.S):
        fields = re.findall(r"^  (repeated )?(\w+) (\w+) = (\d+);", body, re.M)
        messages[name] = sorted((int(tag), n, kind, bool(rep)) for rep, kind, n, tag in fields)
    return messages


MESSAGES = read_proto((HERE / "meshchain.proto").read_text("utf-8"))


def raw(value):
    """Bytes of a vector's text: hex behind 0x, else UTF-8."""
    return bytes.fromhex(value[2:]) if value.startswith("0x") else value.encode()


def varint(number):
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out) + bytes([number])


def field(tag, kind, value):
    if kind in MESSAGES:
        value = encode(kind, value)
    elif kind in ("bytes", "string"):
        value = raw(value)
    else:
        return varint(tag << 3) + varint(int(value)) if value else b""
    return varint(tag << 3 | 2) + varint(len(value)) + value if value else b""


def encode(message, values):
    """The canonical encoding: ascending tags, no defaults."""
    out = b""
    for tag, name, kind, repeated in MESSAGES[message]:
        value = values.get(name)
        for one in value if repeated else [value]:
            out += field(tag, kind, one) if one is not None else b""
    return out


# --- sessions ------------------------------------------------------------------------------


def session_id(public):
    return sha256(b"meshchain/session/v1\0", public)[:16]


def batch_message(chain):
    return b"meshchain/batch/v1\0" + chain


# --- digests and trees ----------------------------------------------------------------------


def entries_root(entries):
    whole = len(entries) // 90 * 90
    return tree_root([leaf_hash(entries[at : at + 90]) for at in range(0, whole, 90)])


def chain_value(prev, header, entries):
    return sha256(b"meshchain/chain/v1\0", prev, sha256(entries), header)


def hop_part(call):
    path = canonical_path(re.split(rb"[?#]", raw(call["target"]))[0])
    request_id, authority = raw(call["request_id"]), canonical_authority(raw(call["authority"]))
    if len(request_id) == 36:
        request_id = request_id[:14] + b"4" + request_id[15:]
    texts = [request_id, raw(call["method"]), authority, path]
    part = {"trace_id": call["trace_id"], "span_id": call["span_id"], "status": call["status"]}
    for name, text in zip(("request_id", "method", "authority", "path"), texts):
        part[name] = "0x" + text[:1024].hex()
    if any(len(text) > 1024 for text in texts):
        framed = b"".join(struct.pack(">I", len(text)) + text for text in texts)
        part["overflow"] = "0x" + sha256(b"meshchain/overflow/v1\0" + framed).hex()
    return encode("HopPart", part)


# --- trace contexts -------------------------------------------------------------------------

TRACE, SPAN = "([0-9a-fA-F]{16}|[0-9a-fA-F]{32})", "([0-9a-fA-F]{16})"
SHORT = re.compile("[0-9a-fA-F]{1,16}")
B3 = re.compile(f"{TRACE}-{SPAN}(?:-([01d])(?:-{SPAN})?)?")
W3C = re.compile("(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.S)
SESSION = re.compile("([0-9a-f]{32})(;w3c)?(?:;id=(.{1,256}))?", re.S)
DENIED, ACCEPTED, DEBUG = 1, 2, 3
STATES = {"0": DENIED, "false": DENIED, "1": ACCEPTED, "true": ACCEPTED, "d": DEBUG}


def b3_multi(headers):
    trace, span = headers.get("x-b3-traceid", ""), headers.get("x-b3-spanid", "")
    parent = headers.get("x-b3-parentspanid", "")
    if not SHORT.fullmatch(trace) and not re.fullmatch("[0-9a-fA-F]{32}", trace):
        return None
    if not SHORT.fullmatch(span):
        return None
    state = headers.get("x-b3-sampled", "")
    sampling = STATES.get(state, 0) if state != "d" else 0
    if headers.get("x-b3-flags") == "1":
        sampling = DEBUG
    parent = parent if SHORT.fullmatch(parent) and int(parent, 16) else None
    return trace, span, parent, sampling


def b3_single(headers):
    match = B3.fullmatch(headers.get("b3", ""))
    if not match or match[4] and not int(match[4], 16):
        return None
    return match[1], match[2], match[4], STATES.get(match[3], 0)


def w3c(headers):
    match = W3C.fullmatch(headers.get("traceparent", ""))
    if not match or match[1] == "00" and match[5]:
        return None
    return match[2], match[3], None, ACCEPTED if int(match[4], 16) & 1 else DENIED


def session_header(value):
    """As the vectors write it; None where it is no session header. Text of one byte a character."""
    match = SESSION.fullmatch(value)
    if not match or not int(match[1], 16):
        return None
    return {"session": match[1], "w3c": bool(match[2]), "request_id": match[3]}


def context_of(headers):
    """The first valid form, as the vectors write it; None where there is none."""
    sender = session_header(headers.get("x-meshchain-session", ""))
    first = [w3c] if sender and sender["w3c"] else []
    for form in first + [b3_single, b3_multi, w3c]:
        found = form(headers)
        if found and int(found[0], 16) and int(found[1], 16):
            trace, span, parent, sampling = found
            return {
                "trace_id": trace.lower().zfill(32),
                "span_id": span.lower().zfill(16),
                "parent_span_id": parent and parent.lower().zfill(16),
                "sampling": sampling,
            }
    return None


# --- one check per format -------------------------------------------------------------------


def same(what, ours, theirs):
    ours = ours.hex() if isinstance(ours, bytes) else ours
    assert ours == theirs, f"{what}: {ours} here, {theirs} in the file"


def check_table(rule):
    def check_values(vector):
        ours = [rule(raw(given)) for given in vector["input"]["given"]]
        same("canonical", ours, [raw(value) for value in vector["canonical"]])

    return check_values


def check_session(vector):
    i = vector["input"]
    public, chain, signature = (bytes.fromhex(i[n]) for n in ("public_key", "chain", "signature"))
    if "seed" in i:
        seed = bytes.fromhex(i["seed"])
        same("public key", ed25519.key_of(seed)[2], i["public_key"])
        same("signature", ed25519.sign(seed, batch_message(chain)), i["signature"])
    same("session", session_id(public), vector["digests"]["session"])
    same("verdict", ed25519.holds(public, batch_message(chain), signature), vector["valid"])


def decode_header(data):
    """(session, seq) of a canonical batch header; None where it is not one."""
    try:
        found = check_evidence.fields(data)
        return found[4], found.get(5, 0)
    except (check_evidence.Refused, KeyError):
        return None


def check_equivocation(vector):
    places, chains = set(), []
    texts = [text for batch in vector["input"]["batches"] for text in batch.values()]
    holds = all(check_evidence.HEX.fullmatch(text) for text in texts)
    for batch in vector["input"]["batches"]:
        header, prev, digest, public, signature = (bytes.fromhex(batch[n]) for n in (
            "header", "prev", "entries_digest", "public_key", "signature"))
        chain = sha256(b"meshchain/chain/v1\0", prev, digest, header)
        place = decode_header(header)
        holds = holds and place is not None and place[0] == session_id(public)
        holds = holds and ed25519.holds(public, batch_message(chain), signature)
        places.add(place)
        chains.append(chain.hex())
    same("verdict", holds and len(places) == 1 and chains[0] != chains[1], vector["valid"])
    if vector["valid"]:
        [(session, seq)] = places
        same("proven", {"session": session.hex(), "seq": seq, "chains": chains}, vector["proven"])


def check_evidence_file(vector):
    text, vkey = json.dumps(vector["evidence"]), vector["input"]["verifier_key"]
    fault = check_evidence.fault(text, vkey)
    same("verdict", fault is None, vector["valid"])
    history = "two histories" in vector.get("error", "")
    same("two histories", "two histories" in (fault or ""), history)


def check_session_header(vector):
    header = session_header(vector["input"]["value"])
    same("header", header, vector.get("header"))
    same("verdict", header is not None, vector["valid"])


def check_hop(vector):
    encoded = hop_part(vector["input"])
    same("encoded", encoded, vector["encoded"])
    same("digest", sha256(b"meshchain/hop/v1\0", encoded), vector["digests"]["hop"])


def check_own(vector):
    encoded = encode("OwnPart", vector["input"])
    same("encoded", encoded, vector["encoded"])
    hop = bytes.fromhex(vector["input"]["hop_digest"])
    same("digest", sha256(b"meshchain/span/v1\0", hop, encoded), vector["digests"]["span"])


def check_entry(vector):
    i = vector["input"]
    parts = (bytes.fromhex(i[n]) for n in ("trace_id", "span_id", "hop_digest", "span_digest"))
    same("encoded", ENTRY.pack(1, i["side"], *parts), vector["encoded"])


def check_chain(vector):
    prev, chains, roots = bytes(32), [], []
    for batch in vector["input"]["batches"]:
        header, entries = raw(batch["header"]), raw(batch["entries"])
        prev = chain_value(prev, header, entries)
        chains.append(prev.hex())
        roots.append(entries_root(entries).hex())
    same("chain", chains, vector["digests"]["chain"])
    same("entries root", roots, vector["digests"]["entries_root"])


def check_leaf(vector):
    i = vector["input"]
    encoded = encode("BatchLeaf", i)
    same("encoded", encoded, vector["encoded"])
    same("leaf hash", leaf_hash(encoded), vector["digests"]["leaf"])
    entries, header = raw(i["entries"]), raw(i["header"])
    same("entries root", "0x" + entries_root(entries).hex(), i["entries_root"])
    chain = chain_value(raw(i["prev"]), header, entries)
    same("chain", "0x" + chain.hex(), i["chain"])
    check_signed(i, header)


def check_signed(i, header):
    """Header, key and signature of a leaf or batch belong together."""
    public = raw(i["public_key"])
    session = field(4, "bytes", "0x" + session_id(public).hex())
    assert session in header, "the session is not the key's"
    holds = ed25519.holds(public, batch_message(raw(i["chain"])), raw(i["signature"]))
    same("signature", holds, True)


def check_batch(vector):
    i = vector["input"]
    same("encoded", encode("Batch", i), vector["encoded"])
    chain = chain_value(raw(i["prev"]), raw(i["header"]), raw(i["entries"]))
    same("chain", "0x" + chain.hex(), i["chain"])
    check_signed(i, raw(i["header"]))


def check_log(vector):
    leaves = [leaf_hash(bytes.fromhex(leaf)) for leaf in vector["input"]["leaves"]]
    roots = [tree_root(leaves[:size]).hex() for size in vector["input"]["sizes"]]
    same("roots", roots, vector["digests"]["roots"])


def check_log_id(vector):
    origin = vector["input"]["origin"].encode()
    same("log id", sha256(b"meshchain/log/v1\0", origin), vector["digests"]["log_id"])


def check_inclusion(vector):
    i = vector["input"]
    proof = [bytes.fromhex(h) for h in i["proof"]]
    root = root_of_inclusion(i["index"], i["size"], bytes.fromhex(i["leaf_hash"]), proof)
    holds = root is not None and root.hex() == i["root"]
    same("verdict", holds, vector["valid"])


def check_consistency(vector):
    i = vector["input"]
    old, new = bytes.fromhex(i["old_root"]), bytes.fromhex(i["new_root"])
    proof = [bytes.fromhex(h) for h in i["proof"]]
    if i["old_size"] == 0:
        holds = not proof and old == tree_root([])
    elif i["old_size"] >= i["new_size"]:
        holds = not proof and (i["old_size"], old) == (i["new_size"], new)
    else:
        holds = roots_of_consistency(i["old_size"], i["new_size"], old, proof) == (old, new)
    same("verdict", holds, vector["valid"])


def check_context(vector):
    headers = {}
    for name, value in vector["input"]["headers"]:
        headers.setdefault(name, value)
    context = context_of(headers)
    same("context", context, vector.get("context"))
    same("verdict", context is not None, vector["valid"])


def check_bundle(vector):
    entries = [raw(entry) for entry in vector["input"]["entries"]]
    bundle = b"".join(struct.pack(">H", len(e)) + e for e in entries)
    same("encoded", bundle, vector["encoded"])


def check_entries_page(vector):
    leaves = [raw(leaf) for leaf in vector["input"]["leaves"]]
    same("encoded", b"".join(struct.pack(">I", len(leaf)) + leaf for leaf in leaves), vector["encoded"])


def check_tile_name(vector):
    i = vector["input"]
    digits = str(i["index"])
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    path = "/x".join(digits[at : at + 3] for at in range(0, len(digits), 3))
    path = "x" + path if len(digits) > 3 else path
    head, _, tail = path.rpartition("/x")
    path = f"{head}/{tail}" if head else path
    partial = f".p/{i['width']}" if i["width"] < 256 else ""
    same("path", f"tile/{i['level']}/{path}{partial}", vector["text"])


def check_staging_bundle(vector):
    i = vector["input"]
    content = b"meshchain-pool/1"
    for leaf in i["leaves"]:
        records = b"".join(struct.pack(">I", len(raw(r))) + raw(r) for r in leaf["records"])
        parts = [raw(leaf["leaf"]), raw(leaf["entries"]), records]
        content += struct.pack(">III", *map(len, parts)) + b"".join(parts)
    same("encoded", (content + sha256(content)).hex(), vector["encoded"])
    same("name", f"pool/{i['first']:020}-{sha256(content)[:8].hex()}", vector["name"])


def check_json_text(vector):
    same("text", json.loads(vector["text"]), vector["input"])
    same("one line", "\n" in vector["text"], False)


def check_sealed(vector):
    check_json_text(vector)
    state = vector["input"]
    same("members", list(json.loads(vector["text"])), ["version", "writer", "segments", "root", "sessions"])
    bounds = [tuple(int(n) for n in name.split("-")[:2]) for name in state["segments"]]
    same("segments follow", [first for first, _ in bounds], [0, *(end for _, end in bounds)][: len(bounds)])
    tables = [tuple(int(n) for n in name.split("-")[:2]) for name in state["sessions"]]
    same("tables follow", [first for first, _ in tables], [0, *(end for _, end in tables)][: len(tables)])
    same("tables end with segments", {end for _, end in tables} - {end for _, end in bounds}, set())
    same("tables end with the last", tables[-1:] and tables[-1][1], bounds[-1:] and bounds[-1][1])


# The members of a session in a table, in their order; the last one only where there is one.
SESSION_MEMBERS = (
    "first_leaf batches last_seq chain entries missing dropped notices last_received_ns source principal closed previous"
).split()


def table_bloom(seed, ids):
    """A bloom filter as in a segment's index: 10 bits per key in blocks of 512, 6 of them set."""

    def mixed(key):
        return xxhash64(key.to_bytes(8, "big"))

    blocks = -(-len(ids) * 10 // 512)
    bloom = bytearray(64 * blocks)
    for session in ids:
        hashed = mixed(xxhash64(session, seed) >> 24)
        block, bits = (hashed >> 32) * blocks >> 32, mixed(hashed)
        for probe in range(6):
            bit = bits >> 9 * probe & 511
            bloom[64 * block + bit // 8] |= 1 << bit % 8
    return bytes(bloom)


def check_session_table(vector):
    i = vector["input"]
    sessions = [(bytes.fromhex(session), state) for session, state in i["sessions"]]
    same("by id", sessions, sorted(sessions, key=lambda session: session[0]))
    blocks, fences = b"", b""
    for at in range(0, len(sessions), 128):
        states, rows, newest = b"", b"", 0
        for session, state in sessions[at : at + 128]:
            heard = 0 if state["closed"] else state["last_received_ns"]
            state = {member: state[member] for member in SESSION_MEMBERS if member in state}
            state = json.dumps(state, separators=(",", ":"), ensure_ascii=False).encode()
            states, newest = states + state, max(newest, heard)
            rows += session + struct.pack(">QI", heard, len(states)) + sha256(state)[:8]
        blocks += states + rows
        fences += rows[:16] + struct.pack(">QQ", len(blocks), newest) + sha256(rows)[:16]
    bloom = table_bloom(i["seed"], [session for session, _ in sessions])
    footer = b"meshchain-table1" + struct.pack(">QQQQ", i["first"], i["end"], i["seed"], len(blocks))
    footer += struct.pack(">II", len(sessions), len(bloom) // 64)
    index = fences + bloom + footer
    same("encoded", (blocks + index + sha256(index)).hex(), vector["encoded"])
    same("name", f"sessions/{i['first']:020}-{i['end']:020}-{i['seed']:016x}", vector["name"])


def check_audit_line(vector):
    check_json_text(vector)
    line = json.loads(vector["text"])
    same("members", list(line)[:4], ["time", "event", "log", "prev"])
    same("log", list(line["log"]), ["origin", "size", "root"])
    before = sha256(b"the line before").hex() if line["log"]["size"] else "00" * 32
    same("prev", line["prev"], before)


def message(name):
    return lambda vector: same("encoded", encode(name, vector["input"]), vector["encoded"])


CHECKS = {
    "path": check_table(canonical_path),
    "authority": check_table(canonical_authority),
    "session": check_session,
    "session-header": check_session_header,
    "equivocation": check_equivocation,
    "hop": check_hop,
    "own": check_own,
    "record": message("SpanRecord"),
    "entry": check_entry,
    "header": message("BatchHeader"),
    "chain": check_chain,
    "leaf": check_leaf,
    "batch": check_batch,
    "log": check_log,
    "log-id": check_log_id,
    "inclusion": check_inclusion,
    "consistency": check_consistency,
    "context": check_context,
    "bundle": check_bundle,
    "entries-page": check_entries_page,
    "tile-name": check_tile_name,
    "staging-bundle": check_staging_bundle,
    "sealed": check_sealed,
    "session-table": check_session_table,
    "audit-line": check_audit_line,
    "evidence": check_evidence_file,
}
# Signed texts, and what holds them. Rust checks these, and other people's code does.
ELSEWHERE = {"note", "checkpoint", "tlog-proof"}
# Formats whose refusals are recomputed too.
VERDICTS = {"inclusion", "consistency", "context", "session", "session-header", "equivocation", "evidence"}


def load():
    """(name, vector) of every file."""
    for path in sorted((HERE / "vectors").iterdir()):
        yield path.name, json.loads(path.read_text("utf-8"))


def check(vector):
    """True where the vector was recomputed, False where only its format is known here.

    Refusals are Rust's to check, but for those in VERDICTS.
    """
    kind = vector["format"]
    if kind not in CHECKS:
        assert kind in ELSEWHERE, f"unknown format {kind}"
        return False
    if not vector["valid"] and kind not in VERDICTS:
        assert vector["error"], "refused for no reason"
        return False
    CHECKS[kind](vector)
    return True


def main():
    recomputed, failed = 0, 0
    for name, vector in load():
        try:
            recomputed += check(vector)
        except AssertionError as error:
            failed += 1
            print(f"{name}: {error}", file=sys.stderr)
    print(f"{recomputed} vectors recomputed, {failed} differ")
    return 1 if failed or not recomputed else 0


if __name__ == "__main__":
    sys.exit(main())
