//! Signed notes (<https://c2sp.org/signed-note>) with Ed25519 keys.

use base64::prelude::{BASE64_STANDARD, Engine};
use ed25519_dalek::{Signature, Signer};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Longest note that is parsed, in bytes; a checkpoint with a hundred cosignatures is below 20 kB.
pub const MAX_NOTE: usize = 256 * 1024;
/// Most signature lines that are looked at.
pub const MAX_SIGNATURES: usize = 128;
const ED25519: u8 = 1;

/// Why a note is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoteError {
    /// Not of the shape of a signed note.
    #[error("not a signed note: {0}")]
    Malformed(&'static str),
    /// A signature by the very key asked for, but it does not verify.
    #[error("the signature of {0} does not verify")]
    BadSignature(String),
    /// No signature by the key asked for.
    #[error("no signature of {0}")]
    Unsigned(String),
}

/// Why a text is not a verifier key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Not `name+hash+key`, or a name that a note cannot carry.
    #[error("a verifier key reads name+hash+base64, with neither space nor plus in the name")]
    Malformed,
    /// Not an Ed25519 key.
    #[error("not an Ed25519 key")]
    Algorithm,
    /// The hash in the text is not the hash of name and key.
    #[error("the key's hash does not fit its name and bytes")]
    Hash,
}

/// A public key with its name, as policies carry it: `name+hash+base64(0x01 ‖ key)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    id: [u8; 4],
    key: ed25519_dalek::VerifyingKey,
}

impl VerifierKey {
    fn new(name: &str, key: ed25519_dalek::VerifyingKey) -> Result<Self, KeyError> {
        if !valid_name(name) {
            return Err(KeyError::Malformed);
        }
        let hash = Sha256::new_with_prefix(name.as_bytes())
            .chain_update([b'\n', ED25519])
            .chain_update(key.as_bytes())
            .finalize();
        let id = [hash[0], hash[1], hash[2], hash[3]];
        Ok(Self { name: name.to_owned(), id, key })
    }

    /// Parses `name+hash+base64`.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(KeyError::Malformed);
        };
        let bytes = BASE64_STANDARD.decode(key).map_err(|_| KeyError::Malformed)?;
        let Some((&ED25519, key)) = bytes.split_first() else {
            return Err(KeyError::Algorithm);
        };
        let key: [u8; 32] = key.try_into().map_err(|_| KeyError::Algorithm)?;
        let key = ed25519_dalek::VerifyingKey::from_bytes(&key).map_err(|_| KeyError::Algorithm)?;
        let parsed = Self::new(name, key)?;
        if hex::encode(parsed.id) == id { Ok(parsed) } else { Err(KeyError::Hash) }
    }

    /// Name of the key; for a log, its origin.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `name+hash`, what a person compares.
    pub fn short(&self) -> String {
        format!("{}+{}", self.name, hex::encode(self.id))
    }
}

impl std::fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = [&[ED25519], self.key.as_bytes().as_slice()].concat();
        write!(f, "{}+{}+{}", self.name, hex::encode(self.id), BASE64_STANDARD.encode(bytes))
    }
}

/// A private key with its name.
#[derive(Clone)]
pub struct SigningKey {
    verifier: VerifierKey,
    key: ed25519_dalek::SigningKey,
}

impl SigningKey {
    /// The key with this 32-byte seed.
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, KeyError> {
        let key = ed25519_dalek::SigningKey::from_bytes(seed);
        let verifier = VerifierKey::new(name, key.verifying_key())?;
        Ok(Self { verifier, key })
    }

    /// The public half.
    pub fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// The note of `text`, which ends in a newline, with this key's signature.
    pub fn sign(&self, text: &str) -> String {
        let signature = self.key.sign(text.as_bytes()).to_bytes();
        let blob = [self.verifier.id.as_slice(), &signature].concat();
        format!("{text}\n— {} {}\n", self.verifier.name, BASE64_STANDARD.encode(blob))
    }
}

/// Opens a note: its text, if the key has signed it.
///
/// Signatures of other keys are passed over; a false one of this key rejects the note.
pub fn open<'a>(note: &'a str, key: &VerifierKey) -> Result<&'a str, NoteError> {
    if note.len() > MAX_NOTE {
        return Err(NoteError::Malformed("longer than 256 KiB"));
    }
    if note.bytes().any(|b| b < 0x20 && b != b'\n') {
        return Err(NoteError::Malformed("control characters"));
    }
    let (text, signatures) = split(note)?;
    let mut signed = false;
    for (count, line) in signatures.split_terminator('\n').enumerate() {
        if count == MAX_SIGNATURES {
            return Err(NoteError::Malformed("more than 128 signatures"));
        }
        let (name, blob) = parse_signature(line)?;
        if name != key.name || blob[..4] != key.id {
            continue;
        }
        let bad = || NoteError::BadSignature(key.name.clone());
        let signature = Signature::from_slice(&blob[4..]).map_err(|_| bad())?;
        key.key.verify_strict(text.as_bytes(), &signature).map_err(|_| bad())?;
        signed = true;
    }
    if signed { Ok(text) } else { Err(NoteError::Unsigned(key.name.clone())) }
}

