//! Whole logs: clean ones pass, each damage is found and named.

use crate::grown::{Batch, Grown, ORIGIN, batch, files, pool, seal, session_key};
use crate::server::serve;
use meshchain::log::{
    Directory, FsckReport, FsckVerdict, HttpLog, LogKey, LogSource, SignatureCheck, fsck,
    render_fsck,
};
use meshchain_core::entries_page::encode_page;
use meshchain_core::header::{Dropped, Previous};
use meshchain_core::leaf::{CHAIN_START, Signature, chain_hash};
use meshchain_core::{
    BatchHeader, BatchKind, BatchLeaf, Canonical, Checkpoint, Hash, SigningKey, merkle,
};
use std::collections::HashMap;

pub(crate) fn check_with(source: &dyn LogSource, key: &LogKey) -> FsckReport {
    fsck(source, key, &mut |done, all| assert!(done <= all))
}

pub(crate) fn check(log: &Grown) -> FsckReport {
    let key = LogKey::Key(log.key.verifier().clone());
    check_with(&Directory(log.folder.path().to_owned()), &key)
}

fn serve_folder(log: &Grown) -> String {
    let folder = log.folder.path().to_owned();
    serve(move |request, _| {
        let path = request.split(' ').nth(1).unwrap_or("/").trim_start_matches('/');
        match std::fs::read(folder.join(path)) {
            Ok(bytes) if !path.starts_with("pool") && path != "head" => (200, bytes),
            _ => (404, Vec::new()),
        }
    })
}

/// The same, with the entries of its leaves, so many in a page; `bend` bends a page.
fn serve_with_entries(
    log: &Grown,
    per_page: usize,
    bend: impl Fn(usize, Vec<u8>) -> Vec<u8> + Send + 'static,
) -> String {
    let folder = log.folder.path().to_owned();
    let entries: Vec<_> = log.batches.iter().map(|batch| batch.entries.clone()).collect();
    serve(move |request, _| {
        let path = request.split(' ').nth(1).unwrap_or("/").trim_start_matches('/');
        if let Some(from) = path.strip_prefix("v1/entries?from=") {
            let from: usize = from.parse().unwrap();
            let page = &entries[from..entries.len().min(from + per_page)];
            return (200, bend(from, encode_page(page)));
        }
        match std::fs::read(folder.join(path)) {
            Ok(bytes) if !path.starts_with("pool") && path != "head" => (200, bytes),
            _ => (404, Vec::new()),
        }
    })
}

#[test]
fn entries_that_a_server_gives_out_are_held_against_the_leaves() {
    let log = Grown::new(300, 100);
    let key = LogKey::Key(log.key.verifier().clone());
    let check = |url: String| check_with(&HttpLog::new(&url), &key);
    for per_page in [1, 7, 256] {
        let report = check(serve_with_entries(&log, per_page, |_, page| page));
        assert_eq!((report.verdict, report.entries_checked), (FsckVerdict::Clean, report.entries));
        assert!(render_fsck(&report).contains("480 checked, as they are served"));
    }
    let other = check(serve_with_entries(&log, 7, |from, mut page| {
        page[4 + 60] ^= u8::from(from == 21);
        page
    }));
    let faults: Vec<_> = other.damages.iter().map(|d| (d.file.as_str(), d.leaves)).collect();
    assert_eq!(faults, [("v1/entries?from=21", Some((21, 21)))], "{other:#?}");
    for (bent, verdict) in [
        (Vec::new(), FsckVerdict::NotChecked),
        (vec![0; 3], FsckVerdict::NotChecked),
        (vec![0; 4 * 257], FsckVerdict::NotChecked),
        (vec![0xff; 5_000_000], FsckVerdict::Damaged),
    ] {
        let report = check(serve_with_entries(&log, 7, move |_, _| bent.clone()));
        assert_eq!((report.verdict, report.leaves), (verdict, 300), "{report:#?}");
        assert!(report.root_recomputed, "all else is checked");
    }
}

