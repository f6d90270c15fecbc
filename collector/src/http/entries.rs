//! `GET /v1/entries?from=LEAF`: the entries of consecutive leaves, so that a reader can hold them against the leaves.

use super::reader::Reader;
use super::{BadRequest, Doors, answer_error, asked, failed, in_turn, next_page};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use meshchain_core::entries_page::{PAGE_BYTES, encode_page};
use meshchain_core::tile::TILE_WIDTH;
use meshchain_log::Log;
use serde::Deserialize;
use std::sync::Arc;

/// `?from=LEAF`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct From {
    /// First leaf.
    from: u64,
}

/// The entries of `from` and of the leaves behind it, at most to the end of its tile.
pub async fn entries(
    State(doors): State<Arc<Doors>>,
    reader: Reader,
    from: Result<Query<From>, QueryRejection>,
) -> Result<Response, BadRequest> {
    let From { from } = asked(from, "entries are asked for with ?from=LEAF")?;
    let log = doors.log.clone();
    Ok(in_turn(&doors.tiles, &reader, async move { page(&log, from).await }).await)
}

async fn page(log: &Log, from: u64) -> Response {
    let size = log.published().borrow().as_ref().map_or(0, |p| p.head.size);
    if from >= size {
        let text = format!("the log has {size} leaves");
        return answer_error(StatusCode::NOT_FOUND, "no_such_leaf", &text);
    }
    let tile_end = (from / TILE_WIDTH + 1).saturating_mul(TILE_WIDTH);
    let leaves = match log.entries_of(from..tile_end.min(size), PAGE_BYTES).await {
        Ok(leaves) => leaves,
        Err(error) => return failed(&error),
    };
    let end = from + leaves.len() as u64;
    // Where the log grows, a page that ends with it becomes longer.
    let cached = match end < size || end == tile_end {
        true => "public, max-age=604800, immutable",
        false => "no-cache",
    };
    let headers =
        [(header::CONTENT_TYPE, "application/octet-stream"), (header::CACHE_CONTROL, cached)];
    let next = (end < size).then(|| format!("/v1/entries?from={end}"));
    (next_page(next), headers, encode_page(&leaves)).into_response()
}
