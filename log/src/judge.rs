//! Whether a batch may follow its session: judged against what is committed, and against what the
//! commit that is being made holds already.

use crate::batch::Checked;
use crate::misfit::{MAX_JUMP, Misfit};
use crate::sessions::Sessions;
use meshchain_core::{Hash, SessionId};
use meshchain_stored::Session;
use std::collections::HashMap;

/// What a batch is to its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judged {
    /// It is the next one, maybe after a gap.
    Next,
    /// Its place is not after the last committed: it was logged already, or cannot be any more.
    Passed(Passed),
    /// It is in this commit already; how many [`Judged::Next`] came before that one.
    Again(usize),
    /// It cannot follow.
    Refused {
        /// Why.
        misfit: Misfit,
        /// Because of a batch of this commit: should that fail, nothing is known against it.
        by_this_commit: bool,
    },
}

/// A session that went on past a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    /// Leaf index of its first batch.
    pub first_leaf: u64,
    /// Last seq in the log.
    pub last: u64,
}

impl From<&Session> for Passed {
    fn from(session: &Session) -> Self {
        Self { first_leaf: session.first_leaf, last: session.last_seq }
    }
}

/// A session's last batch in this commit.
struct Last<'a> {
    seq: u64,
    chain: Hash,
    /// How many were before it.
    at: usize,
    /// The first one of a session that this commit opens.
    opened_by: Option<&'a Checked>,
}

/// The judge of one commit's batches. Those of a session come in ascending order of seq.
pub struct Judge<'a> {
    sessions: &'a Sessions,
    taken: HashMap<SessionId, Last<'a>>,
    count: usize,
}

impl<'a> Judge<'a> {
    /// A judge with nothing in the commit yet, over what is committed.
    pub fn new(sessions: &'a Sessions) -> Self {
        Self { sessions, taken: HashMap::new(), count: 0 }
    }

    /// Judges a batch, and takes it into the commit if it is the next of its session.
    pub fn judge(&mut self, batch: &'a Checked) -> Judged {
        let (committed, taken) =
            (self.sessions.get(&batch.session), self.taken.get(&batch.session));
        let by_this_commit = taken.is_some();
        let refused = |misfit| Judged::Refused { misfit, by_this_commit };
        let seq = batch.seq;
        let source = batch.header().source;
        // Whoever does not own the session learns nothing else about it.
        if let Some(session) = committed
            && !session.is_of(batch.principal.as_bytes(), &source)
        {
            let misfit = foreign(&session.principal, batch);
            return Judged::Refused { misfit, by_this_commit: false };
        }
        if let Some(first) = taken.and_then(|last| last.opened_by)
            && (first.principal != batch.principal || first.header().source != source)
        {
            return refused(foreign(&first.principal, batch));
        }
        if let Some(session) = committed.filter(|session| seq <= session.last_seq) {
            return Judged::Passed(session.into());
        }
        let last = match (taken, committed) {
            (Some(last), _) if seq < last.seq => {
                return refused(Misfit::Reordered { seq, last: last.seq });
            }
            (Some(last), _) if seq == last.seq => {
                return match last.chain == batch.chain {
                    true => Judged::Again(last.at),
                    false => refused(Misfit::Equivocation { seq }),
                };
            }
            (Some(last), _) => Some((last.seq, last.chain)),
            (None, Some(session)) => Some((session.last_seq, session.chain)),
            (None, None) => None,
        };
        let next = last.map_or(0, |(last, _)| last + 1);
        if seq - next > MAX_JUMP {
            return refused(Misfit::SeqJump { seq, next });
        }
        if let Some((last, chain)) = last
            && seq == next
            && batch.prev != chain
        {
            return refused(Misfit::WrongPrev { seq, last });
        }
        let opens = last.is_none();
        let opened_by = match taken {
            Some(last) => last.opened_by,
            None => opens.then_some(batch),
        };
        let last = Last { seq, chain: batch.chain, at: self.count, opened_by };
        self.taken.insert(batch.session, last);
        self.count += 1;
        Judged::Next
    }
}

