//! Why a side may be missing, and what accounts for a dispute, as far as the own parts say.

use super::candidates::other_resolutions;
use super::side::HopSide;
use super::verdict::{Difference, Why};
use meshchain_core::{ContextSource, OwnPart};

/// Code details of a response that came from the upstream.
const VIA_UPSTREAM: &[u8] = b"via_upstream";
const INTERNAL_REDIRECT: &[u8] = b"internal_redirect";

/// Why the other side of an entry may be missing.
pub(super) fn one_sided(side: &HopSide<'_>) -> Vec<Why> {
    let Some(own) = &side.own else { return vec![Why::NotShown] };
    let mut why = Vec::new();
    if redirected(own) {
        why.push(Why::InternalRedirect);
    } else if side.sends() && answered_itself(own) {
        why.push(Why::LocalReply);
    } else if own.peer_principal.is_empty() {
        why.push(Why::Edge);
    }
    if !side.sends() && own.context == ContextSource::Generated {
        why.push(Why::NoContext);
    }
    why
}

/// What accounts for a dispute that these differences are all of.
pub(super) fn dispute(
    sender: &HopSide<'_>,
    receiver: &HopSide<'_>,
    differs: &[Difference],
) -> Vec<Why> {
    let fields: Vec<_> = differs.iter().map(|difference| difference.field).collect();
    let mut why = Vec::new();
    match fields.as_slice() {
        ["status"] => {
            let by = |side: &HopSide<'_>, is: fn(&OwnPart<'_>) -> bool| {
                side.own.as_ref().is_some_and(is)
            };
            if by(sender, redirected) || by(receiver, redirected) {
                why.push(Why::InternalRedirect);
            } else if by(sender, answered_itself) {
                why.push(Why::LocalReply);
            }
        }
        ["request_id"] if differs.iter().all(|d| d.client.is_empty()) => why.push(Why::NoRequestId),
        ["path"] if resolved_differently(sender, receiver) => why.push(Why::DotsOverSlash),
        _ => {}
    }
    why
}

fn redirected(own: &OwnPart<'_>) -> bool {
    own.code_details.starts_with(INTERNAL_REDIRECT)
}

fn answered_itself(own: &OwnPart<'_>) -> bool {
    !own.code_details.is_empty() && own.code_details != VIA_UPSTREAM
}

/// Whether one side's path is another resolution of what the other saw.
fn resolved_differently(one: &HopSide<'_>, other: &HopSide<'_>) -> bool {
    let of = |seen: &HopSide<'_>, shown: &HopSide<'_>| match (&seen.hop, &shown.hop) {
        (Some(_), Some(hop)) => other_resolutions(seen).iter().any(|path| path == hop.path),
        // Found by trial, of such a resolution.
        (Some(_), None) => !other_resolutions(seen).is_empty(),
        _ => false,
    };
    of(one, other) || of(other, one)
}
