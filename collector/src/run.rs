//! Start and stop: key, store, log, anchors, doors; and back in the other order.

use crate::aside::Aside;
use crate::audit::Audit;
use crate::config::Config;
use crate::disk;
use crate::events::Events;
use crate::found::{founded, key_of};
use crate::http::{Doors, Heavy, Rooms, listen, router, serve};
use crate::metrics::{Chain, Metrics};
use crate::past;
use crate::quota::Quotas;
use anyhow::{Context, Result};
use futures::StreamExt;
use futures::future::{pending, try_join_all};
use futures::stream::FuturesUnordered;
use meshchain_anchor::{AnchorEvent, AnchorHandle, OwnHeads};
use meshchain_log::{Barred, Fatal, Log, Witness};
use meshchain_store::Store;
use serde_json::json;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::timeout;

/// Batches that wait for the writer; their bytes are bounded beside their number.
const MAX_WAITING: usize = 4096;
/// Time between two looks at which refusals were not written.
const TELL_INTERVAL: Duration = Duration::from_secs(1);
/// Time that standard output gets, at the end, to take the last lines.
const LAST_ECHO: Duration = Duration::from_secs(1);
/// Time that open requests get to end when the collector stops.
const DRAIN: Duration = Duration::from_secs(10);

/// What it means that `ingest.principal_from_xfcc` is off.
const UNKNOWN_SENDERS: &str = "nobody authenticates senders (ingest.principal_from_xfcc = false): whoever reaches \
     this port may send batches in the name of any workload, and no refusal can name its sender; \
     a session still cannot be continued without its key";

/// What it means that `required_at_start` is off.
const NOT_REQUIRED: &str = "required_at_start = false: while the node is away batches are taken without asking what the \
     chain holds of this log; if this is an older copy of it, that makes a second history under its key";

