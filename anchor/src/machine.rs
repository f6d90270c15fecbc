//! The decisions of anchoring, without IO: from what is durable, what the chain shows, the newest
//! head and the time, to what to do next.
//!
//! ```text
//!          due            persist, send            in a block             block final
//!  idle ---------> plan ----------------> pending ------------> mined ----------------> idle
//!                   ^                      |   ^                  |
//!                   +-- bump_after_s ------+   +---- reorg -------+
//! ```

use crate::node::Market;
use crate::state::{InFlight, Mined, State};
use crate::tx::Fees;
use meshchain_core::{Hash, TreeHead};

/// Most attempts for one nonce. Raising a fee by an eighth 32 times is a factor of 43; each attempt
/// is looked up on each poll, so there must be an end.
const MAX_ATTEMPTS: usize = 32;
/// Looks in a row that show what contradicts the state, until it counts: a nonce that is used without a receipt of
/// ours, or a chain without the last final anchor. Several nodes behind one address may disagree for a moment.
pub(crate) const MAX_MISSES: u32 = 3;

/// Limits from the configuration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) interval_ms: u64,
    pub(crate) bump_after_ms: u64,
    /// Wei per gas.
    pub(crate) max_fee: u128,
    /// Wei.
    pub(crate) daily_budget: u128,
}

/// What the chain shows, read in this order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sight {
    /// Nonce of the account as of the newest block.
    pub(crate) nonce: u64,
    /// Nonce counting the pool; looked at while idle.
    pub(crate) pool_nonce: Option<u64>,
    /// Where an attempt's receipt is, and which attempt.
    pub(crate) found: Option<(usize, Mined)>,
    /// Newest final block.
    pub(crate) final_block: Option<u64>,
    /// Nonce as of that block; looked at when the nonce that is next, or in flight, is used and nothing was found.
    pub(crate) final_nonce: Option<u64>,
    /// Looks in a row at which that nonce was used, finally, and nothing was found.
    pub(crate) misses: u32,
    /// Whether the node knows the newest attempt.
    pub(crate) known: bool,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing.
    Rest,
    /// Nothing, and tell the operator.
    Hold(String),
    /// A transaction that the state does not know used the nonce.
    NonceUsed(String),
    /// The account's nonce is smaller than the next one.
    Behind(String),
    /// Plan an attempt; where that is impossible, hand the newest one over again if `resend`.
    Plan { resend: bool },
    /// Hand the newest attempt over again.
    Resend,
    /// Remember that an attempt is in a block.
    Mined(Mined),
    /// The block is gone: wait for another.
    Reorged(Mined),
    /// The attempt's block is final: prove it and be done with the nonce.
    Settle { attempt: usize, mined: Mined },
}

/// What an attempt costs and builds on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// The head that the contract holds.
    pub(crate) anchored: TreeHead,
    /// Root of the log's own tree at that size, where it has as many leaves.
    pub(crate) own: Option<Hash>,
    pub(crate) market: Market,
    /// Wei.
    pub(crate) balance: u128,
}

/// The next attempt, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plan {
    Rest,
    Hold(String),
    /// The contract's head is smaller than the last final anchor.
    Behind,
    /// The newest head is anchored, and its proof is not kept.
    TakeUp,
    /// Let the log grow no more: by the node's word the contract's head is not of its history.
    OtherHistory(String),
    Attempt {
        nonce: u64,
        prev_size: u64,
        fees: Fees,
    },
}

/// Whether the chain needs to be looked at: an anchor is in flight, or the log has grown and the
/// interval is over. A clock that went back ends it too.
pub(crate) fn due(state: &State, newest: Option<&TreeHead>, rules: &Rules, now_ms: u64) -> bool {
    let grown = newest.is_some_and(|h| h.size > state.last_final.map_or(0, |(size, _)| size));
    let over = elapsed(state.last_start_ms, now_ms, rules.interval_ms);
    state.in_flight.is_some() || grown && over
}

