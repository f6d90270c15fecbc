"""SHA-256 and Merkle trees (RFC 6962, RFC 9162), with the standard library alone."""

import hashlib


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def tree_root(leaves):
    """RFC 6962 section 2.1, over leaf hashes."""
    if not leaves:
        return sha256()
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\1", tree_root(leaves[:split]), tree_root(leaves[split:]))


def leaf_hash(data):
    return sha256(b"\0", data)


def root_of_inclusion(index, size, leaf, proof):
    """RFC 9162 section 2.1.3.2; None where the length is wrong."""
    if index >= size:
        return None
    fn, sn, root = index, size - 1, leaf
    for sibling in proof:
        if sn == 0:
            return None
        if fn & 1 or fn == sn:
            root = sha256(b"\1", sibling, root)
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            root = sha256(b"\1", root, sibling)
        fn, sn = fn >> 1, sn >> 1
    return root if sn == 0 else None


def roots_of_consistency(old_size, new_size, old_root, proof):
    """RFC 9162 section 2.1.4.2, for 0 < old_size < new_size; None where the length is wrong."""
    path = ([old_root] if old_size & (old_size - 1) == 0 else []) + proof
    if not path:
        return None
    fn, sn = old_size - 1, new_size - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    old = new = path[0]
    for node in path[1:]:
        if sn == 0:
            return None
        if fn & 1 or fn == sn:
            old, new = sha256(b"\1", node, old), sha256(b"\1", node, new)
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            new = sha256(b"\1", new, node)
        fn, sn = fn >> 1, sn >> 1
    return (old, new) if sn == 0 else None
