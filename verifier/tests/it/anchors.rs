//! Anchors that a collector keeps, and those on a chain, against the log.

use crate::fixture::{CHAIN_ID, CONTRACT, Event, SENDER};
use crate::grown::Grown;
use crate::node::{Chain, chain, event, tx};
use crate::sealing;
use crate::server::serve;
use alloy_primitives::{B256, keccak256};
use meshchain::RpcChain;
use meshchain::log::{
    ChainNode, Directory, FsckReport, FsckVerdict, LogKey, fsck_with, render_fsck, repair,
};
use meshchain_core::{Checkpoint, TreeHead, merkle};
use meshchain_stored::anchor::AnchorState;
use serde_json::{Value, json};

pub(crate) fn head(log: &Grown, size: u64) -> TreeHead {
    let leaves = &log.batches[..size as usize];
    let hashes: Vec<_> = leaves.iter().map(|b| merkle::leaf_hash(&b.leaf)).collect();
    TreeHead { size, root: merkle::root(&hashes) }
}

/// As the collector keeps it.
fn kept(log: &Grown, head: TreeHead) -> Value {
    kept_of(log, &event(head))
}

pub(crate) fn kept_of(log: &Grown, event: &Event) -> Value {
    let head = event.head;
    let evidence = event.anchor();
    json!({
        "version": 1, "chain": "anvil", "contract": CONTRACT, "sender": SENDER,
        "log_id": B256::from(event.log_id), "size": head.size, "root": B256::from(head.root),
        "checkpoint": Checkpoint::sign(&head, &log.key), "evidence": evidence,
        "block_number": event.number, "block_hash": keccak256(&evidence.header),
        "block_timestamp": event.block_time, "tx": tx(&head), "nonce": 7,
        "gas_used": 21_000, "effective_gas_price": 9,
    })
}

pub(crate) fn file(size: u64) -> String {
    format!("anchor/anvil/receipts/{size:020}.json")
}

pub(crate) fn keep(log: &Grown, head: TreeHead) {
    let text = serde_json::to_vec_pretty(&kept(log, head)).unwrap();
    log.write(&file(head.size), &text);
}

/// A log of 40 leaves, anchored at 10, 25 and 40.
pub(crate) fn anchored() -> Grown {
    let log = Grown::new(40, 5);
    for size in [10, 25, 40] {
        keep(&log, head(&log, size));
    }
    let last = head(&log, 40);
    let state = json!({
        "version": 1, "sender": SENDER, "contract": CONTRACT, "chain_id": CHAIN_ID,
        "next_nonce": 8, "last_start_ms": 0, "last_final": [40, B256::from(last.root)],
        "spent": [0, 0], "in_flight": null,
    });
    log.write("anchor/anvil/pending.json", &serde_json::to_vec_pretty(&state).unwrap());
    log
}

pub(crate) fn check(log: &Grown, urls: &[&str]) -> FsckReport {
    let key = LogKey::Key(log.key.verifier().clone());
    let node = |url: &&str| ChainNode { chain_id: CHAIN_ID, rpc: RpcChain::new(*url) };
    let nodes: Vec<_> = urls.iter().map(node).collect();
    fsck_with(&Directory(log.folder.path().to_owned()), &key, &nodes, &mut |_, _| ())
}

/// The one damage of a report.
pub(crate) fn only<'r>(report: &'r FsckReport, file: &str) -> &'r str {
    assert_eq!(report.verdict, FsckVerdict::Damaged, "{report:#?}");
    let [damage] = report.damages.as_slice() else { panic!("{:#?}", report.damages) };
    assert_eq!(damage.file, file);
    &damage.fault
}

#[test]
fn kept_anchors_of_the_log_are_clean() {
    let log = anchored();
    let report = check(&log, &[]);
    assert_eq!((report.verdict, report.anchors), (FsckVerdict::Clean, 3), "{report:#?}");
    assert!(render_fsck(&report).contains("anchors     3 kept, each with its proof\n"));
}

#[test]
fn a_contract_that_is_younger_than_the_newest_final_block_holds_nothing_yet() {
    let log = anchored();
    for size in [10, 25, 40] {
        let _ = std::fs::remove_file(log.path(&file(size)));
    }
    let mut state = state(&log);
    (state.last_final, state.next_nonce) = (None, None);
    log.write(STATE, &state.to_json().unwrap());
    let young = Chain { end: 0, ..chain(Vec::new()) };
    let report = check(&log, &[&young.serve()]);
    assert_eq!((report.verdict, report.anchors_on_chain), (FsckVerdict::Clean, 0), "{report:#?}");
}

