//! Sealed logs: clean ones pass, each damage in a segment or in `sealed` is found and named.

use crate::fsck::check;
use crate::grown::{Grown, batch, pool, pool_name};
use crate::sealing::{SEED, names, seal, sealed, state};
use meshchain::log::{Damage, FsckReport, FsckVerdict, render_fsck, repair};
use meshchain_core::hash;
use meshchain_stored::{Layout, SegmentFile, SegmentName, table_path};
use serde_json::{Value, json};

const ONE: SegmentName = SegmentName { first: 0, end: 300, seed: SEED };
const TWO: SegmentName = SegmentName { first: 300, end: 450, seed: SEED };
const PARTS: [SegmentFile; 3] = [SegmentFile::Entries, SegmentFile::Records, SegmentFile::Index];

fn find(report: &FsckReport, file: &str) -> Damage {
    assert_eq!(report.verdict, FsckVerdict::Damaged, "{file}: {report:#?}");
    let named = report.damages.iter().find(|d| d.file == file);
    named.unwrap_or_else(|| panic!("{file}: {report:#?}")).clone()
}

/// Checks the log with one file changed.
fn with(log: &Grown, file: &str, change: impl FnOnce(&mut Vec<u8>)) -> FsckReport {
    let whole = log.read(file);
    let mut changed = whole.clone();
    change(&mut changed);
    log.write(file, &changed);
    let report = check(log);
    log.write(file, &whole);
    report
}

#[test]
fn a_sealed_log_with_a_tail_is_clean_and_all_of_it_is_counted() {
    let log = sealed();
    let report = check(&log);
    assert_eq!(report.verdict, FsckVerdict::Clean, "{report:#?}");
    assert!(report.notes.is_empty(), "{report:#?}");
    assert_eq!((report.segments, report.pools, report.leaves), (2, 3, 600));
    assert_eq!((report.entries_checked, report.segment_entries), (960, 720));
    assert_eq!(report.segment_records, 720 - 2 * 33, "every eleventh of 450 has no records");
    assert_eq!(report.records_checked, report.segment_records + 240);
    let text = render_fsck(&report);
    assert!(text.contains("\nsegments    2; 720 entries and 654 records checked\n"), "{text}");
    assert!(text.contains("\npools       3; 240 entries and 240 records checked\n"), "{text}");
    for ends in [&[600][..], &[1, 2, 257, 600]] {
        let log = Grown::new(600, 1);
        seal(&log, ends);
        let report = check(&log);
        assert_eq!((report.verdict, report.pools), (FsckVerdict::Clean, 0), "{report:#?}");
    }
}

#[test]
fn a_flipped_byte_anywhere_in_an_index_is_found_at_its_place() {
    let log = sealed();
    let path = ONE.path(SegmentFile::Index);
    let index = log.read(&path);
    let layout = Layout::parse(&index, index.len() as u64).unwrap();
    let sessions = layout.sessions_table_at();
    let trace = &log.batches[7].entries[2..18].try_into().unwrap();
    let bloom = layout.bloom_block_at(trace).unwrap();
    let items = layout.bucket(trace, &index[range(layout.bucket_at(trace))]).unwrap().items;
    for (at, told, cost) in [
        (0, 0, "does not start"),
        (20, 20, "does not start"),
        (27, 27, "retention"),
        (35, 35, "does not start"),
        (60, layout.leaves_at().end, "may lack its calls"),
        (layout.leaves_at().start + 11, layout.leaves_at().start + 11, "wrong rows"),
        (bloom.start, bloom.start, "may lack its calls"),
        (layout.bucket_at(trace).start, layout.bucket_at(trace).start, "may lack its calls"),
        (items.start + 4, items.start + 4, "may lack its calls"),
        (sessions.start + 17, sessions.start + 17, "comes again"),
        (sessions.end + 8, sessions.end + 8, "comes again"),
        (layout.bytes() - 1, layout.bytes() - 1, "does not look"),
    ] {
        let report = with(&log, &path, |bytes| bytes[at as usize] ^= 1);
        assert_eq!(report.damages.len(), 1, "{at}: {report:#?}");
        let damage = find(&report, &path);
        let offset = damage.offset.unwrap();
        // A wrong seed shows where the filter begins, or shortly after.
        let near = if at == 60 { told..told + 64 } else { told..told + 1 };
        assert!(near.contains(&offset), "{at}: {damage:?}");
        assert!(damage.cost.contains(cost), "{at}: {damage:?}");
    }
    for at in (0..index.len()).step_by(97) {
        find(&with(&log, &path, |bytes| bytes[at] ^= 0x10), &path);
    }
}

