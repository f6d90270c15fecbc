//! Whether the server's side attests the client's session: which key spoke for it at that moment.

use super::side::HopSide;
use super::verdict::SessionNamed;

/// What the servers' records say of the clients' sessions. A record of the very call of a client's entry counts
/// before those that anybody can leave beside it under the same ids; of these one contradiction counts.
pub(super) fn session_named(sides: &[&HopSide<'_>]) -> SessionNamed {
    let (senders, receivers): (Vec<&HopSide<'_>>, Vec<_>) =
        sides.iter().copied().partition(|side| side.sends());
    if senders.is_empty() {
        return SessionNamed::NotShown;
    }
    let same_call = |receiver: &&&HopSide<'_>| {
        senders.iter().any(|sender| sender.entry.hop_digest == receiver.entry.hop_digest)
    };
    let of_the_call: Vec<_> = receivers.iter().filter(same_call).copied().collect();
    let heard = if of_the_call.is_empty() { receivers } else { of_the_call };
    let mut found = SessionNamed::NotShown;
    for receiver in heard {
        let Some(own) = receiver.own.as_ref() else { continue };
        let said = match own.peer_session {
            None => SessionNamed::NotNamed,
            // Nobody vouches for who named it.
            Some(_) if own.peer_principal.is_empty() => SessionNamed::NotNamed,
            Some(named) => {
                // A proxy sends calls that it kept in a new session where the old one was ended.
                let is = |s: &&HopSide<'_>| s.session == named || s.follows == Some(named);
                match senders.iter().copied().find(is) {
                    Some(sender) if is_of(own.peer_principal, sender) => SessionNamed::Attested,
                    Some(_) => SessionNamed::NotNamed, // by another than whom mTLS proved
                    None => SessionNamed::Other { named },
                }
            }
        };
        found = match (found, said) {
            (SessionNamed::Attested, _) | (_, SessionNamed::Attested) => SessionNamed::Attested,
            (SessionNamed::Other { named }, _) => SessionNamed::Other { named },
            (_, said) => said,
        };
    }
    found
}

/// Whether the peer that mTLS proved to the server is the one that delivered the client's batches, as far as the
/// log of these tells. Where mTLS proved nobody, anybody may have named the session.
fn is_of(peer_principal: &[u8], sender: &HopSide<'_>) -> bool {
    !peer_principal.is_empty()
        && (sender.principal.is_empty() || peer_principal == sender.principal)
}
