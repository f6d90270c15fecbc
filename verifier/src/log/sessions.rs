//! The chains of the sessions, leaf by leaf: some 100 bytes of memory per session.

use meshchain_core::{BatchHeader, BatchLeaf, Hash};
use std::collections::HashMap;

/// How a leaf follows its session.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Follows {
    /// Next in order, or the first.
    InOrder,
    /// After so many batches that never came.
    AfterGap(u64),
    /// Not as a session can go on; why.
    Contradicts(String),
}

struct Last {
    seq: u64,
    chain: Hash,
    leaf: u64,
}

#[derive(Default)]
pub(crate) struct Sessions(HashMap<[u8; 16], Last>);

impl Sessions {
    pub(crate) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// Takes in the next leaf.
    pub(crate) fn push(&mut self, at: u64, leaf: &BatchLeaf, header: &BatchHeader) -> Follows {
        let seq = header.seq;
        let Some(last) = self.0.get_mut(&header.session) else {
            self.0.insert(header.session, Last { seq, chain: leaf.chain, leaf: at });
            return if seq == 0 { Follows::InOrder } else { Follows::AfterGap(seq) };
        };
        let session = hex::encode(header.session);
        if seq <= last.seq {
            let again = if seq == last.seq { "equivocation, or logged twice" } else { "reordered" };
            let (before, leaf) = (last.seq, last.leaf);
            return Follows::Contradicts(format!(
                "seq {seq} of session {session} after seq {before} in leaf {leaf}: {again}"
            ));
        }
        let missing = seq - last.seq - 1;
        let follows = match missing {
            0 if leaf.prev != last.chain => Follows::Contradicts(format!(
                "seq {seq} of session {session} does not continue the chain of leaf {}: \
                 equivocation",
                last.leaf
            )),
            0 => Follows::InOrder,
            _ => Follows::AfterGap(missing),
        };
        *last = Last { seq, chain: leaf.chain, leaf: at };
        follows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_gaps_and_equivocation_are_told_apart() {
        let mut sessions = Sessions::default();
        let mut push = |seq, prev, chain| {
            let leaf = BatchLeaf { prev: [prev; 32], chain: [chain; 32], ..Default::default() };
            let header = BatchHeader { session: [1; 16], seq, ..Default::default() };
            sessions.push(seq, &leaf, &header)
        };
        assert_eq!(push(2, 8, 9), Follows::AfterGap(2));
        assert_eq!(push(3, 9, 10), Follows::InOrder);
        assert_eq!(push(7, 1, 11), Follows::AfterGap(3));
        for (seq, prev, word) in [(8, 1, "chain"), (8, 11, "twice"), (1, 0, "reordered")] {
            let Follows::Contradicts(why) = push(seq, prev, 12) else { panic!("{seq}") };
            assert!(why.contains(word), "{why}");
        }
    }
}
