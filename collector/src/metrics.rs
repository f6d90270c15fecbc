//! Counters for Prometheus.

use meshchain_core::BatchKind;
use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::time::Duration;

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
    /// Batches that a session jumped over.
    pub missing: Counter,
    /// Pools that could not be made durable.
    pub commit_failures: Counter,
    pushed_back: Family<Reason, Counter>,
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
    /// 1 where the log takes nothing, as something speaks of another history than its own.
    pub older_copy: Gauge,
    publish_seconds: Histogram,
    /// Lines that did not fit into what waits for the audit log.
    pub audit_lines_lost: Counter,
    /// 1 while audit lines cannot be kept.
    pub audit_failing: Gauge,
    /// Lines that nobody took from standard output.
    pub audit_echo_dropped: Counter,
    /// Newest tree size that is final on a chain.
    pub anchored_size: Family<Chain, Gauge>,
    /// Time of its block, Unix seconds.
    pub anchored_time: Family<Chain, Gauge>,
    /// 1 while an anchor waits for an operator.
    pub anchor_alert: Family<Chain, Gauge>,
    /// Gas that final anchors used.
    pub anchor_gas: Family<Chain, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut r = Registry::with_prefix("meshchain");
        let publish_seconds =
            Histogram::new([0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0]);
        let m = Self {
            batches: Family::default(),
            digests: Counter::default(),
            refused: Family::default(),
            replayed: Counter::default(),
            missing: Counter::default(),
            commit_failures: Counter::default(),
            pushed_back: Family::default(),
            connections: Gauge::default(),
            connections_evicted: Counter::default(),
            log_size: Gauge::default(),
            segments: Gauge::default(),
            seal_failures: Counter::default(),
            records_deleted: Counter::default(),
            older_copy: Gauge::default(),
            publish_seconds,
            audit_lines_lost: Counter::default(),
            audit_failing: Gauge::default(),
            audit_echo_dropped: Counter::default(),
            anchored_size: Family::default(),
            anchored_time: Family::default(),
            anchor_alert: Family::default(),
            anchor_gas: Family::default(),
            registry: Registry::default(),
        };
        r.register("batches", "Batches logged", m.batches.clone());
        r.register("digests", "Entries logged", m.digests.clone());
        r.register("batches_refused", "Batches refused", m.refused.clone());
        r.register("batches_replayed", "Batches that were logged already", m.replayed.clone());
        r.register("batches_missing", "Batches that sessions jumped over", m.missing.clone());
        r.register("commit_failures", "Pools that failed before commit", m.commit_failures.clone());
        r.register("batches_pushed_back", "Batches answered with 503", m.pushed_back.clone());
        r.register("connections", "Open connections", m.connections.clone());
        let help = "Connections that had to go for others";
        r.register("connections_evicted", help, m.connections_evicted.clone());
        r.register("log_size", "Leaves in the published tree", m.log_size.clone());
        r.register("segments", "Sealed segments", m.segments.clone());
        r.register("seal_failures", "Attempts to seal that failed", m.seal_failures.clone());
        r.register("records_deleted", "Records deleted by age", m.records_deleted.clone());
        let help = "1 where this is an older copy of the log, or another one, and takes no batches";
        r.register("older_copy", help, m.older_copy.clone());
        let help = "From the start of a commit to its checkpoint";
        r.register("publish_seconds", help, m.publish_seconds.clone());
        let help = "Audit lines that are nowhere, as too many waited: look at audit_failing";
        r.register("audit_lines_lost", help, m.audit_lines_lost.clone());
        let help = "1 while audit lines cannot be kept and no batch is taken: make room, or mend the disk or bucket";
        r.register("audit_failing", help, m.audit_failing.clone());
        let help =
            "Audit lines that standard output did not take; they are in the audit log all the same";
        r.register("audit_echo_dropped", help, m.audit_echo_dropped.clone());
        r.register("anchored_size", "Leaves in the newest final anchor", m.anchored_size.clone());
        let help = "Time of the newest final anchor's block, Unix seconds; 0 before the first";
        r.register("anchored_timestamp_seconds", help, m.anchored_time.clone());
        r.register("anchor_alert", "1 while an anchor needs an operator", m.anchor_alert.clone());
        r.register("anchor_gas", "Gas used by final anchors", m.anchor_gas.clone());
        Self { registry: r, ..m }
    }
}

impl Metrics {
    /// Counts a logged batch.
    pub fn accepted(&self, kind: BatchKind, entries: u64) {
        self.batches.get_or_create(&Kind { kind: kind.name() }).inc();
        self.digests.inc_by(entries);
    }

    /// Counts a refused batch.
    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&Reason { reason }).inc();
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
    }

    /// The exposition text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
