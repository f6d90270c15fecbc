//! How long the commit that is under way has been: everything that comes later waits behind it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A clock that runs while a commit does.
#[derive(Debug)]
pub struct Lag {
    epoch: Instant,
    /// When the commit began, milliseconds after `epoch` and one; 0 while there is none.
    since: AtomicU64,
}

impl Default for Lag {
    fn default() -> Self {
        Self { epoch: Instant::now(), since: AtomicU64::new(0) }
    }
}

impl Lag {
    fn now(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64 + 1
    }

    /// A commit begins.
    pub fn begin(&self) {
        self.since.store(self.now(), Ordering::Relaxed);
    }

    /// It ended.
    pub fn end(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    /// Whether the commit that is under way began more than `most` ago.
    pub fn exceeds(&self, most: Duration) -> bool {
        match self.since.load(Ordering::Relaxed) {
            0 => false,
            since => u128::from(self.now().saturating_sub(since)) > most.as_millis(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_runs_from_the_beginning_of_a_commit_to_its_end() {
        let lag = Lag::default();
        assert!(!lag.exceeds(Duration::ZERO));
        lag.begin();
        while !lag.exceeds(Duration::from_millis(1)) {
            std::thread::yield_now();
        }
        assert!(!lag.exceeds(Duration::from_secs(3600)));
        lag.end();
        assert!(!lag.exceeds(Duration::ZERO));
    }
}
