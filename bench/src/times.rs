//! Times, sorted out.

use serde::Serialize;
use std::time::{Duration, Instant};

/// Median and tail of a set of times.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Spread {
    /// Median, microseconds.
    pub p50_us: f64,
    /// 99th percentile, microseconds.
    pub p99_us: f64,
    /// Number of times.
    pub count: usize,
}

impl Spread {
    /// Median and 99th percentile; zeros for no times.
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |part: f64| {
            let last = times.len().saturating_sub(1);
            let time = times.get((last as f64 * part).round() as usize);
            time.map_or(0.0, |t| t.as_nanos() as f64 / 1e3)
        };
        Self { p50_us: at(0.5), p99_us: at(0.99), count: times.len() }
    }
}

/// How long `run` took, and what it returned.
pub fn timed<T>(run: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let result = run();
    (start.elapsed(), result)
}
