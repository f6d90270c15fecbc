//! The lines that leaves take in the audit log, held against the leaves: none may be missing, none may say what
//! no leaf says. Some 60 bytes of memory per line.

use meshchain_core::{BatchHeader, BatchLeaf, hash};
use meshchain_stored::Step;
use meshchain_stored::audit_leaf::{AGAIN, told};
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};

/// A line by its hash.
type Line = [u8; 16];

#[derive(Default)]
pub(super) struct Told {
    expected: HashMap<Line, (u64, &'static str)>,
    heard: HashSet<Line>,
    /// Leaves that were taken in.
    size: u64,
    /// Starts that found it shorter than the log.
    pub(super) cut_off: u64,
    /// First leaf whose lines the audit log must have, where it has any.
    pub(super) from: Option<u64>,
    /// The leaf behind the last one of these.
    pub(super) to: u64,
}

impl Told {
    /// Takes in the next leaf.
    pub(super) fn expect(
        &mut self,
        at: u64,
        leaf: &BatchLeaf<'_>,
        header: &BatchHeader<'_>,
        step: &Step,
    ) {
        self.size = at + 1;
        for (event, members) in told(at, leaf, header, step) {
            self.expected.insert(line(event, &members), (at, event));
        }
    }

    /// Takes in a line of the audit log; false where it speaks of a leaf that was taken in, and not as that one does.
    pub(super) fn hear(&mut self, event: &str, members: &Map<String, Value>) -> bool {
        let leaf = members.get("leaf").and_then(Value::as_u64);
        if leaf.is_none_or(|leaf| leaf >= self.size) || event == "refusal" {
            return true;
        }
        let mut members = members.clone();
        members.shift_remove(AGAIN);
        let line = line(event, &members);
        self.heard.insert(line);
        self.expected.contains_key(&line)
    }

    /// Leaf and event of lines that are missing, by leaf.
    pub(super) fn missing(&self) -> Vec<(u64, &'static str)> {
        let Some(from) = self.from else { return Vec::new() };
        let within = |leaf: u64| from <= leaf && leaf < self.to;
        let missing = self.expected.iter().filter(|(line, _)| !self.heard.contains(*line));
        let mut missing: Vec<_> =
            missing.map(|(_, of)| *of).filter(|(leaf, _)| within(*leaf)).collect();
        missing.sort_unstable();
        missing
    }
}

fn line(event: &str, members: &Map<String, Value>) -> Line {
    let text = serde_json::to_vec(members).unwrap_or_default();
    let whole = hash::tagged(event.as_bytes(), &[&[0], &text]);
    whole.first_chunk().copied().unwrap_or_default()
}
