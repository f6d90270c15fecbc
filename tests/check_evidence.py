"""The check of an evidence file after docs/format.md, without anchors, with the standard library alone."""

import base64
import hashlib
import json
import re
import struct

import ed25519
from trees import leaf_hash, root_of_inclusion, sha256

HEX = re.compile("(?:[0-9a-f]{2})*")
MAX_LEN, MAX_ITEMS, MAX_PATH, MAX_HASHES = 8 * 1024 * 1024, 10_000, 64, 128
ENTRY = struct.Struct(">BB16s8s32s32s")


class Refused(Exception):
    """Why the file is not evidence, or is false."""


def need(holds, reason):
    if not holds:
        raise Refused(reason)


# --- the shape of the file --------------------------------------------------------------------


def unique(pairs):
    keys = [key for key, _ in pairs]
    need(len(set(keys)) == len(keys), "a key twice")
    return dict(pairs)


def shape(value, required, optional=()):
    need(isinstance(value, dict), "no object")
    need(set(required) <= set(value) <= {*required, *optional}, f"keys are {sorted(value)}")
    return value


def octets(text, length=None):
    need(isinstance(text, str) and HEX.fullmatch(text), "not lower-case hex")
    data = bytes.fromhex(text)
    need(length is None or len(data) == length, "hex of another length")
    return data


def number(value):
    need(type(value) is int and 0 <= value < 2**64, "not an integer of 64 bits")
    return value


def items(value, most):
    need(isinstance(value, list) and len(value) <= most, "no list, or a long one")
    return value


def read_anchor(anchor):
    shape(anchor, ("type", "chain_id", "size", "header", "transaction_index", "receipt_proof", "log_index"),
          ("consistency",))
    need(anchor["type"] == "evm", "another kind of anchor")
    for name in ("chain_id", "size", "transaction_index", "log_index"):
        number(anchor[name])
    octets(anchor["header"])
    for node in items(anchor["receipt_proof"], MAX_LEN):
        octets(node)
    for node in items(anchor.get("consistency", []), MAX_HASHES):
        octets(node, 32)


def read(text):
    """The file as an object, where it has the shape of one."""
    need(len(text.encode()) <= MAX_LEN, "too large")
    evidence = json.loads(text, object_pairs_hook=unique)
    shape(evidence, ("format", "trace_id", "spans"), ("anchors",))
    need(evidence["format"] == "meshchain/evidence/v1", "another format")
    octets(evidence["trace_id"], 16)
    items(evidence["spans"], MAX_ITEMS)
    for anchor in items(evidence.get("anchors", []), MAX_ITEMS):
        read_anchor(anchor)
    return evidence


# --- what it says -----------------------------------------------------------------------------


def fields(data):
    """{tag: bytes or integer} of a protobuf message; the last one where a tag repeats."""
    found, at = {}, 0

    def varint():
        nonlocal at
        value, shift = 0, 0
        while True:
            need(at < len(data), "cut short")
            byte, at = data[at], at + 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = varint()
        value = varint()
        if key & 7 == 2:
            need(at + value <= len(data), "cut short")
            value, at = data[at : at + value], at + value
        found[key >> 3] = value
    return found


def open_checkpoint(note, vkey):
    """(size, root) of a checkpoint that the key has signed."""
    name, _, key = vkey.split("+", 2)
    blob = base64.b64decode(key)
    key_id = hashlib.sha256(name.encode() + b"\n" + blob).digest()[:4]
    text, _, signatures = note.rpartition("\n\n")
    text, signed = text + "\n", False
    for line in signatures.splitlines():
        need(line.startswith("— "), "no signature line")
        signer, signature = line[2:].split(" ")
        signature = base64.b64decode(signature, validate=True)
        if signer == name and signature[:4] == key_id:
            need(ed25519.holds(blob[1:], text.encode(), signature[4:]), "the checkpoint's signature")
            signed = True
    need(signed, "the checkpoint is not signed")
    origin, size, root = text.split("\n")[:3]
    need(origin == name and re.fullmatch("0|[1-9][0-9]*", size), "no checkpoint of this log")
    return int(size), base64.b64decode(root, validate=True)


def read_proof(text):
    """(index, path, checkpoint) of a tlog-proof."""
    head, _, checkpoint = text.partition("\n\n")
    version, *lines = head.split("\n")
    need(version == "c2sp.org/tlog-proof@v1", "no tlog-proof")
    lines = lines[1:] if lines and lines[0].startswith("extra ") else lines
    index = re.fullmatch("index (0|[1-9][0-9]*)", lines[0] if lines else "")
    path = [base64.b64decode(line, validate=True) for line in lines[1:]]
    need(index and len(path) <= MAX_PATH and all(len(node) == 32 for node in path), "no tlog-proof")
    return int(index[1]), path, checkpoint


def check_record(record, entry):
    _, side, _, _, hop_digest, span_digest = entry
    shape(record, (), ("hop", "own"))
    if "hop" in record:
        hop = octets(record["hop"])
        need(sha256(b"meshchain/hop/v1\0", hop) == hop_digest, "the hop part")
    if "own" in record:
        own = octets(record["own"])
        need(sha256(b"meshchain/span/v1\0", hop_digest, own) == span_digest, "the own part")
        need(fields(own).get(1) == side, "the own part's side")


def check_span(span, trace_id, vkey):
    """(index, leaf hash, size, root): the leaf's place, and the tree that it is proved in."""
    shape(span, ("entry", "batch", "leaf", "tlog_proof"), ("record",))
    data, leaf_data = octets(span["entry"]), octets(span["leaf"])
    need(len(data) == ENTRY.size, "no entry")
    entry = ENTRY.unpack(data)
    need(entry[0] == 1 and 1 <= entry[1] <= 4 and entry[2] == trace_id, "an entry of another trace")
    check_record(span.get("record", {}), entry)
    leaf = fields(leaf_data)
    header, public, chain = fields(leaf[2]), leaf[8], leaf[4]
    batch = shape(span["batch"], ("index", "path"))
    path = [octets(node, 32) for node in items(batch["path"], MAX_HASHES)]
    root = root_of_inclusion(number(batch["index"]), header.get(6, 0), leaf_hash(data), path)
    need(root == leaf[5], "the entry is not in the batch")
    need(header[4] == sha256(b"meshchain/session/v1\0", public)[:16], "the session is not the key's")
    need(ed25519.holds(public, b"meshchain/batch/v1\0" + chain, leaf[9]), "the batch is not signed")
    index, path, checkpoint = read_proof(span["tlog_proof"])
    size, root = open_checkpoint(checkpoint, vkey)
    need(root_of_inclusion(index, size, leaf_hash(leaf_data), path) == root, "the leaf is not in the log")
    return index, leaf_hash(leaf_data), size, root


def fault(text, vkey):
    """Why the file is refused by whoever believes this key; None where it stands."""
    try:
        evidence = read(text)
        need(evidence["spans"], "no span")
        trace_id = octets(evidence["trace_id"])
        found = [check_span(span, trace_id, vkey) for span in evidence["spans"]]
        need(len({f[0] for f in found}) == len({f[:2] for f in found}), "two histories: two leaves at one index")
        need(len({f[2] for f in found}) == len({f[2:] for f in found}), "two histories: two roots for one size")
        need(len({f[2:] for f in found}) == 1, "nothing ties the checkpoints to each other")
    except (Refused, ValueError, KeyError) as error:
        return str(error)
    return None
