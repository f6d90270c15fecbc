//! One log has one history: no file in which it has two is ever verified.

use crate::fixture::*;
use alloy_primitives::keccak256;
use meshchain::{Report, render};
use meshchain_core::SigningKey;
use meshchain_core::evidence::{EvmAnchor, SpanEvidence};
use serde_json::json;

/// The log, and a fork of it from leaf 3 on.
fn forks() -> [LogOf; 2] {
    [LogOf::new(ORIGIN, 1), LogOf::with(ORIGIN, 1, 500)]
}

fn judge(spans: Vec<SpanEvidence>, anchors: Vec<EvmAnchor>) -> Report {
    let mut world = world();
    world.hashes = anchors.iter().map(|anchor| keccak256(&anchor.header)).collect();
    world.evidence.spans = spans;
    world.evidence.anchors = anchors;
    world.verify()
}

fn anchor(log: &LogOf, from: u64, size: u64) -> EvmAnchor {
    log.anchor(from, &Event::of(log, size))
}

#[test]
fn two_anchored_histories_are_refuted_and_the_file_is_the_proof() {
    let [one, two] = forks();
    let alone = |log: &LogOf, size| {
        judge(vec![log.span(3, 2, size)], vec![anchor(log, size, size)]).exit_code
    };
    assert_eq!((alone(&one, 4), alone(&two, 6)), (0, 0), "each is verified alone");
    let spans = vec![one.span(3, 2, 4), two.span(3, 2, 6)];
    let report = judge(spans, vec![anchor(&one, 4, 4), anchor(&two, 6, 6)]);
    assert_eq!(report.exit_code, 1);
    let leaf =
        format!("span 2, history: two histories: leaf 3 of log {ORIGIN} is another one in span 1");
    assert_eq!(report.reasons.last(), Some(&leaf));
    assert_eq!(report.two_histories, [ORIGIN]);
    let text = render(&report);
    let keep =
        format!("REFUTED: two histories of {ORIGIN}: this file is the proof of it, keep it\n");
    assert!(text.contains(&keep), "{text}");
}

#[test]
fn a_proof_of_two_histories_is_one_whatever_unsigned_spans_stand_around_it() {
    let [one, two] = forks();
    // Of the same origin, by keys that the policy does not know.
    let others = [LogOf::with(ORIGIN, 2, 900), LogOf::new(ORIGIN, 2), LogOf::with(ORIGIN, 2, 500)];
    let proof = [one.span(3, 2, 4), two.span(3, 2, 6)];
    for other in others {
        let bogus = other.span(3, 2, 5);
        for at in 0..=2 {
            let mut spans = proof.to_vec();
            spans.insert(at, bogus.clone());
            let report = judge(spans, vec![anchor(&one, 4, 4), anchor(&two, 6, 6)]);
            assert_eq!(report.two_histories, [ORIGIN], "at {at}: {:?}", report.reasons);
        }
    }
}

#[test]
fn heads_of_two_forks_are_never_verified_in_one_file() {
    // Every pair of sizes of the two forks, with every pair of leaves shown: where the heads reach
    // beyond the fork, the file is refuted, or at least not verified.
    let [one, two] = forks();
    for (first, second) in (4..=7).flat_map(|a| (4..=7).map(move |b| (a, b))) {
        for (shown_one, shown_two) in [(1, 1), (1, 3), (3, 1), (3, 3)] {
            let spans = vec![one.span(shown_one, 2, first), two.span(shown_two, 2, second)];
            let anchors = vec![anchor(&one, first, first), anchor(&two, second, second)];
            let report = judge(spans, anchors);
            let contradicts = (shown_one, shown_two) == (3, 3) || first == second;
            let case = format!("{first} {second} {shown_one} {shown_two}: {:?}", report.reasons);
            assert_eq!(report.exit_code, if contradicts { 1 } else { 2 }, "{case}");
            assert_eq!(report.two_histories.len(), usize::from(contradicts), "{case}");
            assert!(report.reasons.iter().any(|r| r.contains("two histories")), "{case}");
        }
    }
}

