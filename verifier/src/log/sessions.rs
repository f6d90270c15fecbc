//! The sessions, leaf by leaf: how each goes on, what is odd about it, and what it has in the log.
//! Some 600 bytes of memory per session.

use meshchain_core::{BatchHeader, BatchLeaf, SessionId};
use meshchain_stored::{Followed, Oddity, Session};
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
    ) -> (Follows, Vec<Oddity>) {
        let new = || Known { session: Session::default(), leaf: at };
        let known = self.0.entry(header.session).or_insert_with(new);
        let follows = follows(known, leaf, header);
        if known.session.batches > 0 && header.seq <= known.session.last_seq {
            return (follows, Vec::new());
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

    /// How stored sessions differ from these, in words.
    pub(crate) fn differs(&self, stored: &HashMap<SessionId, Session>) -> Option<String> {
        let mut wrong: Vec<(SessionId, &str)> = Vec::new();
        for (id, known) in &self.0 {
            let field = match stored.get(id) {
                Some(stored) => differs(&known.session, stored),
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
        ("previous", one.previous == other.previous),
    ]
    .into_iter()
    .find_map(|(field, same)| (!same).then_some(field))
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
        assert_eq!(push(2, 8, 9), Follows::AfterGap(2));
        assert_eq!(push(3, 9, 10), Follows::InOrder);
        assert_eq!(push(7, 1, 11), Follows::AfterGap(3));
        for (seq, prev, word) in [(8, 1, "chain"), (8, 11, "twice"), (1, 0, "reordered")] {
            let Follows::Contradicts(why) = push(seq, prev, 12) else { panic!("{seq}") };
            assert!(why.contains(word), "{why}");
        }
    }
}
