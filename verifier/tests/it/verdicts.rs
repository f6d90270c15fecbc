//! Named corruptions, each with the exit code and the step that must catch it.

use crate::fixture::*;
use alloy_consensus::Eip658Value;
use alloy_primitives::{Address, B256, keccak256};
use meshchain::{
    BlockAnswer, BlockQuery, ChainView, HopAgreement, MAX_LOOKUPS, NoChain, Outcome, Policy,
    Report, verify,
};
use meshchain_core::evidence::EvmAnchor;
use meshchain_core::{Checkpoint, Evidence, Side};
use serde_json::json;
use std::cell::Cell;

/// Steps that did not come out `Ok`, as `span 1 record`.
fn open_steps(report: &Report) -> Vec<String> {
    let open = report.steps().filter(|(_, step)| step.outcome != Outcome::Ok);
    open.map(|(of, step)| format!("{of} {}", step.name)).collect()
}

#[test]
fn good_evidence_is_verified_and_says_what_it_proves() {
    let report = world().verify();
    assert_eq!(open_steps(&report), Vec::<String>::new());
    assert_eq!((report.exit_code, report.reasons.len()), (0, 0));
    assert_eq!(report.checkpoints[0].anchored_by, [1]);
    assert_eq!(report.hops[0].verdict.agreement, HopAgreement::Agree);
    assert_eq!(report.hops[1].verdict.agreement, HopAgreement::OneSided);
    assert!(report.conclusions.time.contains("block 12 of chain 31337 at 2026-11-1"));
    assert!(report.conclusions.completeness.starts_with("not proved"));
}

type Corruption = fn(&mut World);

