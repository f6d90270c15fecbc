use crate::support::{Collector, Session, body, fails};
use std::fs;
use std::path::{Path, PathBuf};

fn grown(data: &Path, batches: u32) -> Session {
    let collector = Collector::start(data, &[]);
    let mut session = Session::new(1);
    for _ in 0..batches {
        assert_eq!(collector.post(&body(&session.next(1, 7))).0, 200);
    }
    collector.wait_published(batches.into());
    collector.kill();
    session
}

#[test]
fn what_a_crash_after_the_commit_left_out_is_applied_at_the_next_start() {
    let data = tempfile::tempdir().unwrap();
    grown(data.path(), 3);
    let checkpoint = fs::read(data.path().join("checkpoint")).unwrap();
    let tile = fs::read(data.path().join("tile/0/000.p/3")).unwrap();
    // As if the process had died between the commit of the last leaf and its publication.
    fs::remove_file(data.path().join("checkpoint")).unwrap();
    fs::remove_dir_all(data.path().join("tile")).unwrap();
    let collector = Collector::start(data.path(), &[]);
    assert_eq!(collector.get("/checkpoint").1, checkpoint);
    assert_eq!(collector.get("/tile/0/000.p/3").1, tile);
}

/// The staging bundle whose first leaf is `first`.
fn pool(data: &Path, first: u64) -> PathBuf {
    let files = fs::read_dir(data.join("pool")).unwrap().map(|file| file.unwrap().path());
    let prefix = format!("{first:020}-");
    let named = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(&prefix);
    files.into_iter().find(named).unwrap()
}

#[test]
fn what_a_crash_before_the_commit_left_behind_is_passed_over() {
    let data = tempfile::tempdir().unwrap();
    let mut session = grown(data.path(), 2);
    fs::write(data.path().join("pool/00000000000000000002-0123456789abcdef"), "half").unwrap();
    fs::write(data.path().join("pool/00000000000000000002-0123456789abcdef#1"), "half").unwrap();
    let collector = Collector::start(data.path(), &[]);
    assert_eq!(collector.size(), 2);
    assert_eq!(collector.post(&body(&session.next(1, 7))).1["leaf"], 2);
    collector.wait_published(3);
    collector.kill();
    // Now there are two for leaf 2, and the committed one is taken.
    let collector = Collector::start(data.path(), &[]);
    assert_eq!(collector.size(), 3);
    assert_eq!(collector.post(&body(&session.next(1, 7))).1["leaf"], 3);
    let half_written = |file: fs::DirEntry| file.file_name().to_str().unwrap().contains('#');
    let mut files = fs::read_dir(data.path().join("pool")).unwrap();
    assert!(!files.any(|file| half_written(file.unwrap())));
}

#[test]
fn everything_acknowledged_before_a_kill_is_there_once_after_it() {
    let data = tempfile::tempdir().unwrap();
    let mut acknowledged: Vec<Vec<u8>> = Vec::new();
    for round in 0..5u8 {
        let collector = Collector::start(data.path(), &[]);
        let sent = std::thread::scope(|scope| {
            let senders: Vec<_> = (0..8)
                .map(|sender| {
                    let collector = &collector;
                    scope.spawn(move || {
                        let mut session = Session::new(round * 8 + sender + 1);
                        let bodies = (0..2).map(|_| body(&session.next(3, 7)));
                        bodies.filter(|body| collector.post(body).0 == 200).collect::<Vec<_>>()
                    })
                })
                .collect();
            senders.into_iter().flat_map(|s| s.join().unwrap()).collect::<Vec<_>>()
        });
        acknowledged.extend(sent);
        collector.kill();
    }
    let collector = Collector::start(data.path(), &[]);
    assert_eq!(collector.size(), acknowledged.len() as u64);
    for batch in &acknowledged {
        assert_eq!(collector.post(batch).1["replayed"], true);
    }
    assert_eq!(collector.size(), acknowledged.len() as u64);
}

#[test]
fn a_damaged_log_is_not_started_and_the_damaged_object_is_named() {
    let data = tempfile::tempdir().unwrap();
    grown(data.path(), 2);
    let pool = pool(data.path(), 1);
    let whole = fs::read(&pool).unwrap();
    let mut flipped = whole.clone();
    flipped[100] ^= 1;
    let directory = data.path().to_str().unwrap();
    let start = || fails(&["--listen", "127.0.0.1:0", "--data", directory]);
    for damage in [&flipped[..], &whole[..whole.len() / 2], b""] {
        fs::write(&pool, damage).unwrap();
        let (code, error) = start();
        assert_eq!(code, 1);
        assert!(
            error.contains("damaged") && error.contains("pool/00000000000000000001"),
            "{error}"
        );
    }
    fs::remove_file(&pool).unwrap();
    let (code, error) = start();
    assert!(code == 1 && error.contains("leaf is missing"), "a truncated log: {error}");
    fs::write(&pool, &whole).unwrap();
    let beyond = data.path().join("pool/00000000000000000009-0123456789abcdef");
    fs::write(&beyond, &whole).unwrap();
    let collector = Collector::start(data.path(), &[]);
    assert_eq!(collector.get("/readyz").0, 503, "a bundle of a larger log");
    collector.kill();
    fs::remove_file(&beyond).unwrap();
    drop(Collector::start(data.path(), &[]));
}

#[test]
fn a_lost_or_old_head_never_makes_the_start_delete_what_was_committed() {
    let data = tempfile::tempdir().unwrap();
    let mut session = grown(data.path(), 1);
    let old = fs::read(data.path().join("head")).unwrap();
    let collector = Collector::start(data.path(), &[]);
    assert_eq!(collector.post(&body(&session.next(1, 7))).0, 200);
    collector.wait_published(2);
    collector.kill();
    let head = data.path().join("head");
    let new = fs::read(&head).unwrap();
    let directory = data.path().to_str().unwrap();
    fs::remove_file(&head).unwrap();
    let (code, error) = fails(&["--listen", "127.0.0.1:0", "--data", directory]);
    assert!(code == 1 && error.contains("head: missing"), "{error}");
    fs::write(&head, old).unwrap();
    let (code, error) = fails(&["--listen", "127.0.0.1:0", "--data", directory]);
    assert!(code == 1 && error.contains("has 1 leaves, but 2 were published"), "{error}");
    fs::write(&head, new).unwrap();
    assert_eq!(Collector::start(data.path(), &[]).size(), 2);
}
