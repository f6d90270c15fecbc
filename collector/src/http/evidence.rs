//! Evidence files out of the log: entries, proofs, and the anchors that cover them.

use super::reader::Reader;
use super::{BadRequest, Doors, answer_error, asked, failed, items, next_page};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use meshchain_anchor::AnchorHandle;
use meshchain_core::evidence::{Disclosed, EvmAnchor, FORMAT, InBatch, MAX_ITEMS, SpanEvidence};
use meshchain_core::leaf::entry_hashes;
use meshchain_core::record::ShownPath;
use meshchain_core::tile::TILE_WIDTH;
use meshchain_core::{
    Canonical, ENTRY_LEN, Evidence, Hash, SpanRecord, TlogProof, TraceId, merkle,
};
use meshchain_log::{Batch, EntryPlace, Log};
use meshchain_store::StoreError;
use serde::Deserialize;
use std::sync::Arc;
use thiserror::Error;

/// Bytes of JSON at which a page ends: what stands around the spans, anchors above all, comes on top, and a file has
/// [`meshchain_core::evidence::MAX_LEN`] at most.
const PAGE_BYTES: usize = 4 << 20;
/// Bytes of batches at which a page ends: each of its spans may stand in another batch of some megabytes.
const PAGE_READ: usize = 48 << 20;

/// Why there is no evidence.
#[derive(Debug, Error)]
enum EvidenceError {
    /// The log holds nothing of the trace.
    #[error("no entry of this trace in the log")]
    Unknown,
    /// All was in the pages before.
    #[error("no entry of this trace behind {0}.{1}")]
    NoMore(u64, u32),
    /// The log could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// `?after=LEAF.INDEX&limit=N`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Page {
    /// Place of the last entry of the page before.
    after: Option<Place>,
    /// Most spans.
    limit: Option<usize>,
}

/// LEAF.INDEX
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct Place(EntryPlace);

impl TryFrom<String> for Place {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let place = text
            .split_once('.')
            .and_then(|(leaf, index)| Some((leaf.parse().ok()?, index.parse().ok()?)));
        place.map(Self).ok_or("not LEAF.INDEX")
    }
}

/// `GET /v1/evidence/TRACE_ID`: the evidence of a trace, oldest spans first, in pages.
pub async fn evidence(
    State(doors): State<Arc<Doors>>,
    reader: Reader,
    Path(trace_id): Path<String>,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Response, BadRequest> {
    let Some(trace_id) = TraceId::from_hex(trace_id.as_bytes()) else {
        let text = "a trace id has 32 hexadecimal digits (or 16), not all zero";
        return Err(BadRequest("trace_id", text));
    };
    let Page { after, limit } = asked(page, "pages are asked for with ?after=LEAF.INDEX&limit=N")?;
    let after = after.map(|Place(place)| place);
    let limit = items(limit, MAX_ITEMS)?;
    let read = {
        let doors = doors.clone();
        async move { answer(&doors, trace_id, after, limit).await }
    };
    Ok(doors.heavy(&reader, read).await)
}

async fn answer(
    doors: &Doors,
    trace_id: TraceId,
    after: Option<EntryPlace>,
    limit: usize,
) -> Response {
    match of_trace(&doors.log, &doors.anchors, trace_id.0, after, limit).await {
        Ok((evidence, more)) => match evidence.to_json() {
            Ok(json) => {
                let page = |(leaf, index)| {
                    format!(
                        "/v1/evidence/{}?after={leaf}.{index}&limit={limit}",
                        hex::encode(trace_id.0)
                    )
                };
                let kind = [(header::CONTENT_TYPE, "application/json")];
                (next_page(more.map(page)), kind, json).into_response()
            }
            Err(e) => failed(&e),
        },
        Err(e @ EvidenceError::Unknown) => {
            answer_error(StatusCode::NOT_FOUND, "unknown_trace", &e.to_string())
        }
        Err(e @ EvidenceError::NoMore(..)) => {
            answer_error(StatusCode::NOT_FOUND, "no_more", &e.to_string())
        }
        Err(e @ EvidenceError::Store(_)) => failed(&e),
    }
}

/// The tree that evidence speaks of: the first final anchored one that holds all of its leaves, or
/// the published one.
struct Ground {
    size: u64,
    checkpoint: String,
    anchors: Vec<EvmAnchor>,
}

/// Evidence of a trace's entries behind `after`, at most `limit` of them, and as many as make a page; with the place
/// of the last one where there are more.
async fn of_trace(
    log: &Log,
    anchors: &[AnchorHandle],
    trace_id: [u8; 16],
    after: Option<EntryPlace>,
    limit: usize,
) -> Result<(Evidence, Option<EntryPlace>), EvidenceError> {
    let unknown = || after.map_or(EvidenceError::Unknown, |(l, i)| EvidenceError::NoMore(l, i));
    let published = log.published().borrow().clone().ok_or_else(unknown)?;
    let mut places = log.trace(&trace_id, after, limit).await?;
    places.retain(|(leaf, _)| *leaf < published.head.size);
    let mut more = places.len() > limit;
    places.truncate(limit);
    let last = places.iter().map(|(leaf, _)| *leaf).max().ok_or_else(unknown)?;
    let ground = match ground(log, anchors, last + 1).await? {
        Some(ground) => ground,
        None => Ground {
            size: published.head.size,
            checkpoint: published.checkpoint,
            anchors: Vec::new(),
        },
    };
    let mut spans = Vec::new();
    let (mut current, mut bytes, mut reached): (Option<Proven>, _, _) = (None, 0, None);
    let mut read = 0;
    for place in places {
        if bytes >= PAGE_BYTES || read >= PAGE_READ {
            more = true;
            break;
        }
        let proven = match current.take().filter(|proven| proven.leaf == place.0) {
            Some(proven) => proven,
            None => {
                let proven = Proven::load(log, place.0, &ground).await?;
                read += proven.bytes();
                proven
            }
        };
        if let Some(span) = proven.span(&trace_id, place.1 as usize) {
            bytes += shown_bytes(&span);
            spans.push(span);
        }
        reached = Some(place);
        current = Some(proven);
    }
    if spans.is_empty() && !more {
        return Err(unknown());
    }
    let evidence = Evidence { format: FORMAT.to_owned(), trace_id, spans, anchors: ground.anchors };
    Ok((evidence, reached.filter(|_| more)))
}

/// About how long a span is in JSON: bytes are hexadecimal there.
fn shown_bytes(span: &SpanEvidence) -> usize {
    let part = |part: &Option<Vec<u8>>| part.as_ref().map_or(0, Vec::len);
    let parts = part(&span.record.hop) + part(&span.record.own);
    let hashes = 32 * span.batch.path.len();
    512 + 2 * (span.entry.len() + span.leaf.len() + parts + hashes) + span.tlog_proof.len()
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

    /// Bytes that were read and hashed for it, about: of a sealed leaf its bundle too.
    fn bytes(&self) -> usize {
        let records = self.batch.records.iter().map(|record| record.len()).sum::<usize>();
        self.batch.entries.len() + records + TILE_WIDTH as usize * self.batch.leaf.len()
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
