//! The extra data that goes into a block's hash, where it is not that of the header: validators sign
//! the hash, and put their signatures into the header afterwards.
//!
//! | consensus | extra data | hashed |
//! |---|---|---|
//! | QBFT | `[vanity, validators, vote, round, seals]` | round 0, no seals |
//! | IBFT 2.0 of Besu | the same | `[vanity, validators, vote]` |
//! | IBFT of GoQuorum | 32 bytes of vanity, `[validators, seal, seals]` | no seals |
//! | Clique | vanity, signers, seal | as it is |

use alloy_primitives::Bytes;
use alloy_rlp::{BufMut, Header as Rlp};

/// Length of the vanity before GoQuorum's list.
const VANITY: usize = 32;
const EMPTY_LIST: u8 = 0xc0;
const ZERO: u8 = 0x80;

/// What a consensus hashes in place of the extra data; `None` where that is not of its form.
type Rule = fn(&[u8]) -> Option<Bytes>;

/// The extra data that each rule hashes in place of this one, as far as the rule fits it.
pub(crate) fn hashed(extra_data: &[u8]) -> impl Iterator<Item = Bytes> {
    let rules: [Rule; 3] = [qbft, ibft2, goquorum_ibft];
    rules.into_iter().filter_map(move |rule| rule(extra_data))
}

fn qbft(extra_data: &[u8]) -> Option<Bytes> {
    let [vanity, validators, vote] = first(extra_data)?;
    Some(list(&[], &[vanity, validators, vote, &[ZERO, EMPTY_LIST]]))
}

fn ibft2(extra_data: &[u8]) -> Option<Bytes> {
    Some(list(&[], &first::<3>(extra_data)?))
}

fn goquorum_ibft(extra_data: &[u8]) -> Option<Bytes> {
    let (vanity, rest) = extra_data.split_at_checked(VANITY)?;
    let [validators, seal] = first(rest)?;
    Some(list(vanity, &[validators, seal, &[EMPTY_LIST]]))
}

/// The first items of a list that is all there is, each with its own header.
fn first<const N: usize>(mut rest: &[u8]) -> Option<[&[u8]; N]> {
    let list = Rlp::decode(&mut rest).ok()?;
    if !list.list || list.payload_length != rest.len() {
        return None;
    }
    let mut items = [&rest[..0]; N];
    for item in &mut items {
        let whole = rest;
        let header = Rlp::decode(&mut rest).ok()?;
        rest = rest.get(header.payload_length..)?;
        *item = &whole[..whole.len() - rest.len()];
    }
    Some(items)
}

/// A list of encoded items, after some bytes.
fn list(before: &[u8], items: &[&[u8]]) -> Bytes {
    let mut out = before.to_vec();
    let payload_length = items.iter().map(|item| item.len()).sum();
    Rlp { list: true, payload_length }.encode(&mut out);
    items.iter().for_each(|item| out.put_slice(item));
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::Address;
    use alloy_rlp::Encodable;

    fn extra(tail: impl FnOnce(&mut Vec<u8>)) -> Bytes {
        let mut fields = Vec::new();
        Bytes::from(vec![0; VANITY]).encode(&mut fields);
        vec![Address::repeat_byte(7), Address::repeat_byte(8)].encode(&mut fields);
        Vec::<Bytes>::new().encode(&mut fields);
        tail(&mut fields);
        list(&[], &[&fields])
    }

    #[test]
    fn round_and_seals_are_emptied_or_left_out() {
        let sealed = extra(|fields| {
            3u64.encode(fields);
            vec![Bytes::from(vec![1; 65]), Bytes::from(vec![2; 65])].encode(fields);
        });
        let emptied = extra(|fields| {
            0u64.encode(fields);
            Vec::<Bytes>::new().encode(fields);
        });
        assert_eq!(hashed(&sealed).collect::<Vec<_>>(), [emptied, extra(|_| ())]);
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_node_prints_there_is_lived_through(
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..80),
            at in 0usize..200,
            byte in proptest::num::u8::ANY,
        ) {
            assert!(hashed(&bytes).all(|extra| extra.len() <= bytes.len() + 4));
            let mut bent = extra(|fields| vec![Bytes::from(vec![1; 65])].encode(fields)).to_vec();
            let at = at % bent.len();
            bent[at] = byte;
            hashed(&bent).for_each(drop);
            hashed(&bent[..at]).for_each(drop);
        }
    }
}
