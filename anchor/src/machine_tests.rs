use super::*;
use crate::state::{Attempt, gone_on_from, settled};
use alloy_primitives::{Address, B256};

const RULES: Rules =
    Rules { interval_ms: 60_000, bump_after_ms: 60_000, max_fee: 1000, daily_budget: 1_000_000 };
const NOW: u64 = 1_000_000_000_000;
const DAY: u64 = 24 * 60 * 60 * 1000;

fn idle(next_nonce: Option<u64>, last_final: Option<u64>) -> State {
    let last_final = last_final.map(|size| (size, B256::repeat_byte(size as u8)));
    State { next_nonce, last_final, ..State::new(Address::ZERO, Address::ZERO, 1) }
}

fn attempt(size: u64, max_fee: u128, tip: u128) -> Attempt {
    Attempt {
        tx: B256::repeat_byte(100 + size as u8),
        raw: Default::default(),
        prev_size: 0,
        size,
        root: B256::repeat_byte(size as u8),
        checkpoint: String::new(),
        max_fee,
        tip,
        gas_limit: 100,
        time_ms: NOW,
    }
}

/// Nonce 5 in flight since `NOW`, with one attempt of size 10.
fn pending(mined: Option<Mined>) -> State {
    let attempts = vec![attempt(10, 100, 8)];
    let in_flight = Some(InFlight { nonce: 5, attempts, waiting_since_ms: NOW, mined });
    State { in_flight, ..idle(Some(5), Some(7)) }
}

fn block(number: u64, hash: u8) -> Mined {
    Mined { tx: B256::repeat_byte(110), block: number, block_hash: B256::repeat_byte(hash) }
}

fn head(size: u64) -> TreeHead {
    TreeHead { size, root: [size as u8; 32] }
}

fn terms(anchored: TreeHead) -> Terms {
    let own = Some(head(anchored.size).root);
    Terms { anchored, own, market: Market { base: 40, price: 45, tip: 5 }, balance: 1_000_000 }
}

fn is_hold(action: &Action) -> bool {
    matches!(action, Action::Hold(_))
}

fn is_behind(action: &Action) -> bool {
    matches!(action, Action::Behind(_))
}

fn is_used(action: &Action) -> bool {
    matches!(action, Action::NonceUsed(_))
}

#[test]
fn an_anchor_is_due_when_the_log_grew_and_the_interval_is_over() {
    let after = State { last_start_ms: NOW, ..idle(Some(5), Some(7)) };
    for (state, size, now, expected) in [
        (&after, Some(8), NOW + 60_000, true),
        (&after, Some(8), NOW + 59_999, false),
        (&after, Some(8), NOW - 1, true),
        (&after, Some(7), NOW + DAY, false),
        (&after, Some(6), NOW + DAY, false),
        (&after, None, NOW + DAY, false),
        (&idle(None, None), Some(1), NOW, true),
        (&pending(None), None, NOW, true),
    ] {
        let newest = size.map(head);
        assert_eq!(due(state, newest.as_ref(), &RULES, now), expected, "{size:?} {now}");
    }
}

#[test]
fn an_idle_account_is_used_only_where_its_nonce_is_ours() {
    let see = |nonce, pool| Sight { nonce, pool_nonce: Some(pool), ..Sight::default() };
    let act = |state: &State, sight| decide(state, &sight, &RULES, NOW);
    let plan = Action::Plan { resend: false };
    assert_eq!(act(&idle(None, None), see(3, 3)), plan);
    assert_eq!(act(&idle(Some(3), None), see(3, 3)), plan);
    assert!(is_behind(&act(&idle(Some(3), None), see(2, 3))), "latest lags");
    assert!(is_hold(&act(&idle(Some(3), None), see(3, 4))), "somebody else's in the pool");
    assert!(is_hold(&act(&idle(None, None), see(3, 4))));
    // A pool nonce that lags behind the latest one is no reason to wait.
    assert_eq!(act(&idle(Some(3), None), see(3, 0)), plan);
}

#[test]
fn a_pending_anchor_is_watched_sent_again_and_replaced() {
    let see = |nonce, known| Sight { nonce, known, ..Sight::default() };
    let late = NOW + 60_000;
    for (sight, now, expected) in [
        (see(5, true), NOW + 1, Action::Rest),
        (see(5, false), NOW + 1, Action::Resend),
        (see(5, true), late, Action::Plan { resend: false }),
        (see(5, false), late, Action::Plan { resend: true }),
        (see(5, true), NOW - 1, Action::Plan { resend: false }),
    ] {
        assert_eq!(decide(&pending(None), &sight, &RULES, now), expected, "{sight:?}");
    }
    assert!(is_behind(&decide(&pending(None), &see(4, true), &RULES, late)), "latest lags");
}

