//! Copies of a log: they grow with it, go on after an interruption, and are not led astray.

use crate::fsck::check_with;
use crate::grown::{Grown, batch};
use crate::server::serve;
use meshchain::log::{
    Directory, FsckVerdict, HttpLog, LogKey, LogSource, Mirror, MirrorError, Mirrored,
};
use meshchain_core::entries_page::encode_page;
use meshchain_core::leaf::CHAIN_START;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// What a server shows: the published files and the entries of a log.
#[derive(Clone, Default)]
struct Shown {
    files: HashMap<String, Vec<u8>>,
    entries: Vec<Vec<u8>>,
}

fn shown(log: &Grown) -> Shown {
    let mut files = HashMap::new();
    for file in crate::grown::files(log.folder.path()) {
        if file == "checkpoint" || file.starts_with("tile/") {
            files.insert(file.clone(), log.read(&file));
        }
    }
    Shown { files, entries: log.batches.iter().map(|batch| batch.entries.clone()).collect() }
}

/// Serves what `shown` holds at each request; pages of 100 leaves.
fn server(shown: &Arc<Mutex<Shown>>) -> String {
    let shown = shown.clone();
    serve(move |request, _| {
        let path = request.split(' ').nth(1).unwrap_or("/").trim_start_matches('/');
        let shown = shown.lock().unwrap();
        if let Some(from) = path.strip_prefix("v1/entries?from=") {
            let from: usize = from.parse().unwrap();
            let page = shown.entries.get(from..shown.entries.len().min(from + 100));
            return match page.filter(|page| !page.is_empty()) {
                Some(page) => (200, encode_page(page)),
                None => (404, Vec::new()),
            };
        }
        shown.files.get(path).map_or((404, Vec::new()), |bytes| (200, bytes.clone()))
    })
}

struct Copied {
    folder: tempfile::TempDir,
    source: HttpLog,
    key: LogKey,
    shown: Arc<Mutex<Shown>>,
}

