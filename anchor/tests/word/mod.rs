//! What a node says without a proof: it is not kept, and delays no more than an anchor.

use super::rewound::{compared, rewound};
use super::support::proxy::{Fate, Proxy};
use super::support::{Anvil, Bench, head, root};
use alloy_primitives::B256;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_pretends_a_rewound_chain_takes_no_proof_and_is_forgotten() {
    let anvil = Anvil::start();
    let proxy = Proxy::start(&anvil.url, |_, _| Fate::Forward);
    let mut bench = Bench::behind(&proxy, &anvil);
    bench.start().await;
    bench.anchored(3).await;
    bench.grow(6);
    let gone = bench.finalized(6).await.block_number;
    bench.stop().await;
    anvil.mine(3);
    let kept = [3, 6].map(|size| bench.receipt(size));
    let block = anvil.rpc("eth_getBlockByNumber", json!(["0x1", false]));
    let three = bench.block_of(3);
    let lie = move |method: &str, params: &Value| match method {
        "eth_call" => head(3, root(3).into(), three),
        "eth_getTransactionCount" => Fate::Result(json!("0x1")),
        "eth_getBlockByNumber" if params[0] == format!("{gone:#x}") => Fate::Result(block.clone()),
        "eth_estimateGas" => Fate::Result(json!("0x10000")),
        "eth_sendRawTransaction" => Fate::Result(json!(B256::ZERO)),
        "eth_getTransactionReceipt" | "eth_getTransactionByHash" => Fate::Result(Value::Null),
        _ => Fate::Forward,
    };
    proxy.set(lie);
    bench.grow(7);
    bench.start().await;
    bench.event("rewound chain", rewound(6, 3)).await;
    bench.submitted().await;
    assert_eq!([3, 6].map(|size| bench.receipt(size)), kept);
    proxy.set(|_, _| Fate::Forward);
    bench.grow(9);
    bench.recovered().await;
    bench.finalized(9).await;
    assert_eq!([3, 6].map(|size| bench.receipt(size)), kept);
    assert_eq!((anvil.nonce(), anvil.head().0), (3, 9));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_and_a_nonce_without_a_proof_are_not_kept() {
    let anvil = Anvil::start();
    let proxy = Proxy::start(&anvil.url, |_, _| Fate::Forward);
    let mut bench = Bench::behind(&proxy, &anvil);
    bench.start().await;
    bench.anchored(3).await;
    bench.stop().await;
    let (before, latest) = (bench.pending(), anvil.latest());
    // The root of any size is published; the block may hold no anchor, another one, or be none.
    for block in [latest, latest - 1, 0, latest + 1, u64::MAX] {
        proxy.set(move |method, _| match method {
            "eth_getTransactionCount" => Fate::Result(json!("0x5")),
            "eth_call" => head(4, root(4).into(), block),
            _ => Fate::Forward,
        });
        bench.grow(5);
        bench.start().await;
        bench.alert("the anchor of 4 leaves that the contract holds is in no block", false).await;
        let after = bench.pending();
        for member in ["next_nonce", "last_final", "in_flight"] {
            assert_eq!(after[member], before[member], "block {block}");
        }
        assert_eq!(bench.receipt(4), None);
        bench.stop().await;
    }
    proxy.set(|_, _| Fate::Forward);
    bench.start().await;
    bench.finalized(5).await;
    assert_eq!(anvil.nonce(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_speaks_of_an_anchor_that_never_was_refuses_nothing_for_long() {
    for nonce in [json!(null), json!(1), json!(5)] {
        for in_flight in [false, true] {
            let anvil = Anvil::start();
            let mut bench = Bench::new(&anvil);
            bench.start().await;
            bench.anchored(3).await;
            if in_flight {
                anvil.automine(false);
                bench.grow(4);
                let sent = bench.submitted().await;
                bench.until(|| anvil.knows(sent.tx)).await;
            }
            bench.stop().await;
            let mut state = bench.pending();
            (state["next_nonce"], state["last_final"]) =
                (nonce.clone(), json!([4, B256::from(root(4))]));
            bench.put_pending(&state);
            anvil.rpc("anvil_dropAllTransactions", json!([]));
            anvil.automine(true);
            bench.grow(5);
            bench.start().await;
            bench.alert("no proof of one of 4 leaves is kept", false).await;
            bench.event("rewound chain", rewound(4, 3)).await;
            bench.event("comparison", compared).await;
            bench.finalized(5).await;
            assert_eq!((anvil.nonce(), anvil.head().0), (2, 5));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_of_the_future_is_not_kept() {
    let anvil = Anvil::start();
    let mut bench = Bench::new(&anvil);
    bench.start().await;
    anvil.rpc("evm_increaseTime", json!([3 * 60 * 60]));
    bench.grow(3);
    bench.alert("is of a time that has not come: look at this host's clock", false).await;
    assert_eq!(bench.receipt(3), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn false_nonces_delay_an_anchor_and_no_more() {
    // One answer, one where two nodes answer in turn, and a minute of them: before the first anchor, between two, and
    // with one in flight.
    for answers in [1, 2, 40] {
        for nonce in ["0x0", "0x9"] {
            for when in ["first", "idle", "in flight"] {
                let anvil = Anvil::start();
                let proxy = Proxy::start(&anvil.url, |_, _| Fate::Forward);
                let mut bench = Bench::behind(&proxy, &anvil);
                bench.start().await;
                if when != "first" {
                    bench.anchored(3).await;
                }
                if when == "in flight" {
                    anvil.automine(false);
                    bench.grow(4);
                    let sent = bench.submitted().await;
                    bench.until(|| anvil.knows(sent.tx)).await;
                }
                let asked = Arc::new(Mutex::new(0));
                let counted = asked.clone();
                proxy.set(move |method, params| match method {
                    "eth_getTransactionCount" if params[1] != "pending" => {
                        let mut asked = counted.lock().unwrap();
                        *asked += 1;
                        let lies = *asked <= answers && (answers != 2 || *asked % 2 == 1);
                        if lies { Fate::Result(json!(nonce)) } else { Fate::Forward }
                    }
                    _ => Fate::Forward,
                });
                bench.grow(5);
                let done = || bench.anchor().status().last_final_size == Some(5);
                bench.until(|| *asked.lock().unwrap() > answers || done()).await;
                anvil.automine(true);
                anvil.mine(1);
                bench.anchored(6).await;
                assert!(!bench.anchor().status().stopped, "{answers} {nonce} {when}");
            }
        }
    }
}
