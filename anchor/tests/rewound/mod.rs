//! A chain that holds less than what was final, or another block of it: it was rewound, or its node lags or is of a fork.

use super::support::proxy::{Fate, Proxy};
use super::support::{Anvil, Bench, forward, head};
use meshchain_anchor::AnchorEvent;
use serde_json::{Value, json};

pub fn rewound(was: u64, size: u64) -> impl Fn(&AnchorEvent) -> bool {
    move |e| matches!(e, AnchorEvent::Rewound { was: w, size: s, .. } if (*w, *s) == (was, size))
}

pub fn compared(e: &AnchorEvent) -> bool {
    matches!(e, AnchorEvent::Compared { .. })
}

/// Anchored at 3 and, in a block that the chain gave up later, at 6; and what was kept of 6.
async fn rewound_past_6(bench: &mut Bench, anvil: &Anvil) -> Vec<u8> {
    bench.start().await;
    bench.anchored(3).await;
    let snapshot = anvil.rpc("evm_snapshot", json!([]));
    bench.anchored(6).await;
    let kept = bench.receipt(6).unwrap();
    anvil.rpc("evm_revert", json!([snapshot]));
    assert_eq!(anvil.head().0, 3);
    kept
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_was_rewound_past_a_final_block_is_anchored_on_again() {
    for restarted in [false, true] {
        for grown in [false, true] {
            let anvil = Anvil::start();
            let mut bench = Bench::new(&anvil);
            let kept = rewound_past_6(&mut bench, &anvil).await;
            let size = if grown { 7 } else { 6 };
            if restarted {
                bench.stop().await;
            }
            bench.grow(size);
            // Not before it has blocks that come after the one that is gone.
            if restarted {
                bench.start().await;
            }
            if restarted || grown {
                bench.alert("the node lags", false).await;
            }
            assert_eq!(bench.pending()["last_final"][0], json!(6));
            anvil.mine(3);
            if !restarted && !grown {
                // What idles looks at the chain when the log grows, or at the next start.
                bench.stop().await;
                bench.start().await;
            }
            bench.alert("the chain was rewound", false).await;
            bench.event("rewound chain", rewound(6, 3)).await;
            assert_eq!(bench.pending()["next_nonce"], Value::Null);
            bench.finalized(size).await;
            assert_eq!((anvil.nonce(), anvil.head().0), (2, size));
            // Evidence that carried the anchor that is gone can still be explained, and no other carries it.
            assert!(bench.given_up(6).unwrap() == kept, "{restarted} {grown}");
            assert_eq!(bench.anchor().finals().sizes(), [3, size]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_was_made_again_and_is_shorter_is_anchored_on_again() {
    let anvil = Anvil::start();
    let snapshot = anvil.rpc("evm_snapshot", json!([]));
    let mut bench = Bench::new(&anvil);
    anvil.mine(50);
    bench.start().await;
    bench.anchored(3).await;
    bench.stop().await;
    anvil.rpc("evm_revert", json!([snapshot]));
    anvil.rpc("evm_increaseTime", json!([600]));
    anvil.mine(1);
    bench.grow(4);
    bench.start().await;
    bench.event("rewound chain", rewound(3, 0)).await;
    bench.event("comparison", compared).await;
    bench.finalized(4).await;
    assert_eq!((anvil.nonce(), anvil.head().0), (1, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_anchor_that_a_rewound_chain_took_up_again_is_kept_out_of_its_new_block() {
    let anvil = Anvil::start();
    let mut bench = Bench::new(&anvil);
    bench.start().await;
    bench.anchored(3).await;
    let snapshot = anvil.rpc("evm_snapshot", json!([]));
    let gone = bench.anchored(6).await;
    bench.stop().await;
    anvil.rpc("evm_revert", json!([snapshot]));
    anvil.mine(3);
    anvil.anchor_as_stranger(3, 6);
    bench.start().await;
    bench.until(|| bench.given_up(6).is_some()).await;
    bench.until(|| bench.block_of(6) == anvil.latest()).await;
    assert_ne!(bench.block_of(6), gone.block_number);
    bench.anchored(7).await;
    assert_eq!(bench.anchor().finals().sizes(), [3, 6, 7]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_a_fork_costs_gas_and_no_proof() {
    // The same account and contract, and the log anchored there as well.
    let (honest, fork) = (Anvil::start(), Anvil::start());
    assert_eq!(honest.contract, fork.contract);
    fork.mine(9);
    fork.anchor_as_stranger(0, 3);
    fork.mine(9);
    let proxy = Proxy::start(&honest.url, |_, _| Fate::Forward);
    let mut bench = Bench::behind(&proxy, &honest);
    bench.start().await;
    for size in [3, 5, 6] {
        bench.anchored(size).await;
    }
    let kept = [3, 5, 6].map(|size| bench.receipt(size).unwrap());
    let url = fork.url.clone();
    proxy.set(move |method, params| {
        let call = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        Fate::Result(forward(&url, &call)["result"].clone())
    });
    bench.grow(7);
    bench.event("rewound chain", rewound(6, 3)).await;
    bench.finalized(7).await;
    proxy.set(|_, _| Fate::Forward);
    honest.mine(30);
    bench.grow(9);
    bench.event("rewound chain", rewound(7, 6)).await;
    bench.finalized(9).await;
    assert_eq!(bench.anchor().finals().sizes(), [3, 6, 9]);
    assert!(bench.receipt(6).unwrap() == kept[2], "fetched again, byte for byte");
    let aside = [3, 5, 6].map(|size| bench.given_up(size).unwrap());
    assert!(aside == kept && bench.given_up(7).is_some());
    assert_eq!((honest.nonce(), honest.head().0), (4, 9));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nonce_that_a_chain_took_back_without_an_anchor_is_given_up_in_time() {
    let anvil = Anvil::start();
    let mut bench = Bench::new(&anvil);
    bench.start().await;
    bench.anchored(3).await;
    bench.stop().await;
    // As if a transaction had failed, and was final.
    let mut state = bench.pending();
    state["next_nonce"] = json!(2);
    bench.put_pending(&state);
    bench.grow(4);
    bench.start().await;
    bench.alert("nonce is 1 where 2 is next: the node lags", false).await;
    bench.stop().await;
    let started = state["last_start_ms"].as_u64().unwrap();
    state["last_start_ms"] = json!(started - 2 * 60 * 60 * 1000);
    bench.put_pending(&state);
    bench.start().await;
    bench.event("rewound chain", rewound(3, 3)).await;
    bench.finalized(4).await;
    assert_eq!(anvil.nonce(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_that_is_lost_is_fetched_again_where_the_log_does_not_grow() {
    let anvil = Anvil::start();
    let mut bench = Bench::new(&anvil);
    bench.start().await;
    bench.anchored(3).await;
    bench.stop().await;
    let kept = bench.receipt(3);
    bench.lose_receipt(3);
    bench.start().await;
    bench.until(|| bench.receipt(3).is_some()).await;
    assert_eq!(bench.receipt(3), kept);
    bench.anchored(4).await;
    assert_eq!(anvil.nonce(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollup_whose_contract_names_blocks_of_another_chain_is_gone_on_from_too() {
    let anvil = Anvil::start();
    for names in [0, 1, u64::MAX] {
        let mut bench = Bench::new(&anvil);
        bench.grow(3 + anvil.head().0);
        bench.start().await;
        let size = bench.submitted().await.size;
        let older = json!({ "next_nonce": anvil.nonce(), "last_final": null });
        bench.finalized(size).await;
        bench.stop().await;
        let mut state = bench.pending();
        for (member, value) in older.as_object().unwrap() {
            state[member] = value.clone();
        }
        bench.put_pending(&state);
        bench.lose_receipt(size);
        let held = anvil.head();
        let proxy = Proxy::start(&anvil.url, move |method, _| match method {
            "eth_call" => head(held.0, held.1, names),
            _ => Fate::Forward,
        });
        bench.config.rpc.clone_from(&proxy.url);
        bench.start().await;
        bench.until(|| bench.receipt(size).is_some()).await;
    }
}
