//! Calls whose digests are still to be made: they are hashed four at a time, and many in a row.

use crate::sha::{BLOCK, digest_four, pad};
use meshchain_core::hash::{HOP_DOMAIN, SPAN_DOMAIN};
use meshchain_core::{Canonical, Hash, HopPart, OwnPart};
use std::ops::Range;

/// Calls that are hashed at once: enough that few lanes idle, few enough that the call that brings it about
/// is held up by some 20 us only.
pub const AT_ONCE: usize = 16;

/// One call's two messages, padded, within [`Pending::bytes`].
#[derive(Debug)]
struct Call {
    hop: Range<usize>,
    own: Range<usize>,
}

/// The encoded parts of one call.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// Canonical hop part.
    pub hop: &'a [u8],
    /// Canonical own part.
    pub own: &'a [u8],
}

/// Hop digest and span digest of a call.
pub type Digests = [Hash; 2];

/// Messages to be hashed.
#[derive(Debug, Default)]
pub struct Pending {
    bytes: Vec<u8>,
    calls: Vec<Call>,
    order: Vec<usize>,
}

impl Pending {
    /// Number of calls.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Encodes a call's parts, and keeps them for [`Self::digest`].
    pub fn add(&mut self, hop: &HopPart<'_>, own: &OwnPart<'_>) -> Parts<'_> {
        let bytes = &mut self.bytes;
        let start = bytes.len();
        bytes.extend_from_slice(HOP_DOMAIN);
        hop.encode_into(bytes);
        let hop_part = start + HOP_DOMAIN.len()..bytes.len();
        pad(bytes, start);
        let middle = bytes.len();
        bytes.extend_from_slice(SPAN_DOMAIN);
        bytes.extend_from_slice(&Hash::default()); // the hop digest, once it is known
        let own_start = bytes.len();
        own.encode_into(bytes);
        let own_part = own_start..bytes.len();
        pad(bytes, middle);
        self.calls.push(Call { hop: start..middle, own: middle..bytes.len() });
        Parts {
            hop: self.bytes.get(hop_part).unwrap_or_default(),
            own: self.bytes.get(own_part).unwrap_or_default(),
        }
    }

    /// Forgets the call that was added last.
    pub fn take_back(&mut self) {
        if let Some(call) = self.calls.pop() {
            self.bytes.truncate(call.hop.start);
        }
    }

    /// Hashes all calls, tells the digests of each with its position, and forgets them.
    pub fn digest(&mut self, mut tell: impl FnMut(usize, Digests)) {
        let Self { bytes, calls, order } = self;
        let mut hops = [Hash::default(); AT_ONCE];
        let mut spans = [Hash::default(); AT_ONCE];
        let hop_at = SPAN_DOMAIN.len();
        by_four(order, calls, bytes, |call| call.hop.clone(), &mut hops);
        for (call, hop) in calls.iter().zip(&hops) {
            let room = call.own.start + hop_at..call.own.start + hop_at + hop.len();
            if let Some(room) = bytes.get_mut(room) {
                room.copy_from_slice(hop);
            }
        }
        by_four(order, calls, bytes, |call| call.own.clone(), &mut spans);
        for (at, digests) in hops.into_iter().zip(spans).take(calls.len()).enumerate() {
            tell(at, digests.into());
        }
        calls.clear();
        bytes.clear();
    }
}

/// Hashes one message of each call, those of like length together.
fn by_four(
    order: &mut Vec<usize>,
    calls: &[Call],
    bytes: &[u8],
    message: impl Fn(&Call) -> Range<usize>,
    digests: &mut [Hash; AT_ONCE],
) {
    order.clear();
    order.extend(0..calls.len());
    order.sort_unstable_by_key(|at| calls.get(*at).map_or(0, |call| message(call).len() / BLOCK));
    for four in order.chunks(4) {
        let mut messages: [&[u8]; 4] = [&[]; 4];
        for (slot, call) in messages.iter_mut().zip(four.iter().filter_map(|at| calls.get(*at))) {
            *slot = bytes.get(message(call)).unwrap_or_default();
        }
        for (at, digest) in four.iter().zip(digest_four(messages)) {
            if let Some(slot) = digests.get_mut(*at) {
                *slot = digest;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshchain_core::own::span_digest;

    #[test]
    fn digests_are_those_of_the_parts_whatever_their_lengths() {
        let path = [b'x'; 1024];
        let mut pending = Pending::default();
        for round in 0..2 {
            let mut expected = Vec::new();
            for at in 0..AT_ONCE - round {
                let path = path.get(..at * 17 % 1000).unwrap_or_default();
                let hop = HopPart { path, status: at as u32, ..HopPart::default() };
                let own = OwnPart { cluster: path, salt: [1 + at as u8; 16], ..OwnPart::default() };
                let parts = pending.add(&hop, &own);
                assert_eq!((parts.hop, parts.own), (&hop.encode()[..], &own.encode()[..]));
                expected.push([hop.digest(), span_digest(&hop.digest(), &own.encode())]);
            }
            pending.add(&HopPart::default(), &OwnPart::default());
            pending.take_back();
            assert_eq!(pending.len(), expected.len());
            let mut told = Vec::new();
            pending.digest(|at, digests| told.push((at, digests)));
            assert_eq!(told, expected.into_iter().enumerate().collect::<Vec<_>>());
            assert!(pending.is_empty());
        }
    }
}
