//! What the two sides of a hop say of it: equal digests agree, others dispute.
//!
//! A dispute does not refute the file. Each side's entry may be in the log just as its proxy
//! reported it; the two proxies then saw different calls, or one of them lies.

use crate::report::{HopAgreement, HopReport};
use crate::span::{CheckedSpan, digest_with_status};
use meshchain_core::Side;
use std::collections::BTreeMap;

/// Statuses that are tried to find out what a dispute is about.
const STATUSES: std::ops::RangeInclusive<u32> = 0..=599;
/// Most disputes of one file that are looked into, as each costs 600 digests.
const MAX_EXPLAINED: usize = 100;

/// One report per span id, in the order of the file; duplicates and entries without id left out.
pub(crate) fn compare_hops(spans: &[CheckedSpan<'_>]) -> Vec<HopReport> {
    let mut order = Vec::new();
    let mut hops: BTreeMap<[u8; 8], (Vec<usize>, Vec<usize>)> = BTreeMap::new();
    for (at, span) in spans.iter().enumerate() {
        let Some(entry) = &span.entry else { continue };
        if entry.span_id == [0; 8] || span.report.duplicate_of.is_some() {
            continue;
        }
        let (client, server) = hops.entry(entry.span_id).or_insert_with(|| {
            order.push(entry.span_id);
            Default::default()
        });
        if entry.side == Side::Server { server.push(at) } else { client.push(at) }
    }
    let mut explained = 0;
    let compare = |id: [u8; 8]| {
        let (client, server) = hops.get(&id)?;
        Some(compare_hop(spans, id, client, server, &mut explained))
    };
    order.into_iter().filter_map(compare).collect()
}

fn compare_hop(
    spans: &[CheckedSpan<'_>],
    id: [u8; 8],
    client: &[usize],
    server: &[usize],
    explained: &mut usize,
) -> HopReport {
    let digests = |side: &[usize]| -> std::collections::BTreeSet<_> {
        side.iter().filter_map(|&at| Some(spans.get(at)?.entry.as_ref()?.hop_digest)).collect()
    };
    let agree = !digests(client).is_disjoint(&digests(server));
    let (agreement, detail) = match (client.is_empty(), server.is_empty(), agree) {
        (false, false, true) if client.len() + server.len() > 2 => {
            (HopAgreement::Agree, "a client's and a server's digest are equal; retried".to_owned())
        }
        (false, false, true) => (HopAgreement::Agree, "both sides' digests are equal".to_owned()),
        (false, false, false) => {
            *explained += 1;
            let reason = (*explained <= MAX_EXPLAINED).then(|| explain(spans, client, server));
            let reason = reason.flatten().unwrap_or_else(|| "the digests differ".to_owned());
            (HopAgreement::Dispute, reason)
        }
        (_, true, _) => (HopAgreement::OneSided, "client side only; no server entry".to_owned()),
        (true, ..) => (HopAgreement::OneSided, "server side only; no client entry".to_owned()),
    };
    let numbers = |side: &[usize]| side.iter().map(|at| at + 1).collect();
    let (client, server) = (numbers(client), numbers(server));
    HopReport { span_id: hex::encode(id), client, server, agreement, detail }
}

/// Finds "same request, other outcome" where one side's hop part is disclosed: the other side's
/// digest is then that of the same fields with another status.
fn explain(spans: &[CheckedSpan<'_>], client: &[usize], server: &[usize]) -> Option<String> {
    let (ours, theirs) = (spans.get(*client.first()?)?, spans.get(*server.first()?)?);
    let (theirs_digest, ours_digest) = (theirs.entry?.hop_digest, ours.entry?.hop_digest);
    let status_of = |hop: &meshchain_core::HopPart<'_>, digest| {
        STATUSES.into_iter().find(|&status| digest_with_status(hop, status) == digest)
    };
    let (client, server) = match (&ours.hop, &theirs.hop) {
        (Some(hop), _) => (hop.status, status_of(hop, theirs_digest)?),
        (None, Some(hop)) => (status_of(hop, ours_digest)?, hop.status),
        (None, None) => return None,
    };
    Some(format!(
        "same request, other outcome: status {client} at the client, {server} at the server"
    ))
}
