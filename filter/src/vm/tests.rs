use super::*;
use crate::test_host::TestHost;
use meshchain_core::{
    BatchHeader, BatchKind, Canonical, Dropped, Entry, HopPart, OwnPart, Side, SpanRecord,
};
use meshchain_wire::Batch;
use prost::Message;

const REQUEST: &[(&[u8], &[u8])] = &[
    (b":method", b"GET"),
    (b":authority", b"reviews:9080"),
    (b":path", b"/reviews/0?user=x"),
    (b"x-request-id", b"c4a7"),
];

const PLACE: u32 = 1;
const STREAM: u32 = 9;

fn proxy(direction: u64, seed: u8) -> (Vm, TestHost) {
    let host = TestHost::with_headers(REQUEST);
    host.set_number("xds\0listener_direction", direction);
    host.set_number("response\0code", 200);
    host.set_number("request\0time", 1_000 + u64::from(seed));
    host.set_text("response\0code_details", b"via_upstream");
    host.now_ns.set(1_000_000_000_000);
    let mut vm = Vm::default();
    vm.configure(&host, PLACE, b"");
    (vm, host)
}

fn call(vm: &mut Vm, host: &TestHost) {
    vm.on_request(host, STREAM);
    vm.on_log(host, STREAM);
    vm.done(host, STREAM);
}

fn posted(vm: &mut Vm, host: &TestHost) -> Batch {
    vm.on_tick(host);
    Batch::decode(host.posts.borrow().last().unwrap().as_slice()).unwrap()
}

#[test]
fn both_sides_of_a_call_make_the_same_hop_digest() {
    let (mut client, outbound) = proxy(2, 1);
    call(&mut client, &outbound);
    let (mut server, inbound) = proxy(1, 2);
    *inbound.headers.borrow_mut() = outbound.headers.borrow().clone();
    call(&mut server, &inbound);
    let batches = [posted(&mut client, &outbound), posted(&mut server, &inbound)];
    let entries = batches.each_ref().map(|b| Entry::parse(&b.entries).unwrap());
    assert_eq!(entries.map(|e| e.side), [Side::Client, Side::Server]);
    assert_ne!(entries[0].span_id, [0; 8], "the filter started a span");
    assert_eq!(entries[0].hop_digest, entries[1].hop_digest);
    assert_ne!(entries[0].span_digest, entries[1].span_digest);
    for (batch, entry) in batches.iter().zip(&entries) {
        let record = SpanRecord::decode(&batch.records[0]).unwrap();
        assert_eq!(record.check(entry), Ok(()));
        let own = OwnPart::decode(record.own).unwrap();
        assert_eq!(own.query, b"", "the query stays out unless configured");
        assert_eq!(HopPart::decode(record.hop).unwrap().path, b"/reviews/0");
    }
}

#[test]
fn with_its_last_place_the_session_ends_and_another_begins_after_it() {
    let (mut vm, host) = proxy(1, 1);
    vm.configure(&host, 2, b"");
    call(&mut vm, &host);
    let first = posted(&mut vm, &host);
    call(&mut vm, &host);
    vm.done(&host, PLACE);
    assert_eq!(host.posts.borrow().len(), 1, "there is another place");
    vm.done(&host, 2);
    let last = Batch::decode(host.posts.borrow().last().unwrap().as_slice()).unwrap();
    let header = BatchHeader::decode(&last.header).unwrap();
    assert_eq!((header.kind, header.count, header.seq), (BatchKind::Close, 1, 1));
    assert_eq!(last.prev, first.chain);
    assert_eq!(
        host.posts.borrow().len(),
        3,
        "the call of the other place is lost, so it is sent again"
    );
    assert_eq!(host.metric("meshchain_queue_bytes"), 0);
    vm.done(&host, 2);
    assert_eq!(host.posts.borrow().len(), 3, "closed once");

    vm.configure(&host, 3, b"");
    call(&mut vm, &host);
    let next = posted(&mut vm, &host);
    let again = BatchHeader::decode(&next.header).unwrap();
    assert_eq!(again.seq, 0);
}

