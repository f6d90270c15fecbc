use crate::fsck::check;
use crate::grown::{Grown, ORIGIN};
use meshchain::log::FsckVerdict;
use meshchain_core::{Checkpoint, Hash, TreeHead};
use meshchain_stored::audit_line::{AuditLine, AuditedLog, CHAIN_LOST, CHAIN_START, line_hash};
use serde_json::Map;

/// Lines of checkpoints, each following the one before, as they are in two files.
fn lines(heads: &[TreeHead]) -> Vec<String> {
    let before = [0].into_iter().chain(heads.iter().map(|head| head.size));
    let new = |(head, before): (&TreeHead, u64)| (*head, head.size.saturating_sub(before));
    chained(CHAIN_START, &heads.iter().zip(before).map(new).collect::<Vec<_>>())
}

/// A chain of lines that begins with `prev`; each tells so many new leaves.
fn chained(mut prev: Hash, checkpoints: &[(TreeHead, u64)]) -> Vec<String> {
    let line = |(head, leaves): &(TreeHead, u64)| {
        let line = AuditLine {
            time: "2026-01-02T03:04:05.678Z".to_owned(),
            event: "checkpoint".to_owned(),
            log: AuditedLog { origin: ORIGIN.to_owned(), size: head.size, root: head.root },
            prev,
            members: Map::from_iter([("leaves".to_owned(), (*leaves).into())]),
        };
        let text = line.print();
        prev = line_hash(text.as_bytes());
        text + "\n"
    };
    checkpoints.iter().map(line).collect()
}

/// A log with its audit log in two files.
fn audited() -> (Grown, Vec<String>) {
    let mut log = Grown::new(0, 1);
    let mut heads = Vec::new();
    for _ in 0..6 {
        log.commit(50);
        log.publish();
        heads.push(published(&log));
    }
    let lines = lines(&heads);
    keep(&log, &lines);
    (log, lines)
}

fn published(log: &Grown) -> TreeHead {
    let checkpoint = String::from_utf8(log.read("checkpoint")).unwrap();
    Checkpoint::parse_unverified(&checkpoint).unwrap().head
}

fn keep(log: &Grown, lines: &[String]) {
    let (aside, growing) = lines.split_at(2);
    log.write("audit-1.jsonl", aside.concat().as_bytes());
    log.write("audit.jsonl", growing.concat().as_bytes());
}

#[test]
fn an_audit_log_in_several_files_is_followed_and_clean() {
    let (log, lines) = audited();
    let report = check(&log);
    assert_eq!((report.verdict, &report.notes[..]), (FsckVerdict::Clean, &[][..]), "{report:#?}");
    keep(&log, &lines[..5]);
    let report = check(&log);
    assert_eq!(report.verdict, FsckVerdict::Clean);
    assert!(report.notes[0].contains("the end of the audit log was cut off"), "{report:#?}");
    std::fs::rename(log.path("audit-1.jsonl"), log.path("audit-7.jsonl")).unwrap();
    assert!(check(&log).notes[0].contains("begins with audit-7.jsonl"));
}

#[test]
fn a_line_that_was_changed_taken_out_or_put_in_is_damage_at_its_place() {
    let (log, lines) = audited();
    let found = |lines: &[String], file: &str, fault: &str| {
        keep(&log, lines);
        let report = check(&log);
        let told = report.damages.iter().any(|d| d.file == file && d.fault.contains(fault));
        assert!(report.verdict == FsckVerdict::Damaged && told, "{fault}: {report:#?}");
    };
    let mut changed = lines.clone();
    changed[3] = changed[3].replace("04:05", "04:06");
    found(&changed, "audit.jsonl", "does not follow");
    let mut fewer = lines.clone();
    fewer.remove(0);
    found(&fewer, "audit-1.jsonl", "does not follow");
    let mut more = lines.clone();
    more.insert(3, lines[2].clone());
    found(&more, "audit.jsonl", "does not follow");
    let mut garbled = lines.clone();
    garbled[5] = "{}\n".to_owned();
    found(&garbled, "audit.jsonl", "no line of an audit log");
}

