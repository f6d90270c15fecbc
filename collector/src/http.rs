//! The doors: ingest, the C2SP read API, evidence, health and metrics.

use crate::batch::{self, MAX_BODY, check_trust_domain};
use crate::config::Ingest;
use crate::events::Events;
use crate::evidence::{self, EvidenceError};
use crate::refusal::Refusal;
use crate::xfcc;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::BytesMut;
use futures::StreamExt;
use meshchain_anchor::AnchorHandle;
use meshchain_core::evidence::MAX_LEN;
use meshchain_core::hash::log_id;
use meshchain_core::tile::TileName;
use meshchain_log::{Log, Submission, SubmitError};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

/// Time that a body may take, since it holds room that others wait for; and more where it is long: a filter gives its
/// batch a second for each 512 KiB.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
const BYTES_PER_SECOND: usize = 512 << 10;

/// Final anchors that are listed per chain, newest first.
const SHOWN_ANCHORS: usize = 50;

/// What the doors lead to.
pub struct Doors {
    /// Read side of the log.
    pub log: Arc<Log>,
    /// Anchors, one per chain.
    pub anchors: Vec<AnchorHandle>,
    /// Way to the writer.
    pub submissions: mpsc::Sender<Submission>,
    /// Bytes that may wait for a commit.
    pub waiting: Arc<Semaphore>,
    /// Whether, and from which trust domain, senders are known.
    pub ingest: Ingest,
    /// Audit log and metrics.
    pub events: Events,
}

/// The routes.
pub fn router(doors: Arc<Doors>) -> Router {
    Router::new()
        .route("/v1/batches", post(ingest))
        .route("/v1/evidence/{trace_id}", get(evidence))
        .route("/v1/log", get(describe_log))
        .route("/v1/sessions", get(sessions))
        .route("/v1/anchors", get(anchors))
        .route("/checkpoint", get(checkpoint))
        .route("/tile/{*path}", get(tile))
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .fallback(|| async { error(StatusCode::NOT_FOUND, "not_found", "no such resource") })
        .with_state(doors)
}

fn error(status: StatusCode, reason: &str, text: &str) -> Response {
    (status, Json(json!({ "error": text, "reason": reason }))).into_response()
}

fn push_back(doors: &Doors) -> Response {
    doors.events.metrics.pushed_back.inc();
    let text = "too much is waiting to be committed";
    let mut response = error(StatusCode::SERVICE_UNAVAILABLE, "backlog", text);
    response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    response
}

async fn ingest(State(doors): State<Arc<Doors>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    // The sender is known before anything is done for it, so that whatever is refused names it.
    let principal = match sender(&doors.ingest, &parts.headers) {
        Ok(principal) => principal,
        Err((principal, refusal)) => return turn_down(&doors, &refusal, &principal),
    };
    // Room is taken before the body is read, so that bodies cannot fill the memory.
    let announced = content_length(&parts.headers).unwrap_or(0).min(MAX_BODY);
    let length = content_length(&parts.headers).map_or(MAX_BODY, |_| announced);
    let room = doors.waiting.clone().try_acquire_many_owned(length.max(1) as u32);
    let Some(permit) = room.ok().filter(|_| !doors.log.lags()) else {
        return push_back(&doors);
    };
    let patience = BODY_TIMEOUT + Duration::from_secs((announced / BYTES_PER_SECOND) as u64);
    let body = match timeout(patience, whole(body, length)).await {
        Ok(body) => body,
        Err(_) => Err(Refusal::Slow),
    };
    let batch = match body.and_then(|body| batch::parse(&body, &principal)) {
        Ok(batch) => batch,
        Err(refusal) => return turn_down(&doors, &refusal, &principal),
    };
    let (reply, answer) = oneshot::channel();
    if doors.submissions.try_send(Submission { batch, reply, permit }).is_err() {
        return push_back(&doors);
    }
    match answer.await {
        Ok(Ok(accepted)) => {
            Json(json!({ "leaf": accepted.leaf, "replayed": accepted.replayed })).into_response()
        }
        Ok(Err(SubmitError::Refused(misfit))) => refused(&misfit.into()),
        Ok(Err(SubmitError::Unavailable)) | Err(_) => push_back(&doors),
    }
}

fn content_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Who sends: the SPIFFE id from mTLS, empty where senders are not known. A refusal comes with as much.
fn sender(ingest: &Ingest, headers: &HeaderMap) -> Result<String, (String, Refusal)> {
    if !ingest.principal_from_xfcc {
        return Ok(String::new());
    }
    let values = headers.get_all("x-forwarded-client-cert");
    let principal = xfcc::principal(values.iter().map(|value| value.as_bytes()));
    let principal = principal.map_err(|why| (String::new(), why.into()))?;
    match check_trust_domain(&principal, ingest.trust_domain.as_deref()) {
        Ok(()) => Ok(principal),
        Err(refusal) => Err((principal, refusal)),
    }
}