#[test]
fn clean_logs_of_every_shape_pass_from_directory_and_server() {
    for (size, per_commit) in
        [(0, 1), (1, 1), (255, 50), (256, 256), (257, 100), (512, 512), (600, 7), (700, 300)]
    {
        let log = Grown::new(size, per_commit);
        let report = check(&log);
        assert_eq!(report.verdict, FsckVerdict::Clean, "{size}: {report:#?}");
        assert!(report.root_recomputed);
        let beats = (0..size).filter(|n| n % 5 == 4).count() as u64;
        assert_eq!((report.leaves, report.entries), (size, 2 * (size - beats)));
        assert_eq!(
            (report.entries_checked, report.records_checked),
            (report.entries, report.entries)
        );
        assert_eq!(report.pools, log.pools.len() as u64);
        assert_eq!(report.gaps, (size / 3).saturating_sub(1), "session 2 jumps");
        let key = LogKey::Key(log.key.verifier().clone());
        let served = check_with(&HttpLog::new(&serve_folder(&log)), &key);
        assert_eq!(served.verdict, FsckVerdict::Clean, "{size}: {served:#?}");
        assert_eq!((served.leaves, served.pools), (size, 0));
    }
}

#[test]
fn a_flipped_byte_anywhere_in_any_file_is_found_in_that_file() {
    let log = Grown::new(300, 40);
    let left_alone = ["key", "lock", "audit.jsonl"];
    let mut tried = 0;
    for file in files(log.folder.path()) {
        if left_alone.contains(&file.as_str()) {
            continue;
        }
        let whole = log.read(&file);
        let last = whole.len() - 1;
        let mut offsets = vec![0, 1, 2, 17, 20, 31, 32, 40, last / 3, last / 2, last - 31, last];
        offsets.retain(|at| *at < whole.len());
        for at in offsets {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            log.write(&file, &damaged);
            let report = check(&log);
            let named = report.damages.iter().find(|d| d.file == file);
            let named = named.unwrap_or_else(|| panic!("{file} at {at}: {report:#?}"));
            assert_eq!(report.verdict, FsckVerdict::Damaged);
            // The damage begins at or before the byte; where the file is no file of hashes, a
            // length may carry it further.
            let hashes = file.starts_with("tile/") && !file.contains("entries");
            if hashes {
                let told = named.offset.unwrap() as usize;
                assert!(told <= at && at < told + 32, "{file} at {at}: {named:?}");
            }
            if !["head", "checkpoint"].contains(&file.as_str()) {
                assert!(report.damages.iter().all(|d| d.file == file), "{file} {at}: {report:#?}");
            }
            tried += 1;
        }
        log.write(&file, &whole);
    }
    assert!(tried > 150, "{tried}");
    assert_eq!(check(&log).verdict, FsckVerdict::Clean);
}

#[test]
fn truncated_grown_and_missing_files_are_found() {
    let log = Grown::new(300, 40);
    let needed = |file: &String| {
        let older =
            file.contains(".p/") && !file.ends_with(".p/44") && !file.ends_with("1/000.p/1");
        !older && !["key", "lock", "audit.jsonl"].contains(&file.as_str())
    };
    for file in files(log.folder.path()).into_iter().filter(needed) {
        let whole = log.read(&file);
        let shorter = [0, 1, 33, whole.len() / 2, whole.len() - 1];
        for length in shorter.into_iter().filter(|length| *length < whole.len()) {
            log.write(&file, &whole[..length]);
            let report = check(&log);
            let named = report.damages.iter().any(|d| d.file == file);
            assert!(named, "{file} of {length} bytes: {report:#?}");
        }
        log.write(&file, &[whole.as_slice(), b"more"].concat());
        let report = check(&log);
        assert!(report.damages.iter().any(|d| d.file == file), "{file} grown: {report:#?}");
        std::fs::remove_file(log.path(&file)).unwrap();
        let report = check(&log);
        let named = file.split_once('-').map_or(file.as_str(), |(first, _)| first);
        let missing = report.damages.iter().any(|d| d.file == named && d.fault == "missing");
        assert!(missing, "{file} missing: {report:#?}");
        log.write(&file, &whole);
    }
}

#[test]
fn lost_leaves_cost_what_is_told_and_the_rest_is_still_checked() {
    let log = Grown::new(700, 100);
    for file in ["tile/entries/001", "tile/0/001", log.pool_file(300).as_str()] {
        std::fs::remove_file(log.path(file)).unwrap();
    }
    let report = check(&log);
    let found: Vec<_> = report.damages.iter().map(|d| d.file.as_str()).collect();
    assert_eq!(found.len(), 3, "{report:#?}");
    let bundle = report.damages.iter().find(|d| d.file == "tile/entries/001").unwrap();
    let cost = "100 leaves from 300 to 399: their batches cannot be proved; all else stands";
    assert_eq!(bundle.cost, cost);
    assert!(report.root_recomputed, "the tile above tells the hash over the lost leaves");
    assert_eq!(report.leaves, 600);
}

