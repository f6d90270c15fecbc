//! Two encoders, one encoding: prost writes what core writes, core reads nothing else.

use crate::arbitrary;
use meshchain_core::own::HeaderField;
use meshchain_core::{BatchHeader, BatchLeaf, Canonical, Entry, HopPart, OwnPart, SpanRecord};
use meshchain_core::{Dropped, Previous, SessionKey, Source, leaf, merkle};
use meshchain_tests::proto;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;

/// Core reads what prost wrote and writes the same bytes again.
fn agree<'a, T: Canonical<'a> + std::fmt::Debug>(bytes: &'a [u8]) -> Result<T, TestCaseError> {
    let message = T::decode(bytes)
        .map_err(|e| TestCaseError::fail(format!("{e} in {}", hex::encode(bytes))))?;
    prop_assert_eq!(message.encode(), bytes);
    Ok(message)
}

/// Whatever `bytes` are: if core reads them, then both encoders write precisely them.
fn one_encoding<T, P>(bytes: &[u8]) -> Result<bool, TestCaseError>
where
    T: for<'a> Read<'a>,
    P: Message + Default,
{
    let Some(again) = T::reencoded(bytes) else { return Ok(false) };
    prop_assert_eq!(&again, bytes);
    let other = P::decode(bytes).map_err(|e| TestCaseError::fail(e.to_string()))?;
    prop_assert_eq!(other.encode_to_vec(), bytes, "prost writes {} otherwise", hex::encode(bytes));
    Ok(true)
}

/// Decodes and encodes again, for a type whose lifetime is that of the bytes.
trait Read<'a> {
    fn reencoded(bytes: &'a [u8]) -> Option<Vec<u8>>;
}

macro_rules! read {
    ($marker:ident, $message:ident) => {
        struct $marker;
        impl<'a> Read<'a> for $marker {
            fn reencoded(bytes: &'a [u8]) -> Option<Vec<u8>> {
                $message::decode(bytes).ok().map(|m| m.encode())
            }
        }
    };
}
read!(Hop, HopPart);
read!(Own, OwnPart);
read!(Record, SpanRecord);
read!(Header, BatchHeader);
read!(Leaf, BatchLeaf);
read!(Origin, Source);
read!(Loss, Dropped);
read!(Before, Previous);
read!(Extra, HeaderField);

fn all_formats(bytes: &[u8]) -> Result<bool, TestCaseError> {
    Ok(one_encoding::<Hop, proto::HopPart>(bytes)?
        | one_encoding::<Own, proto::OwnPart>(bytes)?
        | one_encoding::<Record, proto::SpanRecord>(bytes)?
        | one_encoding::<Header, proto::BatchHeader>(bytes)?
        | one_encoding::<Leaf, proto::BatchLeaf>(bytes)?
        | one_encoding::<Origin, proto::Source>(bytes)?
        | one_encoding::<Loss, proto::Dropped>(bytes)?
        | one_encoding::<Before, proto::Previous>(bytes)?
        | one_encoding::<Extra, proto::HeaderField>(bytes)?)
}

/// A change to an encoding: where, and what.
#[derive(Debug, Clone)]
enum Change {
    Set(usize, u8),
    Insert(usize, u8),
    Remove(usize),
    Swap(usize, usize),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (any::<usize>(), any::<u8>()).prop_map(|(at, to)| Change::Set(at, to)),
        1 => (any::<usize>(), any::<u8>()).prop_map(|(at, b)| Change::Insert(at, b)),
        1 => any::<usize>().prop_map(Change::Remove),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(a, b)| Change::Swap(a, b)),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    if bytes.is_empty() {
        return;
    }
    let len = bytes.len();
    match *change {
        Change::Set(at, to) => bytes[at % len] = to,
        Change::Insert(at, byte) => bytes.insert(at % len, byte),
        Change::Remove(at) => drop(bytes.remove(at % len)),
        Change::Swap(a, b) => bytes.swap(a % len, b % len),
    }
}

