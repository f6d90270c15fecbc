//! The entries in a copy of a log: each leaf says which are its own.

use super::mirror::{Mirror, MirrorError};
use super::source::{LogSource, entries_path};
use super::tiles::MAX_BUNDLE;
use meshchain_core::entries_page::encode_page;
use meshchain_core::tile::{TILE_WIDTH, TileKind, TileName, split_bundle, width_at};
use meshchain_core::{BatchLeaf, Canonical, TreeHead};

impl Mirror<'_> {
    pub(super) fn has_entries(&self) -> bool {
        self.directory.join("entries").is_dir()
    }

    /// Copies entries from the last page on that is here, each held against its leaf. Whether there are any.
    pub(super) fn copy_entries(&self, head: &TreeHead) -> Result<bool, MirrorError> {
        let mut from = self.last_page();
        let mut bundle: Option<(u64, Vec<Vec<u8>>)> = None;
        while from < head.size {
            let Some(mut page) = self.source.entries(from)? else { return Ok(false) };
            page.truncate(usize::try_from(head.size - from).unwrap_or(usize::MAX));
            for (leaf, entries) in (from..).zip(&page) {
                let index = leaf / TILE_WIDTH;
                if bundle.as_ref().is_none_or(|(of, _)| *of != index) {
                    bundle = Some((index, self.leaves(head, index)?));
                }
                let leaves = bundle.as_ref().map_or(&[][..], |(_, leaves)| leaves);
                let bytes = leaves.get((leaf % TILE_WIDTH) as usize);
                let holds = |bytes: &Vec<u8>| {
                    BatchLeaf::decode(bytes).is_ok_and(|leaf| leaf.holds(entries))
                };
                if !bytes.is_some_and(holds) {
                    return Err(MirrorError::Contradiction(format!(
                        "leaf {leaf} does not hold the entries that are served"
                    )));
                }
            }
            self.gather(&entries_path(from), &encode_page(&page))?;
            from += page.len() as u64;
        }
        Ok(true)
    }

    /// The leaves of a bundle of the tree; none where it is no bundle.
    fn leaves(&self, head: &TreeHead, index: u64) -> Result<Vec<Vec<u8>>, MirrorError> {
        let width = width_at(head.size, 0, index);
        let name = TileName { kind: TileKind::Entries, index, width };
        let bytes = match self.incoming.get(&name.path(), MAX_BUNDLE)? {
            Some(gathered) => gathered,
            None => self.bundle(&name)?,
        };
        let leaves = split_bundle(&bytes).unwrap_or_default();
        Ok(leaves.into_iter().map(<[u8]>::to_vec).collect())
    }

    /// First leaf of the last page that was copied: it may have grown.
    fn last_page(&self) -> u64 {
        let pages = self.local.list("entries").ok().flatten().unwrap_or_default();
        pages
            .iter()
            .filter_map(|page| page.name.rsplit('/').next()?.parse().ok())
            .max()
            .unwrap_or(0)
    }
}