#[test]
fn swapped_and_replaced_files_are_found() {
    let log = Grown::new(600, 200);
    for (one, other) in [
        ("tile/0/000", "tile/0/001"),
        ("tile/entries/000", "tile/entries/001"),
        (log.pool_file(0).as_str(), log.pool_file(200).as_str()),
    ] {
        let (a, b) = (log.read(one), log.read(other));
        log.write(one, &b);
        log.write(other, &a);
        let report = check(&log);
        for file in [one, other] {
            assert!(report.damages.iter().any(|d| d.file == file), "{file}: {report:#?}");
        }
        log.write(one, &a);
        log.write(other, &b);
    }
    // An older checkpoint: one commit back is a crash, more is not.
    let (now, head) = (log.read("checkpoint"), log.read("head"));
    let older = |size: usize| {
        let hashes: Vec<_> = log.batches[..size]
            .iter()
            .map(|b| meshchain_core::merkle::leaf_hash(&b.leaf))
            .collect();
        let root = meshchain_core::merkle::root(&hashes);
        let head = meshchain_core::TreeHead { size: size as u64, root };
        Checkpoint::sign(&head, &log.key)
    };
    log.write("checkpoint", older(200).as_bytes());
    let report = check(&log);
    assert!(report.damages.iter().any(|d| d.file == "checkpoint"), "{report:#?}");
    log.write("checkpoint", &now);
    log.write("head", older(400).as_bytes());
    let report = check(&log);
    let damage = report.damages.iter().find(|d| d.file == "head").unwrap();
    assert!(damage.cost.contains("restore the newest copy"), "{damage:?}");
    log.write("head", &head);
    assert_eq!(check(&log).verdict, FsckVerdict::Clean);
}

#[test]
fn a_log_that_was_put_back_to_an_earlier_head_is_not_clean() {
    let log = Grown::new(300, 40);
    let empty = Grown::new(0, 1);
    for file in ["head", "checkpoint"] {
        log.write(file, &empty.read(file));
    }
    std::fs::remove_dir_all(log.path("pool")).unwrap();
    let report = check(&log);
    assert_eq!(report.damages.len(), 1, "{report:#?}");
    assert!(report.damages[0].fault.contains("larger tree"), "{report:#?}");
    // A server shows no more than its checkpoint says.
    let key = LogKey::Key(log.key.verifier().clone());
    let served = check_with(&HttpLog::new(&serve_folder(&log)), &key);
    assert_eq!(served.verdict, FsckVerdict::Clean);
}

#[test]
fn a_crash_before_publication_is_a_note_and_its_leaves_are_checked() {
    let mut log = Grown::new(250, 50);
    log.commit(20);
    let report = check(&log);
    assert_eq!(report.verdict, FsckVerdict::Clean, "{report:#?}");
    assert!(report.notes.iter().any(|n| n.contains("20 leaves ahead")), "{report:#?}");
    assert_eq!((report.size, report.leaves), (Some(250), 270));
    let file = log.pool_file(250);
    let mut bytes = log.read(&file);
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    log.write(&file, &bytes);
    let report = check(&log);
    assert!(report.damages.iter().any(|d| d.file == file), "{report:#?}");
    log.write("pool/00000000000000000270-0011223344556677", b"torn");
    log.write("pool/00000000000000000270-0011223344556677#1", b"torn");
    let report = check(&log);
    assert!(report.notes.iter().any(|n| n.contains("never committed")), "{report:#?}");
}

#[test]
fn an_altered_entry_or_record_under_a_corrected_sum_is_found() {
    let log = Grown::new(60, 20);
    let file = &log.pool_file(20);
    let whole = log.read(file);
    let find = |part: &[u8]| whole.windows(part.len()).position(|w| w == part).unwrap();
    let batch = &log.batches[27];
    let (second, record) = (&batch.entries[90..], &batch.records[4..]);
    for (at, offset, cost) in [
        (find(second) + 50, find(second), "leaf 27: its 2 entries cannot be proved"),
        (find(record) + 9, find(record), "the record of entry 0 cannot be disclosed"),
        (find(&batch.leaf) + 60, find(&batch.leaf), "the tree has the leaf"),
    ] {
        let mut bytes = whole[..whole.len() - 32].to_vec();
        bytes[at] ^= 1;
        log.write(file, &seal(bytes));
        let report = check(&log);
        assert_eq!(report.damages.len(), 1, "{report:#?}");
        let damage = &report.damages[0];
        assert_eq!((&damage.file, damage.offset), (file, Some(offset as u64)));
        assert!(damage.cost.contains(cost), "{damage:?}");
        assert_eq!(damage.leaves, Some((27, 27)));
    }
    let mut short = log.batches[20..40].to_vec();
    short.pop();
    log.write(file, &pool(&short));
    let report = check(&log);
    assert_eq!(report.damages[0].file, "pool/00000000000000000039", "{report:#?}");
}

