//! A page of entries: those of consecutive leaves, each behind its length. `docs/format.md`, "Page of entries".

use crate::ENTRY_LEN;
use crate::header::MAX_ENTRIES;
use crate::tile::TILE_WIDTH;
use thiserror::Error;

/// Bytes of a length.
const LENGTH: usize = 4;
/// Bytes of entries behind which a page ends.
pub const PAGE_BYTES: usize = 1 << 20;
/// Most bytes of a page: one leaf's entries, if it is the longest, or as many as make a page, and 256 lengths.
pub const MAX_PAGE: usize = MAX_ENTRIES as usize * ENTRY_LEN + TILE_WIDTH as usize * LENGTH;

/// What is no page of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PageError {
    /// A length leads beyond the end, or stands alone.
    #[error("it is cut off")]
    Torn,
    /// Entries have 90 bytes.
    #[error("leaf {0} of it does not end with an entry")]
    Odd(usize),
    /// No leaf, or more than a tile's.
    #[error("it is of {0} leaves, not of 1 to 256")]
    Leaves(usize),
}

/// Writes a page of these leaves' entries.
pub fn encode_page(leaves: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut page = Vec::new();
    for entries in leaves.iter().map(AsRef::as_ref) {
        page.extend_from_slice(&(entries.len() as u32).to_be_bytes());
        page.extend_from_slice(entries);
    }
    page
}

/// The entries of each leaf of a page.
pub fn split_page(page: &[u8]) -> Result<Vec<&[u8]>, PageError> {
    let (mut leaves, mut rest) = (Vec::new(), page);
    while !rest.is_empty() {
        let (length, more) = rest.split_first_chunk::<LENGTH>().ok_or(PageError::Torn)?;
        let length = u32::from_be_bytes(*length) as usize;
        let (entries, more) = more.split_at_checked(length).ok_or(PageError::Torn)?;
        if !length.is_multiple_of(ENTRY_LEN) {
            return Err(PageError::Odd(leaves.len()));
        }
        leaves.push(entries);
        if leaves.len() as u64 > TILE_WIDTH {
            return Err(PageError::Leaves(leaves.len()));
        }
        rest = more;
    }
    if leaves.is_empty() { Err(PageError::Leaves(0)) } else { Ok(leaves) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_page_is_split_as_it_was_written_and_no_part_of_it_is_one(
            counts in prop::collection::vec(0usize..4, 1..30), cut in any::<prop::sample::Index>()
        ) {
            let leaves: Vec<Vec<u8>> = counts.iter().map(|n| vec![7; n * ENTRY_LEN]).collect();
            let page = encode_page(&leaves);
            prop_assert_eq!(split_page(&page).unwrap(), leaves.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let cut = cut.index(page.len());
            let ends: Vec<usize> = leaves.iter().scan(0, |at, leaf| { *at += 4 + leaf.len(); Some(*at) }).collect();
            match split_page(&page[..cut]) {
                Ok(_) => prop_assert!(ends.contains(&cut)),
                Err(error) => prop_assert!(!ends.contains(&cut), "{}", error),
            }
        }
    }

    #[test]
    fn what_is_no_page_is_refused() {
        let of = |count: usize| encode_page(&vec![[]; count] as &[[u8; 0]]);
        assert_eq!(split_page(&[]), Err(PageError::Leaves(0)));
        assert_eq!(split_page(&of(256)).map(|leaves| leaves.len()), Ok(256));
        assert_eq!(split_page(&of(257)), Err(PageError::Leaves(257)));
        assert_eq!(split_page(&encode_page(&[[0; 89]])), Err(PageError::Odd(0)));
        assert_eq!(split_page(&[0, 0, 0]), Err(PageError::Torn));
        assert_eq!(split_page(&[0xff; 100]), Err(PageError::Torn));
    }
}
