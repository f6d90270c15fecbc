//! What of a call is recorded, and what it says.

use super::*;
use crate::test_host::TestHost;
use meshchain_core::{
    BatchHeader, BatchKind, Canonical, Dropped, Entry, HopPart, OwnPart, Side, SpanRecord,
};
use meshchain_wire::Batch;
use prost::Message;

mod batches;
mod places;

const REQUEST: &[(&[u8], &[u8])] = &[
    (b":method", b"GET"),
    (b":authority", b"reviews:9080"),
    (b":path", b"/reviews/0?user=x"),
    (b"x-request-id", b"c4a7"),
];

const PLACE: u32 = 1;
const STREAM: u32 = 9;

/// A proxy with the filter in one place; its listeners are of the direction 1 inbound, 2 outbound or 0.
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
    call_in(vm, host, PLACE);
}

fn call_in(vm: &mut Vm, host: &TestHost, place: u32) {
    vm.begin(STREAM, place);
    vm.on_request(host, STREAM);
    vm.on_log(host, STREAM);
    vm.done(host, STREAM);
}

fn posted(vm: &mut Vm, host: &TestHost) -> Batch {
    tick(vm, host);
    Batch::decode(host.posts.borrow().last().unwrap().as_slice()).unwrap()
}

fn tick(vm: &mut Vm, host: &TestHost) {
    vm.on_tick(host, vm.sending.unwrap_or(PLACE));
}

fn later(host: &TestHost, seconds: u64) {
    host.monotonic_ns.set(host.monotonic_ns.get() + seconds * 1_000_000_000);
}

/// Entries and records of a batch, which fit each other.
fn calls(batch: &Batch) -> Vec<(Entry, HopPart<'_>, OwnPart<'_>)> {
    let entries = batch.entries.chunks_exact(90).map(|bytes| Entry::parse(bytes).unwrap());
    let calls = entries.zip(&batch.records).map(|(entry, record)| {
        let record = SpanRecord::decode(record).unwrap();
        assert_eq!(record.check(&entry), Ok(()));
        (entry, HopPart::decode(record.hop).unwrap(), OwnPart::decode(record.own).unwrap())
    });
    calls.collect()
}

fn header(batch: &Batch) -> BatchHeader<'_> {
    BatchHeader::decode(&batch.header).unwrap()
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
fn nothing_in_a_request_decides_which_side_it_is_on() {
    for (direction, sides) in [
        (1, vec![Side::Server]),
        (2, vec![Side::Client]),
        (0, vec![Side::GatewayIn, Side::GatewayOut]),
    ] {
        for expressions in [true, false] {
            let (mut vm, host) = proxy(direction, 1);
            host.has_expressions.set(expressions);
            vm.configure(&host, PLACE, b"");
            for (name, value) in [("x-forwarded-client-cert", "URI=spiffe://a"), ("x-envoy", "")] {
                host.set_request_header(name, value.as_bytes());
            }
            call(&mut vm, &host);
            let batch = posted(&mut vm, &host);
            let calls = calls(&batch);
            assert_eq!(calls.iter().map(|(entry, ..)| entry.side).collect::<Vec<_>>(), sides);
        }
    }
}

#[test]
fn a_proxy_in_the_middle_records_both_hops_tied_by_parent_id() {
    let (trace, span) = ("80f198ee56343ba864fe8b2a57d3eff7", "e457b5a2e4d86bd1");
    for with_context in [true, false] {
        let (mut vm, host) = proxy(0, 1);
        host.set_number("upstream\0request_attempt_count", 1);
        host.set_text("connection\0uri_san_peer_certificate", b"spiffe://down");
        host.set_text("upstream\0uri_san_peer_certificate", b"spiffe://up");
        if with_context {
            host.set_request_header("x-b3-traceid", trace.as_bytes());
            host.set_request_header("x-b3-spanid", span.as_bytes());
        }
        call(&mut vm, &host);
        let batch = posted(&mut vm, &host);
        let calls = calls(&batch);
        assert_eq!(calls_of(&batch), [Side::GatewayIn, Side::GatewayOut]);
        let ((received, _, came), (sent, _, went)) = (&calls[0], &calls[1]);
        assert_eq!(received.trace_id, sent.trace_id);
        assert_eq!(went.parent_span_id.unwrap().0, received.span_id);
        assert_ne!(received.span_id, sent.span_id);
        assert_eq!(
            (came.peer_principal, went.peer_principal),
            (&b"spiffe://down"[..], &b"spiffe://up"[..])
        );
        assert_ne!(came.salt, went.salt);
        if with_context {
            assert_eq!(hex::encode(received.span_id), span);
        }
        // An answer of its own goes no further.
        host.set_number("upstream\0request_attempt_count", 0);
        host.set_text("response\0code_details", b"direct_response");
        vm.on_response(&host, 1, Some(200));
        call(&mut vm, &host);
        let batch = posted(&mut vm, &host);
        assert_eq!(calls_of(&batch), [Side::GatewayIn]);
    }
}

fn calls_of(batch: &Batch) -> Vec<Side> {
    calls(batch).iter().map(|(entry, ..)| entry.side).collect()
}

#[test]
fn a_server_keeps_which_session_the_client_named() {
    let (mut client, outbound) = proxy(2, 1);
    call(&mut client, &outbound);
    let (mut server, inbound) = proxy(1, 2);
    *inbound.headers.borrow_mut() = outbound.headers.borrow().clone();
    inbound.set_request_header("x-request-id", b"made up on the way");
    call(&mut server, &inbound);
    let sent = posted(&mut client, &outbound);
    let received = posted(&mut server, &inbound);
    let (ours, theirs) = (calls(&sent), calls(&received));
    assert_eq!(theirs[0].2.peer_session, Some(header(&sent).session));
    assert_eq!(ours[0].0.hop_digest, theirs[0].0.hop_digest, "the named request id counts");
}

