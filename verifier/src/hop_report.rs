//! The hops of an evidence file: which spans are sides of one, and the verdict on each.

use crate::checkpoint::Checkpoints;
use crate::hops::{Budget, HopSide, judge};
use crate::report::{HopReport, HopSideShown, Outcome};
use crate::shown::shown;
use crate::span::CheckedSpan;
use meshchain_core::session::session_id;
use std::collections::{BTreeMap, HashSet};

/// Digests that may be spent on the disputes of one file, some tenths of a second: a file can list
/// thousands of them.
const TRIALS: Budget = 500_000;

/// One report per span id, in the order of the file. Spans that the steps refute, duplicates, and
/// entries without an id are no side of a hop.
pub(crate) fn compare_hops(
    spans: &[CheckedSpan<'_>],
    checkpoints: &Checkpoints<'_>,
) -> Vec<HopReport> {
    let (mut order, mut seen) = (Vec::new(), HashSet::new());
    let mut hops: BTreeMap<[u8; 8], Vec<(usize, HopSide<'_>)>> = BTreeMap::new();
    for span in spans {
        let Some(side) = side_of(span, checkpoints) else { continue };
        let id = side.entry.span_id;
        if !seen.insert((side.entry.to_bytes(), side.session)) {
            continue;
        }
        let sides = hops.entry(id).or_insert_with(|| {
            order.push(id);
            Vec::new()
        });
        sides.push((span.report.number, side));
    }
    let mut budget = TRIALS;
    let compare = |id: [u8; 8]| Some(report(id, hops.remove(&id)?, &mut budget));
    order.into_iter().filter_map(compare).collect()
}

fn side_of<'a>(span: &CheckedSpan<'a>, checkpoints: &'a Checkpoints<'_>) -> Option<HopSide<'a>> {
    let (entry, leaf) = (span.entry?, span.leaf.as_ref()?);
    let refuted = span.report.steps.iter().any(|step| step.outcome == Outcome::Refuted);
    if entry.span_id == [0; 8] || refuted {
        return None;
    }
    let place = span.report.place.as_ref();
    let checkpoint = place.and_then(|place| checkpoints.list.get(place.checkpoint - 1));
    // An origin that no key of the policy signs for is a claim of the file.
    let log = checkpoint.and_then(|checkpoint| checkpoint.log);
    let session = session_id(&leaf.public_key);
    let previous = leaf.parse_header().ok().and_then(|header| header.previous);
    Some(HopSide {
        entry,
        hop: span.hop,
        own: span.own.clone(),
        session,
        follows: previous.filter(|p| p.verify(&session).is_ok()).map(|p| p.session),
        principal: leaf.principal,
        log: log.map_or("", |log| &log.origin),
        operator: log.and_then(|log| log.operator.as_deref()),
    })
}

fn report(id: [u8; 8], numbered: Vec<(usize, HopSide<'_>)>, budget: &mut Budget) -> HopReport {
    let of = |sends: bool| {
        let sides = numbered.iter().filter(|(_, side)| side.entry.side.sends() == sends);
        sides.map(|(number, _)| *number).collect::<Vec<_>>()
    };
    let shown_side = |(span, side): &(usize, HopSide<'_>)| HopSideShown {
        span: *span,
        log: (!side.log.is_empty()).then(|| shown(side.log)),
        operator: side.operator.map(shown),
        session: Some(hex::encode(side.session)),
        principal: (!side.principal.is_empty()).then(|| shown(side.principal)),
    };
    let (client, server) = (of(true), of(false));
    let shown = numbered.iter().map(shown_side).collect();
    let sides: Vec<_> = numbered.into_iter().map(|(_, side)| side).collect();
    let verdict = judge(&sides, budget);
    HopReport { span_id: hex::encode(id), client, server, sides: shown, verdict }
}
