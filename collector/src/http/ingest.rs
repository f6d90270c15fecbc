//! `POST /v1/batches`.

use super::busy::{Busy, push_back};
use super::room::Room;
use super::{Doors, answer_error};
use crate::batch::{self, MAX_BODY, check_trust_domain};
use crate::charge::Charge;
use crate::config::Ingest;
use crate::refusal::Refusal;
use crate::xfcc;
use axum::Json;
use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::connect_info::ConnectInfo;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use futures::StreamExt;
use meshchain_log::{Checked, Submission, SubmitError};
use meshchain_store::Lack;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

/// Time that a body may take; and more where it is long: a filter gives its batch a second for each 512 KiB.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
const BYTES_PER_SECOND: usize = 512 << 10;
/// Bytes that are read of what is too long about a body, as long as they come.
const READ_ON: usize = 4 * MAX_BODY;
const READ_ON_PAUSE: Duration = Duration::from_millis(500);
/// Time between two looks whether the writer can go on.
const LOOK: Duration = Duration::from_secs(2);
/// Bodies from this size on are parsed beside the runtime's threads, so many at a time.
const LARGE: usize = 128 << 10;
const PARSERS: usize = 2;
static PARSING: Semaphore = Semaphore::const_new(PARSERS);

/// Why there is no batch.
enum NoBatch {
    Refused(Refusal),
    Busy(Busy),
}

impl From<Refusal> for NoBatch {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Takes a batch; answers when it is in the log.
pub async fn ingest(State(doors): State<Arc<Doors>>, request: Request) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    let (parts, body) = request.into_parts();
    // The sender is known before anything is done for it, so that whatever is refused names it.
    let principal = match sender(&doors.ingest, &parts.headers) {
        Ok(principal) => principal,
        Err((principal, refusal)) => return turn_down(&doors, &refusal, &principal),
    };
    let account = match peer {
        Some(ip) if principal.is_empty() => ip.to_string(),
        _ => principal.clone(),
    };
    let mut charged = Charge::new(&doors.quotas, &principal);
    let received = receive(&doors, &parts.headers, body, &mut charged, &account).await;
    let (batch, room) = match received {
        Ok(received) => received,
        Err(NoBatch::Refused(refusal)) => return turn_down(&doors, &refusal, &principal),
        Err(NoBatch::Busy(busy)) => return push_back(&doors, busy),
    };
    let (reply, answer) = oneshot::channel();
    if doors.submissions.try_send(Submission { batch, reply, room: Box::new(room) }).is_err() {
        charged.all_back();
        return push_back(&doors, Busy::Backlog);
    }
    let answer = match answered(&doors, answer).await {
        Ok(answer) => answer,
        // It may be taken all the same, and is then acknowledged when it comes again.
        Err(lack) => return push_back(&doors, lack.into()),
    };
    match answer {
        Ok(Ok(accepted)) => {
            if accepted.replayed {
                charged.session_back();
            }
            if let Err(why) = doors.events.audit.kept().await {
                return push_back(&doors, why.into());
            }
            Json(json!({ "leaf": accepted.leaf, "replayed": accepted.replayed })).into_response()
        }
        // What is hostile is paid for.
        Ok(Err(SubmitError::Refused(misfit))) => {
            charged.session_back();
            refused(&misfit.into())
        }
        Ok(Err(error)) => {
            charged.all_back();
            push_back(&doors, Busy::of(&error))
        }
        Err(_) => {
            charged.all_back();
            push_back(&doors, Busy::Unavailable)
        }
    }
}

/// The writer's answer; what it lacks where it has waited for that for a while.
async fn answered<T>(
    doors: &Doors,
    mut answer: oneshot::Receiver<T>,
) -> Result<Result<T, oneshot::error::RecvError>, Lack> {
    loop {
        match (timeout(LOOK, &mut answer).await, doors.log.lack()) {
            (Ok(answer), _) => return Ok(answer),
            (Err(_), Some(lack)) => return Err(lack),
            (Err(_), None) => {}
        }
    }
}

