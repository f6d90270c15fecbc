//! The entries that a server gives beside the tiles, against the leaves.

use super::check::Fsck;
use super::findings::Damage;
use meshchain_core::{BatchLeaf, Canonical};
use std::collections::VecDeque;

/// A page of them that is being held against the leaves.
#[derive(Default)]
pub(super) struct Served {
    page: VecDeque<Vec<u8>>,
    /// Leaf of the page's next ones.
    next: u64,
    /// The source gives none, or no more.
    absent: bool,
}

impl Fsck<'_> {
    /// Holds the entries that are served of a leaf against it.
    pub(super) fn served(&mut self, at: u64, bytes: Option<&[u8]>) {
        if self.served.absent {
            return;
        }
        if self.served.page.is_empty() || self.served.next != at {
            let read = self.source.entries(at);
            // What failed once is told, and not asked for again.
            let page = self.keep(read).flatten();
            self.served.absent = page.is_none();
            (self.served.page, self.served.next) = (page.unwrap_or_default().into(), at);
        }
        let Some(entries) = self.served.page.pop_front() else { return };
        self.served.next += 1;
        let Some(Ok(leaf)) = bytes.map(BatchLeaf::decode) else { return };
        if leaf.holds(&entries) {
            self.report.entries_checked += leaf.parse_header().map_or(0, |h| h.count.into());
            return;
        }
        self.report.damage(Damage {
            file: format!("v1/entries?from={at}"),
            offset: None,
            fault: format!("leaf {at} does not hold these entries"),
            cost: "the server gives out entries that no proof leads to".to_owned(),
            leaves: Some((at, at)),
        });
    }
}
