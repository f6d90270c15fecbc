//! Proofs that a session's key signed two batches for one place.

use super::session::{SEED, key};
use crate::vector::Vector;
use meshchain_core::equivocation::{Equivocation, SignedBatch};
use meshchain_core::hash::tagged;
use meshchain_core::leaf::chain_of;
use meshchain_core::{BatchHeader, BatchKind, Canonical, SessionKey};
use serde_json::json;

pub(super) fn cases() -> Vec<Vector> {
    let mut unsigned = batch(&key(), 7, 2);
    unsigned.signature[0] ^= 1;
    let foreign =
        SignedBatch { public_key: *SessionKey::from_seed([1; 32]).public(), ..batch(&key(), 7, 2) };
    let entries = SignedBatch { entries_digest: [9; 32], ..batch(&key(), 7, 2) };
    let cases = [
        ("two-for-one-place", "two batches of one session and seq", batch(&key(), 7, 2)),
        ("same-batch", "one batch, twice", batch(&key(), 7, 1)),
        ("other-seq", "batches of two places", batch(&key(), 8, 2)),
        ("other-session", "batches of two sessions", batch(&SessionKey::from_seed([1; 32]), 7, 2)),
        ("altered-signature", "one bit of a signature", unsigned),
        ("other-key", "another session's key", foreign),
        ("other-entries", "entries that were not signed", entries),
        (
            "no-header",
            "a header that is none",
            SignedBatch { header: vec![1], ..batch(&key(), 7, 2) },
        ),
    ];
    let proofs = cases.into_iter().map(|(name, case, other)| vector(name, case, other));
    proofs.chain([upper_case()]).collect()
}

fn batch(key: &SessionKey, seq: u64, at_ns: u64) -> SignedBatch {
    let header = BatchHeader {
        kind: BatchKind::Heartbeat,
        session: key.id(),
        seq,
        first_ns: at_ns,
        last_ns: at_ns,
        ..BatchHeader::default()
    }
    .encode();
    let (prev, entries_digest) = (tagged(&[], &[&SEED]), tagged(&[], &[]));
    let signature = key.sign(&chain_of(&prev, &header, &entries_digest));
    SignedBatch { header, prev, entries_digest, public_key: *key.public(), signature }
}

/// A good proof but for the case of one key.
fn upper_case() -> Vector {
    let mut input = json!(Equivocation::of([batch(&key(), 7, 1), batch(&key(), 7, 2)]));
    let public_key = &mut input["batches"][1]["public_key"];
    *public_key = public_key.as_str().expect("a text").to_uppercase().into();
    let error = Equivocation::from_json(input.to_string().as_bytes()).expect_err("capitals");
    let error = error.to_string();
    // serde_json's own words name a column, which depends on the order of keys.
    let error = error.split(" at line").next().unwrap_or_default();
    let case = "a public key in capitals";
    Vector::invalid("equivocation", "upper-case", case, error).with("input", input)
}

fn vector(name: &str, case: &str, other: SignedBatch) -> Vector {
    let proof = Equivocation::of([batch(&key(), 7, 1), other]);
    let input = json!(proof);
    match proof.check() {
        Ok(proven) => Vector::valid("equivocation", name, case, input).with(
            "proven",
            json!({"session": hex::encode(proven.session), "seq": proven.seq,
                   "chains": proven.chains.map(hex::encode)}),
        ),
        Err(error) => Vector::invalid("equivocation", name, case, error).with("input", input),
    }
}
