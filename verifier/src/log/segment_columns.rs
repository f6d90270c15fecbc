//! The columns of a segment's files that no proof needs, and that queries read.
//!
//! Files that are byte for byte what this version writes need no second look. Others are compared
//! column by column: another version may have laid the same rows out otherwise.

use super::findings::{Damage, FsckReport};
use super::rows::{Runs, guarded};
use super::segment::Segment;
use super::source::SourceError;
use super::tiles::{Column, fetch};
use meshchain_core::tile::{TILE_WIDTH, TileKind, TileName, width_at};
use meshchain_core::{BatchLeaf, Canonical, ENTRY_LEN, merkle};
use meshchain_stored::SegmentFile;

impl Segment<'_> {
    /// `entries` and `records`: the first byte at which each file is not what its rows make, where
    /// they could be written anew.
    pub(super) fn columns(
        mut self,
        entries: Option<Option<u64>>,
        records: Option<Option<u64>>,
        report: &mut FsckReport,
    ) -> Result<(), SourceError> {
        let look = [
            entries != Some(None) && self.entries.is_some(),
            records != Some(None) && self.records.is_some(),
        ];
        if look == [false, false] {
            return Ok(());
        }
        let mut bad = [Runs::default(), Runs::default()];
        self.look(look, &mut bad)?;
        let whole = [self.bad_entries.is_empty(), self.bad_records.is_empty()];
        let parts = [(SegmentFile::Entries, entries), (SegmentFile::Records, records)];
        for ((part, offset), (bad, (look, whole))) in
            parts.into_iter().zip(bad.iter().zip(look.into_iter().zip(whole)))
        {
            let file = self.name.path(part);
            for run in bad.iter() {
                report.damage(Damage {
                    file: file.clone(),
                    offset: offset.flatten(),
                    fault: run.words(),
                    cost: format!("queries answer wrongly about {}; proofs stand", run.leaves()),
                    leaves: Some((run.from, run.to)),
                });
            }
            if let Some(offset) = offset.flatten().filter(|_| look && whole && bad.is_empty()) {
                report.note(format!(
                    "{file}, byte {offset}: not as this version writes it, in nothing that a proof \
                     or a row shows"
                ));
            }
        }
        Ok(())
    }

    fn look(&mut self, look: [bool; 2], bad: &mut [Runs; 2]) -> Result<(), SourceError> {
        let (mut row, mut record) = (0, 0);
        let mut bundle: Option<(u64, Option<Column>)> = None;
        for (leaf, seen) in (self.name.first..).zip(&self.seen) {
            let (rows, records) = (row..row + seen.rows, record..record + seen.records);
            (row, record) = (rows.end, records.end);
            for (bad, nothing) in bad.iter_mut().zip([rows.is_empty(), records.is_empty()]) {
                if nothing {
                    bad.skip(leaf);
                }
            }
            let Some(hash) = seen.hash else { continue };
            let tile = leaf / TILE_WIDTH;
            if bundle.as_ref().is_none_or(|(at, _)| *at != tile) {
                bundle = Some((tile, self.bundle(tile)?));
            }
            let part =
                bundle.as_ref().and_then(|(_, b)| b.as_ref()?.part((leaf % TILE_WIDTH) as usize));
            let Some(bytes) = part.filter(|bytes| merkle::leaf_hash(bytes) == hash) else {
                continue;
            };
            let Ok(batch) = BatchLeaf::decode(bytes) else { continue };
            let Ok(header) = batch.parse_header() else { continue };
            if let Some(file) = self.entries.as_ref().filter(|_| look[0] && !rows.is_empty()) {
                let entries = self.entry_chunks.get(rows.clone(), file.rows(), |r| {
                    Ok(file.read(r)?.as_chunks::<ENTRY_LEN>().0.to_vec())
                });
                if let Ok(entries) = entries {
                    let entries = entries.as_flattened();
                    judge(
                        guarded(|| file.holds(rows, leaf, &batch, &header, entries)),
                        leaf,
                        &mut bad[0],
                    );
                }
            }
            if let Some(file) = self.records.as_ref().filter(|_| look[1] && !records.is_empty()) {
                judge(guarded(|| file.holds(records, leaf, &header)), leaf, &mut bad[1]);
            }
        }
        Ok(())
    }

    fn bundle(&self, index: u64) -> Result<Option<Column>, SourceError> {
        let width = width_at(self.size, 0, index);
        let stored = fetch(self.source, &TileName { kind: TileKind::Entries, index, width })?;
        Ok(stored.map(|stored| Column::bundle(stored, width)))
    }
}

fn judge(held: Result<bool, String>, leaf: u64, bad: &mut Runs) {
    match held {
        Ok(true) => {}
        Ok(false) => bad.push(leaf, "false", "columns are not those of the batch".to_owned()),
        Err(e) => bad.push(leaf, "unreadable", format!("columns cannot be read: {e}")),
    }
}
