//! Taking a committed bundle in: what the catalog and the sessions learn of its leaves.

use crate::catalog::{Catalog, LeafPlace, PushedLeaf};
use crate::sessions::Sessions;
use meshchain_core::{BatchLeaf, Canonical, DecodeError, SessionId, TreeHead};
use meshchain_stored::Oddity;
use meshchain_stored::staging::LeafSlices;
use std::sync::Arc;

/// A committed bundle, parsed: what catalog and sessions learn of it.
pub(crate) struct Intake<'a> {
    bundle: Arc<str>,
    first: u64,
    bytes: &'a [u8],
    head: TreeHead,
    leaves: Vec<(BatchLeaf<'a>, LeafSlices)>,
}

/// Parses the leaves of a bundle that is committed as `first..head.size`.
pub(crate) fn take_in<'a>(
    name: &str,
    first: u64,
    bytes: &'a [u8],
    slices: &[LeafSlices],
    head: TreeHead,
) -> Result<Intake<'a>, DecodeError> {
    let leaves = slices.iter().map(|s| Ok((BatchLeaf::decode(&bytes[s.leaf()])?, *s)));
    let leaves = leaves.collect::<Result<_, _>>()?;
    Ok(Intake { bundle: name.into(), first, bytes, head, leaves })
}

impl Intake<'_> {
    /// The first leaf whose entries beside it are not its own.
    pub(crate) fn without_its_entries(&self) -> Option<u64> {
        let holds = |(leaf, slices): &(BatchLeaf<'_>, LeafSlices)| {
            leaf.holds(&self.bytes[slices.entries()])
        };
        let bad = self.leaves.iter().position(|leaf| !holds(leaf))?;
        Some(self.first + bad as u64)
    }

    /// The sessions of its leaves.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = SessionId> {
        let header = |(leaf, _): &(BatchLeaf<'_>, LeafSlices)| {
            leaf.parse_header().map(|header| header.session).unwrap_or_default()
        };
        self.leaves.iter().map(header)
    }

    /// Teaches catalog and sessions; what the sessions had before is known there. Gives what is odd about leaves.
    pub(crate) fn apply(
        self,
        catalog: &mut Catalog,
        sessions: &mut Sessions,
    ) -> Vec<(u64, SessionId, Oddity)> {
        let mut oddities = Vec::new();
        let mut known = Vec::with_capacity(self.leaves.len());
        for (at, (leaf, slices)) in (self.first..).zip(&self.leaves) {
            let header = leaf.parse_header().unwrap_or_default();
            let (came, odd) = sessions.record(leaf, &header, at);
            oddities.extend(odd.into_iter().map(|odd| (at, header.session, odd)));
            let place = LeafPlace {
                bundle: self.bundle.clone(),
                slices: *slices,
                seq: header.seq,
                chain: leaf.chain,
            };
            let entries = &self.bytes[slices.entries()];
            known.push(PushedLeaf { session: header.session, came, place, entries });
        }
        let received = self.leaves.first().map_or(0, |(leaf, _)| leaf.received_ns);
        catalog.push_bundle(self.bundle, self.bytes.len(), self.head, received, known);
        oddities
    }
}
