//! How many records a body holds, counted before any of them takes memory: an empty one has 2 bytes in
//! the body and dozens as a value.

use crate::refusal::Refusal;
use meshchain_core::ENTRY_LEN;
use meshchain_core::header::MAX_ENTRIES;

/// Tags of `meshchain.v1.Batch`.
const ENTRIES: u64 = 4;
const RECORDS: u64 = 5;

/// Refuses a body that has more entries than a batch may have, or another number of records than none
/// or one per entry. It only walks over the top fields; whether the body is a message is for the decoder.
pub fn check_counts(body: &[u8]) -> Result<(), Refusal> {
    let (mut entries, mut records) = (0, 0);
    let mut fields = Fields(body);
    while let Some((tag, length)) = fields.next()? {
        match tag {
            // The last one counts, as in any protobuf message.
            ENTRIES => entries = length / ENTRY_LEN,
            RECORDS => records += 1,
            _ => {}
        }
    }
    if entries > MAX_ENTRIES as usize {
        return Err(Refusal::BadPart(format!("{entries} entries, more than {MAX_ENTRIES}")));
    }
    if records != 0 && records != entries {
        return Err(Refusal::BadPart(format!("{records} records for {entries} entries")));
    }
    Ok(())
}

/// The top fields of a protobuf message: tag, and length where there is one.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn next(&mut self) -> Result<Option<(u64, usize)>, Refusal> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let broken = || Refusal::Malformed("a field is cut off, or of an unknown kind".to_owned());
        let key = self.varint().ok_or_else(broken)?;
        let length = match key & 7 {
            0 => self.varint().map(|_| 0),
            1 => Some(8),
            2 => self.varint().and_then(|length| usize::try_from(length).ok()),
            5 => Some(4),
            _ => None,
        };
        let length = length.filter(|&length| length <= self.0.len()).ok_or_else(broken)?;
        self.0 = &self.0[length..];
        Ok(Some((key >> 3, length)))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshchain_wire::Batch;
    use proptest::prelude::*;
    use prost::Message;

    fn body(entries: usize, records: Vec<Vec<u8>>) -> Vec<u8> {
        Batch { entries: vec![0; entries], records, ..Batch::default() }.encode_to_vec()
    }

    #[test]
    fn a_body_has_no_record_or_one_per_entry_and_a_bound_of_both() {
        let most = MAX_ENTRIES as usize;
        for (entries, records) in [(0, 0), (1, 0), (1, 1), (3, 3), (most, 0), (most, most)] {
            let body = body(entries * ENTRY_LEN, vec![Vec::new(); records]);
            assert_eq!(check_counts(&body), Ok(()), "{entries}, {records}");
        }
        for (entries, records) in [(0, 1), (1, 2), (2, 1), (most + 1, 0), (0, 1 << 20)] {
            let body = body(entries * ENTRY_LEN, vec![Vec::new(); records]);
            let refused = matches!(check_counts(&body), Err(Refusal::BadPart(_)));
            assert!(refused, "{entries}, {records}");
        }
    }

    proptest! {
        #[test]
        fn what_the_decoder_takes_is_counted_as_it_decodes(
            entries in 0usize..400,
            records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let body = body(entries, records);
            let mut cuts = vec![&body[..]];
            if !body.is_empty() {
                cuts.push(&body[..cut.index(body.len())]);
            }
            for body in cuts {
                let expected = Batch::decode(body).map(|batch| {
                    batch.records.is_empty() || batch.records.len() == batch.entries.len() / ENTRY_LEN
                });
                match (check_counts(body), expected) {
                    (Ok(()), Ok(fits)) => prop_assert!(fits),
                    (Err(Refusal::BadPart(_)), Ok(fits)) => prop_assert!(!fits),
                    (Err(Refusal::Malformed(_)), Err(_)) => {}
                    (found, expected) => prop_assert!(false, "{found:?}, {expected:?}"),
                }
            }
        }

        #[test]
        fn no_bytes_are_too_odd_to_be_walked_over(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = check_counts(&body);
        }
    }
}
