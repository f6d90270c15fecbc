//! The object `sealed`: how far the log is sealed, and what the sessions had in it at that point.

use super::sessions::Sessions;
use meshchain_core::{Hash, TreeHead};
use meshchain_segment::{SegmentName, Session};
use serde::Deserialize;
use std::collections::HashMap;

/// Its name.
pub(crate) const SEALED: &str = "sealed";
/// Longest that it can be: some 500 bytes per session.
pub(crate) const MAX_SEALED: u64 = 1 << 30;
const VERSION: u32 = 1;

/// The object as the collector writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    /// Drawn anew at each start.
    #[serde(rename = "writer")]
    _writer: String,
    segments: Vec<String>,
    #[serde(with = "hex::serde")]
    root: Hash,
    sessions: Vec<(String, Session)>,
}

/// What the object says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SealedState {
    /// The segments, from leaf 0 on.
    pub(crate) names: Vec<SegmentName>,
    /// Tree of all sealed leaves.
    pub(crate) head: TreeHead,
    sessions: HashMap<[u8; 16], Session>,
}

impl SealedState {
    /// Nothing is sealed.
    pub(crate) fn empty() -> Self {
        let head = TreeHead { size: 0, root: meshchain_core::merkle::empty_root() };
        Self { names: Vec::new(), head, sessions: HashMap::new() }
    }

    /// Parses the object; where it fails, the byte if it is known, and why.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, (Option<u64>, String)> {
        let stored: Stored = serde_json::from_slice(bytes).map_err(|e| {
            let at = (e.line() == 1).then(|| e.column().saturating_sub(1) as u64);
            (at, e.to_string())
        })?;
        let fault = |fault: &str| (None, fault.to_owned());
        if stored.version != VERSION {
            return Err(fault("of another version"));
        }
        let names: Result<Vec<SegmentName>, _> =
            stored.segments.iter().map(|s| s.parse()).collect();
        let names = names.map_err(|e| (None, e.to_string()))?;
        let firsts = [0].into_iter().chain(names.iter().map(|name| name.end));
        if !names.iter().zip(firsts).all(|(name, first)| name.first == first) {
            return Err(fault("its segments do not follow each other"));
        }
        let mut sessions = HashMap::new();
        for (id, session) in stored.sessions {
            let mut key = [0; 16];
            hex::decode_to_slice(&id, &mut key).map_err(|e| (None, format!("session: {e}")))?;
            if sessions.insert(key, session).is_some() {
                return Err((None, format!("session {id} twice")));
            }
        }
        let size = names.last().map_or(0, |name| name.end);
        Ok(Self { names, head: TreeHead { size, root: stored.root }, sessions })
    }

    /// How its sessions differ from those of the leaves; `None` where they do not.
    pub(crate) fn differs(&self, sessions: &Sessions) -> Option<String> {
        sessions.differs(&self.sessions)
    }
}