fn range(range: std::ops::Range<u64>) -> std::ops::Range<usize> {
    range.start as usize..range.end as usize
}

#[test]
fn an_index_under_a_corrected_sum_is_found() {
    let log = sealed();
    let path = TWO.path(SegmentFile::Index);
    for at in [64 + 19, 64 + 8 * 100 + 3, 2_000] {
        let report = with(&log, &path, |bytes| {
            bytes[at] ^= 1;
            let end = bytes.len() - 32;
            let sum = hash::tagged(&[], &[&bytes[..end]]);
            bytes[end..].copy_from_slice(&sum);
        });
        assert_eq!(find(&report, &path).offset, Some(at as u64));
        assert_eq!(report.damages.len(), 1, "{report:#?}");
    }
}

#[test]
fn flipped_bytes_of_parquet_files_are_damage_or_told_to_change_nothing() {
    let log = Grown::new(60, 10);
    seal(&log, &[20, 50]);
    let name = SegmentName { first: 20, end: 50, seed: SEED };
    for part in [SegmentFile::Entries, SegmentFile::Records] {
        let path = name.path(part);
        let (whole, mut harmless, mut tried) = (log.read(&path), 0, 0);
        for (at, bit) in (0..whole.len()).step_by(17).zip([0x01, 0x80, 0xff].iter().cycle()) {
            let report = with(&log, &path, |bytes| bytes[at] ^= bit);
            tried += 1;
            if report.verdict == FsckVerdict::Clean {
                let told = report.notes.iter().any(|n| n.contains(&format!("{path}, byte {at}:")));
                assert!(told, "{path} at {at}: {report:#?}");
                harmless += 1;
            } else {
                find(&report, &path);
                let other = report.damages.iter().find(|d| d.file != path);
                assert!(other.is_none(), "{path} at {at}: {report:#?}");
            }
        }
        // Least and most values, offsets and sizes that no reader needs: all in headers and footer,
        // which are most of files so small.
        assert!(harmless * 3 < tried, "{harmless} of {tried}");
    }
}

#[test]
fn false_digests_and_records_cost_their_leaves_only() {
    let log = sealed();
    let (entries, records) = (TWO.path(SegmentFile::Entries), TWO.path(SegmentFile::Records));
    let digest = &log.batches[337].entries[90 + 26..90 + 58];
    let bytes = log.read(&entries);
    let at = bytes.windows(32).position(|w| w == digest).unwrap();
    let report = with(&log, &entries, |bytes| bytes[at] ^= 1);
    let damage = find(&report, &entries);
    assert_eq!(damage.leaves, Some((337, 337)), "{report:#?}");
    assert!(damage.cost.contains("leaf 337: its entries cannot be proved"), "{damage:?}");
    assert_eq!(report.entries_checked, 958);
    assert_eq!(report.damages.len(), 1, "{report:#?}");
    // The files of other batches: every leaf, told once.
    let (one, two) = (log.read(&ONE.path(SegmentFile::Records)), log.read(&records));
    log.write(&ONE.path(SegmentFile::Records), &two);
    log.write(&records, &one);
    let report = check(&log);
    let damage = find(&report, &records);
    assert!(damage.cost.contains("records cannot be disclosed"), "{damage:?}");
    assert!(report.damages.len() < 10, "{report:#?}");
    assert_eq!(report.segment_entries, 720, "entries stand");
}

