//! Sessions: keys, ids, signatures, and the header that names one on the wire.

use crate::vector::{Vector, show};
use meshchain_core::SessionKey;
use meshchain_core::session::{KEY_LEN, SIGNATURE_LEN, Signed, session_id};
use meshchain_core::session_header::{MAX_ID, SessionHeader};
use serde_json::{Value, json};

pub(super) fn cases() -> Vec<Vector> {
    [signatures(), headers()].concat()
}

/// The seed of the session that the other cases build on.
pub(super) const SEED: [u8; 32] = *b"\x9d\x61\xb1\x9d\xef\xfd\x5a\x60\xba\x84\x4a\xf4\x92\xec\x2c\xc4\x44\x49\xc5\x69\x7b\x32\x69\x19\x70\x3b\xac\x03\x1c\xae\x7f\x60";

/// The session that the other cases build on.
pub(super) fn key() -> SessionKey {
    SessionKey::from_seed(SEED)
}

/// Order of the group, little-endian.
const ORDER: [u8; 32] = *b"\xed\xd3\xf5\x5c\x1a\x63\x12\x58\xd6\x9c\xf7\xa2\xde\xf9\xde\x14\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x10";

/// `s` and the order of the group: the same number modulo it.
fn plus_order(s: &[u8]) -> Vec<u8> {
    let mut carry = 0;
    let digit = |(a, b): (&u8, &u8)| {
        let sum = u16::from(*a) + u16::from(*b) + carry;
        carry = sum >> 8;
        sum as u8
    };
    s.iter().zip(&ORDER).map(digit).collect()
}

fn signatures() -> Vec<Vector> {
    let signed = |seed: [u8; 32], chain: [u8; 32]| {
        let key = SessionKey::from_seed(seed);
        Signed { public_key: *key.public(), chain, signature: key.sign(&chain) }
    };
    let good = signed(SEED, [0x17; 32]);
    let seeded = [
        ("first", "a session, and a batch of it", SEED, [0x17; 32]),
        ("zero-seed", "the key of a zero seed, a zero chain value", [0; 32], [0; 32]),
        ("other", "another session", [0xff; 32], [0xa5; 32]),
    ];
    let seeded = seeded.map(|(name, case, seed, chain)| {
        let mut vector = signature(name, case, &signed(seed, chain));
        vector.json["input"]["seed"] = hex::encode(seed).into();
        vector
    });
    let mut wide = good;
    wide.signature[32..].copy_from_slice(&plus_order(&good.signature[32..]));
    let mut identity = [0; KEY_LEN];
    identity[0] = 1;
    // y = p + 1: the identity once more, not reduced.
    let mut unreduced = [0xff; KEY_LEN];
    (unreduced[0], unreduced[31]) = (0xee, 0x7f);
    let by_anybody = |key: [u8; KEY_LEN]| {
        let mut signature = [0; SIGNATURE_LEN];
        signature[..32].copy_from_slice(&identity);
        Signed { public_key: key, signature, ..good }
    };
    let mut altered = good;
    altered.signature[0] ^= 1;
    let others = [
        (
            "small-order",
            "a key of small order, for which anybody can sign: ZIP 215 takes it",
            by_anybody(identity),
        ),
        ("unreduced", "the same key in an encoding that is not reduced", by_anybody(unreduced)),
        ("altered-chain", "the chain value of another batch", Signed { chain: [0x18; 32], ..good }),
        (
            "other-key",
            "another session's key",
            Signed { public_key: *SessionKey::from_seed([1; 32]).public(), ..good },
        ),
        (
            "no-key",
            "a key that is no point of the curve",
            Signed { public_key: [2; KEY_LEN], ..good },
        ),
        ("altered-signature", "one bit of the signature", altered),
        ("no-point", "a signature whose first half is no point of the curve", {
            let mut bad = good;
            bad.signature[..32].copy_from_slice(&[2; 32]);
            bad
        }),
        ("wide-scalar", "the second half of the signature, and the order of the group added", wide),
        ("zero-signature", "zeros", Signed { signature: [0; SIGNATURE_LEN], ..good }),
    ];
    let others = others.map(|(name, case, signed)| signature(name, case, &signed));
    seeded.into_iter().chain(others).collect()
}

fn signature(name: &str, case: &str, signed: &Signed) -> Vector {
    let input = json!({
        "public_key": hex::encode(signed.public_key),
        "chain": hex::encode(signed.chain),
        "signature": hex::encode(signed.signature),
    });
    match signed.verify() {
        Ok(()) => Vector::valid("session", name, case, input),
        Err(error) => Vector::invalid("session", name, case, error).with("input", input),
    }
    .with("digests", json!({"session": hex::encode(session_id(&signed.public_key))}))
}

fn headers() -> Vec<Vector> {
    const ID: &str = "000102030405060708090a0b0c0d0e0f";
    let longest = "r".repeat(MAX_ID);
    let cases = [
        ("bare", "a session alone", ID.to_owned()),
        ("w3c", "the context is in traceparent", format!("{ID};w3c")),
        ("id", "with the request id", format!("{ID};id=6b1d4e0f-3c5a-4f8e-9d27-1a2b3c4d5e6f")),
        ("both", "with both", format!("{ID};w3c;id=1")),
        ("id-to-the-end", "the request id goes to the end", format!("{ID};id=a;w3c;id=b, c")),
        ("longest-id", "a request id of 256 bytes", format!("{ID};id={longest}")),
        ("long-id", "a request id of 257 bytes", format!("{ID};id={longest}r")),
        ("empty", "nothing", String::new()),
        ("short", "a session of 31 digits", ID[1..].to_owned()),
        ("long", "a session of 33 digits", format!("{ID}0")),
        ("zero", "an all-zero session", "0".repeat(32)),
        ("upper-case", "digits in upper case", ID.to_uppercase()),
        ("not-hex", "a digit that is none", ID.replace('f', "g")),
        ("empty-id", "a request id of nothing", format!("{ID};id=")),
        (
            "order",
            "the parameters in the other order, which makes a request id of both",
            format!("{ID};id=1;w3c"),
        ),
        ("other-parameter", "a parameter that version 1 does not have", format!("{ID};v=2")),
        ("w3c-value", "w3c with a value", format!("{ID};w3c=1")),
        ("space", "a space behind the semicolon", format!("{ID}; w3c")),
        ("two", "two values joined by a comma", format!("{ID},{ID}")),
    ];
    cases.into_iter().map(|(name, case, value)| header(name, case, &value)).collect()
}

fn header(name: &str, case: &str, value: &str) -> Vector {
    let input = json!({"value": value});
    match SessionHeader::parse(value.as_bytes()) {
        Some(header) => {
            Vector::valid("session-header", name, case, input).with("header", shown(&header))
        }
        None => Vector::invalid("session-header", name, case, "not a session header")
            .with("input", input),
    }
}

/// A header as the vectors write it.
pub fn shown(header: &SessionHeader<'_>) -> Value {
    json!({
        "session": hex::encode(header.session),
        "w3c": header.w3c,
        "request_id": header.request_id.map(show),
    })
}