#[test]
fn equivocation_and_what_is_no_leaf_are_damage() {
    let mut log = Grown::new(30, 10);
    let fork = batch(0, 3, [1; 32], 90, "reviews");
    let again = batch(1, 9, [2; 32], 91, "reviews");
    let nonsense = Batch { leaf: b"nonsense".to_vec(), entries: vec![], records: vec![] };
    for (bad, word) in [(fork, "reordered"), (again, "session"), (nonsense, "leaf 3")] {
        log.commit_batches(vec![bad]);
        log.publish();
        let report = check(&log);
        let last = report.damages.last().unwrap_or_else(|| panic!("{word}: {report:#?}"));
        assert!(last.fault.contains(word), "{report:#?}");
        assert!(last.file.starts_with("tile/entries/"));
        assert!(report.root_recomputed);
    }
}

#[test]
fn a_leaf_that_its_session_did_not_sign_is_named_among_many_that_are() {
    let mut log = Grown::new(600, 100);
    assert_eq!(check(&log).signatures_ok, 600);
    let mut batches: Vec<Batch> =
        (10..20).map(|session| batch(session, 0, CHAIN_START, session, "reviews")).collect();
    for forged in [3, 7] {
        *batches[forged].leaf.last_mut().unwrap() ^= 1;
    }
    log.commit_batches(batches);
    log.publish();
    let report = check(&log);
    assert_eq!((report.verdict, report.signatures_ok), (FsckVerdict::Damaged, 608));
    let named: Vec<_> = report.damages.iter().map(|damage| damage.leaves).collect();
    assert_eq!(named, [Some((603, 603)), Some((607, 607))], "{report:#?}");
    assert!(report.damages[0].fault.contains("signature"), "{report:#?}");
}

fn previous(of: u64, batches: u64, dropped: Vec<Dropped>) -> Previous {
    let key = session_key(of);
    Previous {
        session: key.id(),
        batches,
        dropped,
        public_key: *key.public(),
        signature: Signature::default(),
    }
}

#[test]
fn what_no_honest_proxy_does_is_told_and_is_no_damage() {
    let mut log = Grown::new(10, 5);
    let dropped = |count| vec![Dropped { reason: 1, count }];
    let former = previous(30, 4, dropped(9));
    let foreign = previous(0, 9, vec![]);
    let close = |h: &mut BatchHeader<'_>| h.kind = BatchKind::Close;
    let mut batches = Batches::default();
    batches.push(30, "web", &|h| h.dropped = dropped(5));
    batches.push(30, "evil", &|h| h.dropped = dropped(5));
    batches.push(30, "web", &|h| h.dropped = dropped(4));
    batches.push(31, "web", &|h| h.previous = Some(former.clone()));
    batches.push(31, "web", &close);
    batches.push(31, "web", &|h| h.source.workload = "other");
    batches.push(32, "web", &|h| h.previous = Some(foreign.clone()));
    log.commit_batches(batches.list);
    log.publish();
    let report = check(&log);
    assert_eq!(report.verdict, FsckVerdict::Clean, "{report:#?}");
    let told: Vec<_> = report.oddity_list.iter().map(|o| (o.leaf, o.what.as_str())).collect();
    let expected = [
        (11, "delivered by"),
        (12, "fell from 5 to 4"),
        (15, "another source"),
        (15, "closed the session"),
        (16, "another sender or source"),
    ];
    assert_eq!(told.len(), expected.len(), "{told:?}");
    for ((leaf, what), (at, words)) in told.into_iter().zip(expected) {
        assert!(leaf == at && what.contains(words), "{leaf}: {what}");
    }
    assert_eq!((report.refusals, report.refused_batches, report.refused_calls), (1, 1, 5));
    let text = render_fsck(&report);
    assert!(
        text.contains("refusals    1, each ended a session; lost by them: 1 batches, 5 calls"),
        "{text}"
    );
    assert!(text.contains("odd         leaf 11, session "), "{text}");
}

