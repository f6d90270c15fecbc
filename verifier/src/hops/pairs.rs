//! The two sides matched as multisets of digests: each entry is in one pair at most, and no proxy is
//! paired with itself.

use super::side::HopSide;
use super::verdict::Spread;
use meshchain_core::Hash;
use std::collections::HashMap;

/// Entries of one side under one digest up to which pairs are changed to make more of them. Beyond it
/// fewer may be found, never false ones.
const MOST_EXCHANGED: usize = 64;

type Side<'s> = &'s HopSide<'s>;

/// Pairs of equal digests, and what is left over.
pub(super) struct Pairs<'s> {
    /// Sender and receiver, of two proxies.
    pub(super) cross: Vec<(Side<'s>, Side<'s>)>,
    pub(super) senders: Vec<Side<'s>>,
    pub(super) receivers: Vec<Side<'s>>,
}

impl<'s> Pairs<'s> {
    pub(super) fn of(sides: &[Side<'s>]) -> Self {
        let mut order = Vec::new();
        let mut groups: HashMap<Hash, (Vec<Side<'s>>, Vec<Side<'s>>)> = HashMap::new();
        for side in sides {
            let (senders, receivers) = groups.entry(side.entry.hop_digest).or_insert_with(|| {
                order.push(side.entry.hop_digest);
                Default::default()
            });
            if side.sends() { senders.push(side) } else { receivers.push(side) }
        }
        let mut all = Self { cross: vec![], senders: vec![], receivers: vec![] };
        for digest in order {
            if let Some((senders, receivers)) = groups.get(&digest) {
                all.add(senders, receivers);
            }
        }
        all
    }

    fn add(&mut self, senders: &[Side<'s>], receivers: &[Side<'s>]) {
        let mut partner: Vec<Option<usize>> = vec![None; receivers.len()];
        let exchange = senders.len().max(receivers.len()) <= MOST_EXCHANGED;
        for at in 0..senders.len() {
            let mut tried = vec![false; if exchange { receivers.len() } else { 0 }];
            place(at, senders, receivers, &mut partner, &mut tried);
        }
        let mut placed = vec![false; senders.len()];
        for (receiver, partner) in receivers.iter().zip(&partner) {
            match partner {
                Some(at) => {
                    placed[*at] = true;
                    self.cross.push((senders[*at], receiver));
                }
                None => self.receivers.push(receiver),
            }
        }
        let left = senders.iter().zip(placed).filter(|(_, placed)| !placed);
        self.senders.extend(left.map(|(sender, _)| *sender));
    }

    /// Senders and receivers that are left over, in pairs of two proxies.
    pub(super) fn apart(
        &self,
        receivers: &[Side<'s>],
    ) -> impl Iterator<Item = (Side<'s>, Side<'s>)> {
        let with = |sender: Side<'s>| receivers.iter().map(move |receiver| (sender, *receiver));
        let all = self.senders.iter().flat_map(move |sender| with(sender));
        all.filter(|(sender, receiver)| !sender.same_proxy(receiver))
    }

    /// Whether all pairs are of two parties' logs.
    pub(super) fn spread(&self) -> Option<Spread> {
        let any = |is: fn(Side<'_>, Side<'_>) -> bool| self.cross.iter().any(|(s, r)| is(s, r));
        let spread = if any(|s, r| s.log.is_empty() || r.log.is_empty()) {
            Spread::Unknown
        } else if any(|s, r| s.same_operator(r)) {
            Spread::OneOperator
        } else {
            Spread::TwoLogs
        };
        (!self.cross.is_empty()).then_some(spread)
    }
}

/// Finds a receiver for a sender; one that has a sender already where that one finds another
/// (Kuhn's algorithm). With nothing to note in `tried`, only free ones.
fn place(
    at: usize,
    senders: &[Side<'_>],
    receivers: &[Side<'_>],
    partner: &mut [Option<usize>],
    tried: &mut [bool],
) -> bool {
    for (to, receiver) in receivers.iter().enumerate() {
        if senders[at].same_proxy(receiver) {
            continue;
        }
        let free = match partner[to] {
            None => true,
            Some(other) => match tried.get_mut(to) {
                Some(seen) if !*seen => {
                    *seen = true;
                    place(other, senders, receivers, partner, tried)
                }
                _ => false,
            },
        };
        if free {
            partner[to] = Some(at);
            return true;
        }
    }
    false
}