#[test]
fn sides_that_decide_otherwise_about_tracing_still_agree() {
    let digest = |direction, id: &[u8]| {
        let (mut vm, host) = proxy(direction, 1);
        vm.configure(&host, PLACE, br#"{"context": "never"}"#);
        host.set_request_header("x-request-id", id);
        call(&mut vm, &host);
        Entry::parse(&posted(&mut vm, &host).entries).unwrap().hop_digest
    };
    let untraced = digest(2, b"7ee45b0a-c0d8-47e0-9a1b-3c5d7e9f0a1b");
    assert_eq!(untraced, digest(1, b"7ee45b0a-c0d8-97e0-9a1b-3c5d7e9f0a1b"));
    assert_ne!(untraced, digest(1, b"7ee45b0a-c0d8-47e1-9a1b-3c5d7e9f0a1b"));
}

#[test]
fn a_client_certificate_in_the_headers_is_a_sign_of_the_server_side_and_no_proof() {
    for (direction, side) in [(1, Side::Server), (2, Side::Client), (0, Side::Gateway)] {
        for expressions in [true, false] {
            let (mut vm, host) = proxy(direction, 1);
            host.has_expressions.set(expressions);
            vm.configure(&host, PLACE, b"");
            let certificate = (b"x-forwarded-client-cert".to_vec(), b"URI=spiffe://a".to_vec());
            host.headers.borrow_mut().push(certificate);
            call(&mut vm, &host);
            let batch = posted(&mut vm, &host);
            let entry = Entry::parse(&batch.entries).unwrap();
            assert_eq!((entry.side, entry.span_id), (side, [0; 8]), "no span of ours");
            let record = SpanRecord::decode(&batch.records[0]).unwrap();
            assert_eq!(record.check(&entry), Ok(()));
        }
    }
}

#[test]
fn streams_end_in_any_order_and_leave_nothing_behind() {
    let (mut vm, host) = proxy(1, 1);
    for stream in [8, 9, 10] {
        let id = format!("request-{stream}");
        host.set_request_header("x-request-id", id.as_bytes());
        vm.on_request(&host, stream);
    }
    host.set_request_header("x-request-id", b"at the end");
    for stream in [9, 8, 77] {
        vm.on_log(&host, stream);
        vm.done(&host, stream);
    }
    vm.done(&host, 10);
    assert!(vm.phases.is_empty());
    let batch = posted(&mut vm, &host);
    let ids = batch.records.iter().map(|record| {
        let record = SpanRecord::decode(record).unwrap();
        HopPart::decode(record.hop).unwrap().request_id.to_vec()
    });
    let ids: Vec<_> = ids.collect();
    assert_eq!(ids, [&b"request-9"[..], b"request-8", b"at the end"], "one had no request phase");
}

#[test]
fn lean_makes_the_same_hop_digest_and_a_smaller_record() {
    let batch = |config: &[u8], flags| {
        let (mut vm, host) = proxy(1, 1);
        host.has_expressions.set(true);
        host.response.borrow_mut().push((b":status".to_vec(), b"200".to_vec()));
        host.set_number("response\0flags", flags);
        host.set_text("xds\0cluster_name", b"inbound|9080||");
        vm.configure(&host, PLACE, config);
        call(&mut vm, &host);
        posted(&mut vm, &host)
    };
    let own = |batch: &Batch| {
        let record = SpanRecord::decode(&batch.records[0]).unwrap();
        assert_eq!(record.check(&Entry::parse(&batch.entries).unwrap()), Ok(()));
        let own = OwnPart::decode(record.own).unwrap();
        (own.cluster.to_vec(), own.start_ns, own.response_flags)
    };
    for flags in [0, 4] {
        let (full, lean) = (batch(b"", flags), batch(br#"{"detail": "lean"}"#, flags));
        let digest = |batch: &Batch| Entry::parse(&batch.entries).unwrap().hop_digest;
        assert_eq!(digest(&full), digest(&lean));
        assert_eq!(own(&full), (b"inbound|9080||".to_vec(), 1_001, flags));
        if flags == 0 {
            assert_eq!(own(&lean), (vec![], 1_000_000_000_000, 0));
        } else {
            assert_eq!(own(&lean), own(&full), "an unusual call keeps all");
        }
    }
}

#[test]
fn headers_are_included_on_both_sides_and_skipped_paths_are_only_counted() {
    let config = br#"{"include_headers": ["X-Tenant"], "skip_paths": ["/healthz", "/static/*"]}"#;
    for direction in [1, 2] {
        let (mut vm, host) = proxy(direction, 1);
        vm.configure(&host, PLACE, config);
        host.headers.borrow_mut().push((b"x-tenant".to_vec(), b"blue".to_vec()));
        call(&mut vm, &host);
        for path in ["/healthz?x", "/static/a"] {
            host.set_request_header(":path", path.as_bytes());
            call(&mut vm, &host);
        }
        let batch = posted(&mut vm, &host);
        assert_eq!(batch.records.len(), 1);
        let record = SpanRecord::decode(&batch.records[0]).unwrap();
        let own = OwnPart::decode(record.own).unwrap();
        let shown: Vec<_> = own.headers.iter().map(|h| (h.name, h.value)).collect();
        assert_eq!(shown, [(&b"x-tenant"[..], &b"blue"[..])]);
        assert_eq!(host.metric("meshchain_skipped"), 2);
    }
}

#[test]
fn an_answer_of_the_clients_own_proxy_never_crossed_the_wire() {
    let (mut vm, host) = proxy(2, 1);
    host.set_text("response\0code_details", b"upstream_reset_before_response_started");
    host.set_number("response\0code", 503);
    call(&mut vm, &host);
    let batch = posted(&mut vm, &host);
    let record = SpanRecord::decode(&batch.records[0]).unwrap();
    assert_eq!(HopPart::decode(record.hop).unwrap().status, 0);
}

#[test]
fn path_privacy_changes_what_is_shown_and_not_the_hop_digest() {
    let hop_digest = |config: &[u8]| {
        let (mut vm, host) = proxy(1, 1);
        vm.configure(&host, PLACE, config);
        call(&mut vm, &host);
        let batch = posted(&mut vm, &host);
        let entry = Entry::parse(&batch.entries).unwrap();
        if let Some(record) = batch.records.first() {
            let record = SpanRecord::decode(record).unwrap();
            assert_eq!(record.check(&entry), Ok(()));
            let shown = HopPart::decode(record.hop).unwrap().path;
            assert_eq!(
                shown.is_empty(),
                config.ends_with(br#"hash"}"#) || config.ends_with(br#"drop"}"#)
            );
        }
        entry.hop_digest
    };
    let configs: [&[u8]; 5] = [
        b"",
        br#"{"path_privacy": "keep"}"#,
        br#"{"path_privacy": "hash"}"#,
        br#"{"path_privacy": "drop"}"#,
        br#"{"payload": "digest"}"#,
    ];
    let digests = configs.map(hop_digest);
    assert!(digests.iter().all(|d| *d == digests[0]));
}

#[test]
fn a_batch_is_kept_until_it_is_acknowledged_and_silence_makes_heartbeats() {
    let (mut vm, host) = proxy(1, 1);
    host.cluster_missing.set(true);
    call(&mut vm, &host);
    vm.on_tick(&host);
    assert!(host.posts.borrow().is_empty());
    host.cluster_missing.set(false);
    host.now_ns.set(host.now_ns.get() + 60_000_000_000);
    let first = posted(&mut vm, &host);
    vm.on_response(&host, 1, None);
    host.now_ns.set(host.now_ns.get() + 60_000_000_000);
    assert_eq!(posted(&mut vm, &host), first);
    vm.on_response(&host, 2, Some(200));
    vm.on_tick(&host);
    vm.on_tick(&host);
    let beat = BatchHeader::decode(&posted(&mut vm, &host).header).unwrap().seq;
    assert_eq!((beat, host.posts.borrow().len()), (1, 3), "one heartbeat for one silence");
    assert_eq!(host.metric("meshchain_acked"), 1);
    assert_eq!(host.metric("meshchain_retried"), 2);
}

#[test]
fn a_batch_is_sent_again_when_the_collector_asked_for_it_and_not_before() {
    let posts_after = |status, seconds: u64| {
        let (mut vm, host) = proxy(1, 1);
        call(&mut vm, &host);
        posted(&mut vm, &host);
        host.retry_after_s.set(Some(5));
        vm.on_response(&host, 1, status);
        host.now_ns.set(host.now_ns.get() + seconds * 1_000_000_000);
        vm.on_tick(&host);
        host.posts.borrow().len()
    };
    assert_eq!((posts_after(Some(503), 5), posts_after(Some(503), 6)), (1, 2));
    assert_eq!(posts_after(None, 1), 2, "a reset asks for nothing");
}

#[test]
fn own_traffic_is_skipped_and_a_bad_configuration_turns_the_filter_off() {
    let (mut vm, host) = proxy(1, 1);
    host.set_headers(&[
        (b":method", b"POST"),
        (b":authority", b"meshchain-collector.meshchain.svc.cluster.local:8080"),
        (b":path", b"/v1/batches"),
    ]);
    call(&mut vm, &host);
    vm.configure(&host, PLACE, b"[]");
    call(&mut vm, &host);
    vm.on_tick(&host);
    assert_eq!(host.metric("meshchain_digests"), 0);
    assert_eq!((host.metric("meshchain_skipped"), host.metric("meshchain_config_errors")), (1, 1));
    assert_eq!(host.metric("meshchain_dropped_unconfigured"), 1);
    vm.configure(&host, PLACE, b"");
    let batch = posted(&mut vm, &host);
    let header = BatchHeader::decode(&batch.header).unwrap();
    let lost = Dropped { reason: DropReason::Unconfigured as u32, count: 1 };
    assert_eq!(header.dropped, [lost], "the next batch tells of it");
}

#[test]
fn hostile_headers_become_a_record_without_context() {
    let (mut vm, host) = proxy(1, 1);
    let long = vec![0xff; 70_000];
    host.set_headers(&[
        (b"x-b3-traceid", &long),
        (b"x-b3-spanid", b"\xff"),
        (b"traceparent", b"00-"),
        (b"b3", b"----"),
        (b":path", &long),
        (b"x-request-id", &long),
    ]);
    call(&mut vm, &host);
    let batch = posted(&mut vm, &host);
    let entry = Entry::parse(&batch.entries).unwrap();
    assert_eq!((entry.trace_id, entry.span_id), ([0; 16], [0; 8]));
    assert_eq!(SpanRecord::decode(&batch.records[0]).unwrap().check(&entry), Ok(()));
}