/// Name, corruption, exit code, first step that is not ok.
const CORRUPTIONS: &[(&str, Corruption, u8, &str)] = &[
    ("another trace id", |w| w.evidence.trace_id[0] ^= 1, 1, "span 1 entry"),
    (
        "hop part altered",
        |w| w.evidence.spans[0].record.hop.as_mut().unwrap()[40] ^= 1,
        1,
        "span 1 record",
    ),
    (
        "own part altered",
        |w| w.evidence.spans[1].record.own.as_mut().unwrap()[9] ^= 1,
        1,
        "span 2 record",
    ),
    (
        "another span's hop part",
        |w| w.evidence.spans[0].record.hop = w.evidence.spans[2].record.hop.clone(),
        1,
        "span 1 record",
    ),
    ("entry cut short", |w| w.evidence.spans[0].entry.truncate(89), 1, "span 1 entry"),
    (
        "entry of another span",
        |w| w.evidence.spans[0].entry = w.evidence.spans[2].entry.clone(),
        1,
        "span 1 record",
    ),
    (
        "undisclosed entry of another span",
        |w| {
            w.evidence.spans[0].record = Default::default();
            w.evidence.spans[0].entry = w.evidence.spans[2].entry.clone();
        },
        1,
        "span 1 record",
    ),
    ("other index in the batch", |w| w.evidence.spans[0].batch.index = 1, 1, "span 1 batch"),
    ("index beyond the batch", |w| w.evidence.spans[0].batch.index = u64::MAX, 1, "span 1 batch"),
    (
        "hash removed from the batch path",
        |w| assert!(w.evidence.spans[0].batch.path.pop().is_some()),
        1,
        "span 1 batch",
    ),
    (
        "hash added to the batch path",
        |w| w.evidence.spans[0].batch.path.push([0; 32]),
        1,
        "span 1 batch",
    ),
    ("leaf with a byte behind it", |w| w.evidence.spans[0].leaf.push(0), 1, "span 1 batch"),
    (
        "leaf of another batch",
        |w| w.evidence.spans[0].leaf = w.evidence.spans[1].leaf.clone(),
        1,
        "span 1 batch",
    ),
    (
        "a batch that its session did not sign",
        |w| w.evidence = evidence_of(LogOf::forged(ORIGIN, 1)),
        1,
        "span 1 signature",
    ),
    (
        "proof of another leaf",
        |w| w.evidence.spans[0].tlog_proof = w.evidence.spans[1].tlog_proof.clone(),
        1,
        "span 1 log",
    ),
    (
        "a log cut back to before the leaf",
        |w| {
            let cut = Checkpoint::sign(&LogOf::new(ORIGIN, 1).head(3), &LogOf::new(ORIGIN, 1).key);
            let proof = &mut w.evidence.spans[1].tlog_proof;
            *proof = proof[..proof.find("\n\n").unwrap() + 2].to_owned() + &cut;
        },
        1,
        "span 2 log",
    ),
    ("no tlog-proof", |w| w.evidence.spans[0].tlog_proof.clear(), 1, "span 1 log"),
    (
        "checkpoint signed by another key of that name",
        |w| w.evidence = evidence_of(LogOf::new(ORIGIN, 2)),
        1,
        "checkpoint 1 checkpoint",
    ),
    (
        "checkpoint of a log that the policy does not know",
        |w| w.evidence = evidence_of(LogOf::new("evil.example/log", 1)),
        2,
        "checkpoint 1 checkpoint",
    ),
    (
        "policy's key of another log",
        |w| w.policy["logs"][0]["vkey"] = json!(LogOf::new(ORIGIN, 3).key.verifier().to_string()),
        1,
        "checkpoint 1 checkpoint",
    ),
    (
        "one span under a forged checkpoint",
        |w| w.evidence.spans[2] = LogOf::new(ORIGIN, 2).span(1, 2, 5),
        1,
        "checkpoint 2 checkpoint",
    ),
    (
        "a fork signed by the log itself",
        |w| w.evidence.spans[2] = LogOf::with(ORIGIN, 1, 500).span(1, 2, 5),
        1,
        "checkpoint 2 history",
    ),
    (
        "a fork of another size, not anchored",
        |w| w.evidence.spans[2] = LogOf::with(ORIGIN, 1, 500).span(1, 2, 4),
        2,
        "checkpoint 2 history",
    ),
    (
        "an anchor of a fork",
        |w| {
            let fork = LogOf::with(ORIGIN, 1, 500);
            w.evidence.anchors.push(fork.anchor(5, &Event::of(&fork, 7)));
        },
        1,
        "anchor 2 anchor",
    ),
    (
        "anchored tree smaller than the checkpoint",
        |w| reanchor(w, |e| e.head = LogOf::new(ORIGIN, 1).head(4)),
        1,
        "anchor 1 anchor",
    ),
    (
        "hash removed from the consistency proof",
        |w| assert!(w.evidence.anchors[0].consistency.pop().is_some()),
        1,
        "anchor 1 anchor",
    ),
    ("another size than the event's", |w| w.evidence.anchors[0].size = 6, 2, "anchor 1 anchor"),
    (
        "another contract",
        |w| reanchor(w, |e| e.contract = Address::repeat_byte(1)),
        1,
        "anchor 1 anchor",
    ),
    (
        "another sender",
        |w| reanchor(w, |e| e.sender = Address::repeat_byte(1)),
        1,
        "anchor 1 anchor",
    ),
    ("another log id", |w| reanchor(w, |e| e.log_id = [1; 32]), 1, "anchor 1 anchor"),
    ("another root", |w| reanchor(w, |e| e.head.root = [1; 32]), 1, "anchor 1 anchor"),
    ("another event", |w| reanchor(w, |e| e.topic = B256::repeat_byte(1)), 2, "anchor 1 anchor"),
    (
        "a failed transaction",
        |w| reanchor(w, |e| e.status = Eip658Value::Eip658(false)),
        2,
        "anchor 1 anchor",
    ),
    (
        "a receipt without status",
        |w| reanchor(w, |e| e.status = Eip658Value::PostState(B256::ZERO)),
        2,
        "anchor 1 anchor",
    ),
    ("another transaction", |w| w.evidence.anchors[0].transaction_index = 2, 2, "anchor 1 anchor"),
    ("another log of the receipt", |w| w.evidence.anchors[0].log_index = 0, 2, "anchor 1 anchor"),
    (
        "a log that the receipt has not",
        |w| w.evidence.anchors[0].log_index = u64::MAX,
        2,
        "anchor 1 anchor",
    ),
    (
        "another index in a block of one receipt",
        |w| {
            reanchor(w, |e| (e.receipts, e.index) = (1, 0));
            w.evidence.anchors[0].transaction_index = 5;
        },
        2,
        "anchor 1 anchor",
    ),
    (
        "an entry with another span id than its record",
        |w| w.evidence = evidence_of(LogOf::lying(ORIGIN, 1, 200, |e| e.span_id[0] ^= 1)),
        1,
        "span 1 record",
    ),
    (
        "an entry with another side than its record",
        |w| w.evidence = evidence_of(LogOf::lying(ORIGIN, 1, 200, |e| e.side = Side::GatewayIn)),
        1,
        "span 1 record",
    ),
    (
        "receipt proof cut short",
        |w| assert!(w.evidence.anchors[0].receipt_proof.pop().is_some()),
        2,
        "anchor 1 anchor",
    ),
    (
        "receipt proof with a node too many",
        |w| w.evidence.anchors[0].receipt_proof.push(vec![0x80]),
        2,
        "anchor 1 anchor",
    ),
    ("no receipt proof", |w| w.evidence.anchors[0].receipt_proof.clear(), 2, "anchor 1 anchor"),
    ("no header", |w| w.evidence.anchors[0].header.clear(), 2, "anchor 1 anchor"),
    (
        "header with a byte behind it",
        |w| w.evidence.anchors[0].header.push(0),
        2,
        "anchor 1 anchor",
    ),
    ("another chain", |w| w.evidence.anchors[0].chain_id = 1, 2, "anchor 1 anchor"),
    (
        "the policy's anchor on another chain",
        |w| w.policy["logs"][0]["anchors"][0]["chain_id"] = json!(1),
        2,
        "anchor 1 anchor",
    ),
    ("a block of another hash", |w| w.hashes = vec![B256::ZERO], 2, "anchor 1 block"),
    (
        "a block of the same receipts and another time",
        |w| {
            let header = &mut w.evidence.anchors[0].header;
            let at = header.windows(4).position(|t| t == 1_795_000_000u32.to_be_bytes()).unwrap();
            header[at + 3] ^= 1;
        },
        2,
        "anchor 1 block",
    ),
    ("no hash given", |w| w.hashes.clear(), 2, "anchor 1 block"),
    ("no anchor", |w| w.evidence.anchors.clear(), 2, ""),
    ("no span", |w| w.evidence.spans.clear(), 2, "anchor 1 anchor"),
    (
        "no span and no anchor",
        |w| w.evidence = Evidence { spans: vec![], anchors: vec![], ..w.evidence.clone() },
        2,
        "",
    ),
    (
        "an anchor of another sender beside a good one",
        |w| {
            let log = LogOf::new(ORIGIN, 1);
            let event = Event { sender: Address::repeat_byte(1), ..Event::of(&log, SIZES.1) };
            w.evidence.anchors.push(log.anchor(SIZES.0, &event));
        },
        1,
        "anchor 2 anchor",
    ),
    (
        "more checkpoints than are checked",
        |w| {
            let log = LogOf::new(ORIGIN, 1);
            let many = (0..70).map(|n| {
                let mut span = log.span(1, 0, 5);
                span.tlog_proof += &format!("\u{2014} witness{n} AAAAAAAAAAA=\n");
                span
            });
            w.evidence.spans.extend(many);
        },
        2,
        "span 67 log",
    ),
];