#[test]
fn a_mined_anchor_waits_for_finality_and_goes_back_to_pending_on_a_reorg() {
    let see = |mined, final_block| Sight {
        nonce: 6,
        found: Some((0, mined)),
        final_block,
        ..Sight::default()
    };
    let (here, there) = (block(20, 1), block(20, 2));
    let settle = |mined| Action::Settle { attempt: 0, mined };
    for (state, sight, expected) in [
        (pending(None), see(here, None), Action::Mined(here)),
        (pending(None), see(here, Some(19)), Action::Mined(here)),
        (pending(Some(here)), see(here, Some(19)), Action::Rest),
        (pending(Some(here)), see(here, Some(20)), settle(here)),
        (pending(None), see(here, Some(25)), settle(here)),
        // In another block now, be it of the same number or not.
        (pending(Some(here)), see(there, Some(25)), Action::Reorged(here)),
        (pending(Some(here)), see(block(21, 3), None), Action::Reorged(here)),
        // In no block now.
        (pending(Some(here)), Sight { nonce: 5, ..Sight::default() }, Action::Reorged(here)),
        (pending(Some(here)), Sight { nonce: 4, ..Sight::default() }, Action::Reorged(here)),
    ] {
        assert_eq!(decide(&state, &sight, &RULES, NOW), expected, "{sight:?}");
    }
    // The receipt counts even where the nonce lags.
    let lagging = Sight { nonce: 4, ..see(here, Some(20)) };
    assert_eq!(decide(&pending(Some(here)), &lagging, &RULES, NOW), settle(here));
}

#[test]
fn a_used_nonce_without_our_receipt_counts_only_when_it_is_final_and_seen_again() {
    let used = Sight { nonce: 6, ..Sight::default() };
    let missed = |misses| Sight { final_nonce: Some(6), misses, ..used.clone() };
    for state in [pending(None), pending(Some(block(20, 1))), idle(Some(5), Some(7))] {
        let act = |sight: &Sight| decide(&state, sight, &RULES, NOW + DAY);
        assert!(is_hold(&act(&used)));
        assert!(is_hold(&act(&Sight { final_nonce: Some(5), misses: 9, ..used.clone() })));
        assert!(is_hold(&act(&missed(MAX_MISSES - 1))));
        assert!(is_used(&act(&missed(MAX_MISSES))));
    }
}

#[test]
fn an_attempt_builds_on_the_contracts_head() {
    let fees = Fees { max: 85, tip: 5 };
    let act = |state: &State, anchored, newest| plan(state, 5, &terms(anchored), &newest, &RULES);
    let after = idle(Some(5), Some(7));
    let built = |prev_size| Plan::Attempt { nonce: 5, prev_size, fees };
    assert_eq!(act(&after, head(7), head(9)), built(7));
    assert_eq!(act(&idle(None, None), head(0), head(9)), built(0));
    // Anchored by somebody, or by us before the data was lost.
    assert_eq!(act(&idle(None, None), head(8), head(9)), built(8));
    assert!(matches!(act(&after, head(10), head(9)), Plan::OtherHistory(_)), "ahead of the log");
    assert_eq!(act(&after, head(6), head(9)), Plan::Behind);
    assert_eq!(act(&after, head(9), head(9)), Plan::TakeUp, "there already");
    let fork = |size| TreeHead { size, root: [255; 32] };
    assert!(
        matches!(act(&after, fork(9), head(9)), Plan::OtherHistory(_)),
        "other root than the log"
    );
    assert!(matches!(act(&after, fork(7), head(9)), Plan::OtherHistory(_)), "than the last");
    let nothing_kept = act(&idle(None, None), fork(8), head(9));
    assert!(matches!(nothing_kept, Plan::OtherHistory(_)), "than the log's own at that size");
    // In flight: our own attempt was mined since the look.
    assert_eq!(act(&pending(None), head(10), head(12)), Plan::Rest);
    assert_eq!(act(&pending(None), head(10), head(10)), Plan::Rest);
    assert!(matches!(act(&pending(None), fork(10), head(12)), Plan::OtherHistory(_)));
}

#[test]
fn a_replacement_raises_both_fees_by_an_eighth_and_keeps_to_the_cap() {
    let state = |attempts| {
        let flight = InFlight { nonce: 5, attempts, waiting_since_ms: NOW, mined: None };
        State { in_flight: Some(flight), ..idle(Some(5), Some(7)) }
    };
    let replace = |attempts, base, tip| {
        let market = Market { base, price: base + tip, tip };
        let terms = Terms { market, ..terms(head(7)) };
        match plan(&state(attempts), 5, &terms, &head(12), &RULES) {
            Plan::Attempt { fees, .. } => Some((fees.max, fees.tip)),
            Plan::Hold(_) => None,
            other => panic!("{other:?}"),
        }
    };
    for (attempts, base, tip, expected) in [
        // The market went down, stayed, went up.
        (vec![attempt(10, 100, 8)], 1, 1, Some((113, 9))),
        (vec![attempt(10, 101, 9)], 50, 1, Some((114, 11))),
        (vec![attempt(10, 100, 8)], 200, 20, Some((420, 20))),
        // Above all earlier ones, not only the last.
        (vec![attempt(10, 100, 80), attempt(11, 200, 8)], 1, 1, Some((225, 90))),
        // From nothing to one wei.
        (vec![attempt(10, 0, 0)], 0, 0, Some((1, 1))),
        // Up to the cap, not over it.
        (vec![attempt(10, 100, 8)], 900, 8, Some((1000, 9))),
        (vec![attempt(10, 888, 8)], 1, 1, Some((999, 9))),
        (vec![attempt(10, 889, 8)], 1, 1, None),
        (vec![attempt(10, 100, 8)], 1001, 8, None),
        (vec![attempt(10, 1, 1); MAX_ATTEMPTS], 1, 1, None),
    ] {
        assert_eq!(replace(attempts, base, tip), expected, "{base} {tip}");
    }
}

