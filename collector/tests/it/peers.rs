//! What a collector says about senders, and lets none do to another.

use crate::support::{Collector, Session, body, fails};
use meshchain_core::{BatchHeader, Source};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

const OWNER: &str = "spiffe://shop.example/ns/shop/sa/cart";
const STRANGER: &str = "spiffe://shop.example/ns/shop/sa/stranger";

/// A collector that knows its senders.
fn start(data: &Path) -> Collector {
    let config = data.join("collector.toml");
    std::fs::write(&config, "[ingest]\nprincipal_from_xfcc = true\n").unwrap();
    Collector::start(&data.join("data"), &["--config", config.to_str().unwrap()])
}

fn xfcc(principal: &str) -> String {
    format!("By=spiffe://shop.example/ns/meshchain/sa/collector;Hash=ab;URI={principal}")
}

/// Status and reason, where it is refused.
fn post(collector: &Collector, principal: &str, body: &[u8]) -> (u16, String) {
    let headers = [("x-forwarded-client-cert", &xfcc(principal)[..])];
    let (status, answer) = collector.post_with(body, &headers);
    (status, answer["reason"].as_str().unwrap_or("").to_owned())
}

#[test]
fn nobody_else_continues_replays_or_closes_a_session() {
    let data = tempfile::tempdir().unwrap();
    let collector = start(data.path());
    let mut session = Session::new(1);
    let first = body(&session.next(1, 7));
    assert_eq!(post(&collector, OWNER, &first).0, 200);
    let before = collector.text("/v1/sessions");
    let mut stolen = session.clone();
    let next = body(&stolen.next(1, 7));
    for taken in [&first, &next] {
        assert_eq!(post(&collector, STRANGER, taken), (410, "foreign_session".into()));
        let line = collector.audit("refusal");
        assert_eq!((&line["principal"], &line["owner"]), (&STRANGER.into(), &OWNER.into()));
        assert_eq!(line["reason"], "foreign_session");
    }
    let mut other = session.clone();
    let source = Source { namespace: "shop", workload: "bank", ..Source::default() };
    let header =
        BatchHeader { source, count: 1, session: session.id, seq: 1, ..BatchHeader::default() };
    let moved = body(&other.seal(&header, 7));
    assert_eq!(post(&collector, OWNER, &moved), (410, "foreign_session".into()));
    assert_eq!(collector.text("/v1/sessions"), before);
    let metrics = collector.text("/metrics");
    let counted = "meshchain_batches_refused_total{reason=\"foreign_session\"} 3\n";
    assert!(metrics.contains(counted), "{metrics}");
    assert_eq!(post(&collector, OWNER, &body(&session.next(1, 7))).0, 200, "its owner goes on");
}

#[test]
fn a_jump_that_no_proxy_makes_is_refused_and_counted_as_no_loss() {
    let data = tempfile::tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let mut session = Session::new(1);
    assert_eq!(collector.post(&body(&session.next(1, 7))).0, 200);
    let at = |session: &Session, seq| {
        let mut session = Session { seq, ..session.clone() };
        body(&session.next(1, 7))
    };
    let fresh = Session::new(2);
    for jump in [at(&session, 1_000_002), at(&session, u64::MAX - 1), at(&fresh, 1_000_001)] {
        let (status, answer) = collector.post(&jump);
        assert_eq!((status, &answer["reason"]), (410, &"seq_jump".into()), "{answer}");
    }
    assert!(collector.text("/metrics").contains("meshchain_batches_missing_total 0\n"));
    assert_eq!(collector.post(&at(&session, 1_000_001)).0, 200, "what a proxy may have lost");
    assert!(collector.text("/metrics").contains("meshchain_batches_missing_total 1000000\n"));
}

#[test]
fn a_flood_of_refusals_does_not_keep_an_equivocation_out_of_the_audit_log() {
    let data = tempfile::tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let mut session = Session::new(1);
    let mut equivocating = session.clone();
    assert_eq!(collector.post(&body(&session.next(1, 7))).0, 200);
    for _ in 0..200 {
        assert_eq!(collector.post(b"\xff").0, 400);
    }
    assert_eq!(collector.post(&body(&equivocating.next(2, 7))).0, 409);
    let mut told = 0;
    let line = loop {
        let line = collector.audit("refusal");
        if line["reason"] != "malformed" {
            break line;
        }
        told += 1;
    };
    assert_eq!(line["reason"], "equivocation");
    assert!(told < 200, "some were not told");
    let mut suppressed = 0;
    while told + suppressed < 200 {
        let line = collector.audit("refusals_suppressed");
        assert_eq!((&line["reason"], &line["principal"]), (&"malformed".into(), &"".into()));
        suppressed += line["count"].as_u64().unwrap();
    }
    assert_eq!(told + suppressed, 200, "each is told or counted");
}

#[test]
fn a_refusal_names_its_sender_also_where_the_body_is_cut_slow_or_malformed() {
    let data = tempfile::tempdir().unwrap();
    let collector = start(data.path());
    let named = |reason: &str| {
        let line = collector.audit("refusal");
        assert_eq!((&line["reason"], &line["principal"]), (&reason.into(), &OWNER.into()));
    };
    assert_eq!(post(&collector, OWNER, b"\xff"), (400, "malformed".into()));
    named("malformed");
    let begin = |rest: &str| {
        let mut stream =
            TcpStream::connect(collector.url.strip_prefix("http://").unwrap()).unwrap();
        let head = format!(
            "POST /v1/batches HTTP/1.1\r\nhost: c\r\nx-forwarded-client-cert: {}\r\n{rest}",
            xfcc(OWNER)
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    drop(begin("content-length: 100\r\n\r\nhalf"));
    named("broken_off");
    let mut long = begin("transfer-encoding: chunked\r\n\r\n1000001\r\n");
    let _ = long.write_all(&vec![0; (16 << 20) + 1]);
    named("oversized");
    let mut slow = begin("content-length: 100\r\n\r\n");
    named("slow");
    let mut answer = String::new();
    let _ = slow.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    let other = "spiffe://shop.example/ns/bank/sa/x";
    assert_eq!(post(&collector, other, &body(&Session::new(1).next(1, 7))).0, 403);
    let line = collector.audit("refusal");
    assert_eq!((&line["reason"], &line["principal"]), (&"wrong_principal".into(), &other.into()));
}

#[test]
fn where_nobody_authenticates_senders_the_start_says_so_in_one_line() {
    let data = tempfile::tempdir().unwrap();
    let _running = Collector::start(data.path(), &[]);
    let directory = data.path().to_str().unwrap();
    let (_, error) = fails(&["--listen", "127.0.0.1:0", "--data", directory]);
    let lines = error.lines().filter(|line| line.contains("nobody authenticates senders"));
    assert_eq!(lines.count(), 1, "{error}");
    let config = data.path().join("collector.toml");
    std::fs::write(&config, "[ingest]\nprincipal_from_xfcc = true\n").unwrap();
    let config = config.to_str().unwrap();
    let (_, error) = fails(&["--listen", "127.0.0.1:0", "--data", directory, "--config", config]);
    assert!(!error.contains("nobody authenticates"), "{error}");
}
