//! Start and stop: key, store, log, anchors, doors; and back in the other order.

use crate::anchor::{self, AnchorEvent};
use crate::audit::Audit;
use crate::config::Config;
use crate::http::{Doors, Rooms, router, serve};
use crate::key::load_or_create;
use crate::log;
use crate::metrics::{Chain, Metrics};
use crate::quota::Quotas;
use crate::store::Store;
use anyhow::{Context, Result};
use serde_json::json;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinError;

/// Batches that wait for the writer; their bytes are bounded beside their number.
const MAX_WAITING: usize = 4096;
/// Time between writes of the audit log to a bucket.
const SHIP_INTERVAL: Duration = Duration::from_secs(1);
/// Time that open requests get to end when the collector stops.
const DRAIN: Duration = Duration::from_secs(10);

/// What it means that `ingest.principal_from_xfcc` is off.
const UNKNOWN_SENDERS: &str = "nobody authenticates senders (ingest.principal_from_xfcc = false): whoever reaches \
     this port may send batches in the name of any workload, and no refusal can name its sender; \
     a session still cannot be continued without its key";

/// Runs the collector until `stop` resolves. An error is fatal; what was acknowledged is kept.
pub async fn run(config: Config, stop: impl Future<Output = ()>) -> Result<()> {
    let (data, key_file) = config.places();
    let seal_at = config.seal_at();
    if !config.ingest.principal_from_xfcc {
        ::log::warn!("{UNKNOWN_SENDERS}");
    }
    let store = Store::open(&data)?;
    let (key, new_key) = load_or_create(&key_file, config.origin.as_deref())?;
    let vkey = key.verifier().clone();
    let audit = Arc::new(Audit::open(&data, vkey.name(), std::io::stdout()).context("audit log")?);
    let metrics = Arc::new(Metrics::default());
    let (log, writer, sealer) = log::open(store.clone(), key, seal_at).await?;
    let head = log.published().borrow().as_ref().map(|p| p.head);
    if let Some(head) = head {
        audit.set_head(head);
        metrics.published(head.size, Duration::ZERO);
    }
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {}", config.listen))?;
    let listen = listener.local_addr()?;
    let chains: Vec<_> = config.anchor.iter().map(|a| a.chain.as_str()).collect();
    let version = env!("CARGO_PKG_VERSION");
    audit.line("start", json!({ "version": version, "listen": listen, "chains": chains }));
    let line = json!({ "key": "log", "vkey": vkey.to_string(), "new": new_key });
    audit.line("key", line);
    ::log::info!("meshchain-collector {version} listens on http://{listen}");
    ::log::info!("log {} of {} leaves", vkey.name(), head.map_or(0, |h| h.size));
    ::log::info!("verification key {vkey}");
    if chains.is_empty() {
        ::log::warn!("no chain is configured: checkpoints are signed, but not anchored");
    }

    let mut anchors = Vec::new();
    for anchor in config.anchor {
        let heads = log.published();
        let events = anchor_events(audit.clone(), metrics.clone());
        anchors.push(anchor::start(anchor, vkey.name(), store.clone(), heads, events).await?);
    }
    let (submissions, received) = mpsc::channel(MAX_WAITING);
    let (drained, stop_writing) = watch::channel(false);
    let writing = log::run(writer, received, stop_writing, audit.clone(), metrics.clone());
    let mut writing = tokio::spawn(writing);
    let mut sealing = tokio::spawn(sealer.run(audit.clone(), metrics.clone()));
    let retaining = config.retain_records.map(|keep| {
        tokio::spawn(log::delete_old_records(log.clone(), keep, audit.clone(), metrics.clone()))
    });
    let doors = Arc::new(Doors {
        log,
        anchors: anchors.clone(),
        submissions,
        rooms: Rooms::new(config.ingest.max_waiting_bytes as usize),
        quotas: Quotas::new(config.limits),
        ingest: config.ingest,
        audit: audit.clone(),
        reads: Default::default(),
        metrics,
    });
    let (close, closed) = watch::channel(false);
    let shipping = tokio::spawn(ship(audit.clone(), store.clone(), closed.clone()));
    let counted = doors.metrics.clone();
    let mut serving = tokio::spawn(serve(listener, router(doors), counted, closed));

    let failure = tokio::select! {
        () = stop => None,
        ended = &mut writing => Some(failure(ended)),
        ended = &mut sealing => Some(failure(ended)),
    };
    close.send_replace(true);
    if let Some(failure) = failure {
        sealing.abort();
        serving.abort();
        audit.line("stop", json!({ "why": "failure" }));
        shipping.await?;
        let _ = audit.ship(&store).await;
        return Err(failure);
    }
    // The doors close first; when the last request is answered the writer runs dry and ends.
    if tokio::time::timeout(DRAIN, &mut serving).await.is_err() {
        ::log::warn!("requests were still open after {DRAIN:?} and are cut off");
        serving.abort();
    }
    drained.send_replace(true);
    let ended = tokio::time::timeout(DRAIN, writing).await.context("the writer did not end");
    sealing.abort();
    for anchor in anchors {
        anchor.stop().await;
    }
    if let Some(retaining) = retaining {
        retaining.abort();
    }
    shipping.await?;
    audit.tell_all_suppressed();
    audit.line("stop", json!({ "why": "asked" }));
    audit.ship(&store).await.context("audit log")?;
    audit.sync().context("audit log")?;
    Ok(ended???)
}

/// Why a task ended that runs as long as the collector does.
fn failure<E>(ended: Result<Result<(), E>, JoinError>) -> anyhow::Error
where
    E: std::error::Error + Send + Sync + 'static,
{
    match ended {
        Ok(Err(error)) => anyhow::Error::new(error).context("the log failed"),
        Ok(Ok(())) => anyhow::anyhow!("the writer ended early"),
        Err(error) => anyhow::Error::new(error).context("the log failed"),
    }
}

/// Tells which refusals were not written, and brings audit lines to the bucket, where there is one,
/// until the collector stops.
async fn ship(audit: Arc<Audit>, store: Store, mut closed: watch::Receiver<bool>) {
    let mut stopped = async move || closed.wait_for(|closed| *closed).await.is_ok();
    while tokio::time::timeout(SHIP_INTERVAL, stopped()).await.is_err() {
        audit.tell_suppressed();
        if let Err(error) = audit.ship(&store).await {
            ::log::error!("audit log: {error}");
        }
    }
}

fn anchor_events(
    audit: Arc<Audit>,
    metrics: Arc<Metrics>,
) -> impl Fn(AnchorEvent) + Send + Sync + 'static {
    move |event| {
        match &event {
            AnchorEvent::Final { chain, size, gas_used, .. } => {
                let chain = Chain { chain: chain.clone() };
                metrics.anchored_size.get_or_create(&chain).set(*size as i64);
                metrics.anchor_gas.get_or_create(&chain).inc_by(*gas_used);
            }
            AnchorEvent::Alert { chain, reason, .. } => {
                ::log::warn!("anchor {chain}: {reason}");
                metrics.anchor_alert.get_or_create(&Chain { chain: chain.clone() }).set(1);
            }
            AnchorEvent::Recovered { chain } => {
                metrics.anchor_alert.get_or_create(&Chain { chain: chain.clone() }).set(0);
            }
            _ => {}
        }
        audit.anchor(&event);
    }
}
