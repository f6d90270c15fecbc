//! Sessions: where each proxy's run of batches stands, and whether a batch may follow.

use crate::batch::{Checked, Refusal};
use meshchain_core::{BatchHeader, BatchLeaf};
use meshchain_segment::Session;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// What a batch is to its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judged {
    /// It follows what is there.
    Follows(Follows),
    /// Its place is not after the last: it was logged already, or cannot be any more.
    Passed(Passed),
}

/// A session that went on past a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    /// Leaf index of its first batch.
    pub first_leaf: u64,
    /// Last seq in the log.
    pub last: u64,
}

/// How a batch follows its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follows {
    /// It starts the session at seq 0, or continues it.
    InOrder,
    /// Batches `from..seq` are missing.
    AfterGap {
        /// First missing seq.
        from: u64,
    },
}

/// All sessions of a log.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sessions(HashMap<[u8; 16], Session>);

impl Sessions {
    /// Judges a batch by what its session has in the log.
    pub fn judge(&self, batch: &Checked) -> Result<Judged, Refusal> {
        let seq = batch.seq;
        let Some(session) = self.0.get(&batch.session) else {
            let follows = if seq == 0 { Follows::InOrder } else { Follows::AfterGap { from: 0 } };
            return Ok(Judged::Follows(follows));
        };
        let last = session.last_seq;
        if seq <= last {
            return Ok(Judged::Passed(Passed { first_leaf: session.first_leaf, last }));
        }
        if seq - last > 1 {
            return Ok(Judged::Follows(Follows::AfterGap { from: last + 1 }));
        }
        if batch.prev != session.chain {
            return Err(Refusal::WrongPrev { seq, last });
        }
        Ok(Judged::Follows(Follows::InOrder))
    }

    /// Takes in a batch that is in the log.
    pub fn record(&mut self, leaf: &BatchLeaf<'_>, header: &BatchHeader<'_>, index: u64) {
        self.0.entry(header.session).or_default().record(leaf, header, index);
    }

    /// Closes the sessions that had been silent for `after_ns` when the newest batch was received:
    /// that was told then.
    pub fn close_long_silent(&mut self, after_ns: u64) {
        let newest = self.0.values().map(|s| s.last_received_ns).max().unwrap_or(0);
        self.close_silent(newest.saturating_sub(after_ns));
    }

    /// Closes and returns the sessions that were last heard of before `before_ns`.
    pub fn close_silent(&mut self, before_ns: u64) -> Vec<[u8; 16]> {
        let silent = |s: &Session| !s.closed && s.last_received_ns < before_ns;
        let mut closed = Vec::new();
        for (id, session) in self.0.iter_mut().filter(|(_, s)| silent(s)) {
            session.closed = true;
            closed.push(*id);
        }
        closed
    }

    /// A session.
    pub fn get(&self, id: &[u8; 16]) -> Option<&Session> {
        self.0.get(id)
    }

    /// All sessions, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8; 16], &Session)> {
        self.0.iter()
    }

    /// Number of sessions.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Sessions {
    /// A list of [id, session], by id.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list: Vec<_> = self.0.iter().map(|(id, s)| (hex::encode(id), s)).collect();
        list.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        serializer.collect_seq(list)
    }
}

impl<'de> Deserialize<'de> for Sessions {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let list = Vec::<(String, Session)>::deserialize(deserializer)?;
        let sessions = list.into_iter().map(|(id, session)| {
            let mut bytes = [0; 16];
            hex::decode_to_slice(&id, &mut bytes).map_err(serde::de::Error::custom)?;
            Ok((bytes, session))
        });
        sessions.collect::<Result<_, _>>().map(Self)
    }
}
