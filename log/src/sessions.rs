//! Sessions: where each proxy's run of batches stands.

use meshchain_core::{BatchHeader, BatchLeaf, SessionId};
use meshchain_stored::{Oddity, Session};
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap, HashSet};

/// A session is told to be silent after this long: four default heartbeats.
pub const SILENT_AFTER_NS: u64 = 120_000_000_000;

/// The sessions that go on, and those with batches that are not sealed yet. The others are in the tables.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sessions {
    all: HashMap<SessionId, Known>,
    /// Those that ended without a close batch, as far as it was told.
    silent: HashSet<SessionId>,
    /// Those that were last heard of since then count, also where they left memory.
    counted_ns: u64,
    fell_silent: usize,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Known {
    session: Session,
    /// Its last leaf; 0 where it was taken back and has none since.
    last_leaf: u64,
}

impl Sessions {
    /// Takes in a batch that is in the log. What the session had before must be here. Whether it came into memory for
    /// this batch: it is new, or had ended; and what is odd about the batch.
    pub fn record(
        &mut self,
        leaf: &BatchLeaf<'_>,
        header: &BatchHeader<'_>,
        index: u64,
    ) -> (bool, Vec<Oddity>) {
        let known = self.all.entry(header.session).or_default();
        if self.silent.remove(&header.session) && known.session.last_received_ns >= self.counted_ns
        {
            self.fell_silent = self.fell_silent.saturating_sub(1);
        }
        let came = std::mem::replace(&mut known.last_leaf, index) == 0;
        (came, known.session.record(leaf, header, index))
    }

    /// Takes back what the tables say of a session, where nothing newer is known.
    pub fn restore(&mut self, id: SessionId, session: Session, silent: bool) {
        let Entry::Vacant(place) = self.all.entry(id) else {
            return;
        };
        place.insert(Known { session, last_leaf: 0 });
        if silent {
            self.silent.insert(id);
        }
    }

    /// Lets those go that ended, as far as the tables know of all their leaves: those below `end`.
    pub fn let_ended_go(&mut self, end: u64) {
        let Self { all, silent, .. } = self;
        all.retain(|id, known| !known.ended(silent.contains(id), end));
        silent.retain(|id| all.contains_key(id));
        // What many sessions took that came and went is given back.
        if all.capacity() > 4 * all.len().max(1024) {
            all.shrink_to(2 * all.len());
        }
    }

    /// As [`Sessions::let_ended_go`], of these alone.
    pub fn let_go(&mut self, ids: &[SessionId], end: u64) {
        for id in ids {
            let ended = |known: &Known| known.ended(self.silent.contains(id), end);
            if self.all.get(id).is_some_and(ended) {
                self.all.remove(id);
                self.silent.remove(id);
            }
        }
    }

    /// When the newest batch was received.
    pub fn newest_ns(&self) -> u64 {
        self.all.values().map(|known| known.session.last_received_ns).max().unwrap_or(0)
    }

    /// The sessions without a close batch that were last heard of before `before_ns`; each is told once.
    pub fn fall_silent(&mut self, before_ns: u64) -> Vec<SessionId> {
        let quiet =
            |known: &Known| !known.session.closed && known.session.last_received_ns < before_ns;
        let mut told = Vec::new();
        for (id, known) in self.all.iter().filter(|(_, known)| quiet(known)) {
            if self.silent.insert(*id) {
                told.push(*id);
                let counts = known.session.last_received_ns >= self.counted_ns;
                self.fell_silent += usize::from(counts);
            }
        }
        told
    }

    /// Counts those as silent that were last heard of at `from_ns` or later.
    pub fn count_silent(&mut self, from_ns: u64) {
        self.counted_ns = from_ns;
    }

    /// Number of sessions that fell silent since [`Sessions::count_silent`], and were not heard of again.
    pub fn silent(&self) -> usize {
        self.fell_silent
    }

    /// A session.
    pub fn get(&self, id: &SessionId) -> Option<&Session> {
        self.all.get(id).map(|known| &known.session)
    }

    /// The first `most` behind `after`, by id, and whether each is silent.
    pub fn page(&self, after: Option<&SessionId>, most: usize) -> Vec<(SessionId, Session, bool)> {
        let mut first: BinaryHeap<SessionId> = BinaryHeap::new();
        for id in self.all.keys().filter(|id| after.is_none_or(|after| *id > after)) {
            if first.len() < most {
                first.push(*id);
            } else if first.peek().is_some_and(|last| id < last) {
                first.pop();
                first.push(*id);
            }
        }
        let shown = |id: SessionId| Some((id, self.get(&id)?.clone(), self.silent.contains(&id)));
        first.into_sorted_vec().into_iter().filter_map(shown).collect()
    }
}

