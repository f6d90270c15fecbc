//! Taking a committed bundle in: what the catalog and the sessions learn of its leaves.

use crate::catalog::{Catalog, LeafPlace, PushedLeaf};
use crate::event::Event;
use crate::sessions::Sessions;
use meshchain_core::{BatchHeader, BatchLeaf, Canonical, DecodeError, SessionId, TreeHead};
use meshchain_stored::Step;
use meshchain_stored::staging::LeafSlices;
use std::sync::Arc;

/// A committed bundle, parsed: what catalog and sessions learn of it.
pub(crate) struct Intake<'a> {
    bundle: Arc<str>,
    first: u64,
    bytes: &'a [u8],
    head: TreeHead,
    leaves: Vec<(BatchLeaf<'a>, BatchHeader<'a>, LeafSlices)>,
}

/// Parses the leaves of a bundle that is committed as `first..head.size`.
pub(crate) fn take_in<'a>(
    name: &str,
    first: u64,
    bytes: &'a [u8],
    slices: &[LeafSlices],
    head: TreeHead,
) -> Result<Intake<'a>, DecodeError> {
    let leaves = slices.iter().map(|s| {
        let leaf = BatchLeaf::decode(&bytes[s.leaf()])?;
        let header = leaf.parse_header()?;
        Ok((leaf, header, *s))
    });
    let leaves = leaves.collect::<Result<_, _>>()?;
    Ok(Intake { bundle: name.into(), first, bytes, head, leaves })
}

impl Intake<'_> {
    /// The first leaf whose entries beside it are not its own.
    pub(crate) fn without_its_entries(&self) -> Option<u64> {
        let bad =
            self.leaves.iter().position(|(leaf, _, s)| !leaf.holds(&self.bytes[s.entries()]))?;
        Some(self.first + bad as u64)
    }

    /// The sessions of its leaves.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = SessionId> {
        self.leaves.iter().map(|(_, header, _)| header.session)
    }

    /// Teaches catalog and sessions; what the sessions had before is known there. Gives how each leaf follows.
    pub(crate) fn apply(&self, catalog: &mut Catalog, sessions: &mut Sessions) -> Vec<Step> {
        let mut steps = Vec::with_capacity(self.leaves.len());
        let mut known = Vec::with_capacity(self.leaves.len());
        for (at, (leaf, header, slices)) in (self.first..).zip(&self.leaves) {
            let (came, step) = sessions.record(leaf, header, at);
            steps.push(step);
            let place = LeafPlace {
                bundle: self.bundle.clone(),
                slices: *slices,
                seq: header.seq,
                chain: leaf.chain,
            };
            let entries = &self.bytes[slices.entries()];
            known.push(PushedLeaf { session: header.session, came, place, entries });
        }
        let received = self.leaves.first().map_or(0, |(leaf, ..)| leaf.received_ns);
        let bundle = self.bundle.clone();
        catalog.push_bundle(bundle, self.bytes.len(), self.head, received, known);
        steps
    }

    /// The leaves as they are told, with how each follows.
    pub(crate) fn told<'e>(&'e self, steps: &'e [Step]) -> impl Iterator<Item = Event<'e>> {
        let leaves = (self.first..).zip(&self.leaves).zip(steps);
        leaves.map(|((index, (leaf, header, _)), step)| Event::Logged {
            index,
            leaf,
            header,
            step,
            again: false,
        })
    }
}
