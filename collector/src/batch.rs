//! A POSTed batch, checked: everything about it that needs no state of the log.

use crate::count::check_counts;
use crate::judge::MAX_JUMP;
use crate::xfcc::NoPrincipal;
use meshchain_core::leaf::{CHAIN_START, Signature, entry_hashes};
use meshchain_core::session::{BadSignature, KEY_LEN, Signed, session_id};
use meshchain_core::{
    BatchHeader, Canonical, DecodeError, ENTRY_LEN, Entry, Hash, SpanRecord, chain_hash, merkle,
};
use meshchain_wire::Batch;
use prost::Message;
use thiserror::Error;

/// Largest body of a POST, in bytes: a full batch of 32,768 entries with records of some 400 bytes. A
/// filter seals a batch before it is as large.
pub const MAX_BODY: usize = 16 << 20;

/// Why a batch is refused. Nothing of it reaches the log.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// More bytes than a batch may have.
    #[error("the body is longer than {0} bytes")]
    Oversized(usize),
    /// The sender went away in the middle of it.
    #[error("the body broke off: the sender went away")]
    BrokenOff,
    /// The body took too long.
    #[error("the body did not arrive in time")]
    Slow,
    /// Not a protobuf message of this shape.
    #[error("the body is not a meshchain.v1.Batch message: {0}")]
    Malformed(String),
    /// A part that is not in its canonical encoding.
    #[error("{part}: {fault}")]
    NotCanonical {
        /// Which part.
        part: &'static str,
        /// What is wrong with it.
        fault: DecodeError,
    },
    /// An entry, a record or a hash that is not of its shape.
    #[error("{0}")]
    BadPart(String),
    /// The chain value is not that of header and entries.
    #[error("the chain value is not the hash of prev, header and entries")]
    WrongChain,
    /// It is not signed by the session's key.
    #[error(transparent)]
    BadSignature(#[from] BadSignature),
    /// A record does not hash to its entry.
    #[error("record {index}: {fault}")]
    WrongDigest {
        /// Index of the record.
        index: usize,
        /// Which digest.
        fault: meshchain_core::record::RecordError,
    },
    /// Nobody proved by mTLS who sends it.
    #[error("x-forwarded-client-cert does not tell who sends: {0}")]
    NoPrincipal(#[from] NoPrincipal),
    /// The sender is of another trust domain than this collector serves.
    #[error("{principal} is not of trust domain {expected}")]
    WrongTrustDomain {
        /// SPIFFE id from mTLS.
        principal: String,
        /// Trust domain as configured.
        expected: String,
    },
    /// The principal that delivered it is not of the source's namespace.
    #[error("{principal} may not speak for namespace {namespace}")]
    WrongPrincipal {
        /// SPIFFE id from mTLS.
        principal: String,
        /// Namespace that the header claims.
        namespace: String,
    },
    /// The session is somebody else's.
    #[error(
        "the session belongs to {owner:?} and the source of its first batch; this one is of {principal:?}"
    )]
    ForeignSession {
        /// SPIFFE id that delivered its first batch; empty where unknown.
        owner: String,
        /// SPIFFE id that delivered this one.
        principal: String,
    },
    /// It jumps over more than a proxy can have lost.
    #[error(
        "seq {seq} comes where {next} was next: no proxy loses more than {MAX_JUMP} batches at once"
    )]
    SeqJump {
        /// Seq of the batch.
        seq: u64,
        /// Seq that would have been next.
        next: u64,
    },
    /// Its sender has sent as much as the configuration lets it.
    #[error("limits.{limit} of the configuration is reached for {principal}")]
    Limited {
        /// Key of the limit.
        limit: &'static str,
        /// SPIFFE id that sends.
        principal: String,
        /// Seconds until it is worth to come again.
        retry_after_s: u64,
    },
    /// Its place in the session was passed without it.
    #[error("seq {seq} comes after seq {last} was logged: late batches are refused")]
    Reordered {
        /// Seq of the batch.
        seq: u64,
        /// Last seq in the log.
        last: u64,
    },
    /// Another batch with this session and seq is in the log.
    #[error("seq {seq} is in the log with another chain value: the session is equivocating")]
    Equivocation {
        /// Seq of the batch.
        seq: u64,
    },
    /// It is the next batch, but does not continue the chain.
    #[error("prev of seq {seq} is not the chain value of seq {last}: the session is equivocating")]
    WrongPrev {
        /// Seq of the batch.
        seq: u64,
        /// Last seq in the log.
        last: u64,
    },
}

