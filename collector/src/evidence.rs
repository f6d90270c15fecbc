//! Evidence files out of the log: entries, proofs, and the anchors that cover them.

use crate::anchor::AnchorHandle;
use crate::log::{Batch, EntryPlace, Log, nth_record};
use crate::store::StoreError;
use meshchain_core::evidence::{Disclosed, EvmAnchor, FORMAT, InBatch, MAX_ITEMS, SpanEvidence};
use meshchain_core::leaf::entry_hashes;
use meshchain_core::record::ShownPath;
use meshchain_core::{Canonical, ENTRY_LEN, Evidence, SpanRecord, TlogProof, merkle};
use thiserror::Error;

/// Why there is no evidence.
#[derive(Debug, Error)]
pub enum EvidenceError {
    /// The log holds nothing of the trace.
    #[error("no entry of this trace in the log")]
    Unknown,
    /// More spans than one file may hold.
    #[error("the trace has more than {MAX_ITEMS} spans")]
    TooMany,
    /// The log could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The tree that evidence speaks of: the first final anchored one that holds all of its leaves, or
/// the published one.
struct Ground {
    size: u64,
    checkpoint: String,
    anchors: Vec<EvmAnchor>,
}

/// Evidence of a trace.
pub async fn of_trace(
    log: &Log,
    anchors: &[AnchorHandle],
    trace_id: [u8; 16],
) -> Result<Evidence, EvidenceError> {
    let published = log.published().borrow().clone().ok_or(EvidenceError::Unknown)?;
    let mut places = log.trace(&trace_id);
    places.retain(|(leaf, _)| *leaf < published.head.size);
    let last = places.iter().map(|(leaf, _)| *leaf).max().ok_or(EvidenceError::Unknown)?;
    if places.len() > MAX_ITEMS {
        return Err(EvidenceError::TooMany);
    }
    let ground = match ground(log, anchors, last + 1).await? {
        Some(ground) => ground,
        None => Ground {
            size: published.head.size,
            checkpoint: published.checkpoint,
            anchors: Vec::new(),
        },
    };
    let mut spans = Vec::with_capacity(places.len());
    let mut current: Option<(u64, Batch, TlogProof)> = None;
    for place in places {
        let (batch, proof) = match current.take() {
            Some((leaf, batch, proof)) if leaf == place.0 => (batch, proof),
            _ => {
                let missing = || StoreError::missing(&format!("leaf {}", place.0));
                let batch = log.batch(place.0).await?.ok_or_else(missing)?;
                let path = log.inclusion_proof(place.0, ground.size).await?;
                let checkpoint = ground.checkpoint.clone();
                (batch, TlogProof { index: place.0, path, checkpoint })
            }
        };
        spans.extend(span(&batch, &proof, place));
        current = Some((place.0, batch, proof));
    }
    Ok(Evidence { format: FORMAT.to_owned(), trace_id, spans, anchors: ground.anchors })
}

/// The smallest final anchored tree of at least `size` leaves; where several chains anchor, the
/// other chains' follow by consistency proofs.
async fn ground(
    log: &Log,
    anchors: &[AnchorHandle],
    size: u64,
) -> Result<Option<Ground>, StoreError> {
    let mut covering = Vec::new();
    for anchor in anchors {
        covering.extend(anchor.covering(size).await?);
    }
    covering.sort_by_key(|anchor| anchor.size);
    let Some(first) = covering.first() else {
        return Ok(None);
    };
    let (size, checkpoint) = (first.size, first.checkpoint.clone());
    let mut anchors = Vec::with_capacity(covering.len());
    for anchor in covering {
        let consistency = log.consistency_proof(size, anchor.size).await?;
        anchors.push(EvmAnchor { consistency, ..anchor.evidence });
    }
    Ok(Some(Ground { size, checkpoint, anchors }))
}

/// The receipt of one entry; `None` where the index is not in the batch.
fn span(batch: &Batch, proof: &TlogProof, (_, index): EntryPlace) -> Option<SpanEvidence> {
    let index = index as usize;
    let entry = batch.entries.chunks_exact(ENTRY_LEN).nth(index)?;
    let path = merkle::inclusion_path(&entry_hashes(&batch.entries), index as u64)?;
    let record = nth_record(&batch.records, index).and_then(|r| SpanRecord::decode(r).ok());
    let record = record.map_or_else(Disclosed::default, |record| Disclosed {
        // A hop part without its path hashes to nothing that a verifier could check.
        hop: (record.path == ShownPath::Whole).then(|| record.hop.to_vec()),
        own: Some(record.own.to_vec()),
    });
    Some(SpanEvidence {
        record,
        entry: entry.to_vec(),
        batch: InBatch { index: index as u64, path },
        leaf: batch.leaf.to_vec(),
        tlog_proof: proof.to_string(),
    })
}
