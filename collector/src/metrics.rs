//! Metrics for Prometheus. Every label of a counter is there from the start, so that the first event is an increase.

use crate::refusal::Refusal;
use meshchain_core::BatchKind;
use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// Labels of the anchor gauges.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Chain {
    /// Name of the chain in the configuration.
    pub chain: String,
}

/// All metrics of one collector.
pub struct Metrics {
    registry: Registry,
    batches: Family<Kind, Counter>,
    digests: Counter,
    refused: Family<Reason, Counter>,
    /// Batches that came again and were acknowledged again.
    pub replayed: Counter,
    /// Batches that no honest proxy sends.
    pub odd: Counter,
    /// Batches that a session jumped over.
    pub missing: Counter,
    /// Commits that were called off.
    pub commit_failures: Counter,
    pushed_back: Family<Reason, Counter>,
    oldest_waiting: Gauge<f64, std::sync::atomic::AtomicU64>,
    /// Open connections.
    pub connections: Gauge,
    /// Connections that had to go for others.
    pub connections_evicted: Counter,
    log_size: Gauge,
    /// Sealed segments.
    pub segments: Gauge,
    /// Attempts to seal a segment that failed and were made again.
    pub seal_failures: Counter,
    /// Records that retention deleted.
    pub records_deleted: Counter,
    /// Sessions that are open and were not heard of for long.
    pub sessions_silent: Gauge,
    /// Bytes that are free where the log is.
    pub free_bytes: Gauge,
    /// The same, below which the operator is warned.
    pub free_bytes_warning: Gauge,
    /// 1 where the log takes nothing, as something speaks of another history than its own.
    pub older_copy: Gauge,
    publish_seconds: Histogram,
    checkpoint_age: Gauge,
    published: Mutex<Instant>,
    /// Lines that did not fit into what waits for the audit log.
    pub audit_lines_lost: Counter,
    /// 1 while audit lines cannot be kept.
    pub audit_failing: Gauge,
    /// Lines that nobody took from standard output.
    pub audit_echo_dropped: Counter,
    anchored_size: Family<Chain, Gauge>,
    anchored_time: Family<Chain, Gauge>,
    /// 1 while an anchor waits for an operator.
    pub anchor_alert: Family<Chain, Gauge>,
    /// 1 while the log waits to be compared with what the chain holds of it.
    pub chain_unknown: Family<Chain, Gauge>,
    /// Gas that final anchors used.
    pub anchor_gas: Family<Chain, Counter>,
}

/// Registers a metric, and gives it back.
fn add<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

/// Registers a metric that begins at nothing.
fn new<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    add(registry, name, help, M::default())
}

impl Default for Metrics {
    #[rustfmt::skip]
    fn default() -> Self {
        let mut registry = Registry::with_prefix("meshchain");
        let r = &mut registry;
        let seconds = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];
        let metrics = Self {
            batches: new(r, "batches", "Batches logged"),
            digests: new(r, "digests", "Entries logged"),
            refused: new(r, "batches_refused",
                "Batches refused, for good but for limited, foreign_session and seq_jump, which come again in other form: any of equivocation, foreign_session, wrong_principal says something about a peer, read its audit line"),
            replayed: new(r, "batches_replayed", "Batches that were logged already, and acknowledged again"),
            odd: new(r, "batches_odd", "Batches logged that no honest proxy sends, as one after its session's close: look for odd in the audit log"),
            missing: new(r, "batches_missing", "Batches that sessions jumped over: look for gap in the audit log"),
            commit_failures: new(r, "commit_failures", "Commits called off with nothing changed: the error log says why"),
            pushed_back: new(r, "batches_pushed_back",
                "Batches told to come again, nothing is lost yet: no_space wants room, audit a disk that works, lag and backlog a faster one, older_copy and chain_unknown docs/restore.md"),
            oldest_waiting: new(r, "oldest_waiting_batch_seconds", "Age of the oldest batch that waits for its commit: beyond a second the disk is too slow"),
            connections: new(r, "connections", "Open connections"),
            connections_evicted: new(r, "connections_evicted", "Connections that had to go for others: somebody holds too many"),
            log_size: new(r, "log_size", "Leaves in the published tree"),
            segments: new(r, "segments", "Sealed segments"),
            seal_failures: new(r, "seal_failures", "Attempts to seal that failed and are made again: the error log says why"),
            records_deleted: new(r, "records_deleted", "Records deleted by age"),
            sessions_silent: new(r, "sessions_silent", "Sessions that fell silent since this process started, not closed and not heard of for two minutes: a proxy died or cannot reach this collector"),
            free_bytes: new(r, "free_bytes", "Bytes free where the log is, 0 in a bucket, which has no end: make room before it is free_bytes_warning"),
            free_bytes_warning: new(r, "free_bytes_warning", "The bytes of warn_free_bytes in the configuration"),
            older_copy: new(r, "older_copy", "1 where this is an older copy of the log, or another one, and takes no batches: docs/restore.md"),
            publish_seconds: add(r, "publish_seconds", "From the start of a commit to its checkpoint", Histogram::new(seconds)),
            checkpoint_age: new(r, "checkpoint_age_seconds", "Time since this process published, or since its start: grows while nothing comes in, so look at oldest_waiting_batch_seconds too"),
            published: Mutex::new(Instant::now()),
            audit_lines_lost: new(r, "audit_lines_lost", "Audit lines that are nowhere, as too many waited: look at audit_failing"),
            audit_failing: new(r, "audit_failing", "1 while audit lines cannot be kept and no batch is taken: make room, or mend the disk or bucket"),
            audit_echo_dropped: new(r, "audit_echo_dropped", "Audit lines that standard output did not take; they are in the audit log all the same"),
            anchored_size: new(r, "anchored_size", "Leaves in the newest final anchor"),
            anchored_time: new(r, "anchored_timestamp_seconds", "Time of the newest final anchor's block, unix time: the age of the anchors is time() less this, and 0 is never"),
            anchor_alert: new(r, "anchor_alert", "1 while an anchor needs an operator: /v1/anchors says why"),
            chain_unknown: new(r, "chain_unknown", "1 while no batches are taken as this chain was not asked yet what it holds of the log: look at its node, docs/restore.md"),
            anchor_gas: new(r, "anchor_gas", "Gas used by final anchors"),
            registry: Registry::default(),
        };
        BatchKind::ALL.iter().for_each(|kind| metrics.accept(*kind, 0, 0));
        for reason in Refusal::reasons() {
            drop(metrics.refused.get_or_create(&Reason { reason }));
        }
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// Counts a logged batch.
    pub fn accepted(&self, kind: BatchKind, entries: u64) {
        self.accept(kind, 1, entries);
    }

