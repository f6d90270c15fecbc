//! The state on disk: whose it is, and what is sent only after it was written. Of two collectors over one bucket
//! the one that started last anchors, and the other one sends nothing any more.

use super::support::flaky::{Flaky, Writes};
use super::support::proxy::{Fate, Proxy};
use super::support::{Anvil, Bench, DEADLINE};
use meshchain_anchor::AnchorEvent;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use tokio::time::timeout;

const SEND: &str = "eth_sendRawTransaction";

/// What the former collector is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    First,
    Replacement,
    Repetition,
    Settlement,
}

/// Lets a collector come to the call `at` of a step, counted from the one for its nonce, starts another one there,
/// and lets the first go on. The method of that call.
async fn handed_over(step: Step, at: usize) -> String {
    let anvil = Anvil::start();
    anvil.automine(step == Step::Settlement);
    let objects = Arc::new(InMemory::new());
    let proxy = Proxy::start(&anvil.url, |_, _| Fate::Forward);
    let mut former = Bench::over(&anvil, objects.clone(), false);
    former.config.rpc.clone_from(&proxy.url);
    if step == Step::Replacement {
        // At each poll one is due.
        (former.config.bump_after_s, former.config.poll_ms) = (1, 1050);
    }
    if step != Step::First {
        former.grow(3);
    }
    former.start().await;
    if step != Step::First {
        let sent = former.submitted().await;
        former.until(|| anvil.knows(sent.tx)).await;
    }

    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let (go_on, wait) = mpsc::channel::<()>();
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    let (mut calls, mut held) = (None, false);
    proxy.set(move |method, params| {
        if method == "eth_getTransactionCount" && params[1] == "latest" {
            calls.get_or_insert(0);
        }
        let here = calls == Some(at);
        calls = calls.map(|calls| calls + 1);
        if here {
            held = true;
            tell.send(method.to_owned()).unwrap();
            wait.recv().unwrap();
        } else if held && method == SEND {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        match method {
            "eth_getTransactionByHash" if step == Step::Repetition => Fate::Result(Value::Null),
            _ => Fate::Forward,
        }
    });
    former.grow(4);
    let method = timeout(DEADLINE, told.recv()).await.unwrap().unwrap();

    let mut next = Bench::over(&anvil, objects.clone(), false);
    next.start().await;
    go_on.send(()).unwrap();
    if method == SEND {
        // It was written before the other one started, which knows of it.
        let state = objects.get(&Path::from("anchor/test/pending.json")).await.unwrap();
        let state: Value = serde_json::from_slice(&state.bytes().await.unwrap()).unwrap();
        let status = former.anchor().status().in_flight.unwrap();
        let attempts = state["in_flight"]["attempts"].as_array().unwrap();
        assert!(attempts.iter().any(|attempt| attempt["tx"] == json!(status.tx)), "{step:?}");
        return method;
    }
    let ended = timeout(DEADLINE, former.anchor().ended()).await;
    let ended = ended.unwrap_or_else(|_| panic!("{step:?}, {at}, {method}: it goes on"));
    let taken = "the log was taken over by another collector: anchor/test/pending.json";
    assert!(ended.to_string().contains(taken), "{step:?}, {method}: {ended}");
    assert_eq!(sent.load(Ordering::Relaxed), 0, "{step:?}, {at}, {method}: it sent");
    former.alert(taken, true).await;
    method
}

/// At each call of a step, until the one that sends.
async fn at_each_call(step: Step, least: usize) {
    let mut at = 0;
    while handed_over(step, at).await != SEND {
        at += 1;
    }
    assert!(at >= least, "{step:?} has {at} calls before it sends");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_about_to_anchor_when_another_one_started_sends_nothing() {
    at_each_call(Step::First, 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_about_to_replace_an_attempt_when_another_one_started_sends_nothing() {
    at_each_call(Step::Replacement, 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_about_to_repeat_an_attempt_when_another_one_started_sends_nothing() {
    at_each_call(Step::Repetition, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_about_to_settle_when_another_one_started_sends_nothing() {
    at_each_call(Step::Settlement, 12).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_over_goes_on_with_what_was_sent_and_anchors_nothing_twice() {
    let anvil = Anvil::start();
    anvil.automine(false);
    let objects = Arc::new(InMemory::new());
    let mut former = Bench::over(&anvil, objects.clone(), false);
    former.start().await;
    former.grow(3);
    let sent = former.submitted().await;
    former.until(|| anvil.knows(sent.tx)).await;

    let mut next = Bench::over(&anvil, objects, false);
    next.grow(5);
    next.start().await;
    anvil.mine(1);
    assert_eq!(next.finalized(3).await.tx, sent.tx);
    let sent = next.submitted().await;
    next.until(|| anvil.knows(sent.tx)).await;
    anvil.mine(1);
    next.finalized(5).await;
    assert_eq!(anvil.nonce(), 2);
    // The former one sees its attempt in a block, and may not note it.
    let ended = timeout(DEADLINE, former.anchor().ended()).await.unwrap();
    assert!(ended.to_string().contains("taken over"), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_anchor_that_panics_is_told() {
    let anvil = Anvil::start();
    let mut bench = Bench::new(&anvil);
    let panic_at = |event| assert!(!matches!(event, AnchorEvent::Submitted(_)), "a bug");
    bench.start_telling(panic_at).await;
    bench.grow(3);
    let ended = timeout(DEADLINE, bench.anchor().ended()).await.unwrap().to_string();
    assert!(ended.starts_with("anchor test ended") && ended.contains("a bug"), "{ended}");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_its_state_cannot_be_written_an_anchor_sends_nothing_and_then_goes_on() {
    for writes in [Writes::Refused, Writes::Unanswered] {
        for locked in [true, false] {
            let anvil = Anvil::start();
            let objects = Arc::new(Flaky::default());
            let mut bench = Bench::over(&anvil, objects.clone(), locked);
            bench.start().await;
            objects.set(writes);
            bench.grow(3);
            bench.alert("pending.json: Generic flaky error: the disk fails", false).await;
            assert!(bench.anchor().status().in_flight.is_none());
            assert_eq!(anvil.nonce(), 0);
            objects.set(Writes::Work);
            bench.recovered().await;
            bench.finalized(3).await;
            assert_eq!(anvil.nonce(), 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_is_lost_is_known_as_ones_own_however_long_nothing_can_be_read() {
    let anvil = Anvil::start();
    let objects = Arc::new(Flaky::default());
    let mut bench = Bench::over(&anvil, objects.clone(), false);
    bench.start().await;
    objects.set(Writes::Unanswered);
    bench.grow(3);
    bench.alert("write anchor/test/pending.json", false).await;
    for writes in [Writes::Gone, Writes::Refused, Writes::Gone] {
        objects.set(writes);
        let failed = if writes == Writes::Gone { "read" } else { "write" };
        bench.alert(&format!("{failed} anchor/test/pending.json"), false).await;
    }
    objects.set(Writes::Work);
    bench.recovered().await;
    bench.finalized(3).await;
    assert_eq!(anvil.nonce(), 1);
}
