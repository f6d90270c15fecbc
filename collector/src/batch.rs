//! A POSTed batch, checked: everything about it that needs no state of the log.

use crate::count::check_counts;
use crate::refusal::Refusal;
use meshchain_core::leaf::{CHAIN_START, Signature, entry_hashes};
use meshchain_core::session::session_id;
use meshchain_core::{BatchHeader, Canonical, ENTRY_LEN, Entry, SpanRecord, chain_hash, merkle};
use meshchain_log::Checked;
use meshchain_wire::Batch;
use prost::Message;

/// Largest body of a POST, in bytes: a full batch of 32,768 entries with records of some 400 bytes. A
/// filter seals a batch before it is as large.
pub const MAX_BODY: usize = 16 << 20;

/// Parses and checks a body. `principal` is the SPIFFE id that mTLS proved, if any.
pub fn parse(body: &[u8], principal: &str) -> Result<Checked, Refusal> {
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
    Ok(Checked {
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
