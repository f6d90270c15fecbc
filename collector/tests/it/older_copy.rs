//! What was put back is an older copy of the log, or another one: it is read and never written.

use crate::support::{Collector, Session, body, fails};
use std::fs;
use std::path::Path;

const ORIGIN: [&str; 2] = ["--origin", "copy.example/log"];

/// A log that grew, as it was after each of its commits.
struct Grown {
    copies: Vec<tempfile::TempDir>,
    next: Vec<u8>,
}

fn copy(from: &Path, to: &Path) {
    let entries = fs::read_dir(from).into_iter().flatten();
    for path in entries.map(|entry| entry.unwrap().path()) {
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

impl Grown {
    fn new(commits: u64) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut session = Session::new(1);
        let copies = (1..=commits).map(|size| {
            let collector = Collector::start(data.path(), &ORIGIN);
            assert_eq!(collector.post(&body(&session.next(1, 7))).0, 200);
            collector.wait_published(size);
            collector.kill();
            let kept = tempfile::tempdir().unwrap();
            copy(data.path(), kept.path());
            kept
        });
        Self { copies: copies.collect(), next: body(&Session::new(2).next(1, 8)) }
    }

    /// The newest state, with what `names` say as it was `back` commits before; those of `gone` removed.
    fn put_back(&self, back: usize, names: &[&str], gone: &[&str]) -> tempfile::TempDir {
        let data = tempfile::tempdir().unwrap();
        copy(self.copies.last().unwrap().path(), data.path());
        for name in names.iter().chain(gone) {
            let path = data.path().join(name);
            if path.is_dir() {
                fs::remove_dir_all(&path).unwrap();
            } else {
                fs::remove_file(&path).unwrap();
            }
        }
        let old = self.copies[self.copies.len() - 1 - back].path();
        for name in names {
            let (from, to) = (old.join(name), data.path().join(name));
            if from.is_dir() {
                fs::create_dir_all(&to).unwrap();
                copy(&from, &to);
            } else {
                fs::copy(from, to).unwrap();
            }
        }
        data
    }
}

fn tree(data: &Path) -> String {
    fs::read_to_string(data.join("checkpoint")).unwrap()
}

#[test]
fn what_was_put_back_beside_something_newer_is_read_and_never_written() {
    let grown = Grown::new(6);
    let heads = ["head", "checkpoint"];
    for (what, data) in [
        ("heads one commit older", grown.put_back(1, &heads, &[])),
        ("heads three older", grown.put_back(3, &heads, &[])),
        ("heads and bundles three older", grown.put_back(3, &["head", "checkpoint", "pool"], &[])),
        (
            "all but the tiles",
            grown.put_back(3, &["head", "checkpoint", "pool", "audit.jsonl"], &[]),
        ),
        ("all but the audit log", grown.put_back(3, &["head", "checkpoint", "pool", "tile"], &[])),
        ("heads and tiles", grown.put_back(3, &["head", "checkpoint", "tile", "audit.jsonl"], &[])),
    ] {
        let before = tree(data.path());
        for _ in 0..2 {
            let collector = Collector::start(data.path(), &ORIGIN);
            let (status, answer) = collector.post(&grown.next);
            assert_eq!((status, answer["reason"].as_str()), (503, Some("older_copy")), "{what}");
            let (ready, why) = collector.get("/readyz");
            let why = String::from_utf8(why).unwrap();
            assert!(ready == 503 && why.contains("older copy of the log, or another one"), "{why}");
            assert_eq!(collector.get("/healthz").0, 200, "{what}");
            assert_eq!(collector.text("/checkpoint"), before, "{what}");
            assert_eq!(collector.metric("meshchain_older_copy"), 1.0, "{what}");
            assert!(collector.stop().success());
            let audit = fs::read_to_string(data.path().join("audit.jsonl")).unwrap();
            assert!(audit.contains(r#""event":"older_copy""#), "{what}");
        }
        assert_eq!(tree(data.path()), before, "{what}");
    }
}

#[test]
fn where_nothing_is_left_to_read_it_does_not_start() {
    let grown = Grown::new(3);
    let all = ["head", "checkpoint", "sealed", "pool"];
    for (what, data, why) in [
        ("nothing but tiles", grown.put_back(0, &[], &all), "though there are leaves"),
        ("no head", grown.put_back(0, &[], &all[..1]), "though there are leaves"),
        ("no head, no checkpoint", grown.put_back(0, &[], &all[..2]), "though there are leaves"),
        ("an older head", grown.put_back(1, &all[..1], &[]), "were published"),
        (
            "nothing but the key",
            grown.put_back(0, &[], &[&all[..], &["tile", "audit.jsonl"]].concat()),
            "holds no log",
        ),
    ] {
        let place = ["--listen", "127.0.0.1:0", "--data", data.path().to_str().unwrap()];
        let (code, error) = fails(&[&place[..], &ORIGIN].concat());
        assert!(code == 1 && error.contains(why), "{what}: {error}");
    }
}

#[test]
fn another_log_of_the_same_size_is_told_by_the_audit_log() {
    let grown = Grown::new(2);
    let data = grown.put_back(0, &[], &[]);
    let file = data.path().join("audit.jsonl");
    let audit = fs::read_to_string(&file).unwrap();
    let root = audit.rsplit_once(r#""root":""#).unwrap().1[..64].to_owned();
    fs::write(&file, audit.replace(&root, &"ab".repeat(32))).unwrap();
    let collector = Collector::start(data.path(), &ORIGIN);
    assert_eq!(collector.post(&grown.next).0, 503);
    drop(collector);
    fs::write(&file, audit).unwrap();
    assert_eq!(Collector::start(data.path(), &ORIGIN).post(&grown.next).0, 200);
}
