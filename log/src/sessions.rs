//! Sessions: where each proxy's run of batches stands.

use meshchain_core::{BatchHeader, BatchLeaf, SessionId};
use meshchain_stored::Session;
use std::collections::{HashMap, HashSet};

/// A session is told to be silent after this long: four default heartbeats.
pub const SILENT_AFTER_NS: u64 = 120_000_000_000;

/// All sessions of a log.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sessions {
    all: HashMap<SessionId, Session>,
    /// Those that ended without a close batch, as far as it was told.
    silent: HashSet<SessionId>,
}

impl Sessions {
    /// Takes in a batch that is in the log.
    pub fn record(&mut self, leaf: &BatchLeaf<'_>, header: &BatchHeader<'_>, index: u64) {
        self.silent.remove(&header.session);
        // What would be odd about it was refused.
        let _ = self.all.entry(header.session).or_default().record(leaf, header, index);
    }

    /// Takes for told which sessions had been silent for `after_ns` when the newest batch was received.
    pub fn forget_silent(&mut self, after_ns: u64) {
        let newest = self.all.values().map(|s| s.last_received_ns).max().unwrap_or(0);
        self.fall_silent(newest.saturating_sub(after_ns));
    }

    /// The sessions without a close batch that were last heard of before `before_ns`; each is told once.
    pub fn fall_silent(&mut self, before_ns: u64) -> Vec<SessionId> {
        let quiet = self.all.iter().filter(|(_, s)| !s.closed && s.last_received_ns < before_ns);
        quiet.filter(|(id, _)| self.silent.insert(**id)).map(|(id, _)| *id).collect()
    }

    /// Whether a session ended without a close batch.
    pub fn is_silent(&self, id: &SessionId) -> bool {
        self.silent.contains(id)
    }

    /// Number of sessions that ended without a close batch.
    pub fn silent(&self) -> usize {
        self.silent.len()
    }

    /// A session.
    pub fn get(&self, id: &SessionId) -> Option<&Session> {
        self.all.get(id)
    }

    /// All sessions, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&SessionId, &Session)> {
        self.all.iter()
    }

    /// Number of sessions.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

impl From<HashMap<SessionId, Session>> for Sessions {
    /// Sessions as `sealed` has them; none is known to be silent.
    fn from(all: HashMap<SessionId, Session>) -> Self {
        Self { all, silent: HashSet::new() }
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
        assert!(sessions.is_silent(&[1; 16]) && !sessions.is_silent(&[3; 16]));
        assert!(sessions.fall_silent(11).is_empty(), "told once");
        assert!(!sessions.get(&[1; 16]).unwrap().closed, "it never said so");
        hear(&mut sessions, 1, BatchKind::Heartbeat, 30);
        assert!(!sessions.is_silent(&[1; 16]));
        sessions.forget_silent(5);
        assert!(sessions.is_silent(&[2; 16]) && sessions.fall_silent(25).is_empty());
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
        for (after_ns, silent) in [(9, true), (10, false), (11, false), (u64::MAX, false)] {
            let mut sessions = Sessions::default();
            for (id, received_ns) in [(1, 10), (2, 20)] {
                let header = BatchHeader { session: [id; 16], ..BatchHeader::default() };
                let leaf = BatchLeaf { received_ns, ..BatchLeaf::default() };
                sessions.record(&leaf, &header, 0);
            }
            sessions.forget_silent(after_ns);
            assert_eq!(sessions.is_silent(&[1; 16]), silent, "{after_ns}");
            assert!(!sessions.is_silent(&[2; 16]), "the newest never is");
        }
    }
}
