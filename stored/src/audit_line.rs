//! A line of the audit log: one JSON object. `docs/audit-log.md` has the events and their members.
//!
//! ```text
//! {"time": RFC 3339, milliseconds, "event": NAME, "log": {"origin", "size", "root": hex}, ...members of the event}
//! ```

use meshchain_core::Hash;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A line, without the newline that ends it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditLine {
    /// When it was written, by the collector's clock: RFC 3339 with milliseconds, in UTC.
    pub time: String,
    /// What happened.
    pub event: String,
    /// The log, and its tree when the line was written.
    pub log: AuditedLog,
    /// What the event tells besides.
    #[serde(flatten)]
    pub members: Map<String, Value>,
}

/// The log that a line speaks of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditedLog {
    /// Its origin.
    pub origin: String,
    /// Leaves of the tree last committed.
    pub size: u64,
    /// Its root.
    #[serde(with = "hex::serde")]
    pub root: Hash,
}

impl AuditLine {
    /// The text, without a newline.
    pub fn print(&self) -> String {
        // Its keys are texts, and nothing in it fails to serialize.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Parses a line; members of events are kept as they are.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}