#[test]
fn lines_that_were_taken_away_are_damage_though_a_new_chain_or_the_old_one_goes_on() {
    let mut log = Grown::new(0, 1);
    let mut heads = vec![TreeHead { size: 0, root: meshchain_core::merkle::empty_root() }];
    for _ in 0..3 {
        log.commit(9_000);
        log.publish();
        heads.push(published(&log));
    }
    let told = |heads: &[TreeHead]| {
        log.write("audit.jsonl", lines(heads).concat().as_bytes());
        check(&log).damages.iter().any(|damage| damage.fault.contains("lines are missing"))
    };
    assert!(told(&heads[3..]), "all that was before is gone");
    assert!(told(&[heads[0], heads[2]]), "an older copy was put back");
    std::fs::remove_file(log.path("audit.jsonl")).unwrap();
    assert!(check(&log).notes.iter().any(|note| note.contains("no audit log")));
}

#[test]
fn a_chain_that_was_made_anew_without_some_of_its_lines_is_damage() {
    let (log, all) = audited();
    let told: Vec<(TreeHead, u64)> = all
        .iter()
        .map(|line| {
            let line = AuditLine::parse(line).unwrap();
            let head = TreeHead { size: line.log.size, root: line.log.root };
            (head, line.members["leaves"].as_u64().unwrap())
        })
        .collect();
    let faults = |prev, told: &[(TreeHead, u64)]| {
        keep(&log, &chained(prev, told));
        let damages = check(&log).damages;
        damages.into_iter().map(|damage| damage.fault).collect::<Vec<_>>()
    };
    assert_eq!(faults(CHAIN_START, &told), Vec::<String>::new());
    for gone in 1..told.len() - 1 {
        let mut fewer = told.clone();
        fewer.remove(gone);
        let faults = faults(CHAIN_START, &fewer);
        assert!(faults.len() == 1 && faults[0].contains("lines are missing"), "{gone}: {faults:?}");
    }
    let begun_again = faults(CHAIN_LOST, &told[3..]);
    assert!(begun_again[0].contains("the audit log before it is gone"), "{begun_again:?}");
}

#[test]
fn a_chain_that_speaks_of_other_trees_is_damage() {
    let (log, _) = audited();
    let found = |heads: &[TreeHead], fault: &str| {
        keep(&log, &lines(heads));
        let report = check(&log);
        let told = report.damages.iter().any(|d| d.fault.contains(fault));
        assert!(report.verdict == FsckVerdict::Damaged && told, "{fault}: {report:#?}");
    };
    let head = published(&log);
    let other = TreeHead { size: 7, root: [7; 32] };
    found(&[other, head], "two histories");
    found(&[head, TreeHead { size: 301, root: [7; 32] }], "more than this log has");
    let empty = TreeHead { size: 0, root: meshchain_core::merkle::empty_root() };
    found(&[empty, head, empty], "the line before of 300");
}

#[test]
fn objects_of_a_bucket_are_followed_each_to_one_before_it() {
    let (log, lines) = audited();
    for name in ["audit-1.jsonl", "audit.jsonl"] {
        std::fs::remove_file(log.path(name)).unwrap();
    }
    let name = |at: usize| format!("audit/{at:020}-{at:016x}.jsonl");
    let write = |lines: &[String]| {
        for (at, pair) in lines.chunks(2).enumerate() {
            log.write(&name(at), pair.concat().as_bytes());
        }
    };
    write(&lines);
    let report = check(&log);
    assert_eq!((report.verdict, &report.notes[..]), (FsckVerdict::Clean, &[][..]), "{report:#?}");
    // The former collector's last line, which follows the same one as the new one's first.
    let late = lines[2].replace("03:04:05", "03:04:06");
    log.write(&name(7), late.as_bytes());
    assert_eq!(check(&log).verdict, FsckVerdict::Clean);
    std::fs::remove_file(log.path(&name(7))).unwrap();
    let told = |fault: &str| check(&log).damages.iter().any(|damage| damage.fault.contains(fault));
    std::fs::remove_file(log.path(&name(1))).unwrap();
    assert!(told("follows no line that is there"), "one was taken out");
    let mut changed = lines.clone();
    changed[2] = changed[2].replace("04:05", "04:06");
    write(&changed);
    assert!(told("does not follow"), "one was changed");
}
