//! The sessions, leaf by leaf: how each goes on, what is odd about it, and what it has in the log.
//! Some 600 bytes of memory per session.

use meshchain_core::{BatchHeader, BatchLeaf, SessionId};
use meshchain_stored::{Followed, SegmentName, Session, Step, TableWriter};
use std::collections::HashMap;
use std::io::{self, Write};

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

struct Known {
    session: Session,
    /// Its last leaf.
    leaf: u64,
}

#[derive(Default)]
pub(crate) struct Sessions(HashMap<SessionId, Known>);

impl Sessions {
    pub(crate) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// Takes in the next leaf. One that is out of order counts for nothing.
    pub(crate) fn push(
        &mut self,
        at: u64,
        leaf: &BatchLeaf<'_>,
        header: &BatchHeader<'_>,
    ) -> (Follows, Step) {
        let new = || Known { session: Session::default(), leaf: at };
        let known = self.0.entry(header.session).or_insert_with(new);
        let follows = follows(known, leaf, header);
        if known.session.batches > 0 && header.seq <= known.session.last_seq {
            return (follows, Step::default());
        }
        known.leaf = at;
        (follows, known.session.record(leaf, header, at))
    }

    /// What the log lacks of each session that another one follows, with the id of the latter and its
    /// first leaf; in the order of the leaves.
    pub(crate) fn followed(&self) -> Vec<(SessionId, u64, Followed)> {
        let nothing = Session::default();
        let of = |(id, known): (&SessionId, &Known)| {
            let former = known.session.previous.as_ref()?.session;
            let former = self.0.get(&former).map_or(&nothing, |known| &known.session);
            let followed = known.session.followed(former)?;
            Some((*id, known.session.first_leaf, followed))
        };
        let mut all: Vec<_> = self.0.iter().filter_map(of).collect();
        all.sort_unstable_by_key(|(_, leaf, _)| *leaf);
        all
    }

    /// Writes the table of this name: the sessions with leaves from its first on, as they are at its end.
    pub(crate) fn table<W: Write>(&self, name: SegmentName, out: W) -> io::Result<W> {
        let within = self.0.iter().filter(|(_, known)| known.leaf >= name.first);
        let mut within: Vec<_> = within.collect();
        within.sort_unstable_by_key(|(id, _)| **id);
        let mut writer = TableWriter::new(out, name);
        for (id, known) in within {
            writer.push(id, &known.session)?;
        }
        Ok(writer.finish()?.0)
    }
}

fn follows(known: &Known, leaf: &BatchLeaf<'_>, header: &BatchHeader<'_>) -> Follows {
    let (last, seq) = (&known.session, header.seq);
    if last.batches == 0 {
        return if seq == 0 { Follows::InOrder } else { Follows::AfterGap(seq) };
    }
    let session = hex::encode(header.session);
    if seq <= last.last_seq {
        let again = match seq == last.last_seq {
            true => "equivocation, or logged twice",
            false => "reordered",
        };
        let (before, leaf) = (last.last_seq, known.leaf);
        return Follows::Contradicts(format!(
            "seq {seq} of session {session} after seq {before} in leaf {leaf}: {again}"
        ));
    }
    match seq - last.last_seq - 1 {
        0 if leaf.prev != last.chain => Follows::Contradicts(format!(
            "seq {seq} of session {session} does not continue the chain of leaf {}: equivocation",
            known.leaf
        )),
        0 => Follows::InOrder,
        missing => Follows::AfterGap(missing),
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
            sessions.push(seq, &leaf, &header).0
        };
        assert_eq!(push(2, 8, 9), Follows::AfterGap(2), "seq 0 and 1 are missing");
        assert_eq!(push(3, 9, 10), Follows::InOrder);
        assert_eq!(push(7, 1, 11), Follows::AfterGap(3));
        for (seq, prev, word) in [(8, 1, "chain"), (8, 11, "twice"), (1, 0, "reordered")] {
            let Follows::Contradicts(why) = push(seq, prev, 12) else { panic!("{seq}") };
            assert!(why.contains(word), "{why}");
        }
    }

    #[test]
    fn the_first_batch_of_a_session_leaves_the_gap_of_its_seq() {
        for seq in [0, 1, 2, 1 << 40, u64::MAX] {
            let header = BatchHeader { session: [1; 16], seq, ..Default::default() };
            let follows = Sessions::default().push(0, &BatchLeaf::default(), &header).0;
            match seq {
                0 => assert_eq!(follows, Follows::InOrder),
                _ => assert_eq!(follows, Follows::AfterGap(seq)),
            }
        }
    }
}
