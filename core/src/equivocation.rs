//! Proof that a session's key signed two batches for one place: one JSON file that anybody checks alone.
//!
//! ```text
//! {"format": "meshchain/equivocation/v1",
//!  "batches": [{"header", "prev", "entries_digest", "public_key", "signature"}, {...}]}   all in hex
//! ```
//!
//! It needs neither the log nor a policy: the session id is a hash of the key, and both chain values are
//! signed by it. The entries come as their SHA-256, so it shows nothing of the calls.

use crate::canonical::Canonical;
use crate::hash::Hash;
use crate::header::BatchHeader;
use crate::leaf::chain_of;
use crate::lower_hex;
use crate::session::{KEY_LEN, SIGNATURE_LEN, SessionId, Signed, session_id};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The only version of the format.
pub const FORMAT: &str = "meshchain/equivocation/v1";
/// Largest file that is read, in bytes.
pub const MAX_LEN: usize = 64 * 1024;

/// Why a file proves nothing.
#[derive(Debug, Error)]
pub enum EquivocationError {
    /// Over [`MAX_LEN`].
    #[error("the file has {0} bytes; a proof of equivocation has at most {MAX_LEN}")]
    TooLarge(usize),
    /// Not JSON of this shape.
    #[error("not a proof of equivocation: {0}")]
    Json(#[from] serde_json::Error),
    /// Another format or version.
    #[error("format is {0:?}, not {FORMAT:?}")]
    Format(String),
    /// A batch, counted from 1, whose header is none.
    #[error("batch {0}: {1}")]
    Header(usize, crate::DecodeError),
    /// A batch, counted from 1, that is not its session's.
    #[error("batch {0}: the public key is not that of session {1}")]
    Key(usize, String),
    /// A batch, counted from 1, that its session's key did not sign.
    #[error("batch {0}: the signature is not one of the session's key over the chain value")]
    Signature(usize),
    /// The two have different places.
    #[error("the two batches are not for one place: {0} and {1}")]
    Places(String, String),
    /// The two are one.
    #[error("the two batches are the same: to sign one twice is no equivocation")]
    Same,
}

/// A signed batch, its entries as a digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedBatch {
    /// Canonical [`BatchHeader`].
    #[serde(with = "lower_hex")]
    pub header: Vec<u8>,
    /// Chain value of the batch before.
    #[serde(with = "lower_hex")]
    pub prev: Hash,
    /// SHA-256 of the entries.
    #[serde(with = "lower_hex")]
    pub entries_digest: Hash,
    /// Public key of the session.
    #[serde(with = "lower_hex")]
    pub public_key: [u8; KEY_LEN],
    /// Signature over the chain value.
    #[serde(with = "lower_hex")]
    pub signature: [u8; SIGNATURE_LEN],
}

impl SignedBatch {
    /// Session, seq and chain value, where the signature holds; `number` is for errors.
    fn check(&self, number: usize) -> Result<(SessionId, u64, Hash), EquivocationError> {
        let header = BatchHeader::decode(&self.header)
            .map_err(|fault| EquivocationError::Header(number, fault))?;
        if session_id(&self.public_key) != header.session {
            return Err(EquivocationError::Key(number, hex::encode(header.session)));
        }
        let chain = chain_of(&self.prev, &self.header, &self.entries_digest);
        let signed = Signed { public_key: self.public_key, chain, signature: self.signature };
        signed.verify().map_err(|_| EquivocationError::Signature(number))?;
        Ok((header.session, header.seq, chain))
    }
}

/// Two batches of one session for one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Equivocation {
    /// [`FORMAT`].
    pub format: String,
    /// The two batches.
    pub batches: [SignedBatch; 2],
}

/// What a proof proves: the holder of the session's key signed two batches for this place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// The session.
    pub session: SessionId,
    /// The place.
    pub seq: u64,
    /// Chain values of the two.
    pub chains: [Hash; 2],
}

impl Equivocation {
    /// The proof by two batches, which is not checked.
    pub fn of(batches: [SignedBatch; 2]) -> Self {
        Self { format: FORMAT.to_owned(), batches }
    }

    /// Parses a file.
    pub fn from_json(bytes: &[u8]) -> Result<Self, EquivocationError> {
        if bytes.len() > MAX_LEN {
            return Err(EquivocationError::TooLarge(bytes.len()));
        }
        let proof: Self = serde_json::from_slice(bytes)?;
        match proof.format == FORMAT {
            true => Ok(proof),
            false => Err(EquivocationError::Format(proof.format)),
        }
    }

    /// Checks everything.
    pub fn check(&self) -> Result<Proven, EquivocationError> {
        let [one, other] = &self.batches;
        let ((session, seq, chain), (other_session, other_seq, other_chain)) =
            (one.check(1)?, other.check(2)?);
        if (session, seq) != (other_session, other_seq) {
            let place =
                |session: SessionId, seq| format!("seq {seq} of session {}", hex::encode(session));
            return Err(EquivocationError::Places(
                place(session, seq),
                place(other_session, other_seq),
            ));
        }
        if chain == other_chain {
            return Err(EquivocationError::Same);
        }
        Ok(Proven { session, seq, chains: [chain, other_chain] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::BatchKind;
    use crate::session::SessionKey;

    fn batch(seed: u8, seq: u64, at_ns: u64) -> SignedBatch {
        let key = SessionKey::from_seed([seed; 32]);
        let header = BatchHeader {
            kind: BatchKind::Heartbeat,
            session: key.id(),
            seq,
            first_ns: at_ns,
            last_ns: at_ns,
            ..BatchHeader::default()
        }
        .encode();
        let (prev, entries_digest) = ([3; 32], crate::hash::tagged(&[], &[]));
        let signature = key.sign(&chain_of(&prev, &header, &entries_digest));
        SignedBatch { header, prev, entries_digest, public_key: *key.public(), signature }
    }

    #[test]
    fn two_signed_batches_for_one_place_prove_it() {
        let proof = Equivocation::of([batch(1, 7, 1), batch(1, 7, 2)]);
        let json = serde_json::to_vec(&proof).unwrap();
        let proven = Equivocation::from_json(&json).unwrap().check().unwrap();
        let id = SessionKey::from_seed([1; 32]).id();
        assert_eq!((proven.session, proven.seq), (id, 7));
        assert_ne!(proven.chains[0], proven.chains[1]);
    }

    #[test]
    fn all_else_proves_nothing() {
        let good = || batch(1, 7, 1);
        let unsigned = SignedBatch { prev: [4; 32], ..good() };
        let foreign = SignedBatch { public_key: batch(2, 7, 1).public_key, ..good() };
        let no_header = SignedBatch { header: vec![1], ..good() };
        for (other, reason) in [
            (good(), "the same"),
            (batch(1, 8, 1), "one place"),
            (batch(2, 7, 1), "one place"),
            (unsigned, "batch 2: the signature"),
            (foreign, "batch 2: the public key"),
            (no_header, "batch 2: BatchHeader"),
        ] {
            let error = Equivocation::of([good(), other]).check().unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        assert!(Equivocation::from_json(&[b' '; MAX_LEN + 1]).is_err());
        assert!(Equivocation::from_json(b"{}").is_err());
        let mut later = Equivocation::of([good(), good()]);
        later.format = "meshchain/equivocation/v2".to_owned();
        assert!(Equivocation::from_json(&serde_json::to_vec(&later).unwrap()).is_err());
    }
}
