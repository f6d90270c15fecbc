//! How much room is left where the log is.

use crate::metrics::Metrics;
use meshchain_log::Log;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::interval;

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(5);

/// Looks for as long as the collector runs, and warns each time that fewer than `warn_below` bytes are left. A bucket
/// has no end.
pub async fn watch(log: Arc<Log>, warn_below: u64, metrics: Arc<Metrics>) {
    let mut looks = interval(LOOK);
    let mut low = false;
    loop {
        looks.tick().await;
        let asked = log.clone();
        // A disk that hangs holds no thread of the runtime.
        let Ok(free) = tokio::task::spawn_blocking(move || asked.free_bytes()).await else {
            continue;
        };
        // No number at all where there is none to tell.
        let Some(free) = free else { continue };
        metrics.free_bytes.set(gauge(free));
        metrics.free_bytes_warning.set(gauge(warn_below));
        let was = std::mem::replace(&mut low, free < warn_below);
        if low && !was {
            log::warn!(
                "{free} bytes are free where the log is, and the configuration wants {warn_below}: make room, or batches \
                 will be turned away"
            );
        }
    }
}

fn gauge(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
