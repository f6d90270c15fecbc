use crate::support::{Collector, Session, body, wait_until};
use meshchain_core::tile::{self, TileKind, TileName};
use meshchain_core::{
    BatchHeader, BatchKind, BatchLeaf, Canonical, Checkpoint, Dropped, ENTRY_LEN, Entry, Evidence,
    Source, SpanRecord, TlogProof, TreeHead, VerifierKey, merkle,
};
use serde_json::Value;

fn vkey(collector: &Collector) -> VerifierKey {
    let log: Value = serde_json::from_str(&collector.text("/v1/log")).unwrap();
    VerifierKey::parse(log["vkey"].as_str().unwrap()).unwrap()
}

#[test]
fn an_acknowledged_batch_is_published_under_a_signed_checkpoint_at_the_c2sp_paths() {
    let data = tempfile::tempdir().unwrap();
    let collector = Collector::start(data.path(), &["--origin", "shop.example/log"]);
    let key = vkey(&collector);
    assert_eq!(Checkpoint::open(&collector.text("/checkpoint"), &key).unwrap().head.size, 0);
    let mut session = Session::new(1);
    for leaf in 0..3 {
        let (status, answer) = collector.post(&body(&session.next(leaf, 7)));
        assert_eq!(
            (status, &answer["leaf"], &answer["replayed"]),
            (200, &leaf.into(), &false.into())
        );
    }
    collector.wait_published(3);
    let head = Checkpoint::open(&collector.text("/checkpoint"), &key).unwrap().head;
    let name = |kind| TileName { kind, index: 0, width: 3 }.path();
    let (_, hashes) = collector.get(&format!("/{}", name(TileKind::Hashes(0))));
    let hashes = tile::parse_tile(&hashes, 3).unwrap();
    assert_eq!(head, TreeHead { size: 3, root: merkle::root(&hashes) });
    let (_, bundle) = collector.get(&format!("/{}", name(TileKind::Entries)));
    let leaves = tile::split_bundle(&bundle).unwrap();
    for (leaf, hash) in leaves.iter().zip(&hashes) {
        assert_eq!(merkle::leaf_hash(leaf), *hash);
        BatchLeaf::decode(leaf).unwrap();
    }
    assert_eq!(collector.get("/tile/0/0").0, 400);
    assert_eq!(collector.get("/tile/0/001").0, 404);
    assert_eq!(collector.get("/tile/../key").0, 400, "a path that leaves the tiles");
}

#[test]
fn evidence_of_a_trace_holds_every_span_and_proves_each() {
    let data = tempfile::tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let key = vkey(&collector);
    let (mut one, mut two) = (Session::new(1), Session::new(2));
    for batch in [one.next(5, 7), two.next(3, 8), two.next(2, 7), one.next(0, 0)] {
        assert_eq!(collector.post(&body(&batch)).0, 200);
    }
    collector.wait_published(4);
    let (status, json) = collector.get(&format!("/v1/evidence/{}", "07".repeat(16)));
    assert_eq!(status, 200);
    let evidence = Evidence::from_json(&json).unwrap();
    assert_eq!(evidence.spans.len(), 7);
    for span in &evidence.spans {
        let entry = Entry::parse(&span.entry).unwrap();
        let record = SpanRecord {
            hop: span.record.hop.as_ref().unwrap(),
            own: span.record.own.as_ref().unwrap(),
            ..SpanRecord::default()
        };
        assert_eq!(record.check(&entry), Ok(()));
        let leaf = BatchLeaf::decode(&span.leaf).unwrap();
        let count = leaf.parse_header().unwrap().count.into();
        let batch = TreeHead { size: count, root: leaf.entries_root };
        let hash = merkle::leaf_hash(&span.entry);
        assert_eq!(
            merkle::verify_inclusion(span.batch.index, &hash, &span.batch.path, &batch),
            Ok(())
        );
        let proof = TlogProof::parse(&span.tlog_proof).unwrap();
        let head = Checkpoint::open(&proof.checkpoint, &key).unwrap().head;
        let hash = merkle::leaf_hash(&span.leaf);
        assert_eq!(merkle::verify_inclusion(proof.index, &hash, &proof.path, &head), Ok(()));
    }
    assert_eq!(collector.get(&format!("/v1/evidence/{}", "09".repeat(16))).0, 404);
    assert_eq!(collector.get("/v1/evidence/xyz").0, 400);
}

#[test]
fn proofs_hold_across_tiles_after_their_partial_versions_are_gone() {
    let data = tempfile::tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let key = vkey(&collector);
    std::thread::scope(|scope| {
        for id in 1..=90 {
            let collector = &collector;
            scope.spawn(move || {
                let mut session = Session::new(id);
                for _ in 0..3 {
                    assert_eq!(collector.post(&body(&session.next(1, id))).0, 200);
                }
            });
        }
    });
    collector.wait_published(270);
    let partials = data.path().join("tile/0/000.p");
    wait_until("the partial tiles are deleted", || {
        std::fs::read_dir(&partials).map_or(true, |mut files| files.next().is_none())
    });
    let (status, partial) = collector.get("/tile/0/000.p/17");
    assert_eq!((status, partial.len()), (200, 17 * 32), "cut out of the full tile");
    for id in [1u8, 45, 90] {
        let (_, json) = collector.get(&format!("/v1/evidence/{}", hex::encode([id; 16])));
        let evidence = Evidence::from_json(&json).unwrap();
        assert_eq!(evidence.spans.len(), 3);
        for span in evidence.spans {
            let proof = TlogProof::parse(&span.tlog_proof).unwrap();
            let head = Checkpoint::open(&proof.checkpoint, &key).unwrap().head;
            let hash = merkle::leaf_hash(&span.leaf);
            assert_eq!(merkle::verify_inclusion(proof.index, &hash, &proof.path, &head), Ok(()));
        }
    }
}