/// Batches without entries, each after the one before of its session.
#[derive(Default)]
struct Batches {
    list: Vec<Batch>,
    chains: HashMap<u64, (Hash, u64)>,
}

impl Batches {
    fn push(&mut self, session: u64, principal: &str, change: &dyn Fn(&mut BatchHeader<'_>)) {
        let key = session_key(session);
        let (prev, seq) = self.chains.get(&session).copied().unwrap_or((CHAIN_START, 0));
        let kind = BatchKind::Heartbeat;
        let mut header = BatchHeader { kind, session: key.id(), seq, ..Default::default() };
        change(&mut header);
        let header = header.encode();
        let chain = chain_hash(&prev, &header, &[]);
        self.chains.insert(session, (chain, seq + 1));
        let leaf = BatchLeaf {
            header: &header,
            prev,
            chain,
            entries_root: merkle::empty_root(),
            principal: principal.as_bytes(),
            public_key: *key.public(),
            signature: Signature(key.sign(&chain)),
            ..Default::default()
        };
        self.list.push(Batch { leaf: leaf.encode(), entries: vec![], records: vec![] });
    }
}

#[test]
fn the_key_decides_and_without_one_the_signature_is_not_checked() {
    let log = Grown::new(20, 10);
    let source = Directory(log.folder.path().to_owned());
    let report = check_with(&source, &LogKey::Unknown);
    assert_eq!(report.verdict, FsckVerdict::NotChecked);
    assert!(report.root_recomputed && report.damages.is_empty());
    assert!(matches!(report.signature, SignatureCheck::NotChecked(_)));
    for name in [ORIGIN, "other.example/meshchain"] {
        let other = SigningKey::from_seed(name, &[4; 32]).unwrap();
        let report = check_with(&source, &LogKey::Key(other.verifier().clone()));
        assert_eq!(report.verdict, FsckVerdict::Damaged, "{report:#?}");
        assert!(report.damages.iter().any(|d| d.file == "checkpoint"));
    }
}

#[test]
fn a_server_that_lies_fails_or_is_away_is_told_apart() {
    let log = Grown::new(600, 100);
    let key = LogKey::Key(log.key.verifier().clone());
    let run = |url: &str| check_with(&HttpLog::new(url), &key);
    assert_eq!(run("http://127.0.0.1:1").verdict, FsckVerdict::NotChecked);
    assert_eq!(run(&serve(|_, _| (404, Vec::new()))).verdict, FsckVerdict::NotChecked);
    let mut bytes = log.read("tile/entries/001");
    bytes[70] ^= 1;
    log.write("tile/entries/001", &bytes);
    let report = run(&serve_folder(&log));
    assert_eq!(report.damages.len(), 1, "{report:#?}");
    assert_eq!(report.damages[0].file, "tile/entries/001");
    assert!(report.root_recomputed);
    bytes[70] ^= 1;
    log.write("tile/entries/001", &bytes);
    let folder = log.folder.path().to_owned();
    let url = serve(move |request, _| match request.split(' ').nth(1).unwrap() {
        "/tile/0/001" => (500, Vec::new()),
        "/tile/0/000" => (200, vec![0; 100_000]),
        path => std::fs::read(folder.join(&path[1..])).map_or((404, vec![]), |b| (200, b)),
    });
    let report = run(&url);
    assert!(report.unchecked.iter().any(|u| u.contains("HTTP 500")), "{report:#?}");
    assert!(report.damages.iter().any(|d| d.file == "tile/0/000"), "{report:#?}");
    assert!(report.root_recomputed);
}

#[test]
fn pruned_partial_tiles_are_cut_from_full_ones_and_a_claimed_size_ends() {
    let mut log = Grown::new(200, 100);
    let (old, head) = (log.read("checkpoint"), log.read("head"));
    log.commit(100);
    log.publish();
    log.write("checkpoint", &old);
    log.write("head", &head);
    let key = LogKey::Key(log.key.verifier().clone());
    let report = check_with(&HttpLog::new(&serve_folder(&log)), &key);
    assert_eq!((report.verdict, report.leaves), (FsckVerdict::Clean, 200), "{report:#?}");
    let text = String::from_utf8(old).unwrap().replace("\n200\n", "\n18446744073709551615\n");
    log.write("checkpoint", text.as_bytes());
    let report = check_with(&HttpLog::new(&serve_folder(&log)), &LogKey::Unknown);
    assert_eq!(report.verdict, FsckVerdict::Damaged);
}
