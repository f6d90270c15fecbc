//! The object `sealed`: how far the log is sealed, and which tables have what the sessions had at that point.
//!
//! JSON: `version`, `writer` (16 hexadecimal digits that the writer drew when it started), `segments` (names,
//! one after the other from leaf 0), `root` of all sealed leaves (hex), `sessions`: names of session tables,
//! one after the other from leaf 0 to the same end. A session is as the last table says that has it.

use crate::SegmentName;
use meshchain_core::{Hash, TreeHead, merkle};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Name of the object.
pub const SEALED: &str = "sealed";
const VERSION: u32 = 2;

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
    /// Names of the session tables; they follow each other from leaf 0 to the end of the segments.
    pub sessions: Vec<SegmentName>,
}

/// The object's members, as they are written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    version: u32,
    writer: String,
    segments: Vec<String>,
    #[serde(with = "hex::serde")]
    root: Hash,
    sessions: Vec<String>,
}

impl SealedState {
    /// Nothing is sealed.
    pub fn empty() -> Self {
        let (root, sessions) = (merkle::empty_root(), Vec::new());
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
        let names = |names: &[SegmentName]| names.iter().map(SegmentName::to_string).collect();
        let (segments, sessions) = (names(&self.segments), names(&self.sessions));
        let (writer, root) = (self.writer.clone(), self.root);
        let members = Members { version: VERSION, writer, segments, root, sessions };
        // Its keys are texts, and nothing in it fails to serialize.
        serde_json::to_vec(&members).unwrap_or_default()
    }

    /// Parses the object. It is not compared with anything.
    pub fn parse(bytes: &[u8]) -> Result<Self, SealedError> {
        let members: Members = serde_json::from_slice(bytes).map_err(|e| {
            let at = (e.line() == 1).then(|| e.column().saturating_sub(1) as u64);
            SealedError { at, fault: e.to_string() }
        })?;
        let fault = |fault: String| SealedError { at: None, fault };
        if members.version != VERSION {
            return Err(fault("of another version".to_owned()));
        }
        let names = |names: &[String]| {
            let names = names.iter().map(|name| name.parse());
            names.collect::<Result<Vec<SegmentName>, _>>().map_err(|e| fault(e.to_string()))
        };
        let (segments, sessions) = (names(&members.segments)?, names(&members.sessions)?);
        if !follow(&segments) {
            return Err(fault("its segments do not follow each other".to_owned()));
        }
        let ends = |table: &SegmentName| segments.iter().any(|segment| segment.end == table.end);
        let end = |names: &[SegmentName]| names.last().map(|name| name.end);
        if !follow(&sessions) || !sessions.iter().all(ends) || end(&sessions) != end(&segments) {
            return Err(fault("its session tables are not those of its segments".to_owned()));
        }
        Ok(Self { writer: members.writer, segments, root: members.root, sessions })
    }
}

/// Whether each begins where the one before ends, the first one at leaf 0.
fn follow(names: &[SegmentName]) -> bool {
    let firsts = [0].into_iter().chain(names.iter().map(|name| name.end));
    names.iter().zip(firsts).all(|(name, first)| name.first == first)
}
