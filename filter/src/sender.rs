//! When to send the oldest batch again: one call in flight, back-off with jitter. All times are of a clock that
//! nobody sets.

/// Shortest pause after a failure, nanoseconds.
const MIN_PAUSE_NS: u64 = 500_000_000;
/// Longest pause, nanoseconds.
const MAX_PAUSE_NS: u64 = 30_000_000_000;
/// So much longer than Envoy's own time-out it takes until a call that never answered is given up.
const LOST_NS: u64 = 5_000_000_000;

/// Time that a POST of so many bytes may take, milliseconds: a collector that takes longer than 5 s has a problem,
/// and a path of 512 KiB/s still brings the largest batch there.
pub fn timeout_ms(bytes: usize) -> u32 {
    5_000 + u32::try_from(bytes / 512).unwrap_or(u32::MAX / 2)
}

/// What an answer means for the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Durable: forget it.
    Acknowledged,
    /// The collector will never take it: drop and count it, and go on in another session.
    Refused,
    /// The session is not this proxy's to continue: send it in another one.
    Disowned,
    /// Keep it and send it again.
    Retry,
}

/// The verdict on an HTTP status; `None` stands for a reset.
///
/// Only the statuses by which the collector judges a batch itself are final. 401, 403 and 404 come
/// from what stands before it, and are cured by an admin without loss.
pub fn verdict(status: Option<u16>) -> Verdict {
    match status {
        Some(200..=299) => Verdict::Acknowledged,
        Some(400 | 409 | 413 | 415 | 422) => Verdict::Refused,
        Some(410) => Verdict::Disowned,
        _ => Verdict::Retry,
    }
}

/// State of the one call in flight.
#[derive(Debug, Default)]
pub struct Sender {
    /// Token, and when it is given up.
    in_flight: Option<(u32, u64)>,
    failures: u32,
    not_before_ns: u64,
    retried: u64,
}

impl Sender {
    /// Whether the oldest batch may be sent now.
    pub fn ready(&self, now_ns: u64) -> bool {
        let idle = self.in_flight.is_none_or(|(_, until)| now_ns > until);
        idle && now_ns >= self.not_before_ns
    }

    /// The answer to a call in flight will never come, or is not wanted: a root context that goes takes its
    /// calls along. That a batch comes twice does no harm.
    pub fn forget(&mut self) {
        self.in_flight = None;
    }

    /// A call with so many bytes was started.
    pub fn sent(&mut self, token: u32, now_ns: u64, bytes: usize) {
        self.retried += u64::from(self.failures > 0);
        let timeout_ns = u64::from(timeout_ms(bytes)) * 1_000_000;
        self.in_flight = Some((token, now_ns.saturating_add(timeout_ns + LOST_NS)));
    }

    /// An answer came; `None` where it is to a call that was given up.
    pub fn answered(
        &mut self,
        token: u32,
        status: Option<u16>,
        now_ns: u64,
        jitter: u8,
    ) -> Option<Verdict> {
        self.in_flight.take_if(|(expected, _)| *expected == token)?;
        let verdict = verdict(status);
        match verdict {
            Verdict::Retry | Verdict::Disowned => self.failed(now_ns, jitter),
            _ => self.failures = 0,
        }
        Some(verdict)
    }

    /// The call failed, or could not be started. The pause doubles with each failure; between half
    /// and all of it is waited, by `jitter`.
    pub fn failed(&mut self, now_ns: u64, jitter: u8) {
        let pause = (MIN_PAUSE_NS << self.failures.min(6)).min(MAX_PAUSE_NS);
        self.failures = self.failures.saturating_add(1);
        let waited = pause / 2 + pause / 2 * u64::from(jitter) / 255;
        self.not_before_ns = now_ns.saturating_add(waited);
    }

    /// Waits for as long as the collector asks for, besides: those that it asks at once come back one by one.
    pub fn wait(&mut self, seconds: u64) {
        let asked_ns = seconds.saturating_mul(1_000_000_000).min(MAX_PAUSE_NS);
        self.not_before_ns = self.not_before_ns.saturating_add(asked_ns);
    }

    /// Number of times that a batch was sent again.
    pub fn retried(&self) -> u64 {
        self.retried
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_the_collectors_own_judgement_drops_a_batch() {
        for status in [400, 409, 413, 415, 422] {
            assert_eq!(verdict(Some(status)), Verdict::Refused);
        }
        for status in
            [None, Some(401), Some(403), Some(404), Some(408), Some(429), Some(500), Some(503)]
        {
            assert_eq!(verdict(status), Verdict::Retry, "{status:?}");
        }
        assert_eq!(verdict(Some(200)), Verdict::Acknowledged);
        assert_eq!(verdict(Some(410)), Verdict::Disowned);
    }

    #[test]
    fn pauses_grow_to_a_bound_and_end_with_success() {
        let mut sender = Sender::default();
        let mut now = 0;
        for _ in 0..20 {
            assert!(sender.ready(now));
            sender.sent(1, now, 0);
            assert!(!sender.ready(now));
            assert_eq!(sender.answered(1, None, now, 255), Some(Verdict::Retry));
            assert!(!sender.ready(now));
            now += MAX_PAUSE_NS;
        }
        assert_eq!(sender.retried(), 19);
        sender.sent(2, now, 0);
        assert_eq!(sender.answered(1, Some(200), now, 0), None, "an answer to another call");
        assert_eq!(sender.answered(2, Some(200), now, 0), Some(Verdict::Acknowledged));
        assert!(sender.ready(now));
    }

    #[test]
    fn what_the_collector_asks_for_comes_on_top_of_the_pause_up_to_a_bound() {
        let ready_after = |seconds| {
            let mut sender = Sender::default();
            sender.sent(1, 0, 0);
            assert_eq!(sender.answered(1, Some(503), 0, 255), Some(Verdict::Retry));
            sender.wait(seconds);
            let at = sender.not_before_ns;
            assert!(!sender.ready(at - 1) && sender.ready(at));
            at
        };
        assert_eq!(ready_after(0), MIN_PAUSE_NS);
        assert_eq!(ready_after(3), MIN_PAUSE_NS + 3_000_000_000);
        assert_eq!(ready_after(u64::MAX), MIN_PAUSE_NS + MAX_PAUSE_NS);
    }

    #[test]
    fn a_call_that_never_answers_is_given_up() {
        for (bytes, lost_ns) in [(0, 10_000_000_000), (12 << 20, 34_576_000_000)] {
            let mut sender = Sender::default();
            sender.sent(1, 0, bytes);
            assert!(!sender.ready(lost_ns));
            assert!(sender.ready(lost_ns + 1), "a large one takes its time");
        }
    }
}