fn evidence_of(log: LogOf) -> Evidence {
    let anchor = log.anchor(SIZES.0, &Event::of(&log, SIZES.1));
    evidence(&log, anchor)
}

/// Replaces the anchor by one of an altered event, in a block whose hash is known.
fn reanchor(world: &mut World, alter: fn(&mut Event)) {
    let log = LogOf::new(ORIGIN, 1);
    let mut event = Event::of(&log, SIZES.1);
    alter(&mut event);
    let anchor = log.anchor(SIZES.0.min(event.head.size), &event);
    world.hashes = vec![keccak256(&anchor.header)];
    world.evidence.anchors = vec![anchor];
}

#[test]
fn every_corruption_is_caught_at_its_step() {
    for (name, corrupt, exit_code, step) in CORRUPTIONS {
        let mut world = world();
        corrupt(&mut world);
        let report = world.verify();
        let open: Vec<_> = match exit_code {
            1 => report
                .steps()
                .filter(|(_, s)| s.outcome == Outcome::Refuted)
                .map(|(of, s)| format!("{of} {}", s.name))
                .collect(),
            _ => open_steps(&report),
        };
        assert_eq!(report.exit_code, *exit_code, "{name}: {open:?} {:?}", report.reasons);
        assert!(!report.reasons.is_empty(), "{name}");
        let expected =
            if *name == "undisclosed entry of another span" { "span 1 batch" } else { step };
        assert_eq!(open.first().map_or("", String::as_str), expected, "{name}: {open:?}");
    }
}

