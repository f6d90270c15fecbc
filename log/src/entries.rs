//! The entries of consecutive leaves, without records: what a reader needs to check leaves that it has.

use crate::catalog::Place;
use crate::log::Log;
use crate::read::again_if_missing;
use crate::segment::Sealed;
use bytes::Bytes;
use meshchain_core::ENTRY_LEN;
use meshchain_store::StoreError;
use meshchain_stored::RowRange;
use std::ops::Range;
use std::sync::Arc;

impl Log {
    /// The entries of each of `leaves`, in order, as far as they have `most` bytes together; of one leaf in any case.
    pub async fn entries_of(
        &self,
        leaves: Range<u64>,
        most: usize,
    ) -> Result<Vec<Bytes>, StoreError> {
        again_if_missing(|| self.read_entries(leaves.clone(), most)).await
    }

    async fn read_entries(
        &self,
        leaves: Range<u64>,
        most: usize,
    ) -> Result<Vec<Bytes>, StoreError> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        let mut next = leaves.start;
        while next < leaves.end {
            let place = self.catalog().leaf(next);
            let more = match place {
                None => break,
                Some(Place::Tail(place)) => {
                    let at = place.slices.entries();
                    let range = at.start as u64..at.end as u64;
                    // A store refuses to read nothing.
                    vec![match at.is_empty() {
                        true => Bytes::new(),
                        false => self.store.get_range(&place.bundle, range).await?,
                    }]
                }
                Some(Place::Sealed(sealed)) => {
                    let end = leaves.end.min(sealed.layout.end());
                    self.sealed_entries(sealed, next..end, most.saturating_sub(bytes)).await?
                }
            };
            for entries in more {
                if !found.is_empty() && bytes + entries.len() > most {
                    return Ok(found);
                }
                bytes += entries.len();
                found.push(entries);
                next += 1;
            }
        }
        Ok(found)
    }

    /// The entries of leaves of one segment, those of `most` bytes and of one leaf more.
    async fn sealed_entries(
        &self,
        sealed: Arc<Sealed>,
        leaves: Range<u64>,
        most: usize,
    ) -> Result<Vec<Bytes>, StoreError> {
        let mut places = sealed.places(&self.store, leaves).await?;
        let first = places.first().map_or(0, |place| place.rows.start);
        let within = |place: &RowRange| (place.rows.start - first) as usize * ENTRY_LEN <= most;
        places.truncate(places.iter().take_while(|place| within(place)).count());
        let end = places.last().map_or(first, |place| place.rows.end);
        let all = RowRange { rows: first..end, records: 0..0 };
        let (entries, _) = self.files.read(sealed, all).await?;
        let entries = Bytes::from(entries);
        let cut = |place: &RowRange| {
            let at = |row: u32| (row - first) as usize * ENTRY_LEN;
            let range = at(place.rows.start)..at(place.rows.end);
            (range.end <= entries.len()).then(|| entries.slice(range))
        };
        let cut: Option<Vec<Bytes>> = places.iter().map(cut).collect();
        cut.ok_or_else(|| StoreError::damaged("segment", "fewer rows than its index says"))
    }
}