impl Refusal {
    /// Label in metrics, audit lines and answers.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Oversized(_) => "oversized",
            Self::BrokenOff => "broken_off",
            Self::Slow => "slow",
            Self::Malformed(_) => "malformed",
            Self::NotCanonical { .. } => "not_canonical",
            Self::BadPart(_) => "bad_part",
            Self::WrongChain => "wrong_chain",
            Self::BadSignature(_) => "bad_signature",
            Self::WrongDigest { .. } => "wrong_digest",
            Self::NoPrincipal(_) => "no_principal",
            Self::WrongTrustDomain { .. } => "wrong_trust_domain",
            Self::WrongPrincipal { .. } => "wrong_principal",
            Self::ForeignSession { .. } => "foreign_session",
            Self::SeqJump { .. } => "seq_jump",
            Self::Limited { .. } => "limited",
            Self::Reordered { .. } => "reordered",
            Self::Equivocation { .. } => "equivocation",
            Self::WrongPrev { .. } => "wrong_prev",
        }
    }

    /// Whose session it is, where it is not the sender's.
    pub fn owner(&self) -> Option<&str> {
        match self {
            Self::ForeignSession { owner, .. } => Some(owner),
            _ => None,
        }
    }

    /// HTTP status: 408 and 413 for the body as such, 400 malformed, 403 not entitled, 409 against the log,
    /// 410 the session cannot go on here, and the sender's calls can in another one, 422 false digests
    /// and signatures, 429 too much from this sender.
    pub fn status(&self) -> u16 {
        match self {
            Self::Oversized(_) => 413,
            Self::Slow => 408,
            Self::BrokenOff | Self::Malformed(_) | Self::NotCanonical { .. } | Self::BadPart(_) => {
                400
            }
            Self::NoPrincipal(_) | Self::WrongTrustDomain { .. } | Self::WrongPrincipal { .. } => {
                403
            }
            Self::Reordered { .. } | Self::Equivocation { .. } | Self::WrongPrev { .. } => 409,
            Self::SeqJump { .. } | Self::ForeignSession { .. } => 410,
            Self::WrongChain | Self::BadSignature(_) | Self::WrongDigest { .. } => 422,
            Self::Limited { .. } => 429,
        }
    }
}

/// A batch that holds together: header, entries, chain and records fit each other, and the key is the
/// session's. The signature is checked with those of other batches, when it is judged.
#[derive(Debug, Clone)]
pub struct Checked {
    /// Canonical header.
    pub header: Vec<u8>,
    /// Session id.
    pub session: [u8; 16],
    /// Position in the session.
    pub seq: u64,
    /// Chain value before.
    pub prev: Hash,
    /// Chain value of this batch.
    pub chain: Hash,
    /// Public key of the session.
    pub public_key: [u8; KEY_LEN],
    /// The session's signature over `chain`.
    pub signature: Signature,
    /// RFC 6962 root over the entries.
    pub entries_root: Hash,
    /// Entries, 90 bytes each.
    pub entries: Vec<u8>,
    /// Canonical records: none, or one per entry.
    pub records: Vec<Vec<u8>>,
    /// SPIFFE id that delivered it; empty where unknown.
    pub principal: String,
}

impl Checked {
    /// Parses and checks a body. `principal` is the SPIFFE id that mTLS proved, if any.
    pub fn parse(body: &[u8], principal: &str) -> Result<Self, Refusal> {
        check_counts(body)?;
        let batch = Batch::decode(body).map_err(|e| Refusal::Malformed(e.to_string()))?;
        let not_canonical = |part| move |fault| Refusal::NotCanonical { part, fault };
        let header = BatchHeader::decode(&batch.header).map_err(not_canonical("header"))?;
        let (prev, chain) = (exact(&batch.prev, "prev")?, exact(&batch.chain, "chain")?);
        let public_key = exact(&batch.public_key, "public key")?;
        let signature = Signature(exact(&batch.signature, "signature")?);
        if session_id(&public_key) != header.session {
            return Err(Refusal::BadPart("the public key is not that of the session".to_owned()));
        }
        if header.seq == 0 && prev != CHAIN_START {
            return Err(Refusal::BadPart("prev of seq 0 is not zero".to_owned()));
        }
        if batch.entries.len() != header.count as usize * ENTRY_LEN {
            let (count, bytes) = (header.count, batch.entries.len());
            let text =
                format!("the header counts {count} entries, but there are {bytes} bytes of them");
            return Err(Refusal::BadPart(text));
        }
        if chain_hash(&prev, &batch.header, &batch.entries) != chain {
            return Err(Refusal::WrongChain);
        }
        check_records(&batch)?;
        check_principal(principal, header.source.namespace)?;
        Ok(Self {
            session: header.session,
            seq: header.seq,
            prev,
            chain,
            public_key,
            signature,
            entries_root: merkle::root(&entry_hashes(&batch.entries)),
            principal: principal.to_owned(),
            header: batch.header,
            entries: batch.entries,
            records: batch.records,
        })
    }

