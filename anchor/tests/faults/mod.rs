//! What anvil alone cannot show: lost answers, lagging nodes, geth's pool, garbage.

use super::support::proxy::{Fate, Proxy};
use super::support::{Anvil, Bench};
use alloy_consensus::{Transaction, TxEnvelope};
use alloy_eips::eip2718::Decodable2718;
use alloy_primitives::{B256, Bytes};
use meshchain_anchor::AnchorEvent;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

const SEND: &str = "eth_sendRawTransaction";

/// A script that spoils the first call of `method` and forwards all others.
fn once(
    method: &'static str,
    fate: impl FnOnce() -> Fate + Send + 'static,
) -> impl FnMut(&str, &Value) -> Fate + Send {
    let mut fate = Some(fate);
    move |called, _| match called == method {
        true => fate.take().map_or(Fate::Forward, |fate| fate()),
        false => Fate::Forward,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_whose_answer_is_lost_is_anchored_once() {
    let anvil = Anvil::start();
    let proxy = Proxy::start(&anvil.url, once(SEND, || Fate::LoseAnswer));
    let mut bench = Bench::behind(&proxy, &anvil);
    bench.start().await;
    bench.grow(3);
    bench.alert("does not answer", false).await;
    bench.finalized(3).await;
    bench.anchored(4).await;
    assert_eq!(anvil.nonce(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_was_never_sent_is_sent_after_a_restart() {
    let anvil = Anvil::start();
    let lose = |method: &str, _: &Value| if method == SEND { Fate::Lose } else { Fate::Forward };
    let proxy = Proxy::start(&anvil.url, lose);
    let mut bench = Bench::behind(&proxy, &anvil);
    bench.start().await;
    bench.grow(3);
    let sent = bench.submitted().await;
    bench.alert("does not answer", false).await;
    bench.stop().await;
    assert_eq!(anvil.nonce(), 0);
    bench.grow(4);
    proxy.set(|_, _| Fate::Forward);
    bench.start().await;
    assert_eq!(bench.finalized(3).await.tx, sent.tx);
    bench.finalized(4).await;
    assert_eq!(anvil.nonce(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_down_or_busy_is_waited_for() {
    let anvil = Anvil::start();
    let proxy = Proxy::start(&anvil.url, |_, _| Fate::Lose);
    let mut bench = Bench::behind(&proxy, &anvil);
    bench.grow(3);
    bench.start().await;
    bench.alert("does not answer", false).await;
    bench.grow(7);
    proxy.set(|_, _| Fate::Status(429));
    bench.alert("429", false).await;
    let mut calls = 0;
    // Every 13th call fails, whichever it is; no step takes as many.
    proxy.set(move |_, _| {
        calls += 1;
        if calls % 13 == 0 { Fate::Status(429) } else { Fate::Forward }
    });
    bench.recovered().await;
    bench.finalized(7).await;
    assert_eq!(anvil.nonce(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lags_makes_no_second_anchor() {
    let anvil = Anvil::start();
    let proxy = Proxy::start(&anvil.url, |_, _| Fate::Forward);
    let mut bench = Bench::behind(&proxy, &anvil);
    bench.start().await;
    bench.anchored(3).await;
    proxy.set(|method, params| match (method, params[1].as_str()) {
        ("eth_getTransactionCount", Some("latest")) => Fate::Result(json!("0x0")),
        _ => Fate::Forward,
    });
    bench.grow(4);
    bench.alert("lags", false).await;
    proxy.set(|_, _| Fate::Forward);
    bench.recovered().await;
    bench.finalized(4).await;

    // The nonce is there before the receipts are.
    proxy.set(|method, _| match method {
        "eth_getTransactionReceipt" => Fate::Result(Value::Null),
        _ => Fate::Forward,
    });
    bench.grow(5);
    bench.alert("no attempt has a receipt yet", false).await;
    proxy.set(|_, _| Fate::Forward);
    bench.finalized(5).await;
    assert_eq!(anvil.nonce(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_all_words_are_lived_through() {
    for (code, message) in [
        (-32000, "already known"),
        (-32000, "replacement transaction underpriced"),
        (-32000, "nonce too low: next nonce 1, tx nonce 0"),
        (-32000, "insufficient funds for gas * price + value: balance 0"),
        (-32000, "transaction underpriced: gas tip cap 1, minimum needed 2"),
        (-32003, "max fee per gas less than block base fee"),
        (-32603, "internal error"),
    ] {
        let anvil = Anvil::start();
        let proxy = Proxy::start(&anvil.url, once(SEND, move || Fate::Error(code, message)));
        let mut bench = Bench::behind(&proxy, &anvil);
        bench.start().await;
        bench.anchored(3).await;
        assert_eq!(anvil.nonce(), 1, "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_from_the_node_is_an_alert_and_nothing_more() {
    let anvil = Anvil::start();
    let spoiled = Arc::new(Mutex::new(BTreeMap::new()));
    let seen = spoiled.clone();
    // Each method is first answered with some of the garbage, the next method with other garbage.
    let proxy = Proxy::start(&anvil.url, move |method, _| {
        let garbage: [fn() -> Fate; 9] = [
            || Fate::Body(b"<html>busy</html>".to_vec()),
            || Fate::Result(json!({"hash": 5})),
            || Fate::Body(b"{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":\"0x1\"}".to_vec()),
            || Fate::Result(json!([[]])),
            || Fate::Body(Vec::new()),
            || Fate::Result(json!("0xzz")),
            || Fate::Body("[".repeat(50_000).into_bytes()),
            || Fate::Result(json!(-1)),
            || Fate::Status(502),
        ];
        // Calls for which any answer is fine, or another call is the substitute.
        if ["eth_getTransactionByHash", SEND, "eth_getBlockReceipts"].contains(&method) {
            return Fate::Forward;
        }
        let mut seen = seen.lock().unwrap();
        let offset = seen.len() * 2;
        let (first, times) = seen.entry(method.to_owned()).or_insert((offset, 0));
        *times += 1;
        match *times {
            1..=4 => garbage[(*first + *times) % garbage.len()](),
            _ => Fate::Forward,
        }
    });
    let mut bench = Bench::behind(&proxy, &anvil);
    bench.start().await;
    bench.anchored(3).await;
    let spoiled = spoiled.lock().unwrap();
    assert!(spoiled.len() >= 11 && spoiled.values().all(|(_, times)| *times > 4), "{spoiled:?}");
    assert_eq!(anvil.nonce(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_huge_answer_is_cut_off() {
    let anvil = Anvil::start();
    let huge = || Fate::Body(vec![b' '; 17 * 1024 * 1024]);
    let proxy = Proxy::start(&anvil.url, once("eth_gasPrice", huge));
    let mut bench = Bench::behind(&proxy, &anvil);
    bench.start().await;
    bench.grow(3);
    bench.alert("over 16777216 bytes", false).await;
    bench.finalized(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_blocks_and_receipts_are_not_kept() {
    let anvil = Anvil::start();
    let node = anvil.url.clone();
    let fetch = move |method: &str, params: &Value| {
        let call = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        super::support::forward(&node, &call)["result"].clone()
    };
    let proxy = Proxy::start(&anvil.url, |_, _| Fate::Forward);
    let mut bench = Bench::behind(&proxy, &anvil);
    bench.start().await;
    let (forged, failed) = (fetch.clone(), fetch.clone());
    proxy.set(move |method, params| match method {
        "eth_getBlockByHash" => {
            let mut block = forged(method, params);
            block["timestamp"] = json!("0x1");
            Fate::Result(block)
        }
        _ => Fate::Forward,
    });
    bench.grow(3);
    bench.alert("does not hash", false).await;
    proxy.set(move |method, params| match method {
        "eth_getBlockReceipts" => {
            let mut receipts = fetch(method, params);
            receipts[0]["cumulativeGasUsed"] = json!("0x1");
            Fate::Result(receipts)
        }
        _ => Fate::Forward,
    });
    bench.alert("do not give the receipt root", false).await;
    // Nor is a nonce given up for one that failed by the node's word.
    proxy.set(move |method, params| match method {
        "eth_getBlockReceipts" => {
            let mut receipts = failed(method, params);
            receipts[0]["status"] = json!("0x0");
            Fate::Result(receipts)
        }
        _ => Fate::Forward,
    });
    let calls = proxy.calls();
    bench.until(|| proxy.calls() > calls + 20).await;
    assert!(bench.anchor().status().in_flight.is_some());
    // A node without the call for all receipts.
    proxy.set(|method, _| match method {
        "eth_getBlockReceipts" => Fate::Error(-32601, "the method does not exist"),
        _ => Fate::Forward,
    });
    bench.finalized(3).await;
}

/// The pool of geth for one account: one transaction per nonce, replaced at 10 % more in both
/// fields, kept below the base fee.
#[derive(Default)]
struct GethPool {
    raw: Bytes,
    hash: B256,
    fees: (u128, u128),
    replaced: u32,
}

impl GethPool {
    fn send(&mut self, raw: &Value) -> Fate {
        let raw: Bytes = serde_json::from_value(raw.clone()).unwrap();
        let tx = TxEnvelope::decode_2718(&mut &raw[..]).unwrap();
        let fees = (tx.max_fee_per_gas(), tx.max_priority_fee_per_gas().unwrap());
        if self.hash == *tx.tx_hash() {
            return Fate::Error(-32000, "already known");
        }
        let enough = |old: u128, new: u128| new > old && new * 100 >= old * 110;
        let raised = enough(self.fees.0, fees.0) && enough(self.fees.1, fees.1);
        if !self.raw.is_empty() && !raised {
            return Fate::Error(-32000, "replacement transaction underpriced");
        }
        self.replaced += u32::from(!self.raw.is_empty());
        (self.raw, self.hash, self.fees) = (raw, *tx.tx_hash(), fees);
        Fate::Result(json!(self.hash))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replacements_pass_the_pool_rules_of_geth() {
    let anvil = Anvil::start();
    let pool = Arc::new(Mutex::new(GethPool::default()));
    let inside = pool.clone();
    let proxy = Proxy::start(&anvil.url, move |method, params| {
        let mut pool = inside.lock().unwrap();
        match method {
            SEND => pool.send(&params[0]),
            "eth_getTransactionByHash" if params[0] == json!(pool.hash) => Fate::Result(json!({})),
            // A market that wants nearly nothing: only the bump raises the fees.
            "eth_maxPriorityFeePerGas" => Fate::Result(json!("0x0")),
            _ => Fate::Forward,
        }
    });
    let mut bench = Bench::behind(&proxy, &anvil);
    bench.config.bump_after_s = 1;
    bench.start().await;
    bench.grow(3);
    bench.submitted().await;
    for size in [4, 5, 6] {
        bench.grow(size);
        let fits = |e: &AnchorEvent| matches!(e, AnchorEvent::Replaced(sent) if sent.size == size);
        bench.event("replacement", fits).await;
    }
    bench.until(|| pool.lock().unwrap().replaced == 3).await;
    let raw = pool.lock().unwrap().raw.clone();
    anvil.rpc(SEND, json!([raw]));
    bench.finalized(6).await;
    assert_eq!(anvil.nonce(), 1);
}