/// Splits a note into its text, with the final newline, and its signature lines.
pub fn split(note: &str) -> Result<(&str, &str), NoteError> {
    let at = note.rfind("\n\n").ok_or(NoteError::Malformed("no blank line before signatures"))?;
    let (text, signatures) = (&note[..at + 1], &note[at + 2..]);
    if signatures.is_empty() || !signatures.ends_with('\n') {
        return Err(NoteError::Malformed("no signature line, or an unfinished one"));
    }
    Ok((text, signatures))
}

fn parse_signature(line: &str) -> Result<(&str, Vec<u8>), NoteError> {
    let malformed = || NoteError::Malformed("a signature line that is not '— name base64'");
    let rest = line.strip_prefix("— ").ok_or_else(malformed)?;
    let (name, blob) = rest.split_once(' ').ok_or_else(malformed)?;
    let blob = BASE64_STANDARD.decode(blob).map_err(|_| malformed())?;
    if !valid_name(name) || blob.len() < 5 {
        return Err(malformed());
    }
    Ok((name, blob))
}

fn valid_name(name: &str) -> bool {
    !name.is_empty() && !name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '+')
}

#[cfg(test)]
mod tests {
    use super::*;

    // The example key and note of the signed-note specification.
    const VKEY: &str = "example.com/foo+530cf4fa+AYQYb1lRRoO/yzIbjqYZdWtfYTzFn3hWxrDENFQ3iMb9";

    #[test]
    fn key_text_round_trips_and_its_hash_is_checked() {
        let key = SigningKey::from_seed("example.com/log", &[7; 32]).unwrap();
        let text = key.verifier().to_string();
        assert_eq!(VerifierKey::parse(&text).as_ref(), Ok(key.verifier()));
        assert_eq!(VerifierKey::parse(&text.replace(".com", ".org")), Err(KeyError::Hash));
        assert!(VerifierKey::parse(VKEY).is_err(), "the hash of another name");
        assert!(SigningKey::from_seed("two words", &[7; 32]).is_err());
        assert!(SigningKey::from_seed("a+b", &[7; 32]).is_err());
    }

    #[test]
    fn a_note_opens_with_its_key_only_and_unaltered_only() {
        let key = SigningKey::from_seed("example.com/log", &[7; 32]).unwrap();
        let other = SigningKey::from_seed("example.com/log", &[8; 32]).unwrap();
        let note = key.sign("text\n");
        assert_eq!(open(&note, key.verifier()), Ok("text\n"));
        assert!(matches!(open(&note, other.verifier()), Err(NoteError::Unsigned(_))));
        let altered = note.replacen("text", "texT", 1);
        assert!(matches!(open(&altered, key.verifier()), Err(NoteError::BadSignature(_))));
        let cosigned = format!("{note}— witness {}\n", BASE64_STANDARD.encode([1; 20]));
        assert_eq!(open(&cosigned, key.verifier()), Ok("text\n"));
        for broken in
            ["", "text", "text\n\n", "text\n\n— a", "text\n\nx y\n", "te\0xt\n\n— a AAAAAAAA\n"]
        {
            assert!(
                matches!(open(broken, key.verifier()), Err(NoteError::Malformed(_))),
                "{broken:?}"
            );
        }
    }

    #[test]
    fn a_note_may_have_256_kib_and_128_signatures_and_no_more() {
        let key = SigningKey::from_seed("example.com/log", &[7; 32]).unwrap();
        let bare = key.sign("\n").len();
        let of_size = |size: usize| key.sign(&format!("{}\n", "x".repeat(size - bare)));
        assert_eq!(of_size(MAX_NOTE).len(), MAX_NOTE);
        assert!(open(&of_size(MAX_NOTE), key.verifier()).is_ok());
        let long = of_size(MAX_NOTE + 1);
        let opened = open(&long, key.verifier());
        assert_eq!(opened, Err(NoteError::Malformed("longer than 256 KiB")));
        for (others, opens) in [(MAX_SIGNATURES - 1, true), (MAX_SIGNATURES, false)] {
            // Ours last: all lines before it are looked at.
            let (text, ours) = ("text\n\n", key.sign("text\n"));
            let lines = "\u{2014} w AAAAAAA=\n".repeat(others);
            let note = format!("{text}{lines}{}", &ours[text.len()..]);
            assert_eq!(open(&note, key.verifier()).is_ok(), opens, "{others} others");
        }
    }
}
