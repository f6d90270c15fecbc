//! How many refusals the audit log tells: so many a second of each reason and sender, so that no flood
//! hides what another reason, or the same one, says about another sender.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Lines per second of one reason and one principal.
const PER_SECOND: u32 = 20;
/// Reasons and principals that are told apart in a second: that many lines times [`PER_SECOND`] are
/// written at most. The principals beyond share what a reason has.
const MAX_KINDS: usize = 512;
const WINDOW: Duration = Duration::from_secs(1);

/// Refusals of one reason and sender that were not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suppressed {
    /// Reason.
    pub reason: &'static str,
    /// SPIFFE id of the sender; `None` for those that were not told apart.
    pub principal: Option<String>,
    /// How many.
    pub count: u64,
}

/// Counts refusals within a second.
#[derive(Debug)]
pub struct RefusalLimit {
    since: Instant,
    seen: HashMap<(&'static str, Option<String>), u64>,
}

impl RefusalLimit {
    /// Nothing was refused before `now`.
    pub fn new(now: Instant) -> Self {
        Self { since: now, seen: HashMap::new() }
    }

    /// Whether one more is told; one that is not is counted.
    pub fn admits(&mut self, reason: &'static str, principal: &str) -> bool {
        let mut kind = (reason, Some(principal.to_owned()));
        if self.seen.len() >= MAX_KINDS && !self.seen.contains_key(&kind) {
            kind.1 = None;
        }
        let seen = self.seen.entry(kind).or_insert(0);
        *seen += 1;
        *seen <= u64::from(PER_SECOND)
    }

    /// What was not told in the second that ended before `now`; a new one begins.
    pub fn ended(&mut self, now: Instant) -> Vec<Suppressed> {
        if now.saturating_duration_since(self.since) < WINDOW {
            return Vec::new();
        }
        self.since = now;
        self.end()
    }

    /// What was not told so far; a new second begins.
    pub fn end(&mut self) -> Vec<Suppressed> {
        let over = self.seen.drain().filter_map(|((reason, principal), seen)| {
            let count = seen.saturating_sub(PER_SECOND.into());
            (count > 0).then_some(Suppressed { reason, principal, count })
        });
        let mut over: Vec<_> = over.collect();
        over.sort_by(|a, b| (a.reason, &a.principal).cmp(&(b.reason, &b.principal)));
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_reason_or_sender_hides_no_other() {
        let start = Instant::now();
        let mut limit = RefusalLimit::new(start);
        let flood = |limit: &mut RefusalLimit, reason, principal: &str| {
            (0..1000).filter(|_| limit.admits(reason, principal)).count() as u32
        };
        assert_eq!(flood(&mut limit, "malformed", "evil"), PER_SECOND);
        assert_eq!(flood(&mut limit, "equivocation", "evil"), PER_SECOND);
        assert!(limit.admits("equivocation", "shop"));
        assert!(limit.admits("malformed", "shop"));
        assert!(limit.ended(start).is_empty(), "the second is not over");
        let suppressed = |reason| Suppressed {
            reason,
            principal: Some("evil".to_owned()),
            count: u64::from(1000 - PER_SECOND),
        };
        let all = [suppressed("equivocation"), suppressed("malformed")];
        assert_eq!(limit.ended(start + WINDOW), all);
        assert!(limit.admits("malformed", "evil"), "a new second");
        assert!(limit.end().is_empty(), "told once");
    }

    #[test]
    fn any_number_of_senders_takes_a_bounded_table_and_leaves_other_reasons_their_share() {
        let mut limit = RefusalLimit::new(Instant::now());
        let told = (0..10 * MAX_KINDS).filter(|at| limit.admits("malformed", &at.to_string()));
        assert_eq!(told.count(), MAX_KINDS + PER_SECOND as usize);
        assert!(limit.admits("equivocation", "shop"), "by what the reason has for all others");
        assert!(limit.seen.len() <= MAX_KINDS + 2);
        let over: u64 = limit.end().iter().map(|s| s.count).sum();
        assert_eq!(over, (9 * MAX_KINDS) as u64 - u64::from(PER_SECOND));
    }
}
