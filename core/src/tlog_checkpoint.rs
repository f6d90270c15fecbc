//! Checkpoints of C2SP tlog-checkpoint (<https://c2sp.org/tlog-checkpoint>): signed tree heads.

use crate::hash::Hash;
use crate::note::{NoteError, SigningKey, VerifierKey, open, split};
use base64::prelude::{BASE64_STANDARD, Engine};
use thiserror::Error;

/// Size and root of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeHead {
    /// Number of leaves.
    pub size: u64,
    /// RFC 6962 root.
    pub root: Hash,
}

/// A tree head with the note that the log signed for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedHead {
    /// Size and root.
    pub head: TreeHead,
    /// The signed checkpoint of that head, verbatim.
    pub checkpoint: String,
}

/// Why a note is not a checkpoint of the log asked for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CheckpointError {
    /// Not signed by the log, or not a note.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The text is not origin, size and root.
    #[error("not a checkpoint: {0}")]
    Malformed(&'static str),
    /// A checkpoint of another log.
    #[error("a checkpoint of {0}, not of the log asked for")]
    Origin(String),
}

/// A tree head with the origin of its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's unique name.
    pub origin: String,
    /// The tree it speaks of.
    pub head: TreeHead,
}

impl Checkpoint {
    /// Signs a tree head; the key's name is the origin.
    pub fn sign(head: &TreeHead, key: &SigningKey) -> String {
        Self::sign_extended(head, "", key)
    }

    /// Signs a tree head with extension lines: each ends with a newline, none is empty.
    pub fn sign_extended(head: &TreeHead, extension: &str, key: &SigningKey) -> String {
        let (origin, root) = (key.verifier().name(), BASE64_STANDARD.encode(head.root));
        key.sign(&format!("{origin}\n{}\n{root}\n{extension}", head.size))
    }

    /// Opens a signed checkpoint of the log that owns `key`.
    pub fn open(note: &str, key: &VerifierKey) -> Result<Self, CheckpointError> {
        let checkpoint = Self::parse_text(open(note, key)?)?;
        if checkpoint.origin != key.name() {
            return Err(CheckpointError::Origin(checkpoint.origin));
        }
        Ok(checkpoint)
    }

    /// Reads a checkpoint without looking at its signatures.
    pub fn parse_unverified(note: &str) -> Result<Self, CheckpointError> {
        Self::parse_text(split(note)?.0)
    }

    fn parse_text(text: &str) -> Result<Self, CheckpointError> {
        let malformed = CheckpointError::Malformed;
        let mut lines = text.split('\n');
        let origin = lines.next().filter(|o| !o.is_empty()).ok_or(malformed("no origin"))?;
        let size = lines.next().and_then(parse_decimal).ok_or(malformed("no tree size"))?;
        let root = lines.next().and_then(parse_hash).ok_or(malformed("no root"))?;
        if size == 0 && root != crate::merkle::empty_root() {
            return Err(malformed("an empty tree with another root"));
        }
        if lines.next_back() != Some("") {
            return Err(malformed("an unfinished line"));
        }
        if lines.any(str::is_empty) {
            return Err(malformed("an empty extension line"));
        }
        Ok(Self { origin: origin.to_owned(), head: TreeHead { size, root } })
    }
}

/// An ASCII decimal without leading zeros or sign.
pub(crate) fn parse_decimal(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// A base64-encoded hash.
pub(crate) fn parse_hash(text: &str) -> Option<Hash> {
    BASE64_STANDARD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_of_sign_is_the_head_and_another_origin_is_refused() {
        let key = SigningKey::from_seed("example.com/log", &[1; 32]).unwrap();
        let head = TreeHead { size: 42, root: [9; 32] };
        let note = Checkpoint::sign(&head, &key);
        assert_eq!(Checkpoint::open(&note, key.verifier()).unwrap().head, head);
        let foreign = key.sign(&split(&note).unwrap().0.replacen("log", "gol", 1));
        assert!(matches!(
            Checkpoint::open(&foreign, key.verifier()),
            Err(CheckpointError::Origin(_))
        ));
    }

    #[test]
    fn malformed_texts_are_refused() {
        let key = SigningKey::from_seed("o", &[1; 32]).unwrap();
        let root = BASE64_STANDARD.encode([9; 32]);
        for text in [
            "o\n",
            "o\n1\n",
            "o\n01\nx\n",
            &format!("o\n01\n{root}\n"),
            &format!("o\n-1\n{root}\n"),
            "o\n1\nAAAA\n",
        ] {
            assert!(Checkpoint::open(&key.sign(text), key.verifier()).is_err(), "{text:?}");
        }
    }
}