#[test]
fn every_receipt_of_a_block_can_be_proved() {
    for (receipts, index) in [(1, 0), (3, 0), (3, 2), (130, 0), (130, 127), (130, 128), (300, 256)]
    {
        let log = LogOf::new(ORIGIN, 1);
        let anchor = log.anchor(SIZES.0, &Event { receipts, index, ..Event::of(&log, SIZES.1) });
        let hashes = vec![keccak256(&anchor.header)];
        let world = World { evidence: evidence(&log, anchor), hashes, ..world() };
        assert_eq!(world.verify().exit_code, 0, "{index} of {receipts}");
    }
}

#[test]
fn what_is_not_disclosed_is_said_and_does_not_refute() {
    let mut world = world();
    world.evidence.spans[0].record.own = None;
    world.evidence.spans[1].record.hop = None;
    world.evidence.spans[2].record = Default::default();
    let report = world.verify();
    assert_eq!(report.exit_code, 0);
    assert!(report.spans[0].steps[0].detail.ends_with("own part not shown"));
    assert!(report.spans[1].steps[0].detail.ends_with("hop part not shown"));
    assert_eq!(report.spans[2].steps[0].outcome, Outcome::NotShown);
}

#[test]
fn without_policy_nothing_is_verified_but_what_is_false_is_refuted() {
    let mut world = world();
    let report = verify(&world.evidence, None, &NoChain);
    assert_eq!(report.exit_code, 2);
    assert!(report.reasons[0].contains("no policy"));
    let places = ["checkpoint 1 checkpoint", "anchor 1 anchor", "anchor 1 block"];
    assert_eq!(open_steps(&report), places);
    world.evidence.spans[0].leaf[100] ^= 1;
    assert_eq!(verify(&world.evidence, None, &NoChain).exit_code, 1);
}

#[test]
fn an_anchor_is_required_unless_the_policy_says_otherwise() {
    let mut world = world();
    world.evidence.anchors.clear();
    assert_eq!(world.verify().exit_code, 2);
    world.policy["require_anchor"] = json!(false);
    let report = world.verify();
    assert_eq!(report.exit_code, 0);
    assert!(report.conclusions.time.starts_with("not proved"));
}

#[test]
fn the_hash_to_look_up_is_named() {
    let mut world = world();
    let hash = world.hashes[0].to_string();
    world.hashes.clear();
    let policy = Policy::from_json(world.policy.to_string().as_bytes()).unwrap();
    let report = verify(&world.evidence, Some(&policy), &NoChain);
    assert_eq!(report.exit_code, 2);
    assert!(
        report.reasons[0].contains(&format!("its hash must be {hash}")),
        "{:?}",
        report.reasons
    );
}