/// Why a log that is smaller than its last final anchor must not be anchored: it is an old copy, and
/// what it grows into would contradict the chain.
pub(crate) fn older_log(state: &State, newest: &TreeHead) -> Option<String> {
    let (size, _) = state.last_final.filter(|(size, _)| *size > newest.size)?;
    Some(format!(
        "this log is not all of the one that was anchored: it has {} leaves, {size} are anchored",
        newest.size
    ))
}

fn elapsed(since_ms: u64, now_ms: u64, wait_ms: u64) -> bool {
    now_ms < since_ms || now_ms - since_ms >= wait_ms
}

/// Judges what the chain shows.
pub(crate) fn decide(state: &State, sight: &Sight, rules: &Rules, now_ms: u64) -> Action {
    match &state.in_flight {
        None => decide_idle(state, sight),
        Some(flight) => match sight.found {
            Some((attempt, mined)) => decide_mined(flight, sight, attempt, mined),
            None => decide_pending(flight, sight, rules, now_ms),
        },
    }
}

fn decide_idle(state: &State, sight: &Sight) -> Action {
    match state.next_nonce {
        Some(next) if sight.nonce < next => lags(next, sight.nonce),
        Some(next) if sight.nonce > next => {
            used(sight, next, "is used, by a transaction that the state does not know")
        }
        _ if sight.pool_nonce.is_some_and(|n| n > sight.nonce) => Action::Hold(
            "the pool holds transactions of the account that are not of this anchor".to_owned(),
        ),
        _ => Action::Plan { resend: false },
    }
}

fn decide_mined(flight: &InFlight, sight: &Sight, attempt: usize, mined: Mined) -> Action {
    match flight.mined {
        Some(before) if before.block_hash != mined.block_hash => Action::Reorged(before),
        _ if sight.final_block.is_some_and(|n| n >= mined.block) => {
            Action::Settle { attempt, mined }
        }
        Some(_) => Action::Rest,
        None => Action::Mined(mined),
    }
}

fn decide_pending(flight: &InFlight, sight: &Sight, rules: &Rules, now_ms: u64) -> Action {
    let nonce = flight.nonce;
    if sight.nonce > nonce {
        return used(sight, nonce, "is used, but no attempt has a receipt yet");
    }
    if let Some(mined) = flight.mined {
        return Action::Reorged(mined);
    }
    if sight.nonce < nonce {
        return lags(nonce, sight.nonce);
    }
    if elapsed(flight.waiting_since_ms, now_ms, rules.bump_after_ms) {
        return Action::Plan { resend: !sight.known };
    }
    if sight.known { Action::Rest } else { Action::Resend }
}

/// A nonce is used only as of a final block, at several looks: one answer may be of another node, or false.
fn used(sight: &Sight, nonce: u64, so_far: &str) -> Action {
    if sight.final_nonce.is_some_and(|n| n > nonce) && sight.misses >= MAX_MISSES {
        Action::NonceUsed(format!(
            "nonce {nonce} of the account was used by a transaction that is none of our attempts"
        ))
    } else {
        Action::Hold(format!("nonce {nonce} of the account {so_far}: looking again"))
    }
}

fn lags(expected: u64, seen: u64) -> Action {
    Action::Behind(format!("the account's nonce is {seen} where {expected} is next"))
}

/// Plans an attempt to anchor `newest`: the first of a nonce, or one that replaces the others.
pub(crate) fn plan(
    state: &State,
    nonce: u64,
    terms: &Terms,
    newest: &TreeHead,
    rules: &Rules,
) -> Plan {
    let flight = state.in_flight.as_ref();
    if let Some(other) = check_head(state, terms, newest) {
        return other;
    }
    if flight.is_some_and(|f| f.attempts.len() >= MAX_ATTEMPTS) {
        return Plan::Hold(format!("no block takes any of {MAX_ATTEMPTS} attempts"));
    }
    match fees(flight, &terms.market, rules.max_fee) {
        Some(fees) => Plan::Attempt { nonce, prev_size: terms.anchored.size, fees },
        None => Plan::Hold("the price of gas is over max_fee_gwei".to_owned()),
    }
}