    /// The header, parsed again from its bytes.
    pub fn header(&self) -> BatchHeader<'_> {
        BatchHeader::decode(&self.header).unwrap_or_default()
    }

    /// Whose word it is: to be verified.
    pub fn signed(&self) -> Signed {
        let Self { public_key, chain, signature: Signature(signature), .. } = *self;
        Signed { public_key, chain, signature }
    }

    /// Bytes that this batch holds in memory.
    pub fn bytes(&self) -> usize {
        let records: usize = self.records.iter().map(Vec::len).sum();
        self.header.len() + self.entries.len() + records
    }
}

fn exact<const N: usize>(bytes: &[u8], name: &str) -> Result<[u8; N], Refusal> {
    bytes.try_into().map_err(|_| Refusal::BadPart(format!("{name} is not {N} bytes")))
}

fn check_records(batch: &Batch) -> Result<(), Refusal> {
    for (index, bytes) in batch.entries.chunks_exact(ENTRY_LEN).enumerate() {
        let bad = |e| Refusal::BadPart(format!("entry {index}: {e}"));
        let entry = Entry::parse(bytes).map_err(bad)?;
        if let Some(record) = batch.records.get(index) {
            let record = SpanRecord::decode(record)
                .map_err(|fault| Refusal::NotCanonical { part: "record", fault })?;
            record.check(&entry).map_err(|fault| Refusal::WrongDigest { index, fault })?;
        }
    }
    Ok(())
}

/// A workload may only speak for its own namespace: `spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
fn check_principal(principal: &str, namespace: &str) -> Result<(), Refusal> {
    if principal.is_empty() {
        return Ok(());
    }
    let path = principal.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/'));
    match path.map(|(_, path)| path.split('/').collect::<Vec<_>>()).as_deref() {
        Some(["ns", of, "sa", account])
            if *of == namespace && !of.is_empty() && !account.is_empty() =>
        {
            Ok(())
        }
        _ => Err(Refusal::WrongPrincipal {
            principal: principal.to_owned(),
            namespace: namespace.to_owned(),
        }),
    }
}

/// A collector of one organisation takes batches of that organisation.
pub fn check_trust_domain(principal: &str, expected: Option<&str>) -> Result<(), Refusal> {
    let domain = principal.strip_prefix("spiffe://").and_then(|rest| rest.split('/').next());
    match expected {
        Some(expected) if domain != Some(expected) => Err(Refusal::WrongTrustDomain {
            principal: principal.to_owned(),
            expected: expected.to_owned(),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_serves_its_own_trust_domain() {
        let id = "spiffe://cloud.example/ns/n/sa/s";
        assert_eq!(check_trust_domain(id, Some("cloud.example")), Ok(()));
        assert_eq!(check_trust_domain(id, None), Ok(()));
        for other in ["cloud", "cloud.example.org", "loud.example"] {
            assert!(check_trust_domain(id, Some(other)).is_err(), "{other}");
        }
    }

    #[test]
    fn a_workload_speaks_only_for_its_namespace() {
        assert_eq!(check_principal("spiffe://d/ns/shop/sa/web", "shop"), Ok(()));
        assert_eq!(check_principal("", "shop"), Ok(()));
        assert!(check_principal("spiffe://d/ns//sa/web", "").is_err(), "no namespace");
        assert!(check_principal("spiffe://d/ns/shop/sa/", "shop").is_err(), "no account");
        for principal in ["spiffe://d/ns/shop/sa/web/x", "spiffe://d/ns/other/sa/web", "shop"] {
            assert!(check_principal(principal, "shop").is_err(), "{principal}");
        }
    }
}
