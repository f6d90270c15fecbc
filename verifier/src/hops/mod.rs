//! What the two sides of a hop say of it. The table of verdicts stands in `docs/trust.md`.
//!
//! [`judge`] is pure: it takes every entry of one hop, from whatever logs, and what is shown of each.
//! A dispute does not refute anything: each side's entry may be in its log just as its proxy reported
//! it; the two proxies then saw different calls, or one of them lies.

mod attest;
mod candidates;
mod differ;
mod pairs;
mod side;
mod verdict;
mod why;

pub use side::HopSide;
pub use verdict::{Difference, HopAgreement, HopVerdict, SessionNamed, Spread, Why};

use differ::{Differ, Found};
use pairs::Pairs;

/// Digests that a caller may spend on finding out what disputes are about; 600 tell a status.
pub type Budget = u32;

/// The verdict on one hop: all `sides` have its trace id and span id. An entry that is given twice
/// counts once. `budget` is what may be spent on trials, and is used up by them.
pub fn judge(sides: &[HopSide<'_>], budget: &mut Budget) -> HopVerdict {
    let sides = side::distinct(sides);
    let pairs = Pairs::of(&sides);
    let mut verdict = by_digests(&pairs, &mut Differ::new(&sides, budget));
    verdict.spread = pairs.spread();
    verdict.session = attest::session_named(&sides);
    verdict
}

fn by_digests(pairs: &Pairs<'_>, differ: &mut Differ<'_>) -> HopVerdict {
    let agreed = pairs.cross.len();
    // A copy that a mesh sent to a shadow is no side of the call itself.
    let (mirrored, receivers): (Vec<_>, Vec<_>) =
        pairs.receivers.iter().copied().partition(|side| differ.is_mirrored(side));
    match (pairs.senders.first(), receivers.first()) {
        (Some(_), Some(_)) if pairs.apart(&receivers).next().is_some() => {
            differ.dispute(agreed, pairs.apart(&receivers))
        }
        (Some(_), Some(_)) => HopVerdict::one_proxy(agreed),
        (None, Some(_)) if agreed > 0 => extra(pairs, &receivers, differ),
        (None, None) if !mirrored.is_empty() => HopVerdict::mirrored(agreed, mirrored.len()),
        (None, None) => HopVerdict::agree(agreed),
        (Some(side), None) | (None, Some(side)) => {
            HopVerdict::one_sided(side, agreed, mirrored.len(), why::one_sided(side))
        }
    }
}

/// More server entries than client entries: attempts of one call, or something that never was.
fn extra(pairs: &Pairs<'_>, more: &[&HopSide<'_>], differ: &mut Differ<'_>) -> HopVerdict {
    let agreed = pairs.cross.len();
    if more.iter().any(|receiver| pairs.cross.iter().any(|(by, _)| by.same_proxy(receiver))) {
        return HopVerdict::extra(agreed, more.len(), "the client's own proxy wrote it");
    }
    let mut unlike = false;
    for receiver in more {
        match differ.against_agreed(receiver) {
            // Anybody can make such a call under ids that he has seen.
            Found::Other(differs) => {
                let fields: Vec<_> = differs.iter().map(|differs| differs.field).collect();
                let tell =
                    format!("another request under the same ids: other {}", fields.join(", "));
                return HopVerdict::extra(agreed, more.len(), &tell);
            }
            found => unlike |= matches!(found, Found::Unlike),
        }
    }
    if unlike {
        return HopVerdict::extra(
            agreed,
            more.len(),
            "no attempt of this call, whatever its status",
        );
    }
    // Under one span id with several client entries, nothing says whose attempts they were.
    let sender = pairs.cross.first().map(|(sender, _)| *sender).filter(|_| agreed == 1);
    let made = sender.and_then(|sender| sender.own.as_ref()).map(|own| own.attempts);
    let entries = agreed + more.len();
    match made {
        Some(made) if made as usize >= entries => HopVerdict::attempts(agreed, entries as u32),
        Some(0) => {
            let tell = "the client's proxy does not say how many attempts it made";
            HopVerdict::extra(agreed, more.len(), tell)
        }
        Some(made) => {
            let attempts = if made == 1 { "attempt" } else { "attempts" };
            let said = format!("the client's proxy says that it made {made} {attempts}");
            HopVerdict::extra(agreed, more.len(), &said)
        }
        None => {
            let tell = "a retry or a lie: disclose the client's own part to tell";
            HopVerdict::extra(agreed, more.len(), tell)
        }
    }
}
