//! The tree, recomputed tile by tile from what the source has, and which of two copies is right.

use super::check::Fsck;
use super::edge::Filled;
use super::tiles::{Column, fetch};
use meshchain_core::tile::{TILE_WIDTH, TileKind, TileName, width_at};
use meshchain_core::{Hash, merkle};

impl Fsck<'_> {
    pub(super) fn column(&mut self, kind: TileKind, index: u64, width: u16) -> Option<Column> {
        let stored = fetch(self.source, &TileName { kind, index, width });
        let stored = self.keep(stored)??;
        self.report.tiles += 1;
        Some(match kind {
            TileKind::Hashes(_) => Column::tile(stored, width),
            TileKind::Entries => Column::bundle(stored, width),
        })
    }

    /// Checks up to 256 leaves: bundle, tile and staging bundle against each other and what is above them.
    pub(super) fn tile(&mut self, index: u64) {
        let first = index * TILE_WIDTH;
        let width = width_at(self.heads.published.size, 0, index);
        let unreadable = self.unreadable;
        let bundle = self.column(TileKind::Entries, index, width);
        let tile = self.column(TileKind::Hashes(0), index, width);
        let read = self.unreadable == unreadable;
        let chosen = self.choose(index, width, bundle.as_ref(), tile.as_ref());
        let mut leaves = Vec::with_capacity(width.into());
        for (at, hash) in chosen.iter().enumerate() {
            leaves.push(self.leaf_bytes(first + at as u64, at, *hash, bundle.as_ref()));
        }
        let nothing = bundle.is_none() && tile.is_none() && leaves.iter().all(Option::is_none);
        self.absent = if nothing { self.absent + 1 } else { 0 };
        if read {
            for (kind, column) in [(TileKind::Entries, &bundle), (TileKind::Hashes(0), &tile)] {
                let name = TileName { kind, index, width };
                self.blame(&name, column.as_ref(), &chosen, &leaves);
            }
        }
        for (leaf, (bytes, hash)) in (first..).zip(leaves.iter().zip(&chosen)) {
            self.leaf(leaf, bytes.as_deref(), &bundle);
            self.stored(leaf, bytes.as_deref(), *hash);
        }
    }

    /// The leaf hashes of a tile, and the tree grown by them. Where bundle and tile differ, the
    /// hash above them decides, then the staging bundle.
    pub(super) fn choose(
        &mut self,
        index: u64,
        width: u16,
        bundle: Option<&Column>,
        tile: Option<&Column>,
    ) -> Vec<Option<Hash>> {
        let of = |column: Option<&Column>| -> Vec<Option<Hash>> {
            let hashes = column.map_or(&[][..], |c| c.hashes.as_slice());
            (0..usize::from(width)).map(|at| hashes.get(at).copied()).collect()
        };
        let (by_bundle, by_tile) = (of(bundle), of(tile));
        if by_bundle == by_tile && by_tile.iter().all(Option::is_some) {
            self.grow(&by_tile);
            return by_tile;
        }
        let above = self.above(index);
        let by_staging = self.by_staging(index * TILE_WIDTH, &by_bundle, &by_tile);
        for candidate in [&by_tile, &by_bundle, &by_staging] {
            if self.fits(candidate, above) {
                self.grow(candidate);
                return candidate.clone();
            }
        }
        match above {
            Some(hash) => {
                let filled = self.edge.push_tile(hash);
                self.filled(filled);
                self.at_sealed_end();
            }
            None => {
                self.doubt = true;
                self.grow(&by_staging);
            }
        }
        by_staging
    }

    pub(super) fn by_staging(
        &mut self,
        first: u64,
        bundle: &[Option<Hash>],
        tile: &[Option<Hash>],
    ) -> Vec<Option<Hash>> {
        let mut chosen = Vec::with_capacity(tile.len());
        for (leaf, (bundle, tile)) in (first..).zip(bundle.iter().zip(tile)) {
            if bundle == tile && bundle.is_some() {
                chosen.push(*bundle);
                continue;
            }
            let found = self.staging.as_mut().and_then(|staging| staging.leaf(leaf).ok().flatten());
            let staged = found.map(|bytes| merkle::leaf_hash(&bytes));
            chosen.push(staged.or(*tile).or(*bundle));
        }
        chosen
    }

    /// Whether these leaf hashes lead to what is above them: the hash in the next level for a full
    /// tile, the root for a partial one.
    pub(super) fn fits(&self, candidate: &[Option<Hash>], above: Option<Hash>) -> bool {
        let Some(hashes) = candidate.iter().copied().collect::<Option<Vec<Hash>>>() else {
            return false;
        };
        if hashes.len() as u64 == TILE_WIDTH {
            return above == Some(merkle::root(&hashes));
        }
        let mut edge = self.edge.clone();
        hashes.iter().for_each(|hash| drop(edge.push(*hash)));
        !self.doubt && edge.head() == self.heads.published
    }

    /// The hash over a full tile of leaves, as the stored tile above has it.
    pub(super) fn above(&mut self, index: u64) -> Option<Hash> {
        let size = self.heads.published.size;
        if u64::from(width_at(size, 0, index)) < TILE_WIDTH {
            return None;
        }
        let parent = index / TILE_WIDTH;
        if self.above.as_ref().is_none_or(|(at, _)| *at != parent) {
            let column = self.column(TileKind::Hashes(1), parent, width_at(size, 1, parent));
            self.above = Some((parent, column));
        }
        let (_, column) = self.above.as_ref()?;
        column.as_ref()?.hashes.get((index % TILE_WIDTH) as usize).copied()
    }

    pub(super) fn grow(&mut self, hashes: &[Option<Hash>]) {
        for hash in hashes {
            self.doubt |= hash.is_none();
            let filled = self.edge.push(hash.unwrap_or_default());
            self.filled(filled);
            self.at_sealed_end();
        }
    }

    /// Compares recomputed tiles above level 0 with the stored ones.
    pub(super) fn filled(&mut self, tiles: Vec<Filled>) {
        for (level, index, hashes) in tiles {
            if level == 0 || self.doubt {
                continue;
            }
            let kind = TileKind::Hashes(level);
            let name = TileName { kind, index, width: hashes.len() as u16 };
            let unreadable = self.unreadable;
            let column = self.column(kind, index, name.width);
            if self.unreadable == unreadable {
                let hashes: Vec<_> = hashes.into_iter().map(Some).collect();
                self.blame(&name, column.as_ref(), &hashes, &[]);
            }
        }
    }
}
