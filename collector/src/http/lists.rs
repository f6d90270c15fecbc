//! Lists, in pages: `GET /v1/sessions` and `GET /v1/anchors`.

use super::reader::Reader;
use super::{BadRequest, Doors, asked, failed, items, next_page};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use hex::FromHexError;
use meshchain_core::SessionId;
use meshchain_log::Listed;
use meshchain_store::StoreError;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// Most items of a page, and as many as there are without `limit`.
const MOST_SESSIONS: usize = 1000;
/// Bytes of JSON at which a page of them ends: one has up to 10 kB.
const PAGE_BYTES: usize = 2 << 20;
/// Final anchors of a chain.
const MOST_ANCHORS: usize = 50;

/// `?after=SESSION&limit=N`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionPage {
    /// The last session of the page before, hex.
    after: Option<String>,
    limit: Option<usize>,
}

/// All sessions, by id, those that ended too.
pub async fn sessions(
    State(doors): State<Arc<Doors>>,
    reader: Reader,
    page: Result<Query<SessionPage>, QueryRejection>,
) -> Result<Response, BadRequest> {
    const PAGES: &str = "pages are asked for with ?after=SESSION&limit=N";
    let SessionPage { after, limit } = asked(page, PAGES)?;
    let after = after.filter(|after| !after.is_empty()).map(|after| session_id(&after)).transpose();
    let after = after.map_err(|_| BadRequest("query", PAGES))?;
    let limit = items(limit, MOST_SESSIONS)?;
    let read = {
        let doors = doors.clone();
        async move {
            let (page, more) = match doors.log.session_page(after, limit).await {
                Ok(page) => page,
                Err(error) => return failed(&error),
            };
            let (mut list, mut bytes) = (Vec::new(), 0);
            for listed in &page {
                let text = shown(listed).to_string();
                bytes += text.len();
                list.push(text);
                if bytes >= PAGE_BYTES {
                    break;
                }
            }
            let more = more || list.len() < page.len();
            let last = list.len().checked_sub(1).and_then(|at| page.get(at)).filter(|_| more);
            let next = last
                .map(|last| format!("/v1/sessions?after={}&limit={limit}", hex::encode(last.id)));
            let kind = [(header::CONTENT_TYPE, "application/json")];
            (next_page(next), kind, format!("[{}]", list.join(","))).into_response()
        }
    };
    Ok(doors.heavy(&reader, read).await)
}

fn session_id(text: &str) -> Result<SessionId, FromHexError> {
    let mut id = [0; 16];
    hex::decode_to_slice(text, &mut id).map(|()| id)
}

fn shown(listed: &Listed) -> Value {
    let Listed { id, session: s, silent } = listed;
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
    let limit = items(limit, MOST_ANCHORS)?;
    let read = {
        let doors = doors.clone();
        async move {
            match anchor_page(&doors, below.unwrap_or(u64::MAX), limit).await {
                Ok((chains, below)) => {
                    let next =
                        below.map(|below| format!("/v1/anchors?below={below}&limit={limit}"));
                    (next_page(next), Json(chains)).into_response()
                }
                Err(error) => failed(&error),
            }
        }
    };
    Ok(doors.heavy(&reader, read).await)
}

/// At most `limit` anchors of each chain, and where there are more: of which size on all of them are here.
async fn anchor_page(
    doors: &Doors,
    below: u64,
    limit: usize,
) -> Result<(Vec<Value>, Option<u64>), StoreError> {
    let (mut newest, mut from) = (Vec::with_capacity(doors.anchors.len()), None);
    for anchor in &doors.anchors {
        let finals = anchor.finals();
        let sizes = finals.sizes();
        let sizes = &sizes[..sizes.partition_point(|size| *size < below)];
        if sizes.len() > limit {
            from = from.max(Some(sizes[sizes.len() - limit]));
        }
        newest.push(finals.newest(below, limit).await?);
    }
    let mut chains = Vec::with_capacity(newest.len());
    for (anchor, of_chain) in doors.anchors.iter().zip(newest) {
        // What is smaller comes with the next page.
        let finals: Vec<Value> = of_chain
            .iter()
            .filter(|a| from.is_none_or(|from| a.size >= from))
            .map(|a| {
                json!({ "size": a.size, "root": a.root, "block": a.block_number,
                        "block_hash": a.block_hash, "time": a.block_timestamp, "tx": a.tx,
                        "gas_used": a.gas_used })
            })
            .collect();
        chains.push(json!({ "status": anchor.status(), "finals": finals }));
    }
    Ok((chains, from))
}
