use crate::support::{Collector, Session, body, call, key};
use meshchain_core::{BatchHeader, Canonical, Dropped, Equivocation, SpanRecord, chain_hash};
use meshchain_wire::Batch;

/// Gives an altered batch of session 1 a chain value that fits it again, and signs it.
fn rechained(mut batch: Batch) -> Batch {
    let prev = batch.prev.as_slice().try_into().unwrap();
    let chain = chain_hash(&prev, &batch.header, &batch.entries);
    batch.chain = chain.to_vec();
    batch.signature = key(1).sign(&chain).to_vec();
    batch
}

#[test]
fn every_bad_batch_gets_a_4xx_that_names_the_fault_a_counter_and_an_audit_line() {
    let data = tempfile::tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let mut session = Session::new(1);
    let first = session.next(2, 7);
    assert_eq!(collector.post(&body(&first)).0, 200);
    let second = session.clone().next(2, 7);
    collector.wait_published(1);

    let with = |alter: &dyn Fn(&mut Batch)| {
        let mut batch = second.clone();
        alter(&mut batch);
        batch
    };
    let header = |alter: &dyn Fn(&mut BatchHeader<'_>)| {
        let mut header = BatchHeader::decode(&second.header).unwrap();
        alter(&mut header);
        rechained(with(&|b| b.header = header.encode()))
    };
    let other_record = call(9, 9).1;
    let other_own = {
        let (mine, theirs) = (call(7, 0).1, call(7, 1).1);
        let (mine, theirs) =
            (SpanRecord::decode(&mine).unwrap(), SpanRecord::decode(&theirs).unwrap());
        SpanRecord { hop: theirs.hop, ..mine }.encode()
    };
    let mut late = Session::new(3);
    late.next(1, 7);
    let late_second = late.next(1, 7);
    let jump = late.next(1, 7);
    assert_eq!(collector.post(&body(&jump)).0, 200, "a jump forward is accepted");

    let cases: Vec<(&str, u16, &str, Vec<u8>)> = vec![
        ("not protobuf", 400, "malformed", b"\xff\xff\xff".to_vec()),
        ("empty", 400, "not_canonical", Vec::new()),
        ("truncated", 400, "malformed", body(&second)[..body(&second).len() - 3].to_vec()),
        (
            "header not canonical",
            400,
            "not_canonical",
            body(&with(&|b| b.header.extend([0x28, 0]))),
        ),
        (
            "unknown header field",
            400,
            "not_canonical",
            body(&with(&|b| b.header.extend([0xf8, 1, 1]))),
        ),
        ("short prev", 400, "bad_part", body(&with(&|b| b.prev.truncate(31)))),
        ("torn entries", 400, "bad_part", body(&rechained(with(&|b| b.entries.truncate(100))))),
        ("wrong count", 400, "bad_part", body(&header(&|h| h.count = 3))),
        ("count without entries", 400, "not_canonical", body(&header(&|h| h.count = 0))),
        ("too many entries", 400, "not_canonical", body(&header(&|h| h.count = 32_769))),
        (
            "drops not ascending",
            400,
            "not_canonical",
            body(&header(&|h| h.dropped = vec![Dropped { reason: 1, count: 1 }; 2])),
        ),
        (
            "entry of another version",
            400,
            "bad_part",
            body(&rechained(with(&|b| b.entries[0] = 2))),
        ),
        ("no key", 400, "bad_part", body(&with(&|b| b.public_key.clear()))),
        (
            "key of another session",
            400,
            "bad_part",
            body(&with(&|b| b.public_key = key(2).public().to_vec())),
        ),
        ("short signature", 400, "bad_part", body(&with(&|b| b.signature.truncate(63)))),
        ("altered signature", 422, "bad_signature", body(&with(&|b| b.signature[0] ^= 1))),
        (
            "signature of another key",
            422,
            "bad_signature",
            body(&with(&|b| b.signature = key(2).sign(&b.chain[..].try_into().unwrap()).to_vec())),
        ),
        ("one record of two", 400, "bad_part", body(&with(&|b| b.records.truncate(1)))),
        ("record not canonical", 400, "not_canonical", body(&with(&|b| b.records[0].push(0)))),
        ("wrong chain", 422, "wrong_chain", body(&with(&|b| b.chain[0] ^= 1))),
        ("altered entry", 422, "wrong_chain", body(&with(&|b| b.entries[60] ^= 1))),
        (
            "record of another call",
            422,
            "wrong_digest",
            body(&with(&|b| b.records[0] = other_record.clone())),
        ),
        (
            "hop part of another call",
            422,
            "wrong_digest",
            body(&with(&|b| b.records[0] = other_own.clone())),
        ),
        ("records exchanged", 422, "wrong_digest", body(&with(&|b| b.records.swap(0, 1)))),
        (
            "prev of another batch",
            409,
            "wrong_prev",
            body(&rechained(with(&|b| b.prev = vec![5; 32]))),
        ),
        ("same seq, other batch", 409, "equivocation", body(&Session::new(1).next(1, 8))),
        ("late", 409, "reordered", body(&late_second)),
    ];
    collector.wait_published(2);
    for (name, status, reason, bytes) in &cases {
        let (found, answer) = collector.post(bytes);
        assert_eq!(
            (found, answer["reason"].as_str()),
            (*status, Some(*reason)),
            "{name}: {answer}"
        );
        assert!(answer["error"].as_str().is_some_and(|e| !e.is_empty()), "{name}");
        let line = collector.audit("refusal");
        assert_eq!(line["reason"], *reason, "{name}");
        assert_eq!(line["log"]["size"], 2, "{name}");
        let proof = line.get("proof").map(|proof| {
            let file = serde_json::to_vec(proof).unwrap();
            Equivocation::from_json(&file).unwrap().check().unwrap().seq
        });
        assert_eq!(proof, (*reason == "equivocation").then_some(0), "{name}");
    }
    assert_eq!(collector.size(), 2, "nothing of it reached the log");
    let metrics = collector.text("/metrics");
    for reason in cases.iter().map(|case| case.2) {
        let count = cases.iter().filter(|case| case.2 == reason).count();
        let line = format!("meshchain_batches_refused_total{{reason=\"{reason}\"}} {count}\n");
        assert!(metrics.contains(&line), "{line}{metrics}");
    }
    assert_eq!(collector.post(&body(&second)).0, 200, "the session goes on");
}

