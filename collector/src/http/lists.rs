//! Lists, in pages: `GET /v1/sessions` and `GET /v1/anchors`.

use super::reader::Reader;
use super::{BadRequest, Doors, asked, failed, next_page};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use meshchain_core::SessionId;
use meshchain_log::Log;
use meshchain_store::StoreError;
use meshchain_stored::Session;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BinaryHeap;
use std::sync::Arc;

/// Most items of a page, and as many as there are without `limit`.
const MOST_SESSIONS: usize = 1000;
/// Final anchors of a chain.
const MOST_ANCHORS: usize = 50;

/// `?after=LEAF&limit=N`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionPage {
    /// First leaf of the last session of the page before.
    after: Option<u64>,
    limit: Option<usize>,
}

/// Sessions by their first leaf.
pub async fn sessions(
    State(doors): State<Arc<Doors>>,
    reader: Reader,
    page: Result<Query<SessionPage>, QueryRejection>,
) -> Result<Response, BadRequest> {
    let SessionPage { after, limit } = asked(page, "pages are asked for with ?after=LEAF&limit=N")?;
    let limit = limit.unwrap_or(MOST_SESSIONS).clamp(1, MOST_SESSIONS);
    let read = {
        let doors = doors.clone();
        async move {
            let (page, more) = session_page(&doors.log, after, limit);
            let last = page.last().map(|(first_leaf, _)| *first_leaf);
            let list: Vec<Value> = page.into_iter().map(|(_, value)| value).collect();
            let next = last
                .filter(|_| more)
                .map(|last| format!("/v1/sessions?after={last}&limit={limit}"));
            (next_page(next), Json(list)).into_response()
        }
    };
    Ok(doors.heavy(&reader, read).await)
}

/// The first sessions behind `after`, and whether there are more. Only their names are gathered while others wait
/// for the lock.
fn session_page(log: &Log, after: Option<u64>, limit: usize) -> (Vec<(u64, Value)>, bool) {
    let mut first: BinaryHeap<(u64, SessionId)> = BinaryHeap::with_capacity(limit + 2);
    for (id, session) in log.sessions().iter() {
        if after.is_none_or(|after| session.first_leaf > after) {
            first.push((session.first_leaf, *id));
            if first.len() > limit + 1 {
                first.pop();
            }
        }
    }
    let mut page = first.into_sorted_vec();
    let more = page.len() > limit;
    page.truncate(limit);
    let shown = page.into_iter().filter_map(|(first_leaf, id)| {
        let sessions = log.sessions();
        let session = sessions.get(&id)?;
        Some((first_leaf, shown(&id, session, sessions.is_silent(&id))))
    });
    (shown.collect(), more)
}

fn shown(id: &SessionId, s: &Session, silent: bool) -> Value {
    let [mesh, cluster, namespace, workload, pod, revision, filter] = &s.source;
    json!({
        "session": hex::encode(id),
        "source": { "mesh": mesh, "cluster": cluster, "namespace": namespace, "workload": workload,
                    "pod": pod, "revision": revision, "filter": filter },
        "principal": s.principal,
        "first_leaf": s.first_leaf,
        "batches": s.batches,
        "next_seq": s.last_seq.saturating_add(1),
        "entries": s.entries,
        "missing_batches": s.missing,
        "dropped": s.dropped_calls(),
        "notices": s.notices,
        "previous": s.previous.as_ref().map(|former| hex::encode(former.session)),
        "last_received_ns": s.last_received_ns,
        "closed": s.closed,
        "silent": silent,
    })
}

/// `?below=SIZE&limit=N`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnchorPage {
    /// Size of the last anchor of the page before.
    below: Option<u64>,
    limit: Option<usize>,
}

/// The anchors of each chain: status, and the final ones, newest first.
pub async fn anchors(
    State(doors): State<Arc<Doors>>,
    reader: Reader,
    page: Result<Query<AnchorPage>, QueryRejection>,
) -> Result<Response, BadRequest> {
    let AnchorPage { below, limit } = asked(page, "pages are asked for with ?below=SIZE&limit=N")?;
    let limit = limit.unwrap_or(MOST_ANCHORS).clamp(1, MOST_ANCHORS);
    let read = {
        let doors = doors.clone();
        async move {
            match anchor_page(&doors, below.unwrap_or(u64::MAX), limit).await {
                Ok(chains) => Json(chains).into_response(),
                Err(error) => failed(&error),
            }
        }
    };
    Ok(doors.heavy(&reader, read).await)
}

async fn anchor_page(doors: &Doors, below: u64, limit: usize) -> Result<Vec<Value>, StoreError> {
    let mut chains = Vec::with_capacity(doors.anchors.len());
    for anchor in &doors.anchors {
        let newest = anchor.finals().newest(below, limit).await?;
        let finals: Vec<Value> = newest
            .iter()
            .map(|a| {
                json!({ "size": a.size, "root": a.root, "block": a.block_number,
                        "block_hash": a.block_hash, "time": a.block_timestamp, "tx": a.tx,
                        "gas_used": a.gas_used })
            })
            .collect();
        chains.push(json!({ "status": anchor.status(), "finals": finals }));
    }
    Ok(chains)
}