#[test]
fn a_column_that_no_proof_needs_is_compared_too() {
    let log = sealed();
    let path = ONE.path(SegmentFile::Entries);
    let at = log.read(&path).windows(7).position(|w| w == b"reviews").unwrap();
    let report = with(&log, &path, |bytes| bytes[at] ^= 1);
    let damage = find(&report, &path);
    assert_eq!((report.damages.len(), damage.offset), (1, Some(at as u64)), "{report:#?}");
    assert_eq!(damage.leaves, Some((0, 298)), "leaf 299 is a heartbeat");
    assert!(damage.cost.contains("queries answer wrongly"), "{damage:?}");
    assert_eq!(report.entries_checked, 960, "proofs stand");
}

#[test]
fn deleted_truncated_and_swapped_files_are_found() {
    let log = sealed();
    for part in PARTS {
        for name in [ONE, TWO] {
            let path = name.path(part);
            let whole = log.read(&path);
            std::fs::remove_file(log.path(&path)).unwrap();
            let report = check(&log);
            if part == SegmentFile::Records {
                assert_eq!(report.verdict, FsckVerdict::Clean, "{report:#?}");
                let note = format!("records of segment {name} were deleted (retention), or lost");
                assert!(report.notes[0].contains(&note), "{report:#?}");
                assert_eq!(report.notes.len(), 1, "{report:#?}");
            } else {
                let damage = find(&report, &path);
                assert_eq!(damage.fault, "missing");
                assert!(damage.cost.contains("the collector does not start"), "{damage:?}");
                assert!(report.damages.iter().all(|d| d.file == path), "{report:#?}");
            }
            for length in [0, 1, 63, whole.len() / 2, whole.len() - 1] {
                log.write(&path, &whole[..length]);
                find(&check(&log), &path);
            }
            log.write(&path, &[whole.as_slice(), b"more"].concat());
            find(&check(&log), &path);
            log.write(&path, &whole);
        }
        let (one, two) = (ONE.path(part), TWO.path(part));
        let (a, b) = (log.read(&one), log.read(&two));
        log.write(&one, &b);
        log.write(&two, &a);
        let report = check(&log);
        find(&report, &one);
        find(&report, &two);
        log.write(&one, &a);
        log.write(&two, &b);
    }
    assert_eq!(check(&log).verdict, FsckVerdict::Clean);
}

#[test]
fn whatever_is_false_in_sealed_is_found() {
    let log = sealed();
    let change = |change: &dyn Fn(&mut Value)| {
        with(&log, "sealed", |bytes| {
            let mut value: Value = serde_json::from_slice(bytes).unwrap();
            change(&mut value);
            *bytes = value.to_string().into_bytes();
        })
    };
    let root = change(&|v| v["root"] = json!("00".repeat(32)));
    assert!(find(&root, "sealed").cost.contains("does not start"));
    for ends in [&[300, 450, 700][..], &[450], &[300, 400], &[300], &[], &[300, 450, 500]] {
        let segments: Vec<_> = names(ends).iter().map(SegmentName::to_string).collect();
        let report = change(&|v| v["segments"] = json!(segments));
        assert!(report.damages.iter().any(|d| d.file == "sealed"), "{ends:?}: {report:#?}");
    }
    for segments in [json!([TWO.to_string(), ONE.to_string()]), json!(["0-300"]), json!([300])] {
        find(&change(&|v| v["segments"] = segments.clone()), "sealed");
    }
    for tables in [json!([]), json!([ONE.to_string()]), json!([TWO.to_string(), ONE.to_string()])] {
        find(&change(&|v| v["sessions"] = tables.clone()), "sealed");
    }
    for broken in [json!(1), json!("2")] {
        find(&change(&|v| v["version"] = broken.clone()), "sealed");
    }
    let whole = log.read("sealed");
    for length in [0, 1, whole.len() / 2, whole.len() - 1] {
        find(&with(&log, "sealed", |bytes| bytes.truncate(length)), "sealed");
    }
    std::fs::remove_file(log.path("sealed")).unwrap();
    let report = check(&log);
    let damage = find(&report, "sealed");
    assert!(damage.cost.contains("does not start; restore"), "{damage:?}");
    assert_eq!((report.damages.len(), report.segment_entries), (1, 720), "{report:#?}");
    // A state from before the last segment.
    log.write("sealed", state(&log, &[300]).to_string().as_bytes());
    let report = check(&log);
    assert!(find(&report, "sealed").fault.contains("450 are in segments"), "{report:#?}");
    assert_eq!(report.damages.len(), 1, "{report:#?}");
}

