//! Sessions: where each proxy's run of batches stands, and whether a batch may follow.

use crate::batch::{Checked, Refusal};
use meshchain_core::{BatchHeader, BatchKind, BatchLeaf, Hash};
use std::collections::HashMap;

/// What a session has in the log.
#[derive(Debug, Clone)]
pub struct Session {
    /// (seq, leaf index) of each batch, ascending in both.
    pub batches: Vec<(u64, u64)>,
    /// Chain value of the last batch.
    pub chain: Hash,
    /// Number of entries.
    pub entries: u64,
    /// Batches that were jumped over.
    pub missing: u64,
    /// Drops that the proxy reported last, over all reasons.
    pub dropped: u64,
    /// Notices that the proxy reported last about its configuration.
    pub notices: Vec<String>,
    /// When the last batch was accepted, unix nanoseconds.
    pub last_received_ns: u64,
    /// Source as text: mesh, cluster, namespace, workload, pod.
    pub source: [String; 5],
    /// SPIFFE id that delivered the last batch.
    pub principal: String,
    /// A close batch came, or it was reported as silent.
    pub closed: bool,
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
    /// It is in the log already.
    Logged {
        /// Its leaf index.
        leaf: u64,
    },
}

/// All sessions of a log.
#[derive(Debug, Default)]
pub struct Sessions(HashMap<[u8; 16], Session>);

impl Sessions {
    /// Judges a batch. `chain_of` gives the chain value of a leaf in the log.
    pub fn judge(
        &self,
        batch: &Checked,
        chain_of: impl FnOnce(u64) -> Option<Hash>,
    ) -> Result<Follows, Refusal> {
        let seq = batch.seq;
        let Some(session) = self.0.get(&batch.session) else {
            return Ok(if seq == 0 { Follows::InOrder } else { Follows::AfterGap { from: 0 } });
        };
        let last = session.batches.last().map_or(0, |(seq, _)| *seq);
        if seq <= last {
            let at = session.batches.binary_search_by_key(&seq, |(seq, _)| *seq);
            let Ok(at) = at else {
                return Err(Refusal::Reordered { seq, last });
            };
            let leaf = session.batches[at].1;
            let same = chain_of(leaf) == Some(batch.chain);
            return if same {
                Ok(Follows::Logged { leaf })
            } else {
                Err(Refusal::Equivocation { seq })
            };
        }
        if seq > last + 1 {
            return Ok(Follows::AfterGap { from: last + 1 });
        }
        if batch.prev != session.chain {
            return Err(Refusal::WrongPrev { seq, last });
        }
        Ok(Follows::InOrder)
    }

    /// Takes in a batch that is in the log. True where it opened its session.
    pub fn record(&mut self, leaf: &BatchLeaf<'_>, header: &BatchHeader<'_>, index: u64) -> bool {
        let mut opened = false;
        let session = self.0.entry(header.session).or_insert_with(|| {
            opened = true;
            Session {
                batches: Vec::new(),
                chain: [0; 32],
                entries: 0,
                missing: 0,
                dropped: 0,
                notices: Vec::new(),
                last_received_ns: 0,
                source: Default::default(),
                principal: String::new(),
                closed: false,
            }
        });
        let next = session.batches.last().map_or(0, |(seq, _)| seq + 1);
        session.missing += header.seq.saturating_sub(next);
        session.batches.push((header.seq, index));
        session.chain = leaf.chain;
        session.entries += u64::from(header.count);
        session.dropped = header.dropped.iter().map(|d| d.count).sum();
        if header.kind == BatchKind::Heartbeat {
            session.notices = header.notices.iter().map(|&n| n.to_owned()).collect();
        }
        session.last_received_ns = leaf.received_ns;
        let s = &header.source;
        session.source = [s.mesh, s.cluster, s.namespace, s.workload, s.pod].map(str::to_owned);
        session.principal = String::from_utf8_lossy(leaf.principal).into_owned();
        session.closed = header.kind == BatchKind::Close;
        opened
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