#[test]
fn the_first_proof_against_a_session_is_told_whatever_else_its_sender_had_refused() {
    let data = tempfile::tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    for number in 1..=3 {
        assert_eq!(collector.post(&body(&Session::new(number).next(1, 7))).0, 200);
    }
    let equivocates = |number| body(&Session::new(number).next(1, 8));
    for _ in 0..150 {
        assert_eq!(collector.post(&equivocates(1)).0, 409);
    }
    for number in 2..=3 {
        assert_eq!(collector.post(&equivocates(number)).0, 409);
        let session = hex::encode(key(number).id());
        let line = loop {
            let line = collector.audit("refusal");
            if line["session"] == session {
                break line;
            }
        };
        assert!(line["proof"].is_object(), "{number}: {line}");
    }
}

#[test]
fn an_oversized_body_is_refused_before_it_fills_the_memory() {
    let data = tempfile::tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let (status, answer) = collector.post(&vec![0; (16 << 20) + 1]);
    assert_eq!((status, answer["reason"].as_str()), (413, Some("oversized")));
    assert_eq!(collector.audit("refusal")["reason"], "oversized");
    let metrics = collector.text("/metrics");
    assert!(
        metrics.contains("meshchain_batches_refused_total{reason=\"oversized\"} 1\n"),
        "{metrics}"
    );
    assert_eq!(collector.post(&body(&Session::new(1).next(1, 1))).0, 200);
}