#[test]
fn rot_in_any_character_of_a_kept_anchor_is_found() {
    let log = anchored();
    let good = log.read(&file(25));
    // What neither proof nor file name tells; the chain does.
    let untold = ["\"tx\"", "\"nonce\"", "\"gas_used\"", "\"effective_gas_price\""];
    for at in (0..good.len()).step_by(3) {
        let mut rotten = good.clone();
        rotten[at] ^= if at % 2 == 0 { 1 } else { 4 };
        if serde_json::from_slice::<Value>(&rotten).ok() == serde_json::from_slice(&good).ok() {
            continue; // white space
        }
        log.write(&file(25), &rotten);
        let report = check(&log, &[]);
        let begin = good[..at].iter().rposition(|b| *b == b'\n').map_or(0, |line| line + 1);
        let line = String::from_utf8_lossy(&good[begin..]);
        let line = line.trim_start();
        if report.verdict == FsckVerdict::Clean {
            assert!(untold.iter().any(|key| line.starts_with(key)), "byte {at}: {line}");
            continue;
        }
        only(&report, &file(25));
    }
    for length in [0, 1, good.len() / 2, good.len() - 2] {
        log.write(&file(25), &good[..length]);
        assert!(only(&check(&log, &[]), &file(25)).starts_with("not a final anchor"));
    }
    log.write(&file(25), &good);
    log.write(&file(26), &good);
    only(&check(&log, &[]), &file(26));
}

#[test]
fn the_last_anchor_cannot_be_lost_unseen_and_the_state_is_checked() {
    let log = anchored();
    let state = log.read("anchor/anvil/pending.json");
    let (last, text) = (log.read(&file(40)), String::from_utf8(state.clone()).unwrap());
    std::fs::remove_file(log.path(&file(40))).unwrap();
    assert_eq!(only(&check(&log, &[]), &file(40)), "missing");
    log.write(&file(40), &last);
    let root = hex::encode(head(&log, 40).root);
    for (from, to, word) in [
        ("\"version\": 1", "\"version\": 2", "version"),
        ("31337", "31336", "chain id 31336, the other files 31337"),
        (root.as_str(), &"ab".repeat(32), "two histories"),
        ("    40", "    41", "more than this log"),
        ("\"sender\"", "\"sendr\"", "sender"),
    ] {
        log.write("anchor/anvil/pending.json", text.replacen(from, to, 1).as_bytes());
        let report = check(&log, &[]);
        let about = report.damages.iter().find(|d| d.file == "anchor/anvil/pending.json");
        assert!(about.is_some_and(|damage| damage.fault.contains(word)), "{to}: {report:#?}");
    }
}

#[test]
fn an_anchor_of_another_history_or_of_a_larger_log_is_no_rot() {
    let log = anchored();
    let mut other = Grown::new(24, 5);
    other.commit_batches(vec![other.batches[3].clone()]);
    keep(&log, head(&other, 25));
    let report = check(&log, &[]);
    assert!(only(&report, &file(25)).starts_with("two histories: for 25 leaves"), "{report:#?}");
    assert!(report.damages[0].cost.contains("keep the file"), "{report:#?}");
    let log = anchored();
    keep(&log, TreeHead { size: 41, root: [1; 32] });
    let report = check(&log, &[]);
    assert!(only(&report, &file(41)).contains("more than this log"), "{report:#?}");
    assert!(report.damages[0].cost.contains("older copy"), "{report:#?}");
}

pub(crate) fn heads(log: &Grown) -> Vec<TreeHead> {
    [10, 25, 40].map(|size| head(log, size)).to_vec()
}