/// The batch in a body, and the room that it holds.
async fn receive(
    doors: &Doors,
    headers: &HeaderMap,
    body: Body,
    charge: &mut Charge<'_>,
    account: &str,
) -> Result<(Checked, Room), NoBatch> {
    let announced = content_length(headers).unwrap_or(0).min(MAX_BODY);
    if let Some(why) = doors.events.audit.failing() {
        return Err(NoBatch::Busy(why.into()));
    }
    if let Some(barred) = doors.log.barred() {
        return Err(NoBatch::Busy((&barred).into()));
    }
    if let Some(lack) = doors.log.lack() {
        return Err(NoBatch::Busy(lack.into()));
    }
    if doors.log.lags() {
        return Err(NoBatch::Busy(Busy::Lag));
    }
    let room = doors.rooms.enter(account).map_err(|full| NoBatch::Busy(full.into()))?;
    let patience = BODY_TIMEOUT + Duration::from_secs((announced / BYTES_PER_SECOND) as u64);
    let body = tokio::select! {
        body = timeout(patience, whole(body, &room)) => body.unwrap_or_else(|_| Err(Refusal::Slow.into())),
        () = room.lost() => return Err(NoBatch::Busy(Busy::Backlog)),
    };
    // What came of a body that its sender did not end took room all the same.
    let body = match body {
        Err(NoBatch::Refused(why)) => {
            charge.batch(room.bytes())?;
            return Err(why.into());
        }
        body => body?,
    };
    if !room.arrived() {
        return Err(NoBatch::Busy(Busy::Backlog));
    }
    charge.batch(body.len() as u64)?;
    let batch = parse(body, charge.principal()).await?;
    let known = doors.log.knows(&batch.session).await.map_err(|error| {
        log::error!("a session cannot be looked up: {error}");
        NoBatch::Busy(Busy::Unavailable)
    })?;
    if !known {
        charge.session()?;
    }
    Ok((batch, room))
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

/// A body of [`MAX_BODY`] bytes at most, for which there is room. A longer one is read on for a while, as its sender
/// would not hear the answer before it has sent all, and not kept.
async fn whole(body: Body, room: &Room) -> Result<Bytes, NoBatch> {
    let mut chunks = body.into_data_stream();
    let mut bytes = BytesMut::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| Refusal::BrokenOff)?;
        if bytes.len() + chunk.len() > MAX_BODY {
            drop(bytes);
            read_on(chunks).await;
            return Err(Refusal::Oversized(MAX_BODY).into());
        }
        room.take(chunk.len()).map_err(|full| NoBatch::Busy(full.into()))?;
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

async fn read_on(mut chunks: BodyDataStream) {
    let mut length = 0;
    while let Ok(Some(Ok(chunk))) = timeout(READ_ON_PAUSE, chunks.next()).await {
        length += chunk.len();
        if length > READ_ON {
            return;
        }
    }
}

async fn parse(body: Bytes, principal: &str) -> Result<Checked, Refusal> {
    if body.len() < LARGE {
        return batch::parse(&body, principal);
    }
    let _turn = PARSING.acquire().await;
    let principal = principal.to_owned();
    let parsed = tokio::task::spawn_blocking(move || batch::parse(&body, &principal)).await;
    parsed.unwrap_or_else(|failed| Err(Refusal::Malformed(failed.to_string())))
}

fn turn_down(doors: &Doors, refusal: &Refusal, principal: &str) -> Response {
    doors.events.refused(refusal, principal, None, None);
    refused(refusal)
}

fn refused(refusal: &Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::BAD_REQUEST);
    let mut response = answer_error(status, refusal.reason(), &refusal.to_string());
    if let Refusal::Limited { retry_after_s, .. } = refusal {
        response.headers_mut().insert(header::RETRY_AFTER, (*retry_after_s).into());
    }
    response
}
