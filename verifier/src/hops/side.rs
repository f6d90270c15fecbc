//! One entry of a hop, and whose it is.

use meshchain_core::{ENTRY_LEN, HopPart, OwnPart, SessionId};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// One side's entry of a hop, with what is shown and known of it. What is shown must have been checked
/// against the entry's digests before.
#[derive(Debug, Clone)]
pub struct HopSide<'a> {
    /// The entry.
    pub entry: meshchain_core::Entry,
    /// The hop part, where it is shown.
    pub hop: Option<HopPart<'a>>,
    /// The own part, where it is shown.
    pub own: Option<OwnPart<'a>>,
    /// Session that the entry came with.
    pub session: SessionId,
    /// Session that this one says it follows, where known.
    pub follows: Option<SessionId>,
    /// SPIFFE id that delivered it; empty where unknown.
    pub principal: &'a [u8],
    /// Origin of the log that holds it; empty where unknown.
    pub log: &'a str,
    /// Operator of that log, where the policy names one.
    pub operator: Option<&'a str>,
}

impl HopSide<'_> {
    /// Whether it is the side that sent the request.
    pub(super) fn sends(&self) -> bool {
        self.entry.side.sends()
    }

    /// Whether one proxy may have written both: one session, or one principal.
    pub(super) fn same_proxy(&self, other: &Self) -> bool {
        let named = !self.principal.is_empty() && self.principal == other.principal;
        self.session == other.session || named
    }

    /// Whether one party keeps both.
    pub(super) fn same_operator(&self, other: &Self) -> bool {
        self.log == other.log || (self.operator.is_some() && self.operator == other.operator)
    }
}

/// Each entry once: a log may hold, and a file may list, one several times. Where sessions repeat
/// each other's, the copy counts that can be the other side's word: repeating an entry of the other
/// side takes nothing from it.
pub(super) fn distinct<'a, 's>(sides: &'a [HopSide<'s>]) -> Vec<&'a HopSide<'s>> {
    let mut kept: Vec<&HopSide<'s>> = Vec::new();
    let mut places: HashMap<[u8; ENTRY_LEN], usize> = HashMap::new();
    let echoes = |side: &HopSide<'s>| {
        let mut others = sides.iter().filter(|other| other.sends() != side.sends());
        others.any(|other| side.same_proxy(other))
    };
    for side in sides {
        match places.entry(side.entry.to_bytes()) {
            Entry::Vacant(place) => {
                place.insert(kept.len());
                kept.push(side);
            }
            Entry::Occupied(place) => {
                let copy = &mut kept[*place.get()];
                if copy.session != side.session && echoes(copy) && !echoes(side) {
                    *copy = side;
                }
            }
        }
    }
    kept
}