#[test]
fn raw_values_are_shown_where_they_are_not_canonical_and_the_path_may_be() {
    for (config, path) in [("", &b"/reviews//0"[..]), (r#"{"path_privacy": "hash"}"#, b"")] {
        let (mut vm, host) = proxy(1, 1);
        vm.configure(&host, PLACE, config.as_bytes());
        host.set_request_header(":path", b"/reviews//0?user=x");
        call(&mut vm, &host);
        let batch = posted(&mut vm, &host);
        let record = SpanRecord::decode(&batch.records[0]).unwrap();
        let own = OwnPart::decode(record.own).unwrap();
        assert_eq!((own.raw_path, own.raw_authority), (path, &b"reviews:9080"[..]));
    }
}

#[test]
fn auto_asks_in_full_about_the_calls_that_are_not_ordinary() {
    let route = |status: &[u8], slow: bool, one_in: u32| {
        let (mut vm, host) = proxy(1, 1);
        host.has_expressions.set(true);
        let json = format!(r#"{{"detail": "auto", "full_one_in": {one_in}}}"#);
        vm.configure(&host, PLACE, json.as_bytes());
        host.response.borrow_mut().push((b":status".to_vec(), status.to_vec()));
        for (path, text) in
            [("xds\0route_name", "default"), ("connection\0uri_san_peer_certificate", "spiffe://a")]
        {
            host.set_text(path, text.as_bytes());
        }
        host.set_number("response\0flags", 0);
        vm.begin(STREAM, PLACE);
        vm.on_request(&host, STREAM);
        host.now_ns.set(host.now_ns.get() + if slow { 1_000_000_000 } else { 999_000_000 });
        vm.on_log(&host, STREAM);
        let batch = posted(&mut vm, &host);
        let own = calls(&batch)[0].2.clone();
        assert_eq!(own.peer_principal, b"spiffe://a", "in any case");
        assert_ne!(own.duration_ns == 999_000_000, own.route == b"default");
        own.route.to_vec()
    };
    assert_eq!(route(b"200", false, 1_000_000), b"");
    assert_eq!(route(b"200", true, 1_000_000), b"default");
    assert_eq!(route(b"404", false, 1_000_000), b"default");
    assert_eq!(route(b"200", false, 1), b"default");
}

#[test]
fn a_header_names_the_principal_where_the_configuration_says_so() {
    let xfcc = b"By=a;Hash=b;URI=spiffe://told";
    for (json, principal) in [
        ("", &b"spiffe://asked"[..]),
        (r#"{"principal_from_xfcc": true}"#, b"spiffe://told"),
        (r#"{"principal_from_xfcc": true, "detail": "lean"}"#, b"spiffe://told"),
    ] {
        let (mut vm, host) = proxy(1, 1);
        host.response.borrow_mut().push((b":status".to_vec(), b"200".to_vec()));
        host.set_text("connection\0uri_san_peer_certificate", b"spiffe://asked");
        host.set_number("response\0flags", 0);
        host.set_request_header("x-forwarded-client-cert", xfcc);
        vm.configure(&host, PLACE, json.as_bytes());
        call(&mut vm, &host);
        assert_eq!(calls(&posted(&mut vm, &host))[0].2.peer_principal, principal);
    }
}

#[test]
fn any_grpc_status_is_recorded_and_none_of_what_is_not_grpc() {
    for (content_type, status, expected) in [
        ("application/grpc", "17", Some(17)),
        ("application/grpc+proto", "4294967295", Some(u32::MAX)),
        ("application/grpc", "-1", None),
        ("application/grpc", "abc", None),
        ("application/grpc-web+proto", "17", None),
        ("application/grpcfoo", "17", None),
    ] {
        let (mut vm, host) = proxy(1, 1);
        host.set_request_header("content-type", content_type.as_bytes());
        host.response.borrow_mut().push((b"grpc-status".to_vec(), status.as_bytes().to_vec()));
        call(&mut vm, &host);
        let batch = posted(&mut vm, &host);
        assert_eq!(calls(&batch)[0].2.grpc_status, expected, "{content_type} {status}");
    }
}

#[test]
fn a_redirect_that_envoy_follows_is_recorded_as_it_went_out() {
    for (direction, path, status) in [(2, &b"/reviews/0"[..], 302), (1, b"/reviews/0", 0)] {
        let (mut vm, host) = proxy(direction, 1);
        vm.begin(STREAM, PLACE);
        vm.on_request(&host, STREAM);
        host.set_request_header(":path", b"/landed");
        host.set_number("response\0code", 302);
        host.set_text("response\0code_details", b"internal_redirect");
        vm.on_log(&host, STREAM);
        let batch = posted(&mut vm, &host);
        let (_, hop, own) = calls(&batch)[0].clone();
        assert_eq!(
            (hop.path, hop.status),
            (path, status),
            "the caller gets the answer to the next leg"
        );
        assert_eq!(own.code_details, b"internal_redirect");
    }
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
        for path in ["/healthz?x", "/static/a", "/static%2f..%2Fadmin", "/static/../admin"] {
            host.set_request_header(":path", path.as_bytes());
            call(&mut vm, &host);
        }
        let batch = posted(&mut vm, &host);
        assert_eq!(batch.records.len(), 3, "nobody hides a path behind one that is skipped");
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