impl Copied {
    fn of(log: &Grown) -> Self {
        let shown = Arc::new(Mutex::new(shown(log)));
        let source = HttpLog::new(&server(&shown));
        let key = LogKey::Key(log.key.verifier().clone());
        Self { folder: tempfile::tempdir().unwrap(), source, key, shown }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn run(&self) -> Result<Mirrored, MirrorError> {
        Mirror::new(&self.source, &self.key, self.path()).run(&mut |done, all| assert!(done <= all))
    }

    fn files(&self) -> Vec<(String, Vec<u8>)> {
        let files = crate::grown::files(self.path()).into_iter();
        files.map(|file| (file.clone(), std::fs::read(self.path().join(&file)).unwrap())).collect()
    }

    fn is_whole(&self, size: u64) {
        let report = check_with(&Directory(self.path().to_owned()), &self.key);
        assert_eq!(report.verdict, FsckVerdict::Clean, "{report:#?}");
        assert_eq!((report.leaves, report.entries_checked), (size, report.entries));
    }
}

#[test]
fn a_copy_grows_with_the_log_and_fsck_checks_all_of_it() {
    let mut log = Grown::new(0, 1);
    let copied = Copied::of(&log);
    let mut size = 0;
    for more in [1, 6, 248, 1, 1, 300, 212, 256] {
        log.commit(more);
        log.publish();
        *copied.shown.lock().unwrap() = shown(&log);
        let grown = copied.run().unwrap();
        assert_eq!((grown.from, grown.head.size, grown.entries), (size, size + more, true));
        size += more;
        copied.is_whole(size);
        let again = copied.run().unwrap();
        assert_eq!((again.from, again.head), (size, grown.head));
    }
}

#[test]
fn a_log_without_entries_is_copied_as_it_is_published() {
    let log = Grown::new(300, 100);
    let copied = Copied::of(&log);
    copied.shown.lock().unwrap().entries.clear();
    assert!(!copied.run().unwrap().entries);
    let report = check_with(&Directory(copied.path().to_owned()), &copied.key);
    assert_eq!((report.verdict, report.leaves), (FsckVerdict::Clean, 300));
}

#[test]
fn an_interrupted_copy_goes_on_and_what_is_missing_or_bent_leaves_it_as_it_was() {
    let log = Grown::new(700, 100);
    for (path, bent) in [
        ("tile/entries/001", None),
        ("tile/entries/002.p/188", None),
        ("checkpoint", None),
        ("checkpoint", Some(b"no note".to_vec())),
        ("tile/entries/001", Some(Vec::new())),
        ("tile/entries/000", Some(vec![0xff; 1000])),
        ("tile/entries/000", Some(vec![0; 512])),
        ("tile/entries/000", Some(vec![7; 20_000_000])),
    ] {
        let copied = Copied::of(&log);
        let whole = copied.shown.lock().unwrap().clone();
        match bent {
            Some(bytes) => drop(copied.shown.lock().unwrap().files.insert(path.to_owned(), bytes)),
            None => drop(copied.shown.lock().unwrap().files.remove(path)),
        }
        let failed = copied.run();
        assert!(matches!(failed, Err(MirrorError::NotRead(_))), "{path}: {failed:?}");
        assert!(copied.files().iter().all(|(file, _)| file.starts_with("incoming/")), "{path}");
        *copied.shown.lock().unwrap() = whole;
        assert_eq!(copied.run().unwrap().head.size, 700, "{path}");
        copied.is_whole(700);
    }
}

#[test]
fn entries_that_do_not_fit_their_leaf_are_a_contradiction() {
    let log = Grown::new(300, 100);
    let copied = Copied::of(&log);
    copied.shown.lock().unwrap().entries[271][60] ^= 1;
    let found = copied.run();
    let told = matches!(&found, Err(MirrorError::Contradiction(why)) if why.contains("leaf 271"));
    assert!(told, "{found:?}");
    *copied.shown.lock().unwrap() = shown(&log);
    copied.run().unwrap();
    copied.is_whole(300);
}

#[test]
fn a_fork_and_a_log_that_shrank_are_told_and_their_checkpoint_is_kept() {
    let (log, mut fork) = (Grown::new(300, 100), Grown::new(299, 100));
    // Another last leaf, and leaves behind it, under the same key.
    fork.commit_batches(vec![batch(9, 0, CHAIN_START, 7777, "other")]);
    fork.publish();
    let same_size = shown(&fork);
    fork.commit(200);
    fork.publish();
    let (larger, smaller) = (shown(&fork), shown(&Grown::new(200, 100)));
    for (what, other) in [("same", same_size), ("larger", larger), ("smaller", smaller)] {
        let copied = Copied::of(&log);
        copied.run().unwrap();
        let before = copied.files();
        let checkpoint = other.files["checkpoint"].clone();
        *copied.shown.lock().unwrap() = other;
        let found = copied.run();
        assert!(matches!(found, Err(MirrorError::Contradiction(_))), "{what}: {found:?}");
        let after = copied.files();
        let kept: Vec<_> = after.iter().filter(|file| !before.contains(file)).collect();
        let [(name, bytes)] = kept.as_slice() else { panic!("{what}: {kept:?}") };
        assert!(name.starts_with("contradictions/") && *bytes == checkpoint, "{what}: {name}");
        *copied.shown.lock().unwrap() = shown(&log);
        assert_eq!(copied.run().unwrap().from, 300, "{what}");
    }
}

#[test]
fn pages_and_files_of_a_copy_are_read_as_those_of_its_log() {
    let log = Grown::new(300, 100);
    let copied = Copied::of(&log);
    copied.run().unwrap();
    let local = Directory(copied.path().to_owned());
    for from in [0, 100, 200] {
        assert_eq!(local.entries(from).unwrap(), copied.source.entries(from).unwrap());
    }
    assert_eq!(local.entries(1).unwrap(), None);
}
