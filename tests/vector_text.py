"""How vectors write values, and how a value is compared with one."""


def raw(value):
    """Bytes of a vector's text: hex behind 0x, else UTF-8."""
    return bytes.fromhex(value[2:]) if value.startswith("0x") else value.encode()


def same(what, ours, theirs):
    ours = ours.hex() if isinstance(ours, bytes) else ours
    assert ours == theirs, f"{what}: {ours} here, {theirs} in the file"