/// A body of `most` bytes at most.
async fn whole(body: Body, most: usize) -> Result<Bytes, Refusal> {
    let mut chunks = body.into_data_stream();
    let mut bytes = BytesMut::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| Refusal::BrokenOff)?;
        if bytes.len() + chunk.len() > most {
            return Err(Refusal::Oversized(most));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

fn turn_down(doors: &Doors, refusal: &Refusal, principal: &str) -> Response {
    doors.events.refused(refusal, principal, None, None);
    refused(refusal)
}

fn refused(refusal: &Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::BAD_REQUEST);
    error(status, refusal.reason(), &refusal.to_string())
}

async fn evidence(State(doors): State<Arc<Doors>>, Path(trace_id): Path<String>) -> Response {
    let Some(trace_id) = meshchain_core::TraceId::from_hex(trace_id.as_bytes()) else {
        let text = "a trace id has 32 hexadecimal digits (or 16), not all zero";
        return error(StatusCode::BAD_REQUEST, "trace_id", text);
    };
    match evidence::of_trace(&doors.log, &doors.anchors, trace_id.0).await {
        Ok(evidence) => match evidence.to_json() {
            Ok(json) if json.len() > MAX_LEN => {
                let text =
                    format!("the evidence would have {} bytes, more than {MAX_LEN}", json.len());
                error(StatusCode::UNPROCESSABLE_ENTITY, "too_large", &text)
            }
            Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
            Err(e) => failed(&e),
        },
        Err(e @ EvidenceError::Unknown) => {
            error(StatusCode::NOT_FOUND, "unknown_trace", &e.to_string())
        }
        Err(e @ EvidenceError::TooMany) => {
            error(StatusCode::UNPROCESSABLE_ENTITY, "too_many", &e.to_string())
        }
        Err(e @ EvidenceError::Store(_)) => failed(&e),
    }
}

/// What went wrong is for our log; the client learns that it did.
fn failed(cause: &dyn std::error::Error) -> Response {
    log::error!("{cause}");
    error(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the log could not be read")
}

async fn describe_log(State(doors): State<Arc<Doors>>) -> Json<Value> {
    let vkey = doors.log.key().verifier();
    let head = doors.log.published().borrow().as_ref().map(|p| p.head);
    let entries = doors.log.entries();
    Json(json!({
        "origin": vkey.name(),
        "vkey": vkey.to_string(),
        "log_id": hex::encode(log_id(vkey.name())),
        "size": head.map(|h| h.size),
        "root": head.map(|h| hex::encode(h.root)),
        "entries": entries,
    }))
}

async fn sessions(State(doors): State<Arc<Doors>>) -> Json<Value> {
    let sessions = doors.log.sessions();
    let mut list: Vec<(u64, Value)> = sessions
        .iter()
        .map(|(id, s)| {
            let [mesh, cluster, namespace, workload, pod, revision, filter] = &s.source;
            let value = json!({
                "session": hex::encode(id),
                "source": { "mesh": mesh, "cluster": cluster, "namespace": namespace,
                            "workload": workload, "pod": pod, "revision": revision,
                            "filter": filter },
                "principal": s.principal,
                "batches": s.batches,
                "next_seq": s.last_seq.saturating_add(1),
                "entries": s.entries,
                "missing_batches": s.missing,
                "dropped": s.dropped_calls(),
                "notices": s.notices,
                "previous": s.previous.as_ref().map(|former| hex::encode(former.session)),
                "last_received_ns": s.last_received_ns,
                "closed": s.closed,
                "silent": sessions.is_silent(id),
            });
            (s.first_leaf, value)
        })
        .collect();
    list.sort_by_key(|(first, _)| *first);
    Json(Value::Array(list.into_iter().map(|(_, value)| value).collect()))
}

async fn anchors(State(doors): State<Arc<Doors>>) -> Response {
    let mut chains = Vec::with_capacity(doors.anchors.len());
    for anchor in &doors.anchors {
        let newest = match anchor.finals().newest(SHOWN_ANCHORS).await {
            Ok(newest) => newest,
            Err(e) => return failed(&e),
        };
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
    Json(chains).into_response()
}

async fn checkpoint(State(doors): State<Arc<Doors>>) -> Response {
    let Some(published) = doors.log.published().borrow().clone() else {
        return error(StatusCode::NOT_FOUND, "not_found", "nothing is published yet");
    };
    let headers =
        [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")];
    (headers, published.checkpoint).into_response()
}

async fn tile(State(doors): State<Arc<Doors>>, Path(path): Path<String>) -> Response {
    let Some(name) = TileName::parse(&format!("tile/{path}")) else {
        return error(StatusCode::BAD_REQUEST, "tile", "not a tile or entry bundle of tlog-tiles");
    };
    match doors.log.tile(&name).await {
        Ok(Some(bytes)) => {
            let headers = [
                (header::CONTENT_TYPE, "application/octet-stream"),
                (header::CACHE_CONTROL, "public, max-age=604800, immutable"),
            ];
            (headers, Body::from(bytes)).into_response()
        }
        Ok(None) => error(StatusCode::NOT_FOUND, "not_found", "no such tile"),
        Err(e) => failed(&e),
    }
}

async fn metrics(State(doors): State<Arc<Doors>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], doors.events.metrics.render()).into_response()
}