/// Runs the collector until `stop` resolves. An error is fatal; what was acknowledged is kept.
pub async fn run(config: Config, stop: impl Future<Output = ()>) -> Result<()> {
    let (data, key_file) = config.places();
    let seal_at = config.seal_at();
    if !config.ingest.principal_from_xfcc {
        log::warn!("{UNKNOWN_SENDERS}");
    }
    // Before anything is made: a start that fails here leaves nothing behind.
    let listener =
        listen(config.listen).with_context(|| format!("cannot listen on {}", config.listen))?;
    for anchor in &config.anchor {
        meshchain_anchor::check_key(anchor).map_err(anyhow::Error::msg)?;
    }
    let store = Store::open(&data)?;
    let origin = config.origin.as_deref();
    let (key, new_key) = key_of(&store, &data, &key_file, origin, false).await?;
    let vkey = key.verifier().clone();
    let audited = past::audited(&data, &store, vkey.name()).await.context("audit log")?;
    let metrics = Arc::new(Metrics::default());
    let echo = Aside::new(std::io::stdout(), metrics.audit_echo_dropped.clone());
    let audit = Audit::open(&data, &store, vkey.name(), echo.clone(), &metrics).await;
    let audit = Arc::new(audit.context("audit log")?);
    let events = Events { audit: audit.clone(), metrics: metrics.clone() };
    let takes = events.clone();
    let tell = Box::new(move |event: meshchain_log::Event<'_>| takes.log(event));
    let told = audited.as_ref().map_or(u64::MAX, |audited| audited.told);
    let (log, writer, sealer) =
        meshchain_log::open(store.clone(), key, seal_at, told, tell).await?;
    founded(&store).await?;
    metrics.segments.set(log.segments() as i64);
    let head = log.published().borrow().as_ref().map(|p| p.head);
    if let Some(head) = head {
        audit.set_head(head);
        metrics.found(head.size);
    }
    past::warn_of_missing(head.map_or(0, |head| head.size), audited.as_ref());
    let audited_size = audited.as_ref().map(|audited| audited.largest.size);
    past::compare(&log, audited).await?;
    let address = listener.local_addr()?;
    let chains: Vec<_> = config.anchor.iter().map(|a| a.chain.as_str()).collect();
    chains.iter().for_each(|chain| metrics.chain(chain));
    let version = env!("CARGO_PKG_VERSION");
    let line = json!({
        "version": version, "listen": address, "chains": chains, "audited_size": audited_size,
    });
    audit.line("start", line);
    let line = json!({ "key": "log", "vkey": vkey.to_string(), "new": new_key });
    audit.line("key", line);
    log::info!("meshchain-collector {version} listens on http://{address}");
    log::info!("log {} of {} leaves", vkey.name(), head.map_or(0, |h| h.size));
    log::info!("verification key {vkey}");
    if chains.is_empty() {
        log::warn!("no chain is configured: checkpoints are signed, but not anchored");
    }

    let mut starting = Vec::new();
    for anchor in config.anchor {
        let heads = log.published();
        let (told, grows) = (events.clone(), log.clone());
        if anchor.required_at_start {
            log.must_ask(&anchor.chain);
            let chain = Chain { chain: anchor.chain.clone() };
            metrics.chain_unknown.get_or_create(&chain).set(1);
        } else {
            log::warn!("anchor {}: {NOT_REQUIRED}", anchor.chain);
        }
        let tell = move |event| {
            told.anchor(&event);
            match event {
                AnchorEvent::Compared { chain } => grows.fits(&chain),
                AnchorEvent::OtherHistory { chain, witness, reason } => {
                    let why = format!("chain {chain}: {reason}");
                    let by = match witness {
                        meshchain_anchor::Witness::Kept => Witness::Kept,
                        meshchain_anchor::Witness::Node => Witness::Node { chain },
                    };
                    grows.halt(by, why);
                }
                _ => {}
            }
        };
        let own = log.clone();
        let own: OwnHeads = Box::new(move |size| {
            let own = own.clone();
            Box::pin(async move { own.signed_at(size).await })
        });
        starting.push(meshchain_anchor::start(
            anchor,
            vkey.name(),
            store.clone(),
            heads,
            own,
            tell,
        ));
    }
    // Side by side: each may wait for its node.
    let anchors = match try_join_all(starting).await {
        Ok(anchors) => anchors,
        Err(error) => {
            audit.line("stop", json!({ "why": "failure" }));
            last_words(&audit, &echo).await;
            return Err(error.into());
        }
    };
    if let Some(Barred::Unasked(chains)) = log.barred() {
        events.waits_for(&chains);
    }
    let (submissions, received) = mpsc::channel(MAX_WAITING);
    let (drained, stop_writing) = watch::channel(false);
    let mut writing = tokio::spawn(meshchain_log::run(writer, received, stop_writing));
    let (stop_sealing, sealed) = watch::channel(false);
    let mut sealing = tokio::spawn(sealer.run(sealed));
    let mut retaining = tokio::spawn(retain(log.clone(), config.retain_records));
    let watched = disk::watch(log.clone(), config.warn_free_bytes, metrics.clone());
    let mut watching = tokio::spawn(watched);
    let doors = Arc::new(Doors {
        log,
        anchors: anchors.clone(),
        submissions,
        rooms: Rooms::new(config.ingest.max_waiting_bytes as usize),
        quotas: Quotas::new(config.limits),
        ingest: config.ingest,
        reads: Default::default(),
        // Tools read tiles many at a time, and a bundle has some 100 kB, seldom more than a megabyte.
        tiles: Heavy::new(8),
        scrapes: Default::default(),
        events,
    });
    let (close, closed) = watch::channel(false);
    let mut telling = tokio::spawn(tell_suppressed(audit.clone(), closed.clone()));
    let counted = doors.events.metrics.clone();
    let mut serving = tokio::spawn(serve(listener, router(doors), counted, closed));

    let failure = tokio::select! {
        () = stop => None,
        ended = &mut writing => Some(early("the writer", ended)),
        ended = &mut sealing => Some(early("the sealer", ended)),
        ended = &mut serving => Some(early("the doors", ended.map(Ok::<_, Fatal>))),
        ended = &mut retaining => Some(early("the retention of records", ended.map(Ok::<_, Fatal>))),
        ended = &mut watching => Some(early("the watch over the disk", ended.map(Ok::<_, Fatal>))),
        ended = &mut telling => Some(early("the limit of refusals", ended.map(Ok::<_, Fatal>))),
        () = audit.ended() => Some(anyhow::anyhow!("the audit log ended early")),
        ended = an_anchor_ended(&anchors) => Some(ended),
    };
    retaining.abort();
    watching.abort();
    close.send_replace(true);
    if let Some(failure) = failure {
        stop_sealing.send_replace(true);
        end(sealing, "the sealer").await;
        serving.abort();
        audit.line("stop", json!({ "why": "failure" }));
        end(telling, "the limit of refusals").await;
        // Why it ends is told in any case.
        last_words(&audit, &echo).await;
        return Err(failure);
    }
    // The doors close first; when the last request is answered the writer runs dry and ends.
    if timeout(DRAIN, &mut serving).await.is_err() {
        log::warn!("requests were still open after {DRAIN:?} and are cut off");
        serving.abort();
    }
    drained.send_replace(true);
    let ended = timeout(DRAIN, writing).await.context("the writer did not end");
    // Not before the writer, which waits where too much is unsealed.
    stop_sealing.send_replace(true);
    end(sealing, "the sealer").await;
    for anchor in anchors {
        anchor.stop().await;
    }
    end(telling, "the limit of refusals").await;
    audit.tell_all_suppressed();
    audit.line("stop", json!({ "why": "asked" }));
    if !last_words(&audit, &echo).await {
        anyhow::bail!("the last lines of the audit log could not be kept");
    }
    Ok(ended???)
}

/// Waits for a task that was told to stop, unless it ended before.
async fn end<T>(mut task: JoinHandle<T>, what: &str) {
    if !task.is_finished() && timeout(DRAIN, &mut task).await.is_err() {
        log::warn!("{what} is still at work after {DRAIN:?} and is cut off");
        task.abort();
    }
}

/// Waits until the last lines are told. Whether they are kept.
async fn last_words(audit: &Audit, echo: &Aside) -> bool {
    let kept = timeout(DRAIN, audit.all_kept()).await;
    echo.finish(LAST_ECHO);
    matches!(kept, Ok(Ok(())))
}

/// Deletes records that are old enough, for as long as the collector runs.
async fn retain(log: Arc<Log>, keep: Option<Duration>) {
    match keep {
        Some(keep) => meshchain_log::delete_old_records(log, keep).await,
        None => pending().await,
    }
}

/// Why a task ended that runs as long as the collector does.
fn early<E>(what: &str, ended: Result<Result<(), E>, JoinError>) -> anyhow::Error
where
    E: std::error::Error + Send + Sync + 'static,
{
    match ended {
        Ok(Err(error)) => anyhow::Error::new(error).context("the log failed"),
        Ok(Ok(())) => anyhow::anyhow!("{what} ended early"),
        Err(error) => anyhow::Error::new(error).context(format!("{what} failed")),
    }
}

/// Why an anchor ended, as none does by itself.
async fn an_anchor_ended(anchors: &[AnchorHandle]) -> anyhow::Error {
    let mut ended: FuturesUnordered<_> = anchors.iter().map(AnchorHandle::ended).collect();
    match ended.next().await {
        Some(error) => error.into(),
        None => pending().await,
    }
}

/// Tells which refusals were not written, until the collector stops.
async fn tell_suppressed(audit: Arc<Audit>, mut closed: watch::Receiver<bool>) {
    let mut stopped = async move || closed.wait_for(|closed| *closed).await.is_ok();
    while timeout(TELL_INTERVAL, stopped()).await.is_err() {
        audit.tell_suppressed();
    }
}
