//! The doors: ingest, the C2SP read API, evidence, health and metrics.

mod busy;
mod connections;
mod entries;
mod evidence;
mod heavy;
mod ingest;
mod lists;
mod read;
mod reader;
mod room;
mod serve;
mod stall;
mod turns;

use crate::config::Ingest;
use crate::events::Events;
use crate::quota::Quotas;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{AppendHeaders, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use busy::Busy;
pub use heavy::Heavy;
use meshchain_anchor::AnchorHandle;
use meshchain_log::{Log, Submission};
use reader::Reader;
pub use room::Rooms;
use serde_json::json;
pub use serve::{listen, serve};
use std::sync::Arc;
use strum::VariantNames;
use tokio::sync::mpsc;

/// What the doors lead to.
pub struct Doors {
    /// Read side of the log.
    pub log: Arc<Log>,
    /// Anchors, one per chain.
    pub anchors: Vec<AnchorHandle>,
    /// Way to the writer.
    pub submissions: mpsc::Sender<Submission>,
    /// Memory of what arrives and waits for a commit.
    pub rooms: Arc<Rooms>,
    /// What each principal may send.
    pub quotas: Quotas,
    /// Whether, and from which trust domain, senders are known.
    pub ingest: Ingest,
    /// Audit log and metrics.
    pub events: Events,
    /// Turns of reads that take long.
    pub reads: Heavy,
    /// Turns of those who scrape metrics.
    pub scrapes: Heavy,
    /// Turns of tiles, which mirrors read without end.
    pub tiles: Heavy,
}

/// The routes.
pub fn router(doors: Arc<Doors>) -> Router {
    doors.events.metrics.may_push_back(Busy::VARIANTS);
    Router::new()
        .route("/v1/batches", post(ingest::ingest))
        .route("/v1/evidence/{trace_id}", get(evidence::evidence))
        .route("/v1/entries", get(entries::entries))
        .route("/v1/log", get(read::describe_log))
        .route("/v1/sessions", get(lists::sessions))
        .route("/v1/anchors", get(lists::anchors))
        .route("/checkpoint", get(read::checkpoint))
        .route("/tile/{*path}", get(read::tile))
        .route("/metrics", get(read::metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(read::readyz))
        .fallback(|| async { answer_error(StatusCode::NOT_FOUND, "not_found", "no such resource") })
        .method_not_allowed_fallback(|| async {
            let text = "this resource has other methods: see Allow";
            answer_error(StatusCode::METHOD_NOT_ALLOWED, "method", text)
        })
        .layer(map_response(uncached))
        .with_state(doors)
}

/// What does not say otherwise is of this moment, for this reader.
async fn uncached(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

impl Doors {
    /// Answers by a read that takes time and memory, in its turn.
    async fn heavy(
        &self,
        reader: &Reader,
        read: impl Future<Output = Response> + Send + 'static,
    ) -> Response {
        in_turn(&self.reads, reader, read).await
    }
}

async fn in_turn(
    turns: &Heavy,
    reader: &Reader,
    read: impl Future<Output = Response> + Send + 'static,
) -> Response {
    match turns.read(reader, read).await {
        Some(answer) => answer.into_response(),
        None => {
            let text = "too many reads wait for their turn";
            let answer = answer_error(StatusCode::SERVICE_UNAVAILABLE, "busy", text);
            ([(header::RETRY_AFTER, "1")], answer).into_response()
        }
    }
}

fn answer_error(status: StatusCode, reason: &str, text: &str) -> Response {
    (status, Json(json!({ "error": text, "reason": reason }))).into_response()
}

/// A request that cannot be understood: label of the fault, and how to ask.
struct BadRequest(&'static str, &'static str);

impl IntoResponse for BadRequest {
    fn into_response(self) -> Response {
        let Self(reason, text) = self;
        answer_error(StatusCode::BAD_REQUEST, reason, text)
    }
}

/// Items of a page, `most` where nothing else is asked for.
fn items(limit: Option<usize>, most: usize) -> Result<usize, BadRequest> {
    match limit {
        Some(0) => Err(BadRequest("query", "limit is 0: a page has one item at least")),
        limit => Ok(limit.unwrap_or(most).min(most)),
    }
}

/// What a query asks for; `how` it is asked where it is none.
fn asked<T>(query: Result<Query<T>, QueryRejection>, how: &'static str) -> Result<T, BadRequest> {
    query.map(|Query(asked)| asked).map_err(|_| BadRequest("query", how))
}

/// What went wrong is for our log; the client learns that it did.
fn failed(cause: &dyn std::error::Error) -> Response {
    log::error!("{cause}");
    answer_error(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the log could not be read")
}

/// The header that names the next page, if there is one (RFC 8288).
fn next_page(next: Option<String>) -> AppendHeaders<Option<(HeaderName, String)>> {
    AppendHeaders(next.map(|next| (header::LINK, format!("<{next}>; rel=\"next\""))))
}
