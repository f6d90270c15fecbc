//! Reading the log as C2SP's tlog-tiles has it, and what it says of itself.

use super::reader::Reader;
use super::{Doors, answer_error, failed, in_turn};
use crate::audit::NotKept;
use crate::events::{CHAIN_UNKNOWN, OLDER_COPY};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use meshchain_anchor::{AnchorHandle, AnchorStatus};
use meshchain_core::hash::log_id;
use meshchain_core::tile::TileName;
use meshchain_log::{Barred, Log};
use serde_json::{Value, json};
use std::sync::Arc;

/// `GET /v1/log`
pub async fn describe_log(State(doors): State<Arc<Doors>>) -> Json<Value> {
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

/// `GET /checkpoint`
pub async fn checkpoint(State(doors): State<Arc<Doors>>) -> Response {
    let Some(published) = doors.log.published().borrow().clone() else {
        return answer_error(StatusCode::NOT_FOUND, "not_found", "nothing is published yet");
    };
    let headers =
        [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")];
    (headers, published.checkpoint).into_response()
}

/// `GET /tile/...`
pub async fn tile(
    State(doors): State<Arc<Doors>>,
    reader: Reader,
    Path(path): Path<String>,
) -> Response {
    let Some(name) = TileName::parse(&format!("tile/{path}")) else {
        let text = "not a tile or entry bundle of tlog-tiles";
        return answer_error(StatusCode::BAD_REQUEST, "tile", text);
    };
    let log = doors.log.clone();
    in_turn(&doors.tiles, &reader, async move { read_tile(&log, &name).await }).await
}

async fn read_tile(log: &Log, name: &TileName) -> Response {
    match log.tile(name).await {
        Ok(Some(bytes)) => {
            let headers = [
                (header::CONTENT_TYPE, "application/octet-stream"),
                (header::CACHE_CONTROL, "public, max-age=604800, immutable"),
            ];
            (headers, Body::from(bytes)).into_response()
        }
        Ok(None) => answer_error(StatusCode::NOT_FOUND, "not_found", "no such tile"),
        Err(e) => failed(&e),
    }
}

/// `GET /metrics`: OpenMetrics for whoever asks for it, else the older text that every scraper and curl take.
/// Scrapes wait for their turn: whoever scrapes without end keeps nobody from sending.
pub async fn metrics(
    State(doors): State<Arc<Doors>>,
    reader: Reader,
    headers: HeaderMap,
) -> Response {
    let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let open = accepts.into_iter().any(|value| value.contains("application/openmetrics-text"));
    let kind = match open {
        true => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        false => "text/plain; version=0.0.4; charset=utf-8",
    };
    let scraped = doors.clone();
    let scrape = async move {
        let metrics = &scraped.events.metrics;
        metrics.sessions_silent.set(scraped.log.silent_sessions() as i64);
        let text = metrics.text(open, scraped.rooms.oldest_whole());
        ([(header::CONTENT_TYPE, kind)], text).into_response()
    };
    in_turn(&doors.scrapes, &reader, scrape).await
}

/// The chains that are waited for, each with what keeps it from being asked.
fn waited_for(anchors: &[AnchorHandle], chains: &[String]) -> String {
    let status = anchors.iter().map(AnchorHandle::status);
    let waited = status.filter(|status| chains.contains(&status.chain));
    let text = |status: AnchorStatus| match status.alert {
        Some(why) => format!("chain {}: {why}", status.chain),
        None => format!("chain {} is being asked", status.chain),
    };
    waited.map(text).collect::<Vec<_>>().join("; ")
}

/// `GET /readyz`: whether batches are taken at the moment. `/healthz` only says that the program runs.
pub async fn readyz(State(doors): State<Arc<Doors>>) -> Response {
    match doors.log.barred() {
        Some(Barred::OtherHistory(why)) => {
            let text = format!("{OLDER_COPY}: {why}");
            return answer_error(StatusCode::SERVICE_UNAVAILABLE, "older_copy", &text);
        }
        Some(Barred::Unasked(chains)) => {
            let text = format!("{CHAIN_UNKNOWN}: {}", waited_for(&doors.anchors, &chains));
            return answer_error(StatusCode::SERVICE_UNAVAILABLE, "chain_unknown", &text);
        }
        None => {}
    }
    let why = if doors.submissions.is_closed() {
        "the writer has ended".to_owned()
    } else if let Some(why) = doors.events.audit.failing() {
        match why {
            NotKept::Lacking(lack) => format!("the audit log cannot be written: {lack}"),
            NotKept::Failing => "the audit log cannot be written".to_owned(),
        }
    } else if let Some(lack) = doors.log.lack() {
        lack.to_string()
    } else if doors.log.failing() {
        "the last commit failed: the error log says why".to_owned()
    } else if doors.log.lags() {
        "what is taken now would be published too late".to_owned()
    } else {
        return "ok\n".into_response();
    };
    answer_error(StatusCode::SERVICE_UNAVAILABLE, "not_ready", &why)
}