fn foreign(owner: &str, batch: &Checked) -> Misfit {
    Misfit::ForeignSession { owner: owner.to_owned(), principal: batch.principal.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshchain_core::leaf::{CHAIN_START, Signature};
    use meshchain_core::{BatchHeader, BatchLeaf, Canonical};

    fn batch(seq: u64, prev: Hash) -> Checked {
        let header = BatchHeader { session: [1; 16], seq, ..BatchHeader::default() };
        Checked {
            header: header.encode(),
            session: [1; 16],
            seq,
            prev,
            chain: chain(seq),
            public_key: [0; 32],
            signature: Signature([0; 64]),
            entries_root: [0; 32],
            entries: Vec::new(),
            records: Vec::new(),
            principal: String::new(),
        }
    }

    fn chain(seq: u64) -> Hash {
        let mut chain = [9; 32];
        chain[..8].copy_from_slice(&seq.to_le_bytes());
        chain
    }

    /// What becomes of a batch behind those of `committed` and `pooled`, which came in order.
    fn judged(committed: &[u64], pooled: &[u64], seq: u64, prev: Hash) -> Judged {
        let mut sessions = Sessions::default();
        for (at, &seq) in committed.iter().enumerate() {
            let header = BatchHeader { session: [1; 16], seq, ..BatchHeader::default() };
            let leaf = BatchLeaf { chain: chain(seq), ..BatchLeaf::default() };
            sessions.record(&leaf, &header, at as u64);
        }
        let before: Vec<_> =
            pooled.iter().map(|&seq| batch(seq, chain(seq.wrapping_sub(1)))).collect();
        let last = batch(seq, prev);
        let mut judge = Judge::new(&sessions);
        for batch in &before {
            assert_eq!(judge.judge(batch), Judged::Next, "{pooled:?}");
        }
        judge.judge(&last)
    }

    #[test]
    fn what_was_lost_between_two_batches_keeps_the_later_one_out_of_no_log() {
        for (committed, pooled, seq) in [
            (&[][..], &[][..], 0),
            (&[], &[], 1),
            (&[], &[], MAX_JUMP),
            (&[], &[0], 1),
            (&[], &[0], 2),
            (&[], &[5], 7),
            (&[0], &[], 1),
            (&[0], &[], 2),
            (&[3], &[4], 6),
            (&[0], &[], 1 + MAX_JUMP),
        ] {
            let prev = if seq == 0 { CHAIN_START } else { chain(seq - 1) };
            let found = judged(committed, pooled, seq, prev);
            assert_eq!(found, Judged::Next, "{committed:?} {pooled:?} {seq}");
        }
    }

    #[test]
    fn no_batch_jumps_farther_than_a_proxy_can_have_lost_also_not_the_first() {
        for (committed, pooled, seq, expected) in [
            (&[][..], &[][..], MAX_JUMP + 1, 0),
            (&[], &[], u64::MAX, 0),
            (&[0], &[], MAX_JUMP + 2, 1),
            (&[0], &[1], MAX_JUMP + 3, 2),
        ] {
            let misfit = Misfit::SeqJump { seq, next: expected };
            let by_this_commit = !pooled.is_empty();
            let found = judged(committed, pooled, seq, CHAIN_START);
            assert_eq!(found, Judged::Refused { misfit, by_this_commit }, "{seq}");
        }
    }

    #[test]
    fn the_next_batch_continues_the_chain_and_one_behind_a_gap_need_not() {
        let other = [8; 32];
        for (committed, pooled) in [(&[0][..], &[][..]), (&[], &[0]), (&[4], &[5]), (&[], &[3])] {
            let last = *committed.iter().chain(pooled).last().unwrap();
            let seq = last + 1;
            let misfit = Misfit::WrongPrev { seq, last };
            let by_this_commit = !pooled.is_empty();
            let found = judged(committed, pooled, seq, other);
            assert_eq!(found, Judged::Refused { misfit, by_this_commit }, "{committed:?}");
            let behind = judged(committed, pooled, seq + 1, other);
            assert_eq!(behind, Judged::Next, "{committed:?}");
        }
    }
}
