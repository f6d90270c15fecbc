//! What senders and readers may take of the collector, so that it stays there for the others.

use crate::support::{Collector, Session, body, wait_until};
use meshchain_core::Evidence;
use meshchain_core::entries_page::split_page;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

const HONEST: &str = "spiffe://shop.example/ns/shop/sa/cart";
const EVIL: &str = "spiffe://shop.example/ns/shop/sa/evil";

fn start(data: &Path, more: &str) -> Collector {
    let config = data.join("collector.toml");
    let text = format!("[ingest]\nprincipal_from_xfcc = true\n{more}");
    std::fs::write(&config, text).unwrap();
    Collector::start(&data.join("data"), &["--config", config.to_str().unwrap()])
}

fn xfcc(principal: &str) -> String {
    format!("By=spiffe://shop.example/ns/meshchain/sa/collector;Hash=ab;URI={principal}")
}

fn post(collector: &Collector, principal: &str, body: &[u8]) -> (u16, Value) {
    collector.post_with(body, &[("x-forwarded-client-cert", &xfcc(principal)[..])])
}

fn connect(collector: &Collector) -> TcpStream {
    TcpStream::connect(collector.url.strip_prefix("http://").unwrap()).unwrap()
}

/// The head of a POST whose body of `length` bytes is still to come.
fn begin(collector: &Collector, principal: &str, length: &str) -> TcpStream {
    let mut stream = connect(collector);
    let cert = xfcc(principal);
    let head = format!(
        "POST /v1/batches HTTP/1.1\r\nhost: c\r\nx-forwarded-client-cert: {cert}\r\n{length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

#[test]
fn bodies_that_do_not_come_take_nothing_from_others() {
    let data = tempfile::tempdir().unwrap();
    let collector = start(data.path(), "");
    let announced = ["content-length: 16777216", "transfer-encoding: chunked"];
    let idle: Vec<_> =
        (0..100).map(|at| begin(&collector, EVIL, announced[at % announced.len()])).collect();
    let mut session = Session::new(1);
    for _ in 0..20 {
        assert_eq!(post(&collector, HONEST, &body(&session.next(1, 7))).0, 200);
    }
    drop(idle);
}

#[test]
fn bodies_that_fill_the_room_and_stop_lose_it_to_others() {
    let data = tempfile::tempdir().unwrap();
    let collector = start(data.path(), "max_waiting_bytes = 33554432\n");
    let senders: Vec<String> =
        (0..5).map(|n| format!("spiffe://shop.example/ns/shop/sa/evil{n}")).collect();
    let full: Vec<_> = senders
        .iter()
        .map(|sender| {
            let mut stream = begin(&collector, sender, "content-length: 8000000");
            // The last ones find no room.
            let _ = stream.write_all(&vec![0; 7_900_000]);
            stream
        })
        .collect();
    let mut session = Session::new(1);
    let large: Vec<u8> = body(&session.next(20_000, 7));
    let since = Instant::now();
    let headers = [("x-forwarded-client-cert", &xfcc(HONEST)[..])];
    wait_until("others lose their room", || {
        collector.try_post_with(&large, &headers).is_some_and(|(status, _)| status == 200)
    });
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    drop(full);
}

#[test]
fn half_requests_and_idle_connections_go_when_their_place_is_needed() {
    let data = tempfile::tempdir().unwrap();
    // Few files: the table of connections is small then.
    let collector = Collector::start_with_files(data.path(), 200);
    let mut kept = connect(&collector);
    let ask = b"GET /healthz HTTP/1.1\r\nhost: c\r\n\r\n";
    let mut answer = [0; 1024];
    kept.write_all(ask).unwrap();
    assert!(kept.read(&mut answer).unwrap() > 0);
    let half: Vec<_> = (0..400)
        .map(|_| {
            let mut stream = connect(&collector);
            let _ = stream.write_all(b"POST /v1/batches HTTP/1.1\r\nhost:");
            stream
        })
        .collect();
    let mut session = Session::new(1);
    for _ in 0..5 {
        assert_eq!(collector.post(&body(&session.next(1, 7))).0, 200);
    }
    kept.write_all(ask).unwrap();
    assert!(kept.read(&mut answer).unwrap() > 0, "one that asked before was left alone");
    assert!(collector.metric("meshchain_connections") <= 200.0);
    assert!(collector.metric("meshchain_connections_evicted_total") > 0.0);
    drop(half);
}

#[test]
fn a_half_request_has_ten_seconds() {
    let data = tempfile::tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let mut half = connect(&collector);
    half.write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
    half.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let since = Instant::now();
    assert_eq!(half.read(&mut [0; 1024]).unwrap_or(0), 0, "closed");
    assert!((8..15).contains(&since.elapsed().as_secs()), "{:?}", since.elapsed());
}

#[test]
fn a_limit_that_is_reached_is_said_with_its_name() {
    let data = tempfile::tempdir().unwrap();
    let collector = start(data.path(), "[limits]\nsessions_per_day = 2\nbytes_per_day = 100000\n");
    for seed in 1..=2 {
        assert_eq!(post(&collector, EVIL, &body(&Session::new(seed).next(1, 7))).0, 200);
    }
    let (status, answer) = post(&collector, EVIL, &body(&Session::new(3).next(1, 7)));
    assert_eq!((status, answer["reason"].as_str()), (429, Some("limited")));
    assert!(answer["error"].as_str().unwrap().contains("limits.sessions_per_day"), "{answer}");
    let line = collector.audit("refusal");
    assert_eq!((&line["reason"], &line["principal"]), (&"limited".into(), &EVIL.into()));
    let mut session = Session::new(4);
    assert_eq!(post(&collector, HONEST, &body(&session.next(1, 7))).0, 200);
    let (status, answer) = post(&collector, HONEST, &body(&session.next(1000, 7)));
    assert_eq!(status, 429);
    assert!(answer["error"].as_str().unwrap().contains("limits.bytes_per_day"), "{answer}");
}

#[test]
fn a_trace_with_very_many_calls_is_told_in_pages_oldest_first() {
    let data = tempfile::tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let mut session = Session::new(1);
    assert_eq!(collector.post(&body(&session.next(3, 7))).0, 200);
    for _ in 0..8 {
        assert_eq!(collector.post(&body(&session.next(2000, 7))).0, 200);
    }
    collector.wait_published(9);
    let mut path = format!("/v1/evidence/{}", "07".repeat(16));
    let (mut entries, mut pages) = (0, 0);
    loop {
        let (status, json, next) = collector.page(&path);
        assert_eq!(status, 200);
        let evidence = Evidence::from_json(&json).unwrap();
        assert!(json.len() <= 8 << 20, "{}", json.len());
        if pages == 0 {
            assert!(evidence.spans.len() >= 3);
        }
        entries += evidence.spans.len();
        pages += 1;
        match next {
            Some(next) => path = next,
            None => break,
        }
    }
    assert_eq!(entries, 16_003);
    assert!(pages > 1);
    let (status, json, next) = collector.page(&format!("/v1/evidence/{}?limit=2", "07".repeat(16)));
    assert_eq!((status, Evidence::from_json(&json).unwrap().spans.len()), (200, 2));
    let (_, json, _) = collector.page(&next.unwrap());
    assert_eq!(
        Evidence::from_json(&json).unwrap().spans.len(),
        2,
        "the third of the first batch, and one"
    );
    for (query, status) in
        [("?after=8.1999", 404), ("?after=x", 400), ("?limit=-1", 400), ("?nonsense=1", 400)]
    {
        assert_eq!(
            collector.get(&format!("/v1/evidence/{}{query}", "07".repeat(16))).0,
            status,
            "{query}"
        );
    }
}

#[test]
fn sessions_are_told_in_pages() {
    let data = tempfile::tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    for seed in 0..25 {
        assert_eq!(collector.post(&body(&Session::new(seed).next(1, 7))).0, 200);
    }
    let (mut path, mut seen) = ("/v1/sessions?limit=10".to_owned(), Vec::new());
    loop {
        let (status, json, next) = collector.page(&path);
        assert_eq!(status, 200);
        let page: Vec<Value> = serde_json::from_slice(&json).unwrap();
        assert!(page.len() <= 10);
        seen.extend(page.iter().map(|session| session["session"].as_str().unwrap().to_owned()));
        match next {
            Some(next) => path = next,
            None => break,
        }
    }
    assert_eq!(seen.len(), 25);
    assert!(seen.is_sorted_by(|one, next| one < next), "by id, each once");
    assert_eq!(collector.get("/v1/sessions?after=x").0, 400);
}

#[test]
fn entries_of_leaves_come_in_pages_without_records_and_fit_the_leaves() {
    let data = tempfile::tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let mut session = Session::new(1);
    let sent: Vec<_> = [3, 0, 9_000, 9_000, 1].map(|calls| session.next(calls, 7)).into();
    for batch in &sent {
        assert_eq!(collector.post(&body(batch)).0, 200);
    }
    collector.wait_published(5);
    let (mut path, mut leaves, mut pages) = ("/v1/entries?from=0".to_owned(), Vec::new(), 0);
    loop {
        let (status, page, next) = collector.page(&path);
        assert_eq!(status, 200);
        pages += 1;
        leaves.extend(split_page(&page).unwrap().into_iter().map(<[u8]>::to_vec));
        match next {
            Some(next) => path = next,
            None => break,
        }
    }
    let expected: Vec<_> = sent.iter().map(|batch| batch.entries.clone()).collect();
    assert!(leaves == expected, "{} leaves", leaves.len());
    assert_eq!(pages, 2, "a mebibyte or so each");
    assert_eq!(collector.get("/v1/entries?from=5").0, 404);
    for bad in ["", "?from=x", "?from=-1", "?from=0&more=1"] {
        assert_eq!(collector.get(&format!("/v1/entries{bad}")).0, 400, "{bad}");
    }
}

#[test]
fn a_reader_that_does_not_read_is_cut_off() {
    let data = tempfile::tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let mut session = Session::new(1);
    for _ in 0..8 {
        assert_eq!(collector.post(&body(&session.next(2000, 7))).0, 200);
    }
    collector.wait_published(8);
    let ask = format!("GET /v1/evidence/{} HTTP/1.1\r\nhost: c\r\n\r\n", "07".repeat(16));
    // As many as one reader is answered at the same time; others would wait for their turn.
    let greedy: Vec<_> = (0..4)
        .map(|_| {
            let mut stream = connect(&collector);
            for _ in 0..4 {
                stream.write_all(ask.as_bytes()).unwrap();
            }
            stream
        })
        .collect();
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let since = Instant::now();
        assert_eq!(collector.text("/healthz"), "ok\n");
        assert_eq!(collector.post(&body(&session.next(1, 9))).0, 200);
        slowest = slowest.max(since.elapsed());
    }
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    wait_until("they are cut off", || collector.metric("meshchain_connections") <= 2.0);
    assert!(collector.peak_kib() < 400 << 10, "{} KiB", collector.peak_kib());
    drop(greedy);
}
