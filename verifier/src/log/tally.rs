//! What each session has in the log, counted from the leaves as the collector counts it.

use meshchain_core::{BatchHeader, BatchKind, BatchLeaf, Hash};
use serde::Deserialize;
use std::collections::HashMap;

/// What a session has in the log, as `sealed` keeps it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub(crate) struct Session {
    first_leaf: u64,
    batches: u64,
    last_seq: u64,
    #[serde(with = "hex::serde")]
    chain: Hash,
    entries: u64,
    missing: u64,
    dropped: u64,
    notices: Vec<String>,
    last_received_ns: u64,
    source: [String; 5],
    principal: String,
    closed: bool,
}

impl Session {
    /// First field that differs.
    fn differs(&self, other: &Self) -> Option<&'static str> {
        [
            ("first_leaf", self.first_leaf == other.first_leaf),
            ("batches", self.batches == other.batches),
            ("last_seq", self.last_seq == other.last_seq),
            ("chain", self.chain == other.chain),
            ("entries", self.entries == other.entries),
            ("missing", self.missing == other.missing),
            ("dropped", self.dropped == other.dropped),
            ("notices", self.notices == other.notices),
            ("last_received_ns", self.last_received_ns == other.last_received_ns),
            ("source", self.source == other.source),
            ("principal", self.principal == other.principal),
            ("closed", self.closed == other.closed),
        ]
        .into_iter()
        .find_map(|(field, same)| (!same).then_some(field))
    }
}

/// All sessions so far.
#[derive(Debug, Default)]
pub(crate) struct Tally(HashMap<[u8; 16], Session>);

impl Tally {
    /// Takes in the next leaf.
    pub(crate) fn record(&mut self, at: u64, leaf: &BatchLeaf<'_>, header: &BatchHeader<'_>) {
        let session = self
            .0
            .entry(header.session)
            .or_insert_with(|| Session { first_leaf: at, ..Session::default() });
        let next = if session.batches == 0 { 0 } else { session.last_seq.wrapping_add(1) };
        let jumped = header.seq.saturating_sub(next);
        session.missing = session.missing.wrapping_add(jumped);
        session.batches += 1;
        session.last_seq = header.seq;
        session.chain = leaf.chain;
        session.entries += u64::from(header.count);
        session.dropped = header.dropped.iter().fold(0, |sum, d| d.count.wrapping_add(sum));
        if header.kind == BatchKind::Heartbeat {
            session.notices = header.notices.iter().map(|&n| n.to_owned()).collect();
        }
        session.last_received_ns = leaf.received_ns;
        let s = &header.source;
        session.source = [s.mesh, s.cluster, s.namespace, s.workload, s.pod].map(str::to_owned);
        session.principal = String::from_utf8_lossy(leaf.principal).into_owned();
        session.closed = header.kind == BatchKind::Close;
    }

    /// How stored sessions differ from these, in words.
    pub(crate) fn differs(&self, stored: &HashMap<[u8; 16], Session>) -> Option<String> {
        let mut wrong: Vec<([u8; 16], &str)> = Vec::new();
        for (id, session) in &self.0 {
            let field = match stored.get(id) {
                Some(stored) => session.differs(stored),
                None => Some("all, it is missing"),
            };
            wrong.extend(field.map(|field| (*id, field)));
        }
        let foreign = stored.keys().filter(|id| !self.0.contains_key(*id));
        wrong.extend(foreign.map(|id| (*id, "all, no leaf is of it")));
        wrong.sort_unstable();
        let (id, field) = wrong.first()?;
        let more = match wrong.len() {
            1 => String::new(),
            count => format!("; {} more sessions differ", count - 1),
        };
        Some(format!("session {} is not that of the leaves: {field}{more}", hex::encode(id)))
    }
}
