use crate::fsck::check;
use crate::grown::{Grown, ORIGIN};
use meshchain::log::FsckVerdict;
use meshchain_core::{BatchLeaf, Canonical, Checkpoint, Hash, TreeHead};
use meshchain_stored::Session;
use meshchain_stored::audit_leaf::{self, AGAIN};
use meshchain_stored::audit_line::{
    AuditLine, AuditedLog, CHAIN_LOST, CHAIN_START, ROTATE_AT, line_hash,
};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// What a line tells, and the tree that it speaks of.
type Telling = (TreeHead, String, Map<String, Value>);

/// What a collector tells of a log with these checkpoints.
fn told_of(log: &Grown, heads: &[TreeHead]) -> Vec<Telling> {
    let mut sessions: BTreeMap<_, Session> = BTreeMap::new();
    let mut leaves = (0..).zip(&log.batches).peekable();
    let (mut told, mut before) = (Vec::new(), 0);
    for head in heads {
        while let Some((at, batch)) = leaves.next_if(|(at, _)| *at < head.size) {
            let leaf = BatchLeaf::decode(&batch.leaf).unwrap();
            let header = leaf.parse_header().unwrap();
            let step = sessions.entry(header.session).or_default().record(&leaf, &header, at);
            let lines = audit_leaf::told(at, &leaf, &header, &step).into_iter();
            told.extend(lines.map(|(event, members)| (*head, event.to_owned(), members)));
        }
        let new = head.size.saturating_sub(before);
        let members = Map::from_iter([("leaves".to_owned(), new.into())]);
        told.push((*head, "checkpoint".to_owned(), members));
        before = head.size;
    }
    told
}

/// Their lines, each following the one before.
fn lines(log: &Grown, heads: &[TreeHead]) -> Vec<String> {
    chained(CHAIN_START, &told_of(log, heads))
}

/// A chain of lines that begins with `prev`.
fn chained(mut prev: Hash, told: &[Telling]) -> Vec<String> {
    let line = |(head, event, members): &Telling| {
        let line = AuditLine {
            time: "2026-01-02T03:04:05.678Z".to_owned(),
            event: event.clone(),
            log: AuditedLog { origin: ORIGIN.to_owned(), size: head.size, root: head.root },
            prev,
            members: members.clone(),
        };
        let text = line.print();
        prev = line_hash(text.as_bytes());
        text + "\n"
    };
    told.iter().map(line).collect()
}

/// A log of six checkpoints.
fn grown() -> (Grown, Vec<TreeHead>) {
    let mut log = Grown::new(0, 1);
    let mut heads = Vec::new();
    for _ in 0..6 {
        log.commit(50);
        log.publish();
        heads.push(published(&log));
    }
    (log, heads)
}

/// The same with its audit log in two files.
fn audited() -> (Grown, Vec<String>) {
    let (log, heads) = grown();
    let lines = lines(&log, &heads);
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
    let before = lines.iter().position(|line| line.contains("\"size\":300")).unwrap();
    keep(&log, &lines[..before]);
    let report = check(&log);
    assert_eq!((report.verdict, report.notes.len()), (FsckVerdict::Clean, 1), "{report:#?}");
    assert!(report.notes[0].contains("the end of the audit log was cut off"), "{report:#?}");
}

#[test]
fn the_oldest_files_may_go_and_no_part_of_one() {
    let (log, heads) = grown();
    let mut told = told_of(&log, &heads);
    let cut = 20;
    let padded = |told: &mut Vec<Telling>, bytes: usize| {
        told[cut].2.insert("padding".to_owned(), "x".repeat(bytes).into());
    };
    for (bytes, damages) in [(0, 1), (ROTATE_AT as usize, 0)] {
        // A line that fsck holds against no leaf.
        told[cut] = (heads[1], "records_deleted".to_owned(), Map::new());
        padded(&mut told, bytes);
        let lines = chained(CHAIN_START, &told);
        log.write("audit-7.jsonl", lines[cut..cut + 5].concat().as_bytes());
        log.write("audit.jsonl", lines[cut + 5..].concat().as_bytes());
        let report = check(&log);
        assert!(
            report.notes[0].contains("what was told of the first 100 leaves"),
            "{:?}",
            report.notes
        );
        assert_eq!(report.damages.len(), damages, "{:#?}", report.damages);
    }
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
        log.write("audit.jsonl", lines(&log, heads).concat().as_bytes());
        check(&log).damages.iter().any(|damage| damage.fault.contains("lines are missing"))
    };
    assert!(told(&heads[3..]), "all that was before is gone");
    assert!(told(&[heads[0], heads[2]]), "an older copy was put back");
    std::fs::remove_file(log.path("audit.jsonl")).unwrap();
    assert!(check(&log).notes.iter().any(|note| note.contains("no audit log")));
}

