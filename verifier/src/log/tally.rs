//! What each session has in the log, counted from the leaves as the collector counts it.

use meshchain_core::{BatchHeader, BatchLeaf};
use meshchain_segment::Session;
use std::collections::HashMap;

/// First field that differs.
fn differs(one: &Session, other: &Session) -> Option<&'static str> {
    [
        ("first_leaf", one.first_leaf == other.first_leaf),
        ("batches", one.batches == other.batches),
        ("last_seq", one.last_seq == other.last_seq),
        ("chain", one.chain == other.chain),
        ("entries", one.entries == other.entries),
        ("missing", one.missing == other.missing),
        ("dropped", one.dropped == other.dropped),
        ("notices", one.notices == other.notices),
        ("last_received_ns", one.last_received_ns == other.last_received_ns),
        ("source", one.source == other.source),
        ("principal", one.principal == other.principal),
        ("closed", one.closed == other.closed),
    ]
    .into_iter()
    .find_map(|(field, same)| (!same).then_some(field))
}

/// All sessions so far.
#[derive(Debug, Default)]
pub(crate) struct Tally(HashMap<[u8; 16], Session>);

impl Tally {
    /// Takes in the next leaf.
    pub(crate) fn record(&mut self, at: u64, leaf: &BatchLeaf<'_>, header: &BatchHeader<'_>) {
        self.0.entry(header.session).or_default().record(leaf, header, at);
    }

    /// How stored sessions differ from these, in words.
    pub(crate) fn differs(&self, stored: &HashMap<[u8; 16], Session>) -> Option<String> {
        let mut wrong: Vec<([u8; 16], &str)> = Vec::new();
        for (id, session) in &self.0 {
            let field = match stored.get(id) {
                Some(stored) => differs(session, stored),
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
