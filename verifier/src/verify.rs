//! All steps of a file in order, and the verdict over them.

use crate::anchor::{check_anchors, check_blocks};
use crate::chain::ChainView;
use crate::checkpoint::{Checkpoints, MAX_CHECKPOINTS};
use crate::history::check_history;
use crate::hop_report::compare_hops;
use crate::policy::Policy;
use crate::report::{AnchorReport, LogPlace, Outcome, REPORT_FORMAT, Report, Step, Verdict};
use crate::span::{CheckedSpan, check_log, check_span};
use crate::text::conclude;
use meshchain_core::evidence::SpanEvidence;
use meshchain_core::{Evidence, Hash, SessionId, TlogProof};
use std::collections::{BTreeMap, HashMap};

/// Checks evidence against the policy and the chain. Does no input or output but by `chain`.
///
/// Nothing in the evidence is trusted: keys, origins, contracts and senders are the policy's.
/// Without a policy the verdict is never [`Verdict::Verified`], as nothing then says whose log it
/// is.
pub fn verify(evidence: &Evidence, policy: Option<&Policy>, chain: &dyn ChainView) -> Report {
    let mut checkpoints = Checkpoints::default();
    let mut spans = check_spans(evidence, &mut checkpoints);
    mark_duplicates(&evidence.spans, &mut spans);
    mark_equivocations(&mut spans);
    checkpoints.check_signatures(policy);
    let mut anchors = check_anchors(&evidence.anchors, policy, &checkpoints);
    check_blocks(&mut anchors, &mut checkpoints, chain);
    let two_histories = check_history(&mut spans, &mut checkpoints, &mut anchors);
    let hops = compare_hops(&spans, &checkpoints);
    let mut report = Report {
        trace_id: Some(hex::encode(evidence.trace_id)),
        policy: policy.is_some(),
        spans: spans.into_iter().map(|span| span.report).collect(),
        checkpoints: checkpoints.list.into_iter().map(|c| c.report).collect(),
        anchors: anchors.into_iter().map(|a| a.report).collect(),
        hops,
        two_histories,
        ..Report::unreadable("")
    };
    report.format = REPORT_FORMAT;
    (report.verdict, report.reasons) = judge(&report, policy);
    report.exit_code = report.verdict.exit_code();
    report.conclusions = conclude(&report);
    report
}

fn check_spans<'a>(
    evidence: &'a Evidence,
    checkpoints: &mut Checkpoints<'_>,
) -> Vec<CheckedSpan<'a>> {
    let numbered = (1..).zip(&evidence.spans);
    numbered
        .map(|(number, span)| {
            let mut checked = check_span(number, span, &evidence.trace_id);
            locate(span, checkpoints, &mut checked);
            checked
        })
        .collect()
}

/// The `log` step, and which checkpoint it stands under.
fn locate(span: &SpanEvidence, checkpoints: &mut Checkpoints<'_>, checked: &mut CheckedSpan<'_>) {
    let steps = &mut checked.report.steps;
    let proof = match TlogProof::parse(&span.tlog_proof) {
        Ok(proof) => proof,
        Err(error) => return steps.push(Step::of("log", Err(error.to_string()))),
    };
    let Some(at) = checkpoints.add(&proof.checkpoint) else {
        let many = format!("the file has over {MAX_CHECKPOINTS} different checkpoints");
        return steps.push(Step::unchecked("log", many));
    };
    let (leaf_index, entry_index) = (proof.index, span.batch.index);
    let place = LogPlace { checkpoint: at + 1, leaf_index, entry_index };
    match checkpoints.list.get(at).and_then(|c| c.parsed.as_ref()) {
        Some(parsed) => check_log(&span.leaf, &proof, parsed, place, &mut checked.report),
        None => steps.push(Step::of("log", Err("the proof's checkpoint is not one".to_owned()))),
    }
}

fn mark_duplicates(spans: &[SpanEvidence], checked: &mut [CheckedSpan<'_>]) {
    let mut first: HashMap<&[u8], usize> = HashMap::new();
    for (span, checked) in spans.iter().zip(checked) {
        let number = checked.report.number;
        let earlier = *first.entry(&span.entry).or_insert(number);
        checked.report.duplicate_of = (earlier != number).then_some(earlier);
    }
}

/// Two batches of one session for one place, whichever logs hold them: its key signed both.
fn mark_equivocations(spans: &mut [CheckedSpan<'_>]) {
    let mut first: HashMap<(SessionId, u64), (usize, Hash)> = HashMap::new();
    for span in spans {
        let Some(leaf) = &span.leaf else { continue };
        let Ok(header) = leaf.parse_header() else { continue };
        let number = span.report.number;
        let (other, chain) =
            *first.entry((header.session, header.seq)).or_insert((number, leaf.chain));
        if chain != leaf.chain {
            let text = format!(
                "another batch for seq {} of session {} stands in span {other}: its key signed both",
                header.seq,
                hex::encode(header.session)
            );
            span.report.steps.push(Step::of("session", Err(text)));
        }
    }
}

fn judge(report: &Report, policy: Option<&Policy>) -> (Verdict, Vec<String>) {
    let reason = |(of, step): (String, &Step)| format!("{of}, {}: {}", step.name, step.detail);
    let with = |outcome| report.steps().filter(move |(_, step)| step.outcome == outcome);
    let refuted: Vec<_> = with(Outcome::Refuted).map(reason).collect();
    if !refuted.is_empty() {
        return (Verdict::Refuted, refuted);
    }
    let mut missing = Vec::new();
    if report.spans.is_empty() {
        missing.push("the file holds no span, and nothing can be verified of nothing".to_owned());
    }
    if policy.is_none() {
        missing.push("no policy: keys, contracts and senders are unknown (--policy)".to_owned());
    }
    let required = policy.is_none_or(|policy| policy.require_anchor);
    let unchecked = with(Outcome::NotChecked);
    missing.extend(unchecked.filter(|(_, s)| !matches!(s.name, "anchor" | "block")).map(reason));
    if required {
        missing.extend(unanchored(report));
    }
    if missing.is_empty() { (Verdict::Verified, missing) } else { (Verdict::NotChecked, missing) }
}

/// The checkpoints that no anchor proves, each with what stands in the way.
fn unanchored(report: &Report) -> Vec<String> {
    let bare = report.checkpoints.iter().filter(|c| c.anchored_by.is_empty());
    let mut reasons = BTreeMap::new();
    for checkpoint in bare {
        // One that covers nothing could not be read, and might have been of this checkpoint.
        let of = |a: &&AnchorReport| a.covers.is_empty() || a.covers.contains(&checkpoint.number);
        let stuck = report.anchors.iter().filter(of).flat_map(|anchor| {
            let open = anchor.steps.iter().find(|s| s.outcome == Outcome::NotChecked);
            open.map(|step| (anchor.number, step))
        });
        let mut found = false;
        for (number, step) in stuck {
            found = true;
            reasons.insert(number, format!("anchor {number}, {}: {}", step.name, step.detail));
        }
        if !found {
            let none = format!("checkpoint {}: no anchor in the file proves it", checkpoint.number);
            reasons.insert(usize::MAX - checkpoint.number, none);
        }
    }
    reasons.into_values().collect()
}
