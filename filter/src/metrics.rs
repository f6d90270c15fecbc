//! The filter's counters as Envoy metrics, pushed at each tick: an increment per call is dear.

use crate::host::{Host, MetricKind};
use crate::queue::Counts;
use meshchain_core::DropReason;

/// Counters beside those of the queue.
#[derive(Debug, Clone, Copy, Default)]
pub struct Other {
    /// Streams to the collector, and of paths that are left out.
    pub skipped: u64,
    /// Calls that the filter met twice, as it stands twice in their chain.
    pub duplicates: u64,
    /// Batches sent again.
    pub retried: u64,
    /// Attempts to send that failed.
    pub undelivered: u64,
    /// Configurations that turned the filter off.
    pub config_errors: u64,
    /// Keys of configurations that were ignored.
    pub config_ignored: u64,
}

#[derive(Debug, Default)]
struct Counter {
    id: Option<u32>,
    pushed: u64,
}

/// Metrics of one VM; Envoy adds up those of all VMs under one name.
#[derive(Debug, Default)]
pub struct Metrics {
    counters: Vec<Counter>,
    queue_bytes: Counter,
}

impl Metrics {
    /// Brings Envoy's counters up to date.
    pub fn push(&mut self, host: &impl Host, counts: &Counts, other: &Other, queue_bytes: usize) {
        let values = Self::values(counts, other);
        if self.counters.is_empty() {
            self.queue_bytes.id = host.define_metric(MetricKind::Gauge, "meshchain_queue_bytes");
            let define = |(name, _): &(String, u64)| Counter {
                id: host.define_metric(MetricKind::Counter, name),
                pushed: 0,
            };
            self.counters = values.iter().map(define).collect();
        }
        for (counter, (_, value)) in self.counters.iter_mut().zip(&values) {
            if let Some(id) = counter.id {
                host.add_to_metric(id, value.saturating_sub(counter.pushed) as i64);
                counter.pushed = *value;
            }
        }
        // All VMs share the gauge: each adds what changed in its own queue.
        if let Some(id) = self.queue_bytes.id {
            host.add_to_metric(id, queue_bytes as i64 - self.queue_bytes.pushed as i64);
            self.queue_bytes.pushed = queue_bytes as u64;
        }
    }

    fn values(counts: &Counts, other: &Other) -> Vec<(String, u64)> {
        let fixed = [
            ("digests", counts.digests),
            ("records", counts.records),
            ("batches", counts.batches),
            ("acked", counts.acked),
            ("sessions_ended", counts.ended),
            ("retried", other.retried),
            ("undelivered", other.undelivered),
            ("duplicates", other.duplicates),
            ("skipped", other.skipped),
            ("config_errors", other.config_errors),
            ("config_ignored", other.config_ignored),
        ];
        let fixed = fixed.into_iter().map(|(name, value)| (format!("meshchain_{name}"), value));
        let dropped = DropReason::ALL.iter().zip(counts.dropped);
        let dropped = dropped.map(|(r, value)| (format!("meshchain_dropped_{}", r.name()), value));
        fixed.chain(dropped).collect()
    }
}
