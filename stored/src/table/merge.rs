//! Which tables a new one takes in, so that their number stays small.

use crate::segment::SegmentName;

/// So many tables of one size become one.
const FAN_IN: usize = 8;

/// How many tables, from the newest on, the table of a new segment takes in: seven that cover one segment
/// each, then seven that cover eight, and so on. So a session is written again once for each eightfold of
/// segments, and there are at most seven tables of each size.
pub fn covered(tables: &[SegmentName], segments: &[SegmentName]) -> usize {
    let size = |table: &SegmentName| {
        let within = |s: &&SegmentName| (table.first..table.end).contains(&s.first);
        segments.iter().filter(within).count()
    };
    let (mut taken, mut of) = (0, 1);
    loop {
        let older = tables.iter().rev().skip(taken);
        let same = older.take_while(|table| size(table) == of).take(FAN_IN - 1).count();
        if same < FAN_IN - 1 {
            return taken;
        }
        (taken, of) = (taken + same, of * FAN_IN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_stay_few_and_each_session_is_written_again_once_per_eightfold() {
        let (mut tables, mut segments) = (Vec::new(), Vec::new());
        let mut written = 0;
        for first in 0..4096_u64 {
            let name = SegmentName { first, end: first + 1, seed: 0 };
            let kept = tables.len() - covered(&tables, &segments);
            let from = tables.get(kept).map_or(first, |table: &SegmentName| table.first);
            tables.truncate(kept);
            tables.push(SegmentName { first: from, ..name });
            segments.push(name);
            written += first + 1 - from;
            assert!(tables.len() <= 7 * 4 + 1, "{}", tables.len());
            assert_eq!(tables[0].first, 0);
            assert!(tables.windows(2).all(|pair| pair[0].end == pair[1].first));
        }
        assert_eq!(tables.len(), 1);
        assert!(written <= 4096 * 5, "{written}");
    }
}