#[test]
fn payload_mode_digest_gives_evidence_without_records() {
    let data = tempfile::tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let mut batch = Session::new(1).next(2, 7);
    batch.records.clear();
    assert_eq!(collector.post(&body(&batch)).0, 200);
    collector.wait_published(1);
    let (_, json) = collector.get(&format!("/v1/evidence/{}", "07".repeat(16)));
    let evidence = Evidence::from_json(&json).unwrap();
    assert!(evidence.spans.iter().all(|s| s.record.hop.is_none() && s.entry.len() == ENTRY_LEN));
}

#[test]
fn sessions_health_and_metrics_tell_what_came_in() {
    let data = tempfile::tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let mut session = Session::new(1);
    collector.post(&body(&session.next(2, 7)));
    collector.wait_published(1);
    let sessions: Value = serde_json::from_str(&collector.text("/v1/sessions")).unwrap();
    assert_eq!(sessions[0]["source"]["workload"], "cart");
    assert_eq!((&sessions[0]["entries"], &sessions[0]["missing_batches"]), (&2.into(), &0.into()));
    assert_eq!(collector.text("/healthz"), "ok\n");
    let metrics = collector.text("/metrics");
    assert!(metrics.contains("meshchain_digests_total 2\n"), "{metrics}");
    assert!(metrics.contains("meshchain_batches_total{kind=\"data\"} 1\n"), "{metrics}");
}

#[test]
fn a_session_is_opened_once_and_closed_by_its_close_batch() {
    let data = tempfile::tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let mut session = Session::new(1);
    assert_eq!(collector.post(&body(&session.next(1, 7))).0, 200);
    let opened = collector.audit("session_opened");
    assert_eq!((&opened["leaf"], &opened["source"]["workload"]), (&0.into(), &"cart".into()));
    let header = BatchHeader {
        kind: BatchKind::Close,
        source: Source { namespace: "shop", workload: "cart", ..Source::default() },
        session: session.id,
        seq: session.seq,
        ..BatchHeader::default()
    };
    assert_eq!(collector.post(&body(&session.seal(&header, 7))).0, 200);
    let closed = collector.audit("session_closed");
    assert_eq!((&closed["why"], &closed["leaf"]), (&"close".into(), &1.into()));
    assert_eq!((&closed["session"], &closed["log"]["size"]), (&opened["session"], &2.into()));
}

#[test]
fn what_adds_nothing_publishes_no_checkpoint() {
    let data = tempfile::tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let mut session = Session::new(1);
    let mut equivocation = session.clone();
    let (first, other) = (body(&session.next(1, 7)), body(&equivocation.next(2, 7)));
    assert_eq!(collector.post(&first).0, 200);
    assert_eq!(collector.audit("checkpoint")["log"]["size"], 1);
    let checkpoint = collector.text("/checkpoint");
    assert_eq!(collector.post(&first).1["replayed"], true);
    assert_eq!(collector.post(&other).0, 409);
    assert_eq!(collector.text("/checkpoint"), checkpoint);
    assert_eq!(collector.post(&body(&session.next(1, 7))).0, 200);
    let next = collector.audit("checkpoint");
    assert_eq!((&next["log"]["size"], &next["leaves"]), (&2.into(), &1.into()));
}

#[test]
fn what_no_honest_proxy_sends_is_logged_and_told() {
    let data = tempfile::tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let mut session = Session::new(1);
    let mut send = |kind, dropped: u64| {
        let header = BatchHeader {
            kind,
            source: Source { namespace: "shop", workload: "cart", ..Source::default() },
            session: session.id,
            seq: session.seq,
            dropped: vec![Dropped { reason: 1, count: dropped }],
            ..BatchHeader::default()
        };
        assert_eq!(collector.post(&body(&session.seal(&header, 7))).0, 200);
    };
    send(BatchKind::Heartbeat, 10);
    send(BatchKind::Heartbeat, 4);
    let fell = collector.audit("odd");
    assert_eq!(fell["leaf"], 1);
    assert!(fell["odd"].as_str().unwrap().contains("fell from 10 to 4"), "{fell}");
    send(BatchKind::Close, 4);
    send(BatchKind::Heartbeat, 4);
    let after = collector.audit("odd");
    assert_eq!(
        (&after["leaf"], after["odd"].as_str()),
        (&3.into(), Some("follows the batch that closed the session"))
    );
    assert_eq!(collector.metric("meshchain_batches_odd_total"), 2.0);
}