#[test]
fn a_log_is_compared_with_its_anchors_on_the_chain() {
    let log = anchored();
    let honest = chain(heads(&log));
    let report = check(&log, &[&honest.serve()]);
    assert_eq!((report.verdict, report.anchors_on_chain), (FsckVerdict::Clean, 3), "{report:#?}");
    let mut fork = heads(&log);
    fork[1].root = [9; 32];
    let report = check(&log, &[&chain(fork).serve()]);
    let about = report.damages.iter().find(|damage| damage.file == "chain 31337").unwrap();
    assert!(about.fault.starts_with("two histories: for 25 leaves the anchor in block 25"));
    let mut larger = heads(&log);
    larger.push(TreeHead { size: 50, root: [9; 32] });
    let report = check(&log, &[&chain(larger).serve()]);
    assert!(only(&report, "chain 31337").contains("50 leaves, more than this log"));
    let fewer = heads(&log)[1..].to_vec();
    let report = check(&log, &[&chain(fewer).serve()]);
    assert_eq!(only(&report, &file(10)), "block 10 of the chain does not have it");
}

#[test]
fn an_account_of_before_cannot_hide_another_root_for_a_size() {
    // The policy names two accounts; the node has anchors of the one that is asked about first.
    let log = anchored();
    let mut fork = heads(&log);
    fork[1].root = [9; 32];
    let (honest, forked) = (chain(heads(&log)), chain(fork));
    let other = alloy_primitives::Address::repeat_byte(0x77);
    let url = serve(move |_, body| {
        let request: Value = serde_json::from_slice(body).unwrap();
        let text = request.to_string();
        let theirs = text.contains(&hex::encode(other));
        let node = if theirs { &forked } else { &honest };
        let answer = node.answer(request["method"].as_str().unwrap(), &request["params"]);
        let answer = answer.map_or_else(
            || json!({"error": {"message": "range too long"}}),
            |result| json!({"result": result}),
        );
        let own = hex::encode(SENDER);
        let answer = answer.to_string();
        let answer = if theirs { answer.replace(&own, &hex::encode(other)) } else { answer };
        (200, answer.into_bytes())
    });
    let rule = |sender| json!({"type": "evm", "chain_id": CHAIN_ID, "contract": CONTRACT, "sender": sender});
    for senders in [[SENDER, other], [other, SENDER]] {
        let policy = json!({"format": "meshchain/policy/v1", "logs": [{
            "origin": crate::grown::ORIGIN, "vkey": log.vkey(), "anchors": senders.map(rule),
        }]});
        let policy = meshchain::Policy::from_json(policy.to_string().as_bytes()).unwrap();
        let nodes = [ChainNode { chain_id: CHAIN_ID, rpc: RpcChain::new(&url) }];
        let source = Directory(log.folder.path().to_owned());
        let report = fsck_with(&source, &LogKey::Policy(policy), &nodes, &mut |_, _| ());
        assert!(only(&report, "chain 31337").starts_with("two histories"), "{report:#?}");
        assert_eq!(report.anchors_on_chain, 6);
    }
}

#[test]
fn a_fork_that_kept_nothing_of_its_anchors_is_found_by_the_chain() {
    let log = anchored();
    let mut fork = Grown::new(9, 5);
    fork.commit(30);
    fork.publish();
    fork.write("anchor/anvil/pending.json", &log.read("anchor/anvil/pending.json"));
    let report = check(&fork, &[&chain(heads(&log)).serve()]);
    assert_eq!(report.verdict, FsckVerdict::Damaged);
    assert!(report.damages.iter().any(|d| d.file == "chain 31337"), "{report:#?}");
}

#[test]
fn a_node_that_does_not_tell_all_leaves_the_log_unchecked() {
    let log = anchored();
    let honest = chain(heads(&log));
    let nowhere = "http://127.0.0.1:1".to_owned();
    let urls = [
        (Chain { forgets: true, ..honest.clone() }.serve(), "has not all of them"),
        (Chain { chain_id: 1, ..honest.clone() }.serve(), "the RPC node is of chain 1"),
        (nowhere, "did not answer"),
        (serve(|_, _| (200, b"{}".to_vec())), "with something else"),
    ];
    for (url, word) in urls {
        let report = check(&log, &[&url]);
        assert_eq!(report.verdict, FsckVerdict::NotChecked, "{word}: {report:#?}");
        assert!(report.unchecked.iter().any(|what| what.contains(word)), "{word}: {report:#?}");
    }
    std::fs::remove_dir_all(log.path("anchor")).unwrap();
    let report = check(&log, &[&honest.serve()]);
    assert!(report.unchecked[0].contains("neither anchor/ nor a policy"), "{report:#?}");
}

