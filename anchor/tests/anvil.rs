//! Anchoring against a real anvil, and against one behind a proxy that misbehaves.

mod faults;
mod former;
mod handover;
mod rewound;
mod support;
mod word;

use alloy_primitives::{Address, B256};
use meshchain_anchor::{AnchorEvent, Finality, Witness};
use serde_json::{Value, json};
use support::proxy::{Fate, Proxy};
use support::{Anvil, Bench, head, root};

#[tokio::test(flavor = "multi_thread")]
async fn anchors_grow_with_the_log_and_their_proofs_verify() {
    let anvil = Anvil::start();
    let mut bench = Bench::new(&anvil);
    bench.start().await;
    bench.grow(3);
    assert_eq!(bench.finalized(3).await.evidence.transaction_index, 0);

    // A block with transactions of others around ours.
    anvil.automine(false);
    for account in &anvil.accounts[2..9] {
        let tx = json!({"from": account, "to": account, "value": "0x1"});
        anvil.rpc("eth_sendTransaction", json!([tx]));
    }
    bench.grow(8);
    let sent = bench.submitted().await;
    bench.until(|| anvil.knows(sent.tx)).await;
    anvil.rpc("eth_sendTransaction", json!([{"from": anvil.accounts[9], "to": Address::ZERO}]));
    anvil.mine(1);
    let in_company = bench.finalized(8).await;
    assert!(in_company.evidence.receipt_proof.len() > 1);
    anvil.automine(true);

    bench.anchored(21).await;
    assert_eq!(anvil.head(), (21, root(21).into()));
    assert_eq!(anvil.nonce(), 3);

    let finals = bench.anchor().finals();
    assert_eq!(finals.sizes(), [3, 8, 21]);
    for (size, covering) in [(0, Some(3)), (3, Some(3)), (4, Some(8)), (21, Some(21)), (22, None)] {
        assert_eq!(bench.anchor().covering(size).await.unwrap().map(|a| a.size), covering);
    }
    let newest: Vec<_> = finals.newest(u64::MAX, 2).await.unwrap().iter().map(|a| a.size).collect();
    assert_eq!(newest, [21, 8]);
    let status = bench.anchor().status();
    assert_eq!((status.last_final_size, status.alert, status.in_flight), (Some(21), None, None));
    assert!(!status.spent_today_wei.is_zero() && status.balance_wei.is_some());

    // A log that does not grow costs nothing, a restart neither, which knows at once what there is.
    let mut gas = 0;
    for size in finals.sizes() {
        gas += finals.get(size).await.unwrap().unwrap().gas_used;
    }
    let time = finals.get(21).await.unwrap().unwrap().block_timestamp;
    bench.stop().await;
    bench.start().await;
    let found = bench.event("what is kept", |e| matches!(e, AnchorEvent::Found { .. })).await;
    let (chain, size, block_time) = ("test".into(), Some(21), Some(time));
    assert_eq!(found, AnchorEvent::Found { chain, size, block_time, gas_used: gas });
    bench.anchored(22).await;
    assert_eq!(bench.anchor().finals().sizes(), [3, 8, 21, 22]);
    assert_eq!(anvil.nonce(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_final_before_the_chain_says_so() {
    for finality in [Finality::Finalized, Finality::Safe, Finality::Depth(4)] {
        let anvil = Anvil::start();
        let mut bench = Bench::new(&anvil);
        bench.config.finality = finality;
        bench.start().await;
        bench.grow(3);
        bench.mined().await;
        // Growth in the meantime waits: one nonce at a time.
        bench.grow(4);
        anvil.mine(1);
        assert!(bench.anchor().finals().sizes().is_empty());
        assert!(bench.anchor().status().in_flight.unwrap().mined_block.is_some());
        anvil.mine(3);
        bench.finalized(3).await;
        bench.mined().await;
        anvil.mine(4);
        bench.finalized(4).await;
        assert_eq!(anvil.nonce(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_the_middle_loses_nothing_and_anchors_nothing_twice() {
    let anvil = Anvil::start();
    anvil.automine(false);
    let mut bench = Bench::new(&anvil);
    bench.start().await;
    bench.grow(3);
    let sent = bench.submitted().await;
    bench.stop().await;
    assert_eq!(bench.pending()["in_flight"]["attempts"][0]["tx"], json!(sent.tx));

    // Mined while nobody looks.
    anvil.mine(1);
    bench.grow(5);
    bench.start().await;
    assert_eq!(bench.finalized(3).await.tx, sent.tx);
    bench.submitted().await;
    bench.stop().await;
    // Still pending when it is back.
    bench.start().await;
    anvil.mine(1);
    bench.finalized(5).await;
    assert_eq!(anvil.nonce(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reorg_puts_the_anchor_back_to_pending() {
    let anvil = Anvil::start();
    let mut bench = Bench::new(&anvil);
    bench.config.finality = Finality::Finalized;
    bench.start().await;
    bench.grow(3);
    bench.mined().await;
    anvil.rpc("anvil_reorg", json!([1, []]));
    bench.event("reorg", |e| matches!(e, AnchorEvent::Reorged { .. })).await;
    // The transaction is sent again as it was.
    bench.mined().await;
    anvil.mine(5);
    bench.finalized(3).await;
    assert_eq!((anvil.nonce(), anvil.head().0), (1, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_attempt_is_replaced_by_the_newest_root() {
    let anvil = Anvil::start();
    anvil.automine(false);
    let mut bench = Bench::new(&anvil);
    bench.config.bump_after_s = 1;
    bench.start().await;
    bench.grow(3);
    let first = bench.submitted().await;
    bench.grow(9);
    let second = bench.replaced().await;
    assert_eq!((second.nonce, second.attempt, second.size), (first.nonce, 2, 9));
    assert!(second.max_fee * 8 >= first.max_fee * 9);
    bench.until(|| anvil.knows(second.tx)).await;
    anvil.mine(1);
    bench.finalized(9).await;
    assert_eq!((anvil.nonce(), anvil.head().0), (1, 9));
    assert_eq!(bench.anchor().finals().sizes(), [9]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_transaction_is_sent_again() {
    let anvil = Anvil::start();
    anvil.automine(false);
    let mut bench = Bench::new(&anvil);
    bench.start().await;
    bench.grow(3);
    let sent = bench.submitted().await;
    bench.until(|| anvil.knows(sent.tx)).await;
    anvil.rpc("anvil_dropTransaction", json!([sent.tx]));
    bench.until(|| anvil.knows(sent.tx)).await;
    anvil.mine(1);
    assert_eq!(bench.finalized(3).await.tx, sent.tx);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_stranger_used_the_nonce_nothing_is_sent() {
    let anvil = Anvil::start();
    let mut bench = Bench::new(&anvil);
    bench.start().await;
    bench.anchored(2).await;
    anvil.automine(false);
    bench.grow(3);
    let sent = bench.submitted().await;
    bench.until(|| anvil.knows(sent.tx)).await;
    let fee = "0x174876e800";
    let tx = json!({"from": anvil.sender(), "to": anvil.sender(), "nonce": "0x1",
        "maxFeePerGas": fee, "maxPriorityFeePerGas": fee});
    anvil.rpc("eth_sendTransaction", json!([tx]));
    anvil.mine(1);
    bench.alert("none of our attempts: the key is shared or stolen", false).await;
    // A restart does not forget.
    bench.stop().await;
    bench.start().await;
    bench.alert("a key of its own", false).await;
    assert_eq!(anvil.nonce(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_others_use_between_anchors_sends_nothing() {
    let anvil = Anvil::start();
    let mut bench = Bench::new(&anvil);
    bench.start().await;
    bench.anchored(3).await;
    anvil.anchor_as_stranger(3, 4);
    bench.grow(5);
    bench.alert("by a transaction that the state does not know", false).await;
    bench.alert("a key of its own", false).await;
    assert_eq!(anvil.nonce(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_from_an_older_copy_goes_on_from_what_the_chain_holds() {
    // The copies: idle, with an attempt in flight that was mined later, and with one that was replaced.
    for copied in ["idle", "in flight", "replaced"] {
        let anvil = Anvil::start();
        let mut bench = Bench::new(&anvil);
        bench.config.finality = Finality::Depth(2);
        bench.config.bump_after_s = if copied == "replaced" { 1 } else { 3600 };
        bench.start().await;
        bench.grow(3);
        bench.mined().await;
        anvil.mine(1);
        bench.finalized(3).await;
        anvil.automine(copied == "idle");
        if copied != "idle" {
            bench.grow(5);
            bench.submitted().await;
        }
        let older = bench.pending();
        if copied != "idle" {
            let replaced = copied == "replaced";
            let (size, tx) = if replaced {
                bench.grow(6);
                (6, bench.replaced().await.tx)
            } else {
                (5, older["in_flight"]["attempts"][0]["tx"].as_str().unwrap().parse().unwrap())
            };
            bench.until(|| anvil.knows(tx)).await;
            anvil.mine(2);
            bench.finalized(size).await;
            anvil.automine(true);
        }
        bench.grow(8);
        bench.mined().await;
        bench.stop().await;
        let nonce = anvil.nonce();

        bench.put_pending(&older);
        bench.start().await;
        // Not before the anchor is final: a reorg may still take it.
        bench.alert("looking again", false).await;
        assert_ne!(bench.pending()["last_final"][0], json!(8));
        anvil.mine(1);
        let fits = |e: &AnchorEvent| matches!(e, AnchorEvent::OlderState { size: 8, .. });
        bench.event("older state", fits).await;
        bench.recovered().await;
        assert_eq!(bench.pending()["last_final"][0], json!(8));
        bench.grow(9);
        bench.mined().await;
        anvil.mine(1);
        bench.finalized(9).await;
        assert_eq!(anvil.nonce(), nonce + 1, "{copied}");
        assert!(!bench.anchor().status().stopped);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_cannot_be_read_stops_its_anchor_and_the_log_is_compared_all_the_same() {
    let anvil = Anvil::start();
    let mut bench = Bench::new(&anvil);
    bench.start().await;
    bench.anchored(3).await;
    bench.stop().await;
    let good = bench.pending();
    let (mut renamed, mut other, mut empty) = (good.clone(), good.clone(), good.clone());
    renamed["last_start_mr"] = json!(1);
    other["version"] = json!(2);
    empty["in_flight"] = json!({"nonce": 1, "attempts": [], "waiting_since_ms": 0, "mined": null});
    for bad in [json!("x"), renamed, other, empty] {
        bench.put_pending(&bad);
        bench.grow(5);
        bench.start().await;
        bench.event("comparison", |e| matches!(e, AnchorEvent::Compared { .. })).await;
        bench.alert("nothing is anchored on this chain, the log goes on", true).await;
        assert!(bench.anchor().status().stopped);
        bench.stop().await;
        // A log that is not the anchored one is told so.
        bench.grow(2);
        bench.start().await;
        bench.other_history("the log has fewer", Witness::Kept).await;
        bench.stop().await;
        assert_eq!(bench.pending(), bad, "it stays as it is");
    }
    assert_eq!(anvil.nonce(), 1);
    bench.put_pending(&good);
    bench.grow(6);
    bench.start().await;
    bench.finalized(6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_anchor_builds_on_a_head_that_it_did_not_make_unless_the_log_is_behind_it() {
    let anvil = Anvil::start();
    anvil.anchor_as_stranger(0, 20);
    let mut bench = Bench::new(&anvil);
    bench.grow(50);
    bench.start().await;
    bench.finalized(50).await;
    assert_eq!(anvil.head().0, 50);

    let mut behind = Bench::new(&anvil);
    behind.grow(49);
    behind.start().await;
    behind.other_history("50 leaves, the log has fewer", Witness::Node).await;
    assert_eq!(anvil.nonce(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_not_the_anchored_one_is_told_so_at_the_start_or_when_the_node_is_back() {
    let anvil = Anvil::start();
    anvil.anchor_other(0, 7, B256::repeat_byte(9));
    for node_is_there in [true, false] {
        // Grown past the anchored size meanwhile: only the root at that size tells.
        let mut bench = Bench::new(&anvil);
        let proxy =
            Proxy::start(
                &anvil.url,
                move |_, _| {
                    if node_is_there { Fate::Forward } else { Fate::Lose }
                },
            );
        bench.config.rpc = proxy.url.clone();
        bench.grow(10);
        bench.start().await;
        if !node_is_there {
            bench.grow(11);
            bench.alert("", false).await;
            proxy.set(|_, _| Fate::Forward);
        }
        bench.other_history("another root for 7", Witness::Node).await;
        // It asks again, and sends nothing.
        bench.grow(12);
        let calls = proxy.calls();
        bench.until(|| proxy.calls() > calls + 12).await;
        let status = bench.anchor().status();
        assert!(status.alert.unwrap().contains("another root for 7") && !status.stopped);
        assert_eq!(anvil.nonce(), 1, "nothing was sent");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_of_another_history_is_told_without_a_node() {
    let anvil = Anvil::start();
    let mut bench = Bench::new(&anvil);
    bench.grow(7);
    bench.start().await;
    bench.finalized(7).await;
    bench.stop().await;
    bench.config.rpc = "http://127.0.0.1:1".into();
    bench.grow(6);
    bench.start().await;
    bench.other_history("is of 7 leaves, the log has fewer", Witness::Kept).await;
    assert!(bench.anchor().status().stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_takes_its_word_back_is_believed_again() {
    let lies: [fn() -> Fate; 2] =
        [|| head(20, root(20).into(), 0), || head(2, B256::repeat_byte(7), 0)];
    for lie in lies {
        let anvil = Anvil::start();
        let lying = move |method: &str, _: &Value| match method {
            "eth_call" => lie(),
            _ => Fate::Forward,
        };
        let proxy = Proxy::start(&anvil.url, lying);
        let mut bench = Bench::behind(&proxy, &anvil);
        // At its first word, and when it was right before.
        for size in [3, 4] {
            if size == 3 {
                bench.grow(3);
                bench.start().await;
            } else {
                proxy.set(move |method, _| match method {
                    "eth_call" => head(20, root(20).into(), 0),
                    _ => Fate::Forward,
                });
                bench.grow(4);
            }
            bench.other_history("by the word of the RPC node", Witness::Node).await;
            assert_eq!(anvil.nonce(), size - 3, "nothing was sent");
            proxy.set(|_, _| Fate::Forward);
            bench.event("comparison", |e| matches!(e, AnchorEvent::Compared { .. })).await;
            bench.recovered().await;
            bench.finalized(size).await;
        }
        assert_eq!(anvil.nonce(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lags_behind_the_last_anchor_was_not_asked() {
    let anvil = Anvil::start();
    let proxy = Proxy::start(&anvil.url, |_, _| Fate::Forward);
    let mut bench = Bench::behind(&proxy, &anvil);
    bench.start().await;
    bench.anchored(3).await;
    bench.stop().await;
    proxy.set(|method, _| match method {
        "eth_call" => head(2, root(2).into(), 0),
        _ => Fate::Forward,
    });
    bench.start().await;
    let told = |e: &AnchorEvent| {
        matches!(e, AnchorEvent::Compared { .. }) || matches!(e, AnchorEvent::Alert { .. })
    };
    match bench.event("comparison or alert", told).await {
        AnchorEvent::Alert { reason, .. } => assert!(reason.contains("the node lags"), "{reason}"),
        other => panic!("{other:?}"),
    }
    proxy.set(|_, _| Fate::Forward);
    bench.event("comparison", |e| matches!(e, AnchorEvent::Compared { .. })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_chain_or_without_the_contract_is_asked_again() {
    let anvil = Anvil::start();
    type Lie = fn() -> Fate;
    let lies: [(&str, Lie, &str); 2] = [
        ("eth_chainId", || Fate::Result(json!("0x1")), "the node is on chain 1, chain_id is 31337"),
        ("eth_getCode", || Fate::Result(json!("0x")), "there is no contract at"),
    ];
    for (size, (method, lie, words)) in (3..).zip(lies) {
        let proxy = Proxy::start(&anvil.url, move |called, _| match called == method {
            true => lie(),
            false => Fate::Forward,
        });
        let mut bench = Bench::behind(&proxy, &anvil);
        bench.grow(size);
        bench.start().await;
        bench.alert(words, false).await;
        assert_eq!(anvil.nonce(), size - 3, "nothing was sent");
        proxy.set(|_, _| Fate::Forward);
        bench.recovered().await;
        bench.finalized(size).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn caps_on_price_budget_and_balance_wait_and_alert() {
    let anvil = Anvil::start();
    let mut bench = Bench::new(&anvil);
    let base_fee = |gwei: u64| {
        let wei = format!("{:#x}", gwei * 1_000_000_000);
        anvil.rpc("anvil_setNextBlockBaseFeePerGas", json!([wei]));
        anvil.mine(1);
    };
    let balance = |wei: &str| anvil.rpc("anvil_setBalance", json!([anvil.sender(), wei]));
    base_fee(501);
    bench.start().await;
    bench.grow(3);
    bench.alert("over max_fee_gwei", false).await;
    base_fee(1);
    bench.recovered().await;
    bench.finalized(3).await;
    balance("0x1");
    bench.grow(4);
    bench.alert("insufficient funds", false).await;
    balance("0xde0b6b3a7640000");
    bench.finalized(4).await;
    bench.stop().await;
    bench.config.daily_budget_wei = 1;
    bench.start().await;
    bench.grow(5);
    bench.alert("daily_budget_eth", false).await;
    assert_eq!(anvil.nonce(), 2);
}
