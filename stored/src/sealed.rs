//! The object `sealed`: how far the log is sealed, and what the sessions had in it at that point.
//!
//! JSON: `version`, `writer` (16 hexadecimal digits that the writer drew when it started), `segments` (names,
//! one after the other from leaf 0), `root` of all sealed leaves (hex), `sessions`: `[id, session]`, by id.

use crate::{SegmentName, Session};
use meshchain_core::{Hash, SessionId, TreeHead, merkle};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use thiserror::Error;

/// Name of the object.
pub const SEALED: &str = "sealed";
const VERSION: u32 = 1;

/// What is wrong with an object, and the byte where, if that is known.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{fault}")]
pub struct SealedError {
    /// Offset, where known.
    pub at: Option<u64>,
    /// What is wrong.
    pub fault: String,
}

/// Everything before its end is in segments.
#[derive(Debug, Clone, PartialEq)]
pub struct SealedState {
    /// The writer, 16 hexadecimal digits; empty where there was none yet.
    pub writer: String,
    /// Names of the segments; they follow each other from leaf 0.
    pub segments: Vec<SegmentName>,
    /// Root of the tree of all sealed leaves.
    pub root: Hash,
    /// What the sessions had in the log at that point.
    pub sessions: HashMap<SessionId, Session>,
}

/// The object's members, as they are written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Members<S> {
    version: u32,
    writer: String,
    segments: Vec<String>,
    #[serde(with = "hex::serde")]
    root: Hash,
    sessions: Vec<(String, S)>,
}

impl SealedState {
    /// Nothing is sealed.
    pub fn empty() -> Self {
        let (root, sessions) = (merkle::empty_root(), HashMap::new());
        Self { writer: String::new(), segments: Vec::new(), root, sessions }
    }

    /// First leaf that is not sealed.
    pub fn end(&self) -> u64 {
        self.segments.last().map_or(0, |name| name.end)
    }

    /// The tree of the sealed leaves.
    pub fn head(&self) -> TreeHead {
        TreeHead { size: self.end(), root: self.root }
    }

    /// The object.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut sessions: Vec<_> =
            self.sessions.iter().map(|(id, session)| (hex::encode(id), session)).collect();
        sessions.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let segments = self.segments.iter().map(SegmentName::to_string).collect();
        let (writer, root) = (self.writer.clone(), self.root);
        let members = Members { version: VERSION, writer, segments, root, sessions };
        // Its keys are texts, and nothing in it fails to serialize.
        serde_json::to_vec(&members).unwrap_or_default()
    }

    /// Parses the object. Sessions are not compared with anything.
    pub fn parse(bytes: &[u8]) -> Result<Self, SealedError> {
        let members: Members<Session> = serde_json::from_slice(bytes).map_err(|e| {
            let at = (e.line() == 1).then(|| e.column().saturating_sub(1) as u64);
            SealedError { at, fault: e.to_string() }
        })?;
        let fault = |fault: String| SealedError { at: None, fault };
        if members.version != VERSION {
            return Err(fault("of another version".to_owned()));
        }
        let segments: Result<Vec<SegmentName>, _> =
            members.segments.iter().map(|name| name.parse()).collect();
        let segments = segments.map_err(|e| fault(e.to_string()))?;
        let firsts = [0].into_iter().chain(segments.iter().map(|name| name.end));
        if !segments.iter().zip(firsts).all(|(name, first)| name.first == first) {
            return Err(fault("its segments do not follow each other".to_owned()));
        }
        let mut sessions = HashMap::new();
        for (id, session) in members.sessions {
            let mut key = [0; 16];
            hex::decode_to_slice(&id, &mut key).map_err(|e| fault(format!("session: {e}")))?;
            if sessions.insert(key, session).is_some() {
                return Err(fault(format!("session {id} twice")));
            }
        }
        Ok(Self { writer: members.writer, segments, root: members.root, sessions })
    }
}