/// Compares the contract's head with ours; `Some` where nothing can be built on it.
fn check_head(state: &State, terms: &Terms, newest: &TreeHead) -> Option<Plan> {
    let anchored = &terms.anchored;
    let size = anchored.size;
    if size > newest.size {
        return Some(Plan::OtherHistory(format!(
            "this log is not all of the one that was anchored: by the word of the RPC node the \
             contract holds a head of size {size}, the log has only {}",
            newest.size
        )));
    }
    let flight = &state.in_flight;
    let attempts = flight.iter().flat_map(|f| &f.attempts);
    let mut known = attempts.map(|a| (a.size, a.root.0)).filter(|(s, _)| *s == size).peekable();
    let in_flight = known.peek().is_some();
    let last = state.last_final.map(|(size, root)| (size, root.0));
    let own = [(newest.size, newest.root)].into_iter().chain(terms.own.map(|root| (size, root)));
    let fork = known.chain(last).chain(own).any(|(s, root)| s == size && root != anchored.root);
    if size > 0 && fork {
        return Some(Plan::OtherHistory(format!(
            "this log is not the one that was anchored: by the word of the RPC node the contract \
             holds another root for size {size}"
        )));
    }
    if in_flight {
        // Mined between two looks: the receipt is about to be seen.
        return Some(Plan::Rest);
    }
    if last.is_some_and(|(final_size, _)| size < final_size) {
        return Some(Plan::Behind);
    }
    (size == newest.size && size > 0).then(|| match flight {
        None => Plan::TakeUp,
        Some(_) => Plan::Hold(format!("size {size} is anchored already, by none of our attempts")),
    })
}

/// Market fees within the cap; for a replacement at least an eighth more than any attempt so far,
/// in both fields. `None` where the cap forbids it.
fn fees(flight: Option<&InFlight>, market: &Market, cap: u128) -> Option<Fees> {
    if market.base > cap {
        return None;
    }
    // Room for the base fee to double, which takes it six full blocks.
    let want = market.base.saturating_mul(2).saturating_add(market.tip).max(market.price).min(cap);
    // Without a base fee the tip is the whole price, and some nodes ask for a least price.
    let tip = if market.base == 0 { market.tip.max(market.price) } else { market.tip };
    let attempts = || flight.into_iter().flat_map(|f| &f.attempts);
    let floor = attempts().map(|a| bumped(a.max_fee)).max().unwrap_or(0);
    let tip_floor = attempts().map(|a| bumped(a.tip)).max().unwrap_or(0);
    let max = want.max(floor);
    (max <= cap).then(|| Fees { max, tip: tip.max(tip_floor).min(max) })
}

/// The least that replaces a fee: 12.5 % more, and at least one wei. Nodes ask for 10 %.
fn bumped(fee: u128) -> u128 {
    fee.saturating_add(fee.div_ceil(8).max(1))
}

/// Whether an attempt with this gas limit keeps to the day's budget and the balance.
pub(crate) fn afford(
    state: &State,
    fees: &Fees,
    gas_limit: u64,
    balance: u128,
    rules: &Rules,
    now_ms: u64,
) -> Result<(), String> {
    let cost = fees.max.saturating_mul(u128::from(gas_limit));
    let earlier = state.in_flight.as_ref().map_or(0, InFlight::worst_cost);
    if state.spent_on_day(now_ms).saturating_add(cost.max(earlier)) > rules.daily_budget {
        return Err("daily_budget_eth is used up: waiting for the next UTC day".to_owned());
    }
    if cost > balance {
        return Err("insufficient funds: the account cannot pay for the anchor".to_owned());
    }
    Ok(())
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