#[test]
fn a_chain_that_was_made_anew_without_some_of_its_lines_or_with_others_is_damage() {
    let (log, heads) = grown();
    let told = told_of(&log, &heads);
    let faults = |prev, told: &[Telling]| {
        keep(&log, &chained(prev, told));
        let damages = check(&log).damages;
        damages.into_iter().map(|damage| damage.fault).collect::<Vec<_>>()
    };
    assert_eq!(faults(CHAIN_START, &told), Vec::<String>::new());
    let opened = told.iter().filter(|(_, event, _)| event == "session_opened").count();
    assert!(opened > 1 && told[0].1 == "session_opened", "{told:?}");
    for gone in 0..told.len() - 1 {
        let mut fewer = told.clone();
        let (_, event, _) = fewer.remove(gone);
        let faults = faults(CHAIN_START, &fewer);
        // Of a checkpoint only that the next one counts its leaves.
        if event != "checkpoint" || told[gone - 1].1 == "checkpoint" {
            let missing = faults.iter().any(|fault| fault.contains("lines are missing"));
            assert!(faults.len() == 1 && missing, "{gone}: {faults:?}");
        }
    }
    for (member, other) in [
        ("principal", json!("spiffe://d/ns/bank/sa/cart")),
        ("source", json!({})),
        ("session", json!("00".repeat(16))),
        ("leaf", json!(200)),
    ] {
        let mut changed = told.clone();
        changed[0].2[member] = other;
        let faults = faults(CHAIN_START, &changed);
        assert!(faults.iter().any(|fault| fault.contains("does not say")), "{member}: {faults:?}");
        assert!(faults.iter().any(|fault| fault.contains("lines are missing")), "{member}");
    }
    let mut again = told.clone();
    let mut line = told[0].clone();
    line.2.insert(AGAIN.to_owned(), true.into());
    again.insert(opened, line);
    assert_eq!(faults(CHAIN_START, &again), Vec::<String>::new(), "told once more after a start");
    let begun_again = faults(CHAIN_LOST, &told[opened + 3..]);
    assert!(begun_again[0].contains("the audit log before it is gone"), "{begun_again:?}");
    assert_eq!(begun_again.len(), 1, "what is told before that is not asked for: {begun_again:?}");
}

#[test]
fn a_chain_that_speaks_of_other_trees_is_damage() {
    let (log, _) = audited();
    let found = |heads: &[TreeHead], fault: &str| {
        keep(&log, &lines(&log, heads));
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
    log.write(&name(9999), late.as_bytes());
    let report = check(&log);
    assert_eq!(report.verdict, FsckVerdict::Clean, "{report:#?}");
    std::fs::remove_file(log.path(&name(9999))).unwrap();
    let last = lines.iter().position(|line| line.contains("\"size\":300")).unwrap();
    for at in last / 2..lines.len().div_ceil(2) {
        std::fs::remove_file(log.path(&name(at))).unwrap();
    }
    let notes = check(&log).notes;
    assert!(notes.iter().any(|note| note.contains("was cut off")), "{notes:?}");
    write(&lines);
    let told = |fault: &str| check(&log).damages.iter().any(|damage| damage.fault.contains(fault));
    std::fs::remove_file(log.path(&name(1))).unwrap();
    assert!(told("follows no line that is there"), "one was taken out");
    let mut changed = lines.clone();
    changed[2] = changed[2].replace("04:05", "04:06");
    write(&changed);
    assert!(told("does not follow"), "one was changed");
}
