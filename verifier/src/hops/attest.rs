//! Whether the server's side attests the client's session: which key spoke for it at that moment.

use super::side::HopSide;
use super::verdict::SessionNamed;

/// What the servers' records say of the clients' sessions. One contradiction counts before all else.
pub(super) fn session_named(sides: &[&HopSide<'_>]) -> SessionNamed {
    let (senders, receivers): (Vec<&HopSide<'_>>, Vec<_>) =
        sides.iter().copied().partition(|side| side.sends());
    let shown = receivers.iter().filter_map(|side| side.own.as_ref());
    if senders.is_empty() {
        return SessionNamed::NotShown;
    }
    let mut found = SessionNamed::NotShown;
    for own in shown {
        let Some(named) = own.peer_session else {
            found = if found == SessionNamed::NotShown { SessionNamed::NotNamed } else { found };
            continue;
        };
        // A proxy sends calls that it kept in a new session where the old one was ended.
        if !senders.iter().any(|s| s.session == named || s.follows == Some(named)) {
            return SessionNamed::Other { named };
        }
        found = SessionNamed::Attested;
    }
    found
}
