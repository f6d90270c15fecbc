//! The cases of the vectors, written with `meshchain-core`. Each file is then checked by other code.

mod batch;
mod context;
mod equivocation;
mod log;
mod record;
pub mod session;
mod stored;
mod target;
mod text;

use crate::vector::Vector;
use meshchain_core::Canonical;

/// Every case. Names are unique.
pub fn all() -> Vec<Vector> {
    let all = [
        target::cases(),
        context::cases(),
        session::cases(),
        record::cases(),
        batch::cases(),
        equivocation::cases(),
        log::cases(),
        stored::cases(),
        text::cases(),
    ]
    .concat();
    let mut names: Vec<_> = all.iter().map(|v| &v.name).collect();
    names.sort();
    let twice = names.windows(2).find(|w| w[0] == w[1]);
    assert!(twice.is_none(), "two cases of one name: {twice:?}");
    all
}

/// A case of `T` that core refuses; panics where it does not.
fn refused<'a, T: Canonical<'a> + std::fmt::Debug>(
    format: &str,
    name: &str,
    case: &str,
    bytes: &'a [u8],
) -> Vector {
    match T::decode(bytes) {
        Ok(message) => panic!("{format}-{name} was accepted: {message:?}"),
        Err(error) => Vector::invalid(format, name, case, error).encoded(bytes),
    }
}

/// The freedoms of protobuf, taken by a message whose canonical encoding is `good` (two fields or
/// more, field numbers below 16).
fn liberties<'a, T: Canonical<'a> + std::fmt::Debug>(format: &str, good: &[u8]) -> Vec<Vector> {
    let (first, rest) = split_field(good);
    let (second, tail) = split_field(rest);
    let number = first[0] >> 3;
    let cases: [(&str, &str, Vec<u8>); 7] = [
        (
            "unknown-field",
            "a field that version 1 does not have",
            [good, &[0xf8, 0x01, 0x01]].concat(),
        ),
        ("out-of-order", "the first two fields change places", [second, first, tail].concat()),
        ("field-twice", "the first field comes twice", [first, good].concat()),
        (
            "long-key",
            "the key of the first field is not the shortest varint",
            [&[good[0] | 0x80, 0], &good[1..]].concat(),
        ),
        (
            "wrong-type",
            "the first field is a fixed32",
            [&[number << 3 | 5, 0, 0, 0, 0], rest].concat(),
        ),
        ("truncated", "the last byte is missing", good[..good.len() - 1].to_vec()),
        ("trailing-zero", "a zero byte follows", [good, &[0]].concat()),
    ];
    cases
        .into_iter()
        .map(|(name, case, bytes)| refused::<T>(format, name, case, bytes.leak()))
        .collect()
}

/// The first field of a message, and the rest.
fn split_field(bytes: &[u8]) -> (&[u8], &[u8]) {
    let varint = |at: usize| {
        let more = bytes[at..].iter().take_while(|b| **b >= 0x80).count();
        let value =
            bytes[at..=at + more].iter().rev().fold(0, |v, b| v << 7 | usize::from(b & 0x7f));
        (value, at + more + 1)
    };
    let (key, at) = varint(0);
    let (value, at) = varint(at);
    bytes.split_at(if key & 7 == 2 { at + value } else { at })
}