#[test]
fn a_receive_time_after_the_block_is_called_false_and_cosignatures_unchecked() {
    let mut world = world();
    reanchor(&mut world, |e| e.block_time = 1_794_999_000);
    for span in &mut world.evidence.spans {
        span.tlog_proof += "\u{2014} witness AAAAAAAAAAA=\n";
    }
    let report = world.verify();
    assert_eq!(report.exit_code, 0);
    assert!(report.conclusions.time.ends_with("and that of 3 receipts is false"));
    assert!(report.checkpoints[0].steps[0].detail.ends_with("1 more signatures not checked"));
}

#[test]
fn a_span_given_twice_counts_once() {
    let mut world = world();
    world.evidence.spans.push(world.evidence.spans[0].clone());
    let report = world.verify();
    assert_eq!((report.exit_code, report.spans[3].duplicate_of), (0, Some(1)));
    assert!(meshchain::render(&report).contains("verified: 3 spans"));
}

#[test]
fn a_dispute_is_shown_with_its_subject_and_does_not_refute_the_file() {
    let log = LogOf::with(ORIGIN, 1, 500);
    let anchor = log.anchor(SIZES.0, &Event::of(&log, SIZES.1));
    let hashes = vec![keccak256(&anchor.header)];
    let mut world = World { evidence: evidence(&log, anchor), hashes, ..world() };
    for hidden in [None, Some(0), Some(1)] {
        if let Some(span) = hidden {
            world.evidence.spans[span].record.hop = None;
        }
        let report = world.verify();
        assert_eq!(
            (report.exit_code, report.hops[0].verdict.agreement),
            (0, HopAgreement::Dispute)
        );
        let detail = match hidden {
            Some(1) => "the digests differ: disclose a hop part to tell what about",
            _ => "same request, other outcome: status 200 at the client, 500 at the server",
        };
        assert_eq!(report.hops[0].verdict.detail, detail);
    }
}

#[test]
fn spans_of_two_logs_need_an_anchor_each() {
    let (ours, theirs) = (LogOf::new(ORIGIN, 1), LogOf::new("edge.example/meshchain", 2));
    let mut world = world();
    world.policy = policy(&[&ours, &theirs]);
    world.evidence.spans[1] = theirs.span(3, 2, 6);
    assert_eq!(world.verify().exit_code, 2, "{:?}", world.verify().reasons);
    let anchor = theirs.anchor(6, &Event::of(&theirs, 7));
    world.hashes.push(keccak256(&anchor.header));
    world.evidence.anchors.push(anchor);
    let report = world.verify();
    assert_eq!(report.exit_code, 0, "{:?}", report.reasons);
    assert_eq!(report.anchors[1].covers, [2]);
    assert_eq!(report.hops[0].verdict.agreement, HopAgreement::Agree);
}

#[test]
fn an_anchor_of_a_foreign_chain_beside_a_good_one_changes_nothing() {
    let mut world = world();
    let mut foreign = world.evidence.anchors[0].clone();
    foreign.chain_id = 1;
    world.evidence.anchors.insert(0, foreign);
    let report = world.verify();
    assert_eq!(report.exit_code, 0);
    assert_eq!(report.anchors[0].steps[0].outcome, Outcome::NotChecked);
}

#[test]
fn an_anchor_that_proves_nothing_beside_a_good_one_changes_nothing() {
    let rot: [fn(&mut EvmAnchor); 5] = [
        |a| a.header[40] ^= 1,
        |a| a.header.truncate(40),
        |a| a.receipt_proof[0][9] ^= 1,
        |a| a.log_index = 0,
        |a| a.size += 1,
    ];
    for rot in rot {
        for at in [0, 1] {
            let mut world = world();
            let mut bad = world.evidence.anchors[0].clone();
            rot(&mut bad);
            world.evidence.anchors.insert(at, bad);
            let report = world.verify();
            assert_eq!(report.exit_code, 0, "{:?}", report.reasons);
            assert_eq!(report.checkpoints[0].anchored_by, [2 - at]);
        }
    }
}

