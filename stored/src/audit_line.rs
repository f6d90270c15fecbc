//! A line of the audit log: one JSON object. `docs/audit-log.md` has the events and their members.
//!
//! ```text
//! {"time": RFC 3339, milliseconds, "event": NAME, "log": {"origin", "size", "root": hex}, "prev": hex, ...members of the event}
//! ```
//!
//! `prev` is the SHA-256 of the line before, without its newline and without any prefix; 32 zero bytes in the first
//! line of a log, and 32 bytes of 255 where it begins beside a log that has leaves: one that was there before is gone. So the lines are a chain, whatever files they are in.

use meshchain_core::{Hash, hash};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// `prev` of the first line of an audit log that begins beside a log with leaves: the one before it is gone.
pub const CHAIN_LOST: Hash = [0xff; 32];
/// `prev` of the first line.
pub const CHAIN_START: Hash = [0; 32];
/// The file that grows. In it, and in the files that were it, a line ends with a newline.
pub const AUDIT_FILE: &str = "audit.jsonl";

/// Bytes from which on a file is put aside and a new one begun.
pub const ROTATE_AT: u64 = 64 << 20;
/// Leaves that the lines before the end of a process may leave out: those of the commits at work.
pub const CUT_OFF: u64 = 8192;

/// A line, without the newline that ends it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditLine {
    /// When it was written, by the collector's clock: RFC 3339 with milliseconds, in UTC.
    pub time: String,
    /// What happened.
    pub event: String,
    /// The log, and its tree when the line was written.
    pub log: AuditedLog,
    /// [`line_hash`] of the line before.
    #[serde(with = "hex::serde")]
    pub prev: Hash,
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

/// What the next line names as `prev`. `line` is without its newline.
pub fn line_hash(line: &[u8]) -> Hash {
    hash::tagged(&[], &[line])
}

/// Name of the file that was the `number`-th, from 1, to become too long.
pub fn rotated_name(number: u64) -> String {
    format!("audit-{number}.jsonl")
}

/// The number in a name of [`rotated_name`].
pub fn rotated_number(name: &str) -> Option<u64> {
    let number = name.strip_prefix("audit-")?.strip_suffix(".jsonl")?.parse().ok()?;
    // The next one has a number too.
    (0 < number && number < u64::MAX && rotated_name(number) == name).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_rotated_has_one_name() {
        assert_eq!(rotated_number(&rotated_name(12)), Some(12));
        for other in
            ["audit-0.jsonl", "audit-01.jsonl", "audit-+1.jsonl", "audit-.jsonl", "audit.jsonl"]
        {
            assert_eq!(rotated_number(other), None, "{other}");
        }
    }
}
