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
import check_stored
import ed25519
from context_rule import context_of, session_header
from target_rule import canonical_authority, canonical_path
from trees import leaf_hash, root_of_inclusion, roots_of_consistency, sha256, tree_root
from vector_text import raw, same

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


# --- one check per format -------------------------------------------------------------------


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
    "evidence": check_evidence_file,
    **check_stored.CHECKS,
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