#[test]
fn a_session_table_of_which_a_byte_is_false_is_found_and_written_anew() {
    let log = sealed();
    for name in [ONE, TWO] {
        let path = table_path(&name);
        let whole = log.read(&path);
        for at in (0..whole.len()).step_by(97) {
            let report = with(&log, &path, |bytes| bytes[at] ^= 1);
            let damage = find(&report, &path);
            assert_eq!(damage.offset, Some(at as u64), "{damage:?}");
            assert_eq!(report.damages.len(), 1, "{report:#?}");
        }
        find(&with(&log, &path, |bytes| bytes.truncate(whole.len() / 2)), &path);
        find(&with(&log, &path, |bytes| bytes.push(0)), &path);
        std::fs::remove_file(log.path(&path)).unwrap();
        let report = check(&log);
        assert!(find(&report, &path).fault.contains("missing"));
        assert_eq!(repair(&log.path(""), &report), Ok(vec![path.clone()]));
        assert_eq!(log.read(&path), whole);
    }
    log.write("sessions/x", b"");
    let report = check(&log);
    assert!(report.notes.iter().any(|note| note.contains("sessions/x")), "{report:#?}");
    assert_eq!(report.verdict, FsckVerdict::Clean);
}

#[test]
fn what_crashes_and_failed_commits_leave_is_a_note() {
    let log = sealed();
    let clean = |log: &Grown, note: &str| {
        let report = check(log);
        assert_eq!(report.verdict, FsckVerdict::Clean, "{note}: {report:#?}");
        assert!(report.notes.iter().any(|n| n.contains(note)), "{note}: {report:#?}");
    };
    log.write("segment/00000000000000000450-00000000000000000600.index", b"torn");
    clean(&log, "is of no segment in `sealed`");
    log.write("segment/00000000000000000450-00000000000000000600.index#1", b"torn");
    clean(&log, "was left by an interrupted write");
    let leftover = pool(&log.batches[400..450]);
    log.write(&pool_name(400, &leftover), &leftover);
    clean(&log, "1 pools below leaf 450 are sealed already");
    let other = pool(&[batch(1, 900, [5; 32], 1_000, "reviews")]);
    log.write(&pool_name(500, &other), &other);
    log.write("pool/00000000000000000550-0000000000000000", b"torn");
    clean(&log, &format!("{} was never committed", pool_name(500, &other)));
    clean(&log, "pool/00000000000000000550-0000000000000000 was never committed");
    log.write("key.unfinished", b"");
    log.write("audit/x", b"");
    assert!(!check(&log).notes.iter().any(|n| n.contains("not a file of the log")));
    // The same beyond the checkpoint: the head decides.
    let mut log = sealed();
    log.commit(20);
    log.write(&pool_name(600, &other), &other);
    clean(&log, "20 leaves ahead");
    clean(&log, "was never committed: starts pass over it");
    // A pool under the name of another one.
    let (name, bytes) = (log.pool_file(550), log.read(&log.pool_file(500)));
    log.write(&name, &bytes);
    find(&check(&log), &name);
}

#[test]
fn a_lost_leaf_of_a_segment_costs_itself() {
    let log = sealed();
    let report = with(&log, "tile/entries/000", |bytes| bytes[5_000] ^= 1);
    let damage = find(&report, "tile/entries/000");
    assert!(damage.cost.contains("cannot be proved"), "{damage:?}");
    assert!(report.damages.iter().all(|d| d.file == "tile/entries/000"), "{report:#?}");
    assert!(report.segment_entries >= 718, "{report:#?}");
    assert!(
        report.notes.iter().any(|n| n.contains("was not compared: leaves are lost")),
        "{report:#?}"
    );
}