#[test]
fn rot_in_any_byte_of_an_anchor_never_refutes_honest_evidence() {
    let good = world();
    let json = serde_json::to_string(&good.evidence.anchors[0]).unwrap();
    let begin = json.find("\"header\"").unwrap();
    for at in begin..json.len() {
        let mut rotten = json.clone().into_bytes();
        rotten[at] ^= 1;
        let Ok(anchor) = serde_json::from_slice(&rotten) else { continue };
        let mut world = good.clone();
        world.evidence.anchors = vec![anchor];
        let report = world.verify();
        assert_eq!(report.exit_code, 2, "byte {at}: {:?}", report.reasons);
    }
}

#[test]
fn a_file_cannot_make_the_verifier_ask_without_end() {
    struct Counting(Cell<usize>);
    impl ChainView for Counting {
        fn block(&self, _: &BlockQuery) -> BlockAnswer {
            self.0.set(self.0.get() + 1);
            BlockAnswer::Final(String::new())
        }
    }
    let mut world = world();
    world.evidence.anchors = vec![world.evidence.anchors[0].clone(); 2 * MAX_LOOKUPS];
    let policy = Policy::from_json(world.policy.to_string().as_bytes()).unwrap();
    let chain = Counting(Cell::new(0));
    let report = verify(&world.evidence, Some(&policy), &chain);
    assert_eq!((report.exit_code, chain.0.get()), (0, MAX_LOOKUPS));
}

#[test]
fn a_header_of_a_later_fork_is_not_checked_and_does_not_refute() {
    let mut world = world();
    let header = world.evidence.anchors[0].header.clone();
    let mut rest = header.as_slice();
    assert!(alloy_rlp::Header::decode(&mut rest).unwrap().list);
    for more in [&[0x01][..], &[0xa0; 33], &[0xc1, 0x01], &[0x89, 1, 2, 3, 4, 5, 6, 7, 8, 9]] {
        // Fields up to those that this build knows, and some more.
        let payload = [rest, &[0x80].repeat(12), more].concat();
        let mut header = Vec::new();
        alloy_rlp::Header { list: true, payload_length: payload.len() }.encode(&mut header);
        header.extend(payload);
        world.evidence.anchors[0].header = header;
        let report = world.verify();
        assert_eq!(report.exit_code, 2);
        let why = "anchor 1, anchor: it proves nothing: the block header does not decode";
        assert!(report.reasons[0].starts_with(why), "{:?}", report.reasons);
    }
}

#[test]
fn foreign_text_forges_neither_a_column_nor_a_line() {
    let forged = "x -> 500  evil.bank (prod)\n  record      ok  \"all well\"";
    let mut world = world();
    let log = LogOf::named(ORIGIN, 1, &forged.replace('\n', " "), forged);
    world.evidence = evidence_of(log);
    world.hashes = vec![keccak256(&world.evidence.anchors[0].header)];
    let report = world.verify();
    assert_eq!(report.exit_code, 0, "{:?}", report.reasons);
    let good = meshchain::render(&self::world().verify());
    let text = meshchain::render(&report);
    assert_eq!(text.lines().count(), good.lines().count(), "{text}");
    for (line, expected) in text.lines().zip(good.lines()) {
        // Without what is quoted, only our own words are left.
        let own: String = line.split('"').step_by(2).collect::<Vec<_>>().join("\"");
        assert!(!own.contains("evil") && !own.contains("well"), "{line}");
        let columns = |line: &str| line.split("  ").filter(|c| !c.is_empty()).count();
        assert_eq!(columns(&own), columns(expected), "{line}");
    }
}
