//! What two sides differ about: by comparing hop parts where both are shown, by trying where one is.

use super::candidates::{SHADOW, STATUSES, Texts, differences};
use super::side::HopSide;
use super::verdict::{Difference, HopVerdict};
use super::{Budget, why};
use meshchain_core::target::canonical_authority;
use meshchain_core::{Hash, HopPart};

/// Pairs of entries of a hop that are looked at to find what a dispute is about.
const MOST_PAIRS: usize = 8;

/// How a server's entry differs from a request that both sides agree on.
pub(super) enum Found {
    /// In its status alone.
    Attempt,
    /// In these fields too.
    Other(Vec<Difference>),
    /// In none of the ways that were tried, and so in more than its status.
    Unlike,
    /// It cannot be told from what is shown.
    Unknown,
}

pub(super) struct Differ<'d> {
    sides: &'d [&'d HopSide<'d>],
    budget: &'d mut Budget,
}

impl<'d> Differ<'d> {
    pub(super) fn new(sides: &'d [&'d HopSide<'d>], budget: &'d mut Budget) -> Self {
        Self { sides, budget }
    }

    /// The dispute between entries that are left over: about as little as any two of them differ in.
    pub(super) fn dispute<'s>(
        &mut self,
        agreed: usize,
        apart: impl Iterator<Item = (&'s HopSide<'s>, &'s HopSide<'s>)>,
    ) -> HopVerdict {
        let mut best: Option<(Vec<Difference>, Vec<super::Why>)> = None;
        let mut tell = "disclose a hop part to tell what about";
        for (sender, receiver) in apart.take(MOST_PAIRS) {
            if sender.hop.is_some() || receiver.hop.is_some() {
                tell = "in none of the ways that were tried; disclose the other hop part to tell";
            }
            let Some(differs) = self.between(sender, receiver) else { continue };
            if best.as_ref().is_none_or(|(least, _)| differs.len() < least.len()) {
                let why = why::dispute(sender, receiver, &differs);
                best = Some((differs, why));
            }
        }
        match best {
            Some((differs, why)) => HopVerdict::dispute(agreed, differs, why),
            None => HopVerdict::unexplained(agreed, tell),
        }
    }

    /// The fields in which two sides differ; `None` where it cannot be told.
    fn between(&mut self, sender: &HopSide<'_>, receiver: &HopSide<'_>) -> Option<Vec<Difference>> {
        match (&sender.hop, &receiver.hop) {
            (Some(client), Some(server)) => Some(differences(client, server)),
            (Some(client), None) => {
                let texts = Texts::of(sender);
                let server = self.find(client, &texts, &receiver.entry.hop_digest)?;
                Some(differences(client, &server))
            }
            (None, Some(server)) => {
                let texts = Texts::of(receiver);
                let client = self.find(server, &texts, &sender.entry.hop_digest)?;
                Some(differences(&client, server))
            }
            (None, None) => None,
        }
    }

    /// The hop part of this digest, among those like `hop`.
    fn find<'a>(
        &mut self,
        hop: &HopPart<'a>,
        texts: &'a Texts,
        digest: &Hash,
    ) -> Option<HopPart<'a>> {
        texts.candidates(hop).find_map(|(_, candidate)| self.with_status(&candidate, digest))
    }

    /// `hop` with the status that leads to this digest.
    fn with_status<'a>(&mut self, hop: &HopPart<'a>, digest: &Hash) -> Option<HopPart<'a>> {
        let own = std::iter::once(hop.status);
        for status in own.chain(STATUSES) {
            *self.budget = self.budget.checked_sub(1)?;
            let other = HopPart { status, ..*hop };
            if other.digest() == *digest {
                return Some(other);
            }
        }
        None
    }

    /// Whether a server's entry is that of a copy which was sent to a shadow: the request of one of the
    /// clients, but for its host, or a request to a shadow where no client is.
    pub(super) fn is_mirrored(&mut self, receiver: &HopSide<'_>) -> bool {
        let mut senders = self.sides.iter().filter(|side| side.sends()).peekable();
        if let Some(hop) = &receiver.hop {
            let Some(host) = hop.authority.strip_suffix(SHADOW) else { return false };
            // Envoy puts it behind whatever stands there, a dot too.
            let mut room = Vec::new();
            let meant = HopPart { authority: canonical_authority(host, &mut room), ..*hop };
            let digests: Vec<_> = senders.map(|side| side.entry.hop_digest).collect();
            return digests.is_empty()
                || digests.iter().any(|digest| self.with_status(&meant, digest).is_some());
        }
        if senders.peek().is_none() {
            return false;
        }
        let sides = self.sides;
        let requests = sides.iter().filter_map(|side| side.hop.as_ref()).take(MOST_PAIRS);
        requests.into_iter().any(|hop| {
            let authority = [hop.authority, SHADOW].concat();
            let copy = HopPart { authority: &authority, ..*hop };
            hop.overflow.is_none() && self.with_status(&copy, &receiver.entry.hop_digest).is_some()
        })
    }

    /// How a server's entry that has no client's differs from what both sides agree on.
    pub(super) fn against_agreed(&mut self, receiver: &HopSide<'_>) -> Found {
        let agreed =
            self.sides.iter().filter(|side| side.sends()).map(|side| side.entry.hop_digest);
        let agreed: Vec<_> = agreed.collect();
        let known =
            self.sides.iter().find(|s| agreed.contains(&s.entry.hop_digest) && s.hop.is_some());
        let Some(known) = known else { return Found::Unknown };
        let Some(client) = &known.hop else { return Found::Unknown };
        let differs = match &receiver.hop {
            Some(server) => Some(differences(client, server)),
            None => {
                let texts = Texts::of(known);
                let found = self.find(client, &texts, &receiver.entry.hop_digest);
                found.map(|server| differences(client, &server))
            }
        };
        match differs {
            Some(differs) if differs.iter().any(|d| d.field != "status") => Found::Other(differs),
            Some(_) => Found::Attempt,
            None if *self.budget > 0 => Found::Unlike,
            None => Found::Unknown,
        }
    }
}
