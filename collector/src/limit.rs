//! How many refusals the audit log tells of each reason and sender, so that no flood hides what another reason, or the
//! same one, says about another sender, nor fills the disk.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Lines of one reason and one principal that are told at once.
const BURST: u32 = 100;
/// Time after which one line more of them may be told, and how many were not is told.
const WINDOW: Duration = Duration::from_secs(10);
/// Principals that are told apart, for each reason: those beyond share what it has. No reason takes another one's.
const MAX_PRINCIPALS: usize = 512;

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

/// Refusals of one reason and sender.
#[derive(Debug)]
struct Kind {
    /// Lines that may be told.
    left: u32,
    /// Refusals of this window that were not.
    untold: u64,
}

/// Counts refusals.
#[derive(Debug)]
pub struct RefusalLimit {
    since: Instant,
    /// By reason and principal.
    kinds: HashMap<&'static str, HashMap<Option<String>, Kind>>,
}

impl RefusalLimit {
    /// Nothing was refused before `now`.
    pub fn new(now: Instant) -> Self {
        Self { since: now, kinds: HashMap::new() }
    }

    /// Whether one more is told; one that is not is counted.
    pub fn admits(&mut self, reason: &'static str, principal: &str) -> bool {
        let kinds = self.kinds.entry(reason).or_default();
        let mut principal = Some(principal.to_owned());
        if kinds.len() >= MAX_PRINCIPALS && !kinds.contains_key(&principal) {
            principal = None;
        }
        let kind = kinds.entry(principal).or_insert(Kind { left: BURST, untold: 0 });
        let told = kind.left > 0;
        kind.left = kind.left.saturating_sub(1);
        kind.untold += u64::from(!told);
        told
    }

    /// What was not told in the window that ended before `now`; a new one begins.
    pub fn ended(&mut self, now: Instant) -> Vec<Suppressed> {
        if now.saturating_duration_since(self.since) < WINDOW {
            return Vec::new();
        }
        self.since = now;
        self.end()
    }

    /// What was not told so far; a new window begins.
    pub fn end(&mut self) -> Vec<Suppressed> {
        let mut over = Vec::new();
        for (reason, kinds) in &mut self.kinds {
            for (principal, kind) in kinds.iter_mut() {
                kind.left += 1;
                let count = std::mem::take(&mut kind.untold);
                if count > 0 {
                    over.push(Suppressed { reason, principal: principal.clone(), count });
                }
            }
            kinds.retain(|_, kind| kind.left < BURST);
        }
        self.kinds.retain(|_, kinds| !kinds.is_empty());
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
        assert_eq!(flood(&mut limit, "malformed", "evil"), BURST);
        assert_eq!(flood(&mut limit, "equivocation", "evil"), BURST);
        assert!(limit.admits("equivocation", "shop"));
        assert!(limit.admits("malformed", "shop"));
        assert!(limit.ended(start).is_empty(), "the window is not over");
        let suppressed = |reason| Suppressed {
            reason,
            principal: Some("evil".to_owned()),
            count: u64::from(1000 - BURST),
        };
        let all = [suppressed("equivocation"), suppressed("malformed")];
        assert_eq!(limit.ended(start + WINDOW), all);
        assert_eq!(flood(&mut limit, "malformed", "evil"), 1, "a new window");
        assert_eq!(limit.end().len(), 1);
        assert!(limit.end().is_empty(), "told once");
    }

    #[test]
    fn who_floods_for_ever_is_told_once_a_window_and_who_rests_has_all_again() {
        let mut limit = RefusalLimit::new(Instant::now());
        let mut told = 0;
        for _ in 0..1000 {
            told += (0..50).filter(|_| limit.admits("malformed", "evil")).count() as u32;
            limit.end();
        }
        assert!((BURST + 900..BURST + 1100).contains(&told), "{told}");
        (0..BURST).for_each(|_| drop(limit.end()));
        assert!(limit.kinds.is_empty(), "nothing is kept of it");
        assert_eq!((0..200).filter(|_| limit.admits("malformed", "evil")).count() as u32, BURST);
    }

    #[test]
    fn any_number_of_senders_takes_a_bounded_table_and_leaves_other_reasons_their_share() {
        let mut limit = RefusalLimit::new(Instant::now());
        let told = (0..10 * MAX_PRINCIPALS).filter(|at| limit.admits("malformed", &at.to_string()));
        assert_eq!(told.count(), MAX_PRINCIPALS + BURST as usize);
        let evil = (0..BURST + 1).filter(|_| limit.admits("equivocation", "evil")).count() as u32;
        assert_eq!(evil, BURST);
        assert!(limit.admits("equivocation", "shop"), "it is told by itself, whatever others do");
        assert!(limit.kinds["malformed"].len() <= MAX_PRINCIPALS + 1);
        let over: u64 = limit.end().iter().map(|s| s.count).sum();
        assert_eq!(over, (9 * MAX_PRINCIPALS) as u64 - u64::from(BURST) + 1);
    }
}