impl Known {
    /// Whether it goes on no more, by what is known, and is in the tables, which end at `end`.
    fn ended(&self, silent: bool, end: u64) -> bool {
        (self.session.closed || silent) && self.last_leaf < end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshchain_core::BatchKind;

    #[test]
    fn a_session_falls_silent_once_until_it_is_heard_of_again() {
        let mut sessions = Sessions::default();
        let hear = |sessions: &mut Sessions, id: u8, kind: BatchKind, received_ns: u64| {
            let header = BatchHeader { session: [id; 16], kind, ..BatchHeader::default() };
            let leaf = BatchLeaf { received_ns, ..BatchLeaf::default() };
            sessions.record(&leaf, &header, 0);
        };
        hear(&mut sessions, 1, BatchKind::Data, 10);
        hear(&mut sessions, 2, BatchKind::Data, 20);
        hear(&mut sessions, 3, BatchKind::Close, 5);
        let heard_since = "one has been heard of since, one was closed";
        assert_eq!(sessions.fall_silent(11), [[1; 16]], "{heard_since}");
        let silent = |sessions: &Sessions, id: u8| sessions.silent.contains(&[id; 16]);
        assert!(silent(&sessions, 1) && !silent(&sessions, 3));
        assert!(sessions.fall_silent(11).is_empty(), "told once");
        assert!(!sessions.get(&[1; 16]).unwrap().closed, "it never said so");
        hear(&mut sessions, 1, BatchKind::Heartbeat, 30);
        assert!(!silent(&sessions, 1));
        assert_eq!(sessions.newest_ns(), 30);
        assert_eq!(sessions.fall_silent(25), [[2; 16]]);
    }

    #[test]
    fn batches_before_between_and_after_those_that_came_are_counted_as_missing_once() {
        const MAX: u64 = u64::MAX;
        for (seqs, missing) in [
            (&[0][..], 0),
            (&[0, 1, 2], 0),
            (&[1], 1),
            (&[7], 7),
            (&[MAX], MAX),
            (&[0, 2], 1),
            (&[1, 2], 1),
            (&[1, 3], 2),
            (&[3, 4, 9], 7),
            (&[0, 1, MAX], MAX - 2),
            (&[1, MAX, MAX], MAX - 1),
        ] {
            let mut sessions = Sessions::default();
            for (at, &seq) in seqs.iter().enumerate() {
                let header = BatchHeader { session: [1; 16], seq, ..BatchHeader::default() };
                sessions.record(&BatchLeaf::default(), &header, at as u64);
            }
            let session = sessions.get(&[1; 16]).unwrap();
            assert_eq!(session.missing, missing, "{seqs:?}");
            let found = (session.batches, session.last_seq, session.first_leaf);
            assert_eq!(found, (seqs.len() as u64, *seqs.last().unwrap(), 0), "{seqs:?}");
        }
    }

    #[test]
    fn silence_begins_behind_the_bound_and_not_at_it() {
        for (received_ns, before_ns, silent) in [(9, 10, true), (10, 10, false), (11, 10, false)] {
            let mut sessions = Sessions::default();
            let leaf = BatchLeaf { received_ns, ..BatchLeaf::default() };
            sessions.record(&leaf, &BatchHeader::default(), 0);
            assert_eq!(sessions.fall_silent(before_ns).len(), usize::from(silent), "{received_ns}");
        }
    }

    #[test]
    fn who_ended_is_let_go_once_its_leaves_are_sealed_and_comes_back() {
        let mut sessions = Sessions::default();
        for (id, kind, at) in [(1, BatchKind::Close, 7), (2, BatchKind::Data, 8)] {
            let header = BatchHeader { session: [id; 16], kind, ..BatchHeader::default() };
            sessions.record(&BatchLeaf { received_ns: 5, ..BatchLeaf::default() }, &header, at);
        }
        let there = |sessions: &Sessions| [1, 2].map(|id| sessions.get(&[id; 16]).is_some());
        sessions.let_ended_go(7);
        assert_eq!(there(&sessions), [true, true], "leaf 7 is not sealed");
        let closed = sessions.get(&[1; 16]).cloned().unwrap();
        sessions.let_ended_go(9);
        assert_eq!(there(&sessions), [false, true], "the other one goes on");
        sessions.fall_silent(6);
        sessions.let_ended_go(9);
        assert_eq!(there(&sessions), [false, false]);
        assert!(sessions.silent.is_empty());
        sessions.restore([1; 16], closed, false);
        assert_eq!(there(&sessions), [true, false]);
        sessions.let_go(&[[1; 16], [3; 16]], 9);
        assert_eq!(there(&sessions), [false, false]);
    }

    #[test]
    fn who_fell_silent_counts_also_out_of_memory_until_it_is_heard_of_again() {
        let mut sessions = Sessions::default();
        let at = |received_ns| BatchLeaf { received_ns, ..BatchLeaf::default() };
        let header = |id: u8| BatchHeader { session: [id; 16], ..BatchHeader::default() };
        for (id, received_ns) in [(1, 4), (2, 5), (3, 6)] {
            sessions.record(&at(received_ns), &header(id), 7);
        }
        sessions.count_silent(5);
        assert_eq!((sessions.fall_silent(9).len(), sessions.silent()), (3, 2), "one ended before");
        let kept = [1, 2].map(|id| sessions.get(&[id; 16]).cloned().unwrap());
        sessions.let_ended_go(9);
        assert_eq!(sessions.silent(), 2);
        for ((id, session), left) in (1..).zip(kept).zip([2, 1]) {
            sessions.restore([id; 16], session, true);
            sessions.record(&at(20), &header(id), 10);
            assert_eq!(sessions.silent(), left);
        }
        assert_eq!((sessions.fall_silent(30).len(), sessions.silent()), (2, 3));
    }
}
