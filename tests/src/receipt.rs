//! The offline check of an evidence file, without anchors, in the order in which format.md gives it.

use meshchain_core::{
    BatchLeaf, Canonical, Checkpoint, Entry, Evidence, Hash, OwnPart, TlogProof, VerifierKey, hop,
    merkle, own, tlog_checkpoint::TreeHead,
};
use std::collections::BTreeMap;

/// Checks every span of `evidence` up to a checkpoint signed by `key`.
pub fn check(evidence: &Evidence, key: &VerifierKey) -> Result<(), String> {
    if evidence.spans.is_empty() {
        return Err("no receipt in the file".into());
    }
    let (mut leaves, mut roots) = (BTreeMap::<u64, Hash>::new(), BTreeMap::<u64, Hash>::new());
    for (at, span) in evidence.spans.iter().enumerate() {
        let fail = |what: &str| format!("span {at}: {what}");
        let entry = Entry::parse(&span.entry).map_err(|e| fail(&e.to_string()))?;
        if entry.trace_id != evidence.trace_id {
            return Err(fail("the entry is of another trace"));
        }
        if span.record.hop.as_ref().is_some_and(|hop| hop::hop_digest(hop) != entry.hop_digest) {
            return Err(fail("the hop part does not hash to the hop digest"));
        }
        if let Some(own) = &span.record.own {
            if own::span_digest(&entry.hop_digest, own) != entry.span_digest {
                return Err(fail("the own part does not hash to the span digest"));
            }
            OwnPart::decode(own).map_err(|e| fail(&e.to_string()))?;
        }
        let leaf = BatchLeaf::decode(&span.leaf).map_err(|e| fail(&e.to_string()))?;
        let header = leaf.parse_header().map_err(|e| fail(&e.to_string()))?;
        leaf.signed().verify().map_err(|e| fail(&e.to_string()))?;
        let batch = TreeHead { size: header.count.into(), root: leaf.entries_root };
        merkle::verify_inclusion(
            span.batch.index,
            &merkle::leaf_hash(&span.entry),
            &span.batch.path,
            &batch,
        )
        .map_err(|e| fail(&format!("entry in batch: {e}")))?;
        let proof = TlogProof::parse(&span.tlog_proof).map_err(|e| fail(&e.to_string()))?;
        let checkpoint =
            Checkpoint::open(&proof.checkpoint, key).map_err(|e| fail(&e.to_string()))?;
        merkle::verify_inclusion(
            proof.index,
            &merkle::leaf_hash(&span.leaf),
            &proof.path,
            &checkpoint.head,
        )
        .map_err(|e| fail(&format!("leaf in log: {e}")))?;
        let (head, leaf) = (checkpoint.head, merkle::leaf_hash(&span.leaf));
        if *leaves.entry(proof.index).or_insert(leaf) != leaf {
            return Err(fail("two histories: another leaf at this index"));
        }
        if *roots.entry(head.size).or_insert(head.root) != head.root {
            return Err(fail("two histories: another root for this size"));
        }
    }
    // Anchors, which could tie them, are not looked at here.
    match roots.len() {
        1 => Ok(()),
        _ => Err("no consistency proof ties the checkpoints to each other".into()),
    }
}
