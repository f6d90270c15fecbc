//! Evidence files out of the log: entries, proofs, and the anchors that cover them.

use meshchain_anchor::AnchorHandle;
use meshchain_core::evidence::{Disclosed, EvmAnchor, FORMAT, InBatch, MAX_ITEMS, SpanEvidence};
use meshchain_core::leaf::entry_hashes;
use meshchain_core::record::ShownPath;
use meshchain_core::{Canonical, ENTRY_LEN, Evidence, Hash, SpanRecord, TlogProof, merkle};
use meshchain_log::{Batch, Log};
use meshchain_store::StoreError;
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
    let mut places = log.trace(&trace_id, MAX_ITEMS).await?;
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
    let mut current: Option<Proven> = None;
    for place in places {
        let proven = match current.take().filter(|proven| proven.leaf == place.0) {
            Some(proven) => proven,
            None => Proven::load(log, place.0, &ground).await?,
        };
        spans.extend(proven.span(&trace_id, place.1 as usize));
        current = Some(proven);
    }
    if spans.is_empty() {
        return Err(EvidenceError::Unknown);
    }
    Ok(Evidence { format: FORMAT.to_owned(), trace_id, spans, anchors: ground.anchors })
}

/// The smallest final anchored tree of at least `size` leaves; where several chains anchor, the
/// other chains' follow, each by a consistency proof from the one before it.
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
    let mut before = size;
    for anchor in covering {
        let consistency = log.consistency_proof(before, anchor.size).await?;
        before = anchor.size;
        anchors.push(EvmAnchor { consistency, ..anchor.evidence });
    }
    Ok(Some(Ground { size, checkpoint, anchors }))
}

/// A batch with all that its entries' receipts share.
struct Proven {
    leaf: u64,
    batch: Batch,
    /// Hashes of the complete subtrees over the entries, by level.
    nodes: Vec<Vec<Hash>>,
    tlog_proof: String,
}

impl Proven {
    async fn load(log: &Log, leaf: u64, ground: &Ground) -> Result<Self, StoreError> {
        let missing = || StoreError::missing(&format!("leaf {leaf}"));
        let batch = log.batch(leaf).await?.ok_or_else(missing)?;
        let path = log.inclusion_proof(leaf, ground.size).await?;
        let proof = TlogProof { index: leaf, path, checkpoint: ground.checkpoint.clone() };
        let mut nodes = vec![entry_hashes(&batch.entries)];
        while let Some(below) = nodes.last().filter(|below| below.len() > 1) {
            let (pairs, _) = below.as_chunks::<2>();
            nodes.push(pairs.iter().map(|[left, right]| merkle::node_hash(left, right)).collect());
        }
        Ok(Self { leaf, batch, nodes, tlog_proof: proof.to_string() })
    }

    /// The receipt of one entry; `None` where it is not in the batch, or of another trace.
    fn span(&self, trace_id: &[u8; 16], index: usize) -> Option<SpanEvidence> {
        let mut entries = self.batch.entries.chunks_exact(ENTRY_LEN);
        let count = entries.len() as u64;
        let entry = entries.nth(index).filter(|entry| entry[2..18] == *trace_id)?;
        let node = |level: u32, at: u64| {
            let level = self.nodes.get(level as usize);
            level.and_then(|nodes| nodes.get(at as usize)).copied().ok_or(())
        };
        let path = merkle::inclusion_proof(index as u64, count, node).ok()?;
        let record = self.batch.records.get(index).and_then(|r| SpanRecord::decode(r).ok());
        let record = record.map_or_else(Disclosed::default, |record| Disclosed {
            // A hop part without its path hashes to nothing that a verifier could check.
            hop: (record.path == ShownPath::Whole).then(|| record.hop.to_vec()),
            own: Some(record.own.to_vec()),
        });
        Some(SpanEvidence {
            record,
            entry: entry.to_vec(),
            batch: InBatch { index: index as u64, path },
            leaf: self.batch.leaf.to_vec(),
            tlog_proof: self.tlog_proof.clone(),
        })
    }
}
