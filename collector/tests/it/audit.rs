use crate::support::{Collector, Session, body};
use meshchain_stored::audit_line::{AuditLine, CHAIN_START, line_hash};
use std::fs;
use std::time::{Duration, Instant};

#[test]
fn an_unread_standard_output_stops_nothing() {
    let data = tempfile::tempdir().unwrap();
    let (collector, _unread) = Collector::start_unread(data.path());
    // Far more lines than a pipe holds.
    for seed in 0..250 {
        assert_eq!(collector.post(&body(&Session::new(seed).next(1, 7))).0, 200);
    }
    let since = Instant::now();
    assert_eq!(collector.get("/healthz").0, 200);
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    assert!(collector.stop().success());
    let audit = fs::read_to_string(data.path().join("audit.jsonl")).unwrap();
    let opened = audit.lines().filter(|line| line.contains("\"session_opened\"")).count();
    assert_eq!(opened, 250);
}

#[test]
fn no_batch_is_acknowledged_whose_lines_cannot_be_kept() {
    let data = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/full", data.path().join("audit.jsonl")).unwrap();
    let collector = Collector::start(data.path(), &[]);
    let (status, answer) = collector.post(&body(&Session::new(1).next(1, 7)));
    assert_eq!((status, &answer["reason"]), (507, &"no_space".into()));
    assert_eq!(collector.size(), 0);
    assert_eq!(collector.metric("meshchain_audit_failing"), 1.0);
    assert_eq!(collector.get("/healthz").0, 200);
    let (status, why) = collector.get("/readyz");
    assert_eq!(status, 503);
    assert!(String::from_utf8(why).unwrap().contains("no space is left"));
}

#[test]
fn each_line_names_the_one_before_over_restarts_and_a_line_that_was_cut_off() {
    let data = tempfile::tempdir().unwrap();
    let path = data.path().join("audit.jsonl");
    for seed in 0..3 {
        let collector = Collector::start(data.path(), &[]);
        assert_eq!(collector.post(&body(&Session::new(seed).next(1, 7))).0, 200);
        collector.kill();
        let mut audit = fs::read(&path).unwrap();
        audit.extend_from_slice(b"{\"time\":\"20");
        fs::write(&path, audit).unwrap();
    }
    assert!(Collector::start(data.path(), &[]).stop().success());
    let (mut prev, mut starts) = (CHAIN_START, 0);
    for line in fs::read_to_string(&path).unwrap().lines() {
        let parsed = AuditLine::parse(line).unwrap();
        assert_eq!(parsed.prev, prev, "{line}");
        prev = line_hash(line.as_bytes());
        starts += usize::from(parsed.event == "start");
    }
    assert_eq!(starts, 4);
}