/// Fields as protobuf has them, in any order and with any wire type.
fn loose_message() -> impl Strategy<Value = Vec<u8>> {
    let varint = prop_oneof![any::<u64>(), 0..4u64, Just(u64::MAX)].prop_flat_map(|value| {
        prop_oneof![9 => Just(0usize), 1 => 1..3usize].prop_map(move |padding| {
            let mut out = Vec::new();
            prost::encoding::encode_varint(value, &mut out);
            for _ in 0..padding {
                *out.last_mut().expect("a byte") |= 0x80;
                out.push(0);
            }
            out
        })
    });
    let bytes = prop_oneof![vec(any::<u8>(), 0..5), vec(any::<u8>(), 16), vec(any::<u8>(), 32)];
    let bytes = bytes.prop_map(|b| [vec![b.len() as u8], b].concat());
    let value = prop_oneof![
        4 => varint.prop_map(|v| (0u8, v)),
        4 => bytes.prop_map(|b| (2u8, b)),
        1 => (0..8u8, vec(any::<u8>(), 8)),
    ];
    let fields = vec((1..=12u8, value), 0..8);
    (fields, any::<bool>()).prop_map(|(mut fields, sort)| {
        if sort {
            fields.sort_by_key(|f| f.0);
            fields.dedup_by_key(|f| f.0);
        }
        let field =
            |(tag, (wire, value)): (u8, (u8, Vec<u8>))| [vec![tag << 3 | wire], value].concat();
        fields.into_iter().flat_map(field).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn core_reads_the_records_that_prost_writes(
        hop in arbitrary::hop(), own in arbitrary::own(), withheld in 0..3u8, hash: [u8; 32],
    ) {
        let shown = if withheld == 0 { hop.path.clone() } else { vec![] };
        // Without its path, a hop part may have nothing left that is long enough for overflow.
        let overflow = if withheld == 0 { hop.overflow.clone() } else { vec![] };
        let hop = proto::HopPart { path: shown, overflow, ..hop };
        let (hop, own) = (hop.encode_to_vec(), own.encode_to_vec());
        agree::<HopPart>(&hop)?;
        agree::<OwnPart>(&own)?;
        let path_hash = if withheld == 1 { hash.to_vec() } else { vec![] };
        let record = proto::SpanRecord { hop, own, path_hash, path_dropped: withheld == 2 };
        agree::<SpanRecord>(&record.encode_to_vec())?;
    }

    #[test]
    fn core_reads_the_batches_that_prost_writes(
        header in arbitrary::header(), entries in vec(any::<[u8; 90]>(), 0..5), prev: [u8; 32],
        received_ns: u64, seed: [u8; 32],
    ) {
        let key = SessionKey::from_seed(seed);
        let header = proto::BatchHeader {
            count: entries.len() as u32,
            kind: if entries.is_empty() { 2 } else { 1 },
            session: key.id().to_vec(),
            seq: header.seq.max(1),
            previous: None,
            ..header
        }.encode_to_vec();
        agree::<BatchHeader>(&header)?;
        let entries = entries.concat();
        let chain = leaf::chain_hash(&prev, &header, &entries);
        let (public_key, signature) = (key.public().to_vec(), key.sign(&chain).to_vec());
        let chain = chain.to_vec();
        let entries_root = merkle::root(&leaf::entry_hashes(&entries)).to_vec();
        let principal = b"spiffe://a/b".to_vec();
        let prev = prev.to_vec();
        let message = proto::BatchLeaf {
            version: 1, header, prev, chain, entries_root, principal, received_ns, public_key, signature,
        };
        let bytes = message.encode_to_vec();
        let leaf = agree::<BatchLeaf>(&bytes)?;
        prop_assert!(leaf.holds(&entries));
        prop_assert!(leaf.signed().verify().is_ok());
        prop_assert!(!leaf.holds(&[entries.as_slice(), &[1; 90]].concat()));
        if let Some(rest) = entries.get(90..) {
            prop_assert!(!leaf.holds(rest));
        }
    }

    #[test]
    fn a_changed_encoding_is_refused_or_is_that_of_another_message(
        hop in arbitrary::hop(), own in arbitrary::own(), header in arbitrary::header(),
        changes in vec(change(), 1..4),
    ) {
        for bytes in [hop.encode_to_vec(), own.encode_to_vec(), header.encode_to_vec()] {
            let mut changed = bytes;
            for change in &changes {
                apply(&mut changed, change);
            }
            all_formats(&changed)?;
        }
    }

    #[test]
    fn core_reads_nothing_that_prost_would_write_otherwise(bytes in loose_message()) {
        all_formats(&bytes)?;
    }

    #[test]
    fn an_entry_is_its_bytes(bytes in vec(any::<u8>(), 80..100), good: [u8; 88], side in 0..6u8) {
        for bytes in [bytes, [&[1, side], good.as_slice()].concat()] {
            if let Ok(entry) = Entry::parse(&bytes) {
                prop_assert_eq!(entry.to_bytes().to_vec(), bytes);
            }
        }
    }
}

#[test]
fn every_change_of_one_byte_is_refused_or_is_that_of_another_message() {
    for vector in meshchain_tests::vector::load() {
        let format = vector.json["format"].as_str().expect("a format");
        let small = vector.json["encoded"].as_str().is_some_and(|e| e.len() < 1200);
        if !["hop", "own", "record", "header", "leaf"].contains(&format) || !small {
            continue;
        }
        if vector.json["valid"] == false {
            continue;
        }
        let good = meshchain_tests::vector::plain_hex(&vector.json["encoded"]);
        assert!(all_formats(&good).unwrap() || good.is_empty(), "{}", vector.name);
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut changed = good.clone();
                changed[at] ^= 1 << bit;
                all_formats(&changed).unwrap_or_else(|e| panic!("{} byte {at}: {e}", vector.name));
            }
        }
    }
}