#[test]
fn anchors_that_no_proof_ties_to_each_other_are_not_verified() {
    let [one, two] = forks();
    let cases: [(&str, Vec<EvmAnchor>, u8); 7] = [
        ("two forks of one beginning", vec![anchor(&one, 3, 5), anchor(&two, 3, 7)], 2),
        ("one history, not tied", vec![anchor(&one, 3, 5), anchor(&one, 3, 7)], 2),
        (
            "one history, each tied to the one before",
            vec![anchor(&one, 3, 5), anchor(&one, 5, 7)],
            0,
        ),
        (
            "from none before it",
            vec![anchor(&one, 3, 5), anchor(&one, 3, 7), anchor(&one, 5, 7)],
            1,
        ),
        (
            "tied by a third, behind the one that it starts at",
            vec![anchor(&one, 3, 7), anchor(&one, 3, 5), anchor(&one, 5, 7)],
            0,
        ),
        ("a proof from a fork's anchor", vec![anchor(&two, 3, 5), anchor(&one, 5, 7)], 1),
        ("the same head twice", vec![anchor(&one, 3, 5), anchor(&one, 5, 5)], 0),
    ];
    for (name, anchors, exit_code) in cases {
        let report = judge(vec![one.span(1, 0, 3)], anchors);
        assert_eq!(report.exit_code, exit_code, "{name}: {:?}", report.reasons);
    }
}

#[test]
fn checkpoints_that_one_anchored_tree_extends_are_tied() {
    let [log, _] = forks();
    let spans = || vec![log.span(1, 0, 4), log.span(3, 2, 6)];
    let both = vec![anchor(&log, 4, 7), anchor(&log, 6, 7)];
    assert_eq!(judge(spans(), both).exit_code, 0);
    let chained = vec![anchor(&log, 4, 6), anchor(&log, 6, 7)];
    let report = judge(spans(), chained);
    assert_eq!((report.exit_code, report.anchors[1].covers.as_slice()), (0, &[1, 2][..]));
    assert_eq!(judge(spans(), vec![anchor(&log, 6, 7)]).exit_code, 2);
}

#[test]
fn what_the_policy_passes_over_cannot_contradict() {
    let [one, two] = forks();
    let mut foreign = anchor(&two, 3, 5);
    foreign.chain_id = 1;
    let report = judge(vec![one.span(1, 0, 3)], vec![foreign, anchor(&one, 3, 5)]);
    assert_eq!(report.exit_code, 0, "{:?}", report.reasons);
}

#[test]
fn two_logs_may_have_different_leaves_at_one_index() {
    let (ours, theirs) = (LogOf::new(ORIGIN, 1), LogOf::with("edge.example/log", 2, 500));
    let mut world = world();
    world.policy = policy(&[&ours, &theirs]);
    world.evidence.spans = vec![ours.span(3, 2, 5), theirs.span(3, 2, 5)];
    world.evidence.anchors = vec![anchor(&ours, 5, 5), anchor(&theirs, 5, 5)];
    world.hashes = world.evidence.anchors.iter().map(|a| keccak256(&a.header)).collect();
    // The two leaves are one session's, and the key signed both: that is the proxy's fault, no log's.
    let report = world.verify();
    assert!(report.reasons.iter().all(|r| r.contains("its key signed both")), "{report:#?}");
    assert!(report.two_histories.is_empty());
}

#[test]
fn a_checkpoint_of_another_key_proves_nothing_against_the_log() {
    let [one, _] = forks();
    let mut forged = LogOf::with(ORIGIN, 1, 500);
    forged.key = SigningKey::from_seed(ORIGIN, &[9; 32]).unwrap();
    for forged in [forged.span(3, 2, 5), forged.span(3, 2, 6)] {
        let report = judge(vec![one.span(3, 2, 5), forged], vec![anchor(&one, 5, 7)]);
        assert_eq!((report.exit_code, report.two_histories.len()), (1, 0), "{:?}", report.reasons);
    }
}

#[test]
fn an_anchor_counts_as_the_logs_word_only_in_a_block_of_the_chain() {
    let [one, two] = forks();
    let mut world = world();
    world.evidence.spans = vec![one.span(1, 0, 3)];
    world.evidence.anchors = vec![anchor(&one, 3, 5), anchor(&two, 3, 5)];
    let hashes: Vec<_> = world.evidence.anchors.iter().map(|a| keccak256(&a.header)).collect();
    for (known, proven) in [(&hashes[..], 1), (&hashes[..1], 0), (&hashes[1..], 0), (&[], 0)] {
        world.hashes = known.to_vec();
        let report = world.verify();
        assert_eq!((report.exit_code, report.two_histories.len()), (1, proven));
    }
    world.policy["require_anchor"] = json!(false);
    assert_eq!(world.verify().exit_code, 1);
}
