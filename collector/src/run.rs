//! Start and stop: key, store, log, anchors, doors; and back in the other order.

use crate::anchor::{self, AnchorEvent};
use crate::audit::Audit;
use crate::config::Config;
use crate::http::{Doors, router};
use crate::key::load_or_create;
use crate::log;
use crate::metrics::{Chain, Metrics};
use crate::store::Store;
use anyhow::{Context, Result};
use serde_json::json;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};

/// Batches that wait for the writer; their bytes are bounded beside their number.
const MAX_WAITING: usize = 4096;
/// Time that open requests get to end when the collector stops.
const DRAIN: Duration = Duration::from_secs(10);

/// Runs the collector until `stop` resolves. An error is fatal; what was acknowledged is kept.
pub async fn run(config: Config, stop: impl Future<Output = ()>) -> Result<()> {
    let store = Store::open(&config.data)?;
    let (key, new_key) = load_or_create(&config.data, config.origin.as_deref())?;
    let vkey = key.verifier().clone();
    let audit =
        Arc::new(Audit::open(&config.data, vkey.name(), std::io::stdout()).context("audit log")?);
    let metrics = Arc::new(Metrics::default());
    let (log, writer) = log::open(store.clone(), key).await?;
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
    let mut writing = tokio::spawn(log::run(writer, received, audit.clone(), metrics.clone()));
    let doors = Arc::new(Doors {
        log,
        anchors: anchors.clone(),
        submissions,
        waiting: Arc::new(Semaphore::new(config.ingest.max_waiting_bytes as usize)),
        ingest: config.ingest,
        audit: audit.clone(),
        metrics,
    });
    let (close, mut closed) = watch::channel(false);
    let serve = axum::serve(listener, router(doors));
    let serve = serve.with_graceful_shutdown(async move {
        let _ = closed.wait_for(|closed| *closed).await;
    });
    let mut serving = tokio::spawn(serve.into_future());

    let failure = tokio::select! {
        () = stop => None,
        ended = &mut writing => Some(ended),
    };
    close.send_replace(true);
    if let Some(ended) = failure {
        serving.abort();
        audit.line("stop", json!({ "why": "failure" }));
        ended?.context("the log failed")?;
        anyhow::bail!("the writer ended early");
    }
    // The doors close first; when the last request is answered the writer runs dry and ends.
    if tokio::time::timeout(DRAIN, &mut serving).await.is_err() {
        ::log::warn!("requests were still open after {DRAIN:?} and are cut off");
        serving.abort();
    }
    tokio::time::timeout(DRAIN, writing).await.context("the writer did not end")???;
    for anchor in anchors {
        anchor.stop().await;
    }
    audit.line("stop", json!({ "why": "asked" }));
    audit.sync().context("audit log")
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