#[test]
fn what_rotted_is_fetched_from_the_chain_byte_for_byte() {
    let log = anchored();
    let url = chain(heads(&log)).serve();
    let good = log.read(&file(25));
    let altered = |from: &str, to: &str| {
        String::from_utf8(good.clone()).unwrap().replacen(from, to, 1).into_bytes()
    };
    for rotten in [
        altered("\"header\": \"f9", "\"header\": \"f8"),
        altered("\"block_number\": 25", "\"block_number\": 24"),
        altered("31337", "31339"),
        altered("0x", "0y"),
        good[..good.len() * 2 / 3].to_vec(),
    ] {
        log.write(&file(25), &rotten);
        let report = check(&log, &[&url]);
        only(&report, &file(25));
        assert_eq!(repair(log.folder.path(), &report), Ok(vec![file(25)]));
        assert!(log.read(&file(25)) == good);
        assert_eq!(check(&log, &[&url]).verdict, FsckVerdict::Clean);
    }
    // The newest is that of the published checkpoint.
    let newest = log.read(&file(40));
    std::fs::remove_file(log.path(&file(40))).unwrap();
    repair(log.folder.path(), &check(&log, &[&url])).unwrap();
    assert!(log.read(&file(40)) == newest);
}

/// Whether a note has all these words.
fn noted(report: &FsckReport, words: &[&str]) -> bool {
    report.notes.iter().any(|note| words.iter().all(|word| note.contains(word)))
}

#[test]
fn what_cannot_be_fetched_again_is_no_damage_where_a_larger_anchor_covers_it() {
    let log = anchored();
    let url = chain(heads(&log)).serve();
    for size in [10, 25] {
        // No signed checkpoint of that size is left.
        std::fs::remove_file(log.path(&file(size))).unwrap();
        let report = check(&log, &[&url]);
        assert_eq!(report.verdict, FsckVerdict::Clean, "{report:#?}");
        let lost = match size {
            10 => "the anchor of 10 leaves on chain 31337 is not kept",
            _ => "2 anchors of 10 to 25 leaves on chain 31337 are not kept",
        };
        let words = [lost, "no signed checkpoint", "the one of 40 leaves covers theirs"];
        assert!(noted(&report, &words), "{report:#?}");
        assert_eq!(repair(log.folder.path(), &report), Ok(vec![]));
    }
    // Nothing covers the last one.
    let log = Grown::new(40, 5);
    let last = head(&log, 39);
    put_state(&log, Some(last));
    let report = check(&log, &[&chain(vec![last]).serve()]);
    assert_eq!(only(&report, &file(39)), "missing");
    let cost = &report.damages[0].cost;
    assert!(cost.contains("the collector does, or anchors a larger one"), "{cost}");
}

#[test]
fn an_older_copy_of_what_is_kept_gets_the_newest_anchor_before_the_collector_starts() {
    let log = anchored();
    let newest = log.read(&file(40));
    for size in [25, 40] {
        std::fs::remove_file(log.path(&file(size))).unwrap();
    }
    put_state(&log, Some(head(&log, 10)));
    let url = chain(heads(&log)).serve();
    let report = check(&log, &[&url]);
    assert_eq!(report.verdict, FsckVerdict::Clean, "{report:#?}");
    assert!(noted(&report, &["40 leaves", "not kept yet: --repair fetches it"]), "{report:#?}");
    assert!(
        noted(&report, &["the anchor of 25 leaves", "the one of 40 leaves covers"]),
        "{report:#?}"
    );
    assert_eq!(repair(log.folder.path(), &report), Ok(vec![file(40)]));
    assert!(log.read(&file(40)) == newest);
    assert_eq!(check(&log, &[&url]).verdict, FsckVerdict::Clean);
}

pub(crate) const STATE: &str = "anchor/anvil/pending.json";

pub(crate) fn state(log: &Grown) -> AnchorState {
    AnchorState::parse(&log.read(STATE)).unwrap()
}

pub(crate) fn put_state(log: &Grown, last: Option<TreeHead>) {
    let mut state = AnchorState::new(SENDER, CONTRACT, CHAIN_ID);
    state.next_nonce = Some(8);
    state.last_final = last.map(|head| (head.size, head.root.into()));
    log.write(STATE, &state.to_json().unwrap());
}

