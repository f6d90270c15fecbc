//! The tiles that a start of the collector reads: those of the tree at the end of what is sealed.

use super::check::Fsck;
use super::findings::Damage;
use super::source::SourceError;
use super::tiles::{Column, fetch};
use meshchain_core::tile::{TILE_WIDTH, TileKind, TileName, put_entry, width_at};

impl Fsck<'_> {
    /// Tells which of them are gone. Newer versions of each hold all that is needed.
    pub(super) fn check_needed(&mut self) {
        let (end, size) = (self.sealed.end, self.heads.published.size);
        if end == 0 || end >= size {
            return; // those of the published tree are checked with it
        }
        for name in at_edge(end) {
            let checked = self.needed(&name, size);
            self.keep(checked);
        }
    }

    fn needed(&mut self, name: &TileName, size: u64) -> Result<(), SourceError> {
        if fetch(self.source, name)?.is_some() {
            return Ok(());
        }
        let newer = TileName { width: width_at(size, name.kind.level(), name.index), ..*name };
        let whole =
            fetch(self.source, &newer)?.filter(|whole| !self.report.is_damaged(&whole.file));
        let bytes = whole.and_then(|whole| match name.kind {
            TileKind::Hashes(_) => {
                whole.bytes.get(..32 * usize::from(name.width)).map(<[u8]>::to_vec)
            }
            TileKind::Entries => {
                let column = Column::bundle(whole, name.width);
                let mut bundle = Vec::new();
                for at in 0..usize::from(name.width) {
                    put_entry(&mut bundle, column.part(at)?);
                }
                Some(bundle)
            }
        });
        let how = match &bytes {
            Some(_) => {
                "nothing is lost: the next start, or --repair, writes it out of the newer one"
            }
            None => "the collector does not start; the newer one is damaged too: repair that first",
        };
        self.report.damage(Damage {
            file: name.path(),
            offset: None,
            fault: "missing".to_owned(),
            cost: how.to_owned(),
            leaves: None,
        });
        self.report.repairs.extend(bytes.map(|bytes| (name.path(), bytes)));
        Ok(())
    }
}

/// The partial tiles and the partial bundle of the tree of `size` leaves.
pub(super) fn at_edge(size: u64) -> Vec<TileName> {
    let (mut names, mut level, mut hashes) = (Vec::new(), 0, size);
    while hashes > 0 {
        let (index, width) = (hashes / TILE_WIDTH, (hashes % TILE_WIDTH) as u16);
        if width > 0 {
            let kinds = [TileKind::Hashes(level), TileKind::Entries];
            let kinds = &kinds[..if level == 0 { 2 } else { 1 }];
            names.extend(kinds.iter().map(|&kind| TileName { kind, index, width }));
        }
        (level, hashes) = (level + 1, hashes / TILE_WIDTH);
    }
    names
}
