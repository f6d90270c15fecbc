//! Sessions: where each proxy's run of batches stands.

use meshchain_core::{BatchHeader, BatchLeaf, SessionId};
use meshchain_stored::{Session, Step};
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap, HashSet};

/// A session is told to be silent after this long: four default heartbeats.
pub const SILENT_AFTER_NS: u64 = 120_000_000_000;

/// The sessions with batches that are not sealed yet, and of the others as many as there is room for. What the tables
/// say of the rest is read where they speak again; of those that go on, a mark stays.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sessions {
    all: HashMap<SessionId, Known>,
    /// Those in memory that ended without a close batch, as far as it was told.
    silent: HashSet<SessionId>,
    /// Those out of memory that go on.
    away: HashMap<SessionId, Heard>,
    /// Those that were last heard of since then count, also where they left memory.
    counted_ns: u64,
    fell_silent: usize,
}

/// When a session was last heard of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heard {
    /// Seq of its last batch.
    pub last_seq: u64,
    /// When that was received, unix nanoseconds.
    pub last_received_ns: u64,
}

impl From<&Session> for Heard {
    fn from(session: &Session) -> Self {
        Self { last_seq: session.last_seq, last_received_ns: session.last_received_ns }
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Known {
    session: Session,
    /// Its last leaf; 0 where it was taken back and has none since.
    last_leaf: u64,
}

impl Sessions {
    /// Takes in a batch that is in the log. What the session had before must be here. Whether it came into memory for
    /// this batch: it is new, or had left; and how the batch follows.
    pub fn record(
        &mut self,
        leaf: &BatchLeaf<'_>,
        header: &BatchHeader<'_>,
        index: u64,
    ) -> (bool, Step) {
        let known = self.all.entry(header.session).or_default();
        if self.silent.remove(&header.session) && known.session.last_received_ns >= self.counted_ns
        {
            self.fell_silent = self.fell_silent.saturating_sub(1);
        }
        let came = std::mem::replace(&mut known.last_leaf, index) == 0;
        (came, known.session.record(leaf, header, index))
    }

    /// Takes back what the tables say of a session, where nothing newer is known.
    pub fn restore(&mut self, id: SessionId, session: Session) {
        let goes_on = self.away.remove(&id).is_some();
        let Entry::Vacant(place) = self.all.entry(id) else {
            return;
        };
        if !session.closed && !goes_on {
            self.silent.insert(id);
        }
        place.insert(Known { session, last_leaf: 0 });
    }

    /// Marks a session that the tables have as one that goes on.
    pub fn mark(&mut self, id: SessionId, heard: Heard) {
        if !self.all.contains_key(&id) {
            self.away.insert(id, heard);
        }
    }

    /// Lets those go of which the tables know all leaves, which are below `end`: those that ended, and of the others
    /// those that were not heard of for longest, until what stays takes no more than `room` bytes.
    pub fn let_sealed_go(&mut self, end: u64, room: usize) {
        let Self { all, silent, .. } = self;
        let sealed = |known: &Known| known.last_leaf < end;
        let ended = |id: &SessionId, known: &Known| known.session.closed || silent.contains(id);
        all.retain(|id, known| !(sealed(known) && ended(id, known)));
        silent.retain(|id| all.contains_key(id));
        let kept = || all.iter().filter(|(_, known)| sealed(known));
        let mut taken: usize = kept().map(|(_, known)| bytes(&known.session)).sum();
        if taken > room {
            let mut oldest: Vec<(u64, usize, SessionId)> = kept()
                .map(|(id, known)| (known.session.last_received_ns, bytes(&known.session), *id))
                .collect();
            oldest.sort_unstable();
            for (_, bytes, id) in oldest {
                if taken <= room {
                    break;
                }
                self.leave(&id);
                taken -= bytes;
            }
        }
        // What many sessions took that came and went is given back.
        if self.all.capacity() > 4 * self.all.len().max(1024) {
            self.all.shrink_to(2 * self.all.len());
        }
    }

    /// Lets those of these go that have no leaf at `end` or behind it.
    pub fn let_go(&mut self, ids: &[SessionId], end: u64) {
        for id in ids {
            if self.all.get(id).is_some_and(|known| known.last_leaf < end) {
                self.leave(id);
            }
        }
    }

    fn leave(&mut self, id: &SessionId) {
        let (known, silent) = (self.all.remove(id), self.silent.remove(id));
        if let Some(known) = known.filter(|known| !known.session.closed && !silent) {
            self.away.insert(*id, Heard::from(&known.session));
        }
    }

    /// When the newest batch was received.
    pub fn newest_ns(&self) -> u64 {
        self.all.values().map(|known| known.session.last_received_ns).max().unwrap_or(0)
    }

    /// The sessions without a close batch that were last heard of before `before_ns`; each is told once.
    pub fn fall_silent(&mut self, before_ns: u64) -> Vec<(SessionId, Heard)> {
        let quiet =
            |known: &Known| !known.session.closed && known.session.last_received_ns < before_ns;
        let Self { all, silent, away, .. } = self;
        let here = all.iter().filter(|(id, known)| quiet(known) && silent.insert(**id));
        let mut told: Vec<_> = here.map(|(id, known)| (*id, Heard::from(&known.session))).collect();
        told.extend(away.extract_if(|_, heard| heard.last_received_ns < before_ns));
        let counts = |(_, heard): &&(SessionId, Heard)| heard.last_received_ns >= self.counted_ns;
        self.fell_silent += told.iter().filter(counts).count();
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

    /// A session that is in memory.
    pub fn get(&self, id: &SessionId) -> Option<&Session> {
        self.all.get(id).map(|known| &known.session)
    }

    /// Whether a session is known to go on, or has batches that are not sealed.
    pub fn has(&self, id: &SessionId) -> bool {
        self.all.contains_key(id) || self.away.contains_key(id)
    }

    /// Whether a session of the log ended without a close batch, as far as it was told.
    pub fn is_silent(&self, id: &SessionId, session: &Session) -> bool {
        !session.closed && (self.silent.contains(id) || !self.has(id))
    }

    /// The first `most` of those in memory behind `after`, by id.
    pub fn page(&self, after: Option<&SessionId>, most: usize) -> Vec<(SessionId, Session)> {
        let mut first: BinaryHeap<SessionId> = BinaryHeap::new();
        for id in self.all.keys().filter(|id| after.is_none_or(|after| *id > after)) {
            if first.len() < most {
                first.push(*id);
            } else if first.peek().is_some_and(|last| id < last) {
                first.pop();
                first.push(*id);
            }
        }
        let shown = |id: SessionId| Some((id, self.get(&id)?.clone()));
        first.into_sorted_vec().into_iter().filter_map(shown).collect()
    }
}

/// What a session takes in memory, about.
fn bytes(session: &Session) -> usize {
    let texts = session.source.iter().chain([&session.principal]).chain(&session.notices);
    let texts = texts.map(|text| text.len() + size_of::<String>());
    let former = session.previous.as_ref().map_or(0, |former| former.dropped.len());
    let drops = (session.dropped.len() + former) * size_of::<(u32, u64)>();
    size_of::<(SessionId, Known)>() + texts.sum::<usize>() + drops
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshchain_core::BatchKind;

    /// Those that fall silent, by id.
    fn told(sessions: &mut Sessions, before_ns: u64) -> Vec<SessionId> {
        let mut told: Vec<_> =
            sessions.fall_silent(before_ns).into_iter().map(|(id, _)| id).collect();
        told.sort();
        told
    }

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
        assert_eq!(told(&mut sessions, 11), [[1; 16]], "{heard_since}");
        let silent = |sessions: &Sessions, id: u8| sessions.silent.contains(&[id; 16]);
        assert!(silent(&sessions, 1) && !silent(&sessions, 3));
        assert!(sessions.fall_silent(11).is_empty(), "told once");
        assert!(!sessions.get(&[1; 16]).unwrap().closed, "it never said so");
        hear(&mut sessions, 1, BatchKind::Heartbeat, 30);
        assert!(!silent(&sessions, 1));
        assert_eq!(sessions.newest_ns(), 30);
        assert_eq!(told(&mut sessions, 25), [[2; 16]]);
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

    /// Heartbeats of sessions 1 to 4, received at 1 to 4 and at leaf 1 to 4; one is closed.
    fn four(closed: u8) -> Sessions {
        let mut sessions = Sessions::default();
        for id in 1..5 {
            let kind = if id == closed { BatchKind::Close } else { BatchKind::Heartbeat };
            let header = BatchHeader { session: [id; 16], kind, ..BatchHeader::default() };
            let leaf = BatchLeaf { received_ns: id.into(), ..BatchLeaf::default() };
            sessions.record(&leaf, &header, id.into());
        }
        sessions
    }

    fn here(sessions: &Sessions) -> Vec<u8> {
        (1..5).filter(|&id| sessions.get(&[id; 16]).is_some()).collect()
    }

    #[test]
    fn who_ended_leaves_once_its_leaves_are_sealed_and_others_where_there_is_no_room() {
        let one = bytes(four(0).get(&[1; 16]).unwrap());
        for (closed, silent_before, end, room, stay) in [
            (3, 0, 3, usize::MAX, &[1, 2, 3, 4][..]),
            (3, 0, 4, usize::MAX, &[1, 2, 4]),
            (3, 3, 5, usize::MAX, &[4]),
            (0, 0, 5, usize::MAX, &[1, 2, 3, 4]),
            (0, 0, 5, 2 * one, &[3, 4]),
            (0, 0, 5, 2 * one - 1, &[4]),
            (0, 0, 3, 0, &[3, 4]),
            (0, 0, 5, 0, &[]),
        ] {
            let mut sessions = four(closed);
            sessions.fall_silent(silent_before);
            sessions.let_sealed_go(end, room);
            assert_eq!(here(&sessions), stay, "{closed} {silent_before} {end} {room}");
            for id in 1..5 {
                let ended = !stay.contains(&id) && (id == closed || u64::from(id) < silent_before);
                assert_eq!(sessions.has(&[id; 16]), !ended, "{id} of {stay:?}");
            }
        }
    }

    #[test]
    fn who_left_and_goes_on_falls_silent_as_the_others_and_comes_back_as_it_was() {
        let (all, mut sessions) = (four(1), four(1));
        let session = |id: u8| all.get(&[id; 16]).cloned().unwrap();
        let silent = |sessions: &Sessions| {
            let silent = (1..5).filter(|&id| sessions.is_silent(&[id; 16], &session(id)));
            silent.collect::<Vec<u8>>()
        };
        sessions.let_sealed_go(5, 0);
        assert_eq!(silent(&sessions), [0; 0]);
        assert_eq!(told(&mut sessions, 3), [[2; 16]], "1 was closed");
        assert_eq!(told(&mut sessions, 3), [[0; 16]; 0], "told once");
        assert_eq!((silent(&sessions), sessions.silent()), (vec![2], 1));
        for id in 1..4 {
            sessions.restore([id; 16], session(id));
        }
        assert_eq!((here(&sessions), silent(&sessions)), (vec![1, 2, 3], vec![2]));
        sessions.let_go(&[1, 2, 3, 4].map(|id| [id; 16]), 5);
        assert_eq!((here(&sessions), silent(&sessions)), (vec![], vec![2]), "as before");
        assert_eq!(told(&mut sessions, 5), [[3; 16], [4; 16]]);
        assert_eq!(sessions.silent(), 3);
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
        sessions.let_sealed_go(9, 0);
        assert_eq!(sessions.silent(), 2);
        for ((id, session), left) in (1..).zip(kept).zip([2, 1]) {
            sessions.restore([id; 16], session);
            sessions.record(&at(20), &header(id), 10);
            assert_eq!(sessions.silent(), left);
        }
        assert_eq!((sessions.fall_silent(30).len(), sessions.silent()), (2, 3));
    }
}
