"""xxHash64 of 8 and 16 bytes (github.com/Cyan4973/xxHash, doc/xxhash_spec.md), with the standard library alone."""

P1, P2, P3, P4, P5 = (
    0x9E3779B185EBCA87,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
)
MASK = 2**64 - 1


def rotated(number, bits):
    return (number << bits | number >> 64 - bits) & MASK


def xxhash64(data, seed=0):
    assert len(data) in (8, 16), "other lengths take other steps"
    hashed = seed + P5 + len(data) & MASK
    for at in range(0, len(data), 8):
        lane = int.from_bytes(data[at : at + 8], "little")
        hashed ^= rotated(lane * P2 & MASK, 31) * P1 & MASK
        hashed = rotated(hashed, 27) * P1 + P4 & MASK
    hashed = (hashed ^ hashed >> 33) * P2 & MASK
    hashed = (hashed ^ hashed >> 29) * P3 & MASK
    return hashed ^ hashed >> 32