#[test]
fn a_batch_that_comes_again_is_acknowledged_again_and_logged_once() {
    let data = tempfile::tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let mut session = Session::new(1);
    let (first, second) = (body(&session.next(2, 7)), body(&session.next(2, 7)));
    assert_eq!(collector.post(&first).0, 200);
    assert_eq!(collector.post(&second).0, 200);
    let (status, answer) = collector.post(&first);
    assert_eq!((status, &answer["leaf"], &answer["replayed"]), (200, &0.into(), &true.into()));
    collector.wait_published(2);
    collector.kill();
    let collector = Collector::start(data.path(), &[]);
    let (status, answer) = collector.post(&second);
    assert_eq!((status, &answer["leaf"], &answer["replayed"]), (200, &1.into(), &true.into()));
    assert_eq!(collector.size(), 2);
}

#[test]
fn a_jump_forward_is_logged_as_a_gap() {
    let data = tempfile::tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let mut session = Session::new(1);
    assert_eq!(collector.post(&body(&session.next(1, 7))).0, 200);
    session.next(1, 7);
    session.next(1, 7);
    assert_eq!(collector.post(&body(&session.next(1, 7))).0, 200);
    let gap = collector.audit("gap");
    assert_eq!((&gap["from"], &gap["to"], &gap["leaf"]), (&1.into(), &2.into(), &1.into()));
    assert_eq!(gap["log"]["size"], 2, "the tree that the line speaks of holds the leaf");
    assert!(collector.text("/metrics").contains("meshchain_batches_missing_total 2\n"));
}

#[test]
fn a_sender_is_known_by_its_certificate_and_speaks_for_its_namespace_only() {
    let data = tempfile::tempdir().unwrap();
    let config = data.path().join("collector.toml");
    let text = "[ingest]\nprincipal_from_xfcc = true\ntrust_domain = 'shop.example'\n";
    std::fs::write(&config, text).unwrap();
    let collector =
        Collector::start(&data.path().join("data"), &["--config", config.to_str().unwrap()]);
    let batch = body(&Session::new(1).next(1, 7));
    let post = |uri: &str| {
        let value = format!("Hash=ab;URI={uri}");
        let (status, answer) = collector.post_with(&batch, &[("x-forwarded-client-cert", &value)]);
        (status, answer["reason"].as_str().unwrap_or("").to_owned())
    };
    let (status, answer) = collector.post(&batch);
    assert_eq!((status, &answer["reason"]), (403, &"no_principal".into()));
    assert!(answer["error"].as_str().unwrap().ends_with("there is none"), "it says why: {answer}");
    assert_eq!(post("spiffe://shop.example/ns/shop/sa/"), (403, "no_principal".into()));
    let quoted = "Hash=ab;Subject=\"CN=a\\\"\\,b\";URI=spiffe://shop.example/ns/bank/sa/x";
    let (_, answer) = collector.post_with(&batch, &[("x-forwarded-client-cert", quoted)]);
    assert_eq!(answer["reason"], "wrong_principal", "an odd subject hides no sender: {answer}");
    assert_eq!(post("spiffe://shop.example/ns/bank/sa/x"), (403, "wrong_principal".into()));
    assert_eq!(post("spiffe://other.example/ns/shop/sa/x"), (403, "wrong_trust_domain".into()));
    assert_eq!(post("spiffe://shop.example/ns/shop/sa/x"), (200, String::new()));
    let opened = collector.audit("session_opened");
    assert_eq!(opened["principal"], "spiffe://shop.example/ns/shop/sa/x");
}

#[test]
fn a_body_of_countless_empty_records_takes_little_more_memory_than_it_is_long() {
    let data = tempfile::tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let body = [0x2a, 0].repeat(8 << 20);
    let before = collector.peak_kib();
    let (status, answer) = collector.post(&body);
    assert_eq!((status, answer["reason"].as_str()), (400, Some("bad_part")), "{answer}");
    let more = (collector.peak_kib() - before) >> 10;
    assert!(more < 64, "{more} MiB for a body of 16");
}
