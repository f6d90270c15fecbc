"""Ed25519 (RFC 8032) by the rules of ZIP 215, in plain Python: slow, and to check vectors only."""

import functools
import hashlib

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)
NEUTRAL = (0, 1, 1, 0)


def add(p, q):
    """Sum of two points in extended coordinates (RFC 8032 section 5.1.4)."""
    a, b = (p[1] - p[0]) * (q[1] - q[0]), (p[1] + p[0]) * (q[1] + q[0])
    c, d = 2 * D * p[3] * q[3], 2 * p[2] * q[2]
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def times(number, point):
    sum_ = NEUTRAL
    while number:
        sum_ = add(sum_, point) if number & 1 else sum_
        point, number = add(point, point), number >> 1
    return sum_


def decompress(encoded):
    """RFC 8032 section 5.1.3, but that y may be over P, and x = 0 of either sign; None: no point."""
    y = int.from_bytes(encoded, "little")
    sign, y = y >> 255, (y & (1 << 255) - 1) % P
    u, v = (y * y - 1) % P, (D * y * y + 1) % P
    x = u * pow(v, 3, P) * pow(u * pow(v, 7, P), (P - 5) // 8, P) % P
    if v * x * x % P == -u % P:
        x = x * ROOT_OF_MINUS_ONE % P
    if v * x * x % P != u:
        return None
    x = P - x if x & 1 != sign else x
    return x, y, 1, x * y % P


def compress(point):
    inverse = pow(point[2], -1, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


BASE = decompress((4 * pow(5, -1, P) % P).to_bytes(32, "little"))


def sha512_number(*parts):
    return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little")


def key_of(seed):
    """Secret scalar, prefix, and public key of a seed (RFC 8032 section 5.1.5)."""
    digest = hashlib.sha512(seed).digest()
    scalar = int.from_bytes(digest[:32], "little") & (1 << 254) - 8 | 1 << 254
    return scalar, digest[32:], compress(times(scalar, BASE))


def sign(seed, message):
    scalar, prefix, public = key_of(seed)
    r = sha512_number(prefix, message) % ORDER
    encoded = compress(times(r, BASE))
    s = (r + sha512_number(encoded, public, message) * scalar) % ORDER
    return encoded + s.to_bytes(32, "little")


@functools.cache
def holds(public, message, signature):
    """8 s B = 8 R + 8 k A: the check with the cofactor."""
    a, r = decompress(public), decompress(signature[:32])
    s = int.from_bytes(signature[32:], "little")
    if a is None or r is None or s >= ORDER:
        return False
    k = sha512_number(signature[:32], public, message) % ORDER
    minus_s_b = times(ORDER - s, BASE)
    x, y, z, _ = times(8, add(add(r, times(k, a)), minus_s_b))
    return x == 0 and y == z