#[test]
fn the_first_offer_follows_the_market() {
    let offer = |base, price, tip| {
        let terms = Terms { market: Market { base, price, tip }, ..terms(head(0)) };
        match plan(&idle(None, None), 0, &terms, &head(1), &RULES) {
            Plan::Attempt { fees, .. } => Some((fees.max, fees.tip)),
            _ => None,
        }
    };
    assert_eq!(offer(40, 45, 5), Some((85, 5)));
    assert_eq!(offer(0, 0, 0), Some((0, 0)), "a chain without fees");
    assert_eq!(offer(0, 7, 0), Some((7, 7)), "no base fee, but a least price");
    assert_eq!(offer(990, 995, 5), Some((1000, 5)), "the cap is below twice the base fee");
    assert_eq!(offer(1, 1, u128::MAX), Some((1000, 1000)), "a node's greed ends at the cap");
    assert_eq!(offer(u128::MAX, 0, 0), None);
}

#[test]
fn budget_and_balance_are_kept_with_the_worst_case_of_the_anchor_in_flight() {
    let fees = Fees { max: 100, tip: 1 };
    let pay = |state: &State, gas, balance, now| afford(state, &fees, gas, balance, &RULES, now);
    let mut state = idle(None, None);
    assert!(pay(&state, 10_000, 1_000_000, NOW).is_ok());
    assert!(pay(&state, 10_001, u128::MAX, NOW).unwrap_err().contains("budget"));
    assert!(pay(&state, 10_000, 999_999, NOW).unwrap_err().contains("insufficient funds"));
    state.spent = (NOW / DAY, 600_000);
    assert!(pay(&state, 4_000, u128::MAX, NOW).is_ok());
    assert!(pay(&state, 4_001, u128::MAX, NOW).is_err());
    assert!(pay(&state, 10_000, u128::MAX, NOW + DAY).is_ok(), "the next day");
    // An earlier attempt that is dearer may still be the one that is mined.
    let dear = Attempt { gas_limit: 5000, ..attempt(10, 100, 8) };
    let flight = InFlight { nonce: 5, attempts: vec![dear], waiting_since_ms: NOW, mined: None };
    state.in_flight = Some(flight);
    assert!(pay(&state, 1, u128::MAX, NOW).is_err());
}

#[test]
fn settling_counts_the_cost_and_gives_the_nonce_up() {
    let mut state = pending(None);
    state.spent = (NOW / DAY, 7);
    state.gas_used = 100;
    let next = settled(&state, 5, 3, NOW);
    assert_eq!((next.next_nonce, next.spent, next.in_flight), (Some(6), (NOW / DAY, 22), None));
    assert_eq!(next.gas_used, 105);
    assert_eq!(settled(&state, 5, 3, NOW + DAY).spent, (NOW / DAY + 1, 15));
}

#[test]
fn what_is_given_up_for_a_chains_word_is_no_proof_and_counts_as_spent() {
    let state = State { spent: (NOW / DAY, 7), gas_used: 100, ..pending(None) };
    let next = gone_on_from(&state, &head(3), NOW);
    assert_eq!((next.next_nonce, next.in_flight), (None, None), "no proof tells them");
    assert_eq!(next.last_final, Some((3, B256::repeat_byte(3))));
    // A block may still take it: 100 gas at 100 wei.
    assert_eq!((next.spent, next.gas_used), ((NOW / DAY, 10_007), 100));
    let none = gone_on_from(&idle(Some(5), Some(7)), &TreeHead { size: 0, root: [9; 32] }, NOW);
    assert_eq!((none.last_final, none.spent), (None, (NOW / DAY, 0)));
}

#[test]
fn a_log_that_is_smaller_than_its_last_anchor_is_an_old_copy() {
    assert_eq!(older_log(&idle(None, None), &head(0)), None);
    let anchored = idle(Some(1), Some(10));
    assert_eq!(older_log(&anchored, &head(10)), None);
    assert!(
        older_log(&anchored, &head(9))
            .is_some_and(|reason| reason.contains("not all of the one that was anchored"))
    );
}