#[test]
fn a_damaged_state_is_made_again_from_the_chain_where_nothing_is_in_flight() {
    let log = anchored();
    let name = "anchor/anvil/pending.json";
    let text = String::from_utf8(log.read(name)).unwrap();
    let honest = chain(heads(&log));
    let idle = honest.serve();
    let busy = Chain { in_flight: 1, ..honest }.serve();
    for damaged in [
        String::new(),
        text.replace("last_start_ms", "last_start_mr"),
        text[..text.len() - 2].to_owned(),
    ] {
        log.write(name, damaged.as_bytes());
        for urls in [vec![], vec![idle.as_str()]] {
            let report = check(&log, &urls);
            assert!(only(&report, name).starts_with("not the state of an anchor"), "{report:#?}");
            assert!(report.damages[0].cost.contains("the log goes on"), "{report:#?}");
        }
        let report = check(&log, &[&busy]);
        only(&report, name);
        assert!(report.notes.iter().any(|note| note.contains("is in flight")), "{report:#?}");
        assert_eq!(repair(log.folder.path(), &report), Ok(vec![]));
        let report = check(&log, &[&idle]);
        assert_eq!(repair(log.folder.path(), &report), Ok(vec![name.to_owned()]));
        let made = AnchorState::parse(&log.read(name)).unwrap();
        let mut expected = AnchorState::new(SENDER, CONTRACT, CHAIN_ID);
        expected.last_final = Some((40, head(&log, 40).root.into()));
        expected.spent = (1_800_000_100 / 86400, 3 * 21_000 * 9);
        expected.gas_used = 3 * 21_000;
        assert_eq!(made, expected);
        assert_eq!(check(&log, &[&idle]).verdict, FsckVerdict::Clean);
    }
}

#[test]
fn what_the_collector_needs_to_start_is_told_and_written_again() {
    let log = Grown::new(348, 50);
    sealing::seal(&log, &[300]);
    assert_eq!(check(&log, &[]).verdict, FsckVerdict::Clean);
    for name in ["tile/0/001.p/44", "tile/entries/001.p/44"] {
        let good = log.read(name);
        std::fs::remove_file(log.path(name)).unwrap();
        let report = check(&log, &[]);
        assert_eq!(only(&report, name), "missing");
        assert!(report.damages[0].cost.contains("the next start, or --repair"), "{report:#?}");
        assert_eq!(repair(log.folder.path(), &report), Ok(vec![name.to_owned()]));
        assert!(log.read(name) == good);
        assert_eq!(check(&log, &[]).verdict, FsckVerdict::Clean);
    }
}

#[test]
fn every_tile_and_bundle_is_written_again_out_of_the_leaves() {
    let log = Grown::new(600, 50);
    for name in crate::grown::files(log.folder.path()) {
        let needed = !name.contains(".p/") || name.ends_with(".p/88") || name.ends_with("000.p/2");
        if !name.starts_with("tile/") || !needed {
            continue;
        }
        let good = log.read(&name);
        let mut altered = good.clone();
        altered[good.len() / 2] ^= 1;
        for bad in [Some(altered), Some(good[..good.len() - 1].to_vec()), None] {
            match bad {
                Some(bytes) => log.write(&name, &bytes),
                None => std::fs::remove_file(log.path(&name)).unwrap(),
            }
            let report = check(&log, &[]);
            only(&report, &name);
            assert_eq!(repair(log.folder.path(), &report), Ok(vec![name.clone()]), "{report:#?}");
            assert!(log.read(&name) == good, "{name}");
        }
    }
    assert_eq!(check(&log, &[]).verdict, FsckVerdict::Clean);
}

#[test]
fn nothing_is_repaired_beside_a_running_collector_or_of_an_unproved_tree() {
    let log = Grown::new(30, 5);
    let name = "tile/0/000.p/30";
    std::fs::remove_file(log.path(name)).unwrap();
    let report = check(&log, &[]);
    let held = std::fs::File::open(log.path("lock")).unwrap();
    held.lock().unwrap();
    let refused = repair(log.folder.path(), &report).unwrap_err();
    assert!(refused.contains("a collector is running"), "{refused}");
    drop(held);
    let mut unproved = report.clone();
    unproved.root_recomputed = false;
    assert_eq!(repair(log.folder.path(), &unproved), Ok(vec![]));
    assert!(repair(&log.path("head"), &report).unwrap_err().contains("no directory"));
    assert_eq!(repair(log.folder.path(), &report), Ok(vec![name.to_owned()]));
}
