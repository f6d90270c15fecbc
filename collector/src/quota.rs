//! What one principal may send: batches a second, bytes and new sessions a day.

use serde::Deserialize;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use tokio::time::Instant;

/// Section `[limits]`, for each principal that mTLS proved. Senders that nobody knows have none.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Batches a second on average; ten times as many at once. Default 1,000.
    pub batches_per_second: u32,
    /// Bytes of batches within a day (24 hours from the first one). Default 1 TiB.
    pub bytes_per_day: u64,
    /// New sessions within a day: a proxy opens one for each worker when it starts. Default 20,000.
    pub sessions_per_day: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { batches_per_second: 1000, bytes_per_day: 1 << 40, sessions_per_day: 20_000 }
    }
}

/// Principals that are told apart; those beyond share one account.
const MOST_PRINCIPALS: usize = 65_536;
const BURST: f64 = 10.0;
const DAY_S: u64 = 86_400;

/// Longest time after which a sender is told to come again: by then a day may be over, or a limit raised.
const LONGEST_WAIT_S: u64 = 60;

/// A limit that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// Its key in the configuration.
    pub limit: &'static str,
    /// Seconds until it is worth to come again.
    pub retry_after_s: u64,
}

/// Accounts of all principals.
#[derive(Debug)]
pub struct Quotas {
    limits: Limits,
    accounts: Mutex<HashMap<String, Account>>,
}

#[derive(Debug)]
struct Account {
    day: Instant,
    bytes: u64,
    sessions: u32,
    /// Batches that may come at once, as of `seen`.
    tokens: f64,
    seen: Instant,
}

impl Quotas {
    /// Nobody has sent anything.
    pub fn new(limits: Limits) -> Self {
        Self { limits, accounts: Mutex::default() }
    }

    /// Charges a batch of so many bytes to a principal; nothing where a limit of its is reached.
    pub fn batch(&self, principal: &str, bytes: u64) -> Result<(), Reached> {
        self.account(principal, |account, limits, until_tomorrow| {
            if account.tokens < 1.0 {
                return Err(Reached { limit: "batches_per_second", retry_after_s: 1 });
            }
            if account.bytes.saturating_add(bytes) > limits.bytes_per_day {
                return Err(Reached { limit: "bytes_per_day", retry_after_s: until_tomorrow });
            }
            account.tokens -= 1.0;
            account.bytes += bytes;
            Ok(())
        })
    }

    /// Charges a session that a principal opens.
    pub fn session(&self, principal: &str) -> Result<(), Reached> {
        self.account(principal, |account, limits, until_tomorrow| {
            if account.sessions >= limits.sessions_per_day {
                return Err(Reached { limit: "sessions_per_day", retry_after_s: until_tomorrow });
            }
            account.sessions += 1;
            Ok(())
        })
    }

    /// Gives the bytes of a batch back that was not taken, and will come again.
    pub fn batch_back(&self, principal: &str, bytes: u64) {
        let _ = self.account(principal, |account, _, _| {
            account.bytes = account.bytes.saturating_sub(bytes);
            Ok(())
        });
    }

    /// Gives a session back that was not opened.
    pub fn session_back(&self, principal: &str) {
        let _ = self.account(principal, |account, _, _| {
            account.sessions = account.sessions.saturating_sub(1);
            Ok(())
        });
    }

    /// Charges an account, as it is at this moment, with seconds until its next day.
    fn account(
        &self,
        principal: &str,
        charge: impl FnOnce(&mut Account, &Limits, u64) -> Result<(), Reached>,
    ) -> Result<(), Reached> {
        if principal.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        let age = |account: &Account| now.duration_since(account.day).as_secs();
        let rate = f64::from(self.limits.batches_per_second);
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if accounts.len() >= MOST_PRINCIPALS && !accounts.contains_key(principal) {
            accounts.retain(|_, account| age(account) < DAY_S);
        }
        let known = accounts.len() < MOST_PRINCIPALS || accounts.contains_key(principal);
        let name = if known { principal } else { "" };
        let fresh = || Account { day: now, bytes: 0, sessions: 0, tokens: rate * BURST, seen: now };
        let account = accounts.entry(name.to_owned()).or_insert_with(fresh);
        if age(account) >= DAY_S {
            (account.day, account.bytes, account.sessions) = (now, 0, 0);
        }
        let earned = now.duration_since(account.seen).as_secs_f64() * rate;
        account.tokens = (account.tokens + earned).min(rate * BURST);
        account.seen = now;
        let until_tomorrow = DAY_S.saturating_sub(age(account)).clamp(1, LONGEST_WAIT_S);
        charge(account, &self.limits, until_tomorrow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn each_limit_holds_for_each_principal_and_passes_with_its_time() {
        let limits = Limits { batches_per_second: 2, bytes_per_day: 1000, sessions_per_day: 3 };
        let quotas = Quotas::new(limits);
        let limit = |principal, bytes, opens| {
            let opened = if opens { quotas.session(principal) } else { Ok(()) };
            let charged = opened.and_then(|()| quotas.batch(principal, bytes));
            charged.err().map(|reached| reached.limit)
        };
        for _ in 0..20 {
            assert_eq!(limit("fast", 1, false), None);
        }
        assert_eq!(limit("fast", 1, false), Some("batches_per_second"));
        advance(Duration::from_millis(500)).await;
        assert_eq!(limit("fast", 1, false), None);
        assert_eq!(limit("fast", 1, false), Some("batches_per_second"));

        assert_eq!(limit("large", 1000, false), None);
        assert_eq!(limit("large", 1, false), Some("bytes_per_day"));
        for _ in 0..3 {
            assert_eq!(limit("many", 1, true), None);
        }
        assert_eq!(limit("many", 1, true), Some("sessions_per_day"));
        assert_eq!(limit("many", 1, false), None, "those that it has go on");
        advance(Duration::from_secs(DAY_S)).await;
        assert_eq!([limit("large", 1000, false), limit("many", 1, true)], [None, None]);
        assert!((0..1000).all(|_| limit("", 1000, true).is_none()), "senders that nobody knows");
    }

    #[tokio::test(start_paused = true)]
    async fn principals_without_end_take_no_memory_without_end() {
        let quotas = Quotas::new(Limits::default());
        for number in 0..MOST_PRINCIPALS + 10 {
            quotas.batch(&number.to_string(), 1).unwrap();
        }
        assert!(quotas.accounts.lock().unwrap().len() <= MOST_PRINCIPALS + 1);
        advance(Duration::from_secs(DAY_S)).await;
        quotas.batch("new", 1).unwrap();
        assert!(quotas.accounts.lock().unwrap().len() <= 2);
    }
}
