"""The vectors of what a log stores and serves, by docs/format.md and docs/storage.md."""

import json
import struct

from trees import sha256
from vector_text import raw, same
from xxhash64 import xxhash64


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


CHECKS = {
    "bundle": check_bundle,
    "entries-page": check_entries_page,
    "tile-name": check_tile_name,
    "staging-bundle": check_staging_bundle,
    "sealed": check_sealed,
    "session-table": check_session_table,
    "audit-line": check_audit_line,
}