    fn accept(&self, kind: BatchKind, batches: u64, entries: u64) {
        self.batches.get_or_create(&Kind { kind: kind.name() }).inc_by(batches);
        self.digests.inc_by(entries);
    }

    /// Counts a refused batch.
    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&Reason { reason }).inc();
    }

    /// For what batches may be turned away for now.
    pub fn may_push_back(&self, reasons: &[&'static str]) {
        for &reason in reasons {
            drop(self.pushed_back.get_or_create(&Reason { reason }));
        }
    }

    /// Counts a batch that was turned away for now.
    pub fn pushed_back(&self, reason: &'static str) {
        self.pushed_back.get_or_create(&Reason { reason }).inc();
    }

    /// Notes the tree that was there at the start.
    pub fn found(&self, size: u64) {
        self.log_size.set(size as i64);
    }

    /// Notes a published tree.
    pub fn published(&self, size: u64, took: Duration) {
        self.log_size.set(size as i64);
        self.publish_seconds.observe(took.as_secs_f64());
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Notes a chain that will be anchored on.
    pub fn chain(&self, chain: &str) {
        let chain = Chain { chain: chain.to_owned() };
        drop(self.anchor_alert.get_or_create(&chain));
        drop(self.chain_unknown.get_or_create(&chain));
        drop(self.anchor_gas.get_or_create(&chain));
        drop(self.anchored_size.get_or_create(&chain));
        drop(self.anchored_time.get_or_create(&chain));
    }

    /// Notes the newest final anchor, and the time of its block, unix seconds.
    pub fn anchored(&self, chain: &str, size: u64, block_time: u64) {
        let chain = Chain { chain: chain.to_owned() };
        self.anchored_size.get_or_create(&chain).set(size as i64);
        self.anchored_time.get_or_create(&chain).set(block_time as i64);
    }

    /// The exposition text; `open` in OpenMetrics, else in the older format. The oldest batch has waited for so long.
    pub fn text(&self, open: bool, oldest_waiting: Duration) -> String {
        let text = self.render(oldest_waiting);
        if open { text } else { classic(&text) }
    }

    fn render(&self, oldest_waiting: Duration) -> String {
        self.oldest_waiting.set(oldest_waiting.as_secs_f64());
        let published = *self.published.lock().unwrap_or_else(PoisonError::into_inner);
        self.checkpoint_age.set(published.elapsed().as_secs() as i64);
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// OpenMetrics text as Prometheus's older text format, 0.0.4, in which a counter is named as its sample is.
fn classic(text: &str) -> String {
    let typed = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let counters: HashSet<&str> = typed.filter_map(|line| line.strip_suffix(" counter")).collect();
    let mut classic = String::with_capacity(text.len());
    for line in text.lines().filter(|line| *line != "# EOF") {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(what), Some(name), Some(rest)) if counters.contains(name) => {
                classic += &format!("# {what} {name}_total {rest}\n");
            }
            _ => classic += &format!("{line}\n"),
        }
    }
    classic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_of_a_counter_is_there_before_it_counts() {
        let metrics = Metrics::default();
        metrics.may_push_back(&["no_space"]);
        metrics.chain("mainnet");
        let before = metrics.render(Duration::ZERO);
        Refusal::reasons().for_each(|reason| metrics.refused(reason));
        BatchKind::ALL.iter().for_each(|kind| metrics.accepted(*kind, 3));
        metrics.pushed_back("no_space");
        let after = metrics.render(Duration::ZERO);
        let names = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            lines.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
        };
        assert_eq!(names(&before), names(&after));
        assert!(before.contains("meshchain_batches_refused_total{reason=\"equivocation\"} 0\n"));
        assert!(before.contains("meshchain_anchor_gas_total{chain=\"mainnet\"} 0\n"));
    }

    #[test]
    fn in_the_older_text_each_sample_has_its_type_and_help() {
        let text = classic(&Metrics::default().render(Duration::ZERO));
        let described = |name: &str| {
            let of = |what: &str| {
                text.lines().any(|line| line.starts_with(&format!("# {what} {name} ")))
            };
            of("HELP") && of("TYPE")
        };
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            let histogram =
                ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            assert!(described(name) || histogram.is_some_and(described), "{line}");
        }
        assert!(!text.contains("# EOF"));
    }

    #[test]
    fn the_ages_are_those_of_the_moment() {
        let metrics = Metrics::default();
        let text = metrics.render(Duration::from_millis(1500));
        assert!(text.contains("meshchain_oldest_waiting_batch_seconds 1.5\n"), "{text}");
        assert!(text.contains("meshchain_checkpoint_age_seconds 0\n"), "{text}");
    }
}
