//! Hop part, own part, span record, entry.

use super::{liberties, refused};
use crate::proto;
use crate::vector::{Vector, show, show_hex};
use meshchain_core::hop::{Room, Seen};
use meshchain_core::own::HeaderField;
use meshchain_core::record::ShownPath;
use meshchain_core::{
    Canonical, ContextSource, Entry, HopPart, OwnPart, Sampling, Side, SpanId, SpanRecord, TraceId,
    own::span_digest,
};
use prost::Message;
use serde_json::{Value, json};

pub(super) const TRACE: [u8; 16] = [
    0x80, 0xf1, 0x98, 0xee, 0x56, 0x34, 0x3b, 0xa8, 0x64, 0xfe, 0x8b, 0x2a, 0x57, 0xd3, 0xef, 0xf7,
];
pub(super) const SPAN: [u8; 8] = [0xe4, 0x57, 0xb5, 0xa2, 0xe4, 0xd8, 0x6b, 0xd1];
const REQUEST_ID: &[u8] = b"6b1d4e0f-3c5a-4f8e-9d27-1a2b3c4d5e6f";

pub(super) fn cases() -> Vec<Vector> {
    [hops(), owns(), records(), entries()].concat()
}

/// The hop part that the other cases build on.
pub(super) fn hop() -> HopPart<'static> {
    HopPart {
        trace_id: Some(TraceId(TRACE)),
        span_id: Some(SpanId(SPAN)),
        request_id: REQUEST_ID,
        method: b"GET",
        authority: b"shop.example",
        path: b"/cart/42",
        status: 200,
        overflow: None,
    }
}

/// The client's own part that the other cases build on.
pub(super) fn own() -> OwnPart<'static> {
    OwnPart {
        side: Side::Client,
        parent_span_id: SpanId::new([5, 0xe3, 0xac, 0x9a, 0x4f, 0x6e, 0x3b, 0x90]),
        sampling: Sampling::Accepted,
        context: ContextSource::Received,
        protocol: b"HTTP/1.1",
        code_details: b"via_upstream",
        start_ns: 1_790_000_000_123_456_789,
        duration_ns: 4_200_000,
        request_bytes: 512,
        response_bytes: 2048,
        peer_principal: b"spiffe://cluster.local/ns/shop/sa/cart",
        cluster: b"outbound|8080||cart.shop.svc.cluster.local",
        route: b"default",
        attempts: 1,
        salt: *b"\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10",
        ..Default::default()
    }
}

fn hops() -> Vec<Vector> {
    let ids = (Some(TraceId(TRACE)), Some(SpanId(SPAN)));
    let none = (None, None);
    let narrow = (TraceId::from_hex(b"463ac35c9f6413ad"), Some(SpanId(SPAN)));
    let at_limit = [b"/".as_slice(), &[b'a'; 1023]].concat();
    let over = [b"/".as_slice(), &[b'a'; 1024]].concat();
    let over_query = [&at_limit, b"?".as_slice(), &[b'q'; 3000]].concat();
    let wide = vec![b'h'; 1500];
    let over_escaped = [b"/".as_slice(), &b"%61".repeat(1024)].concat();
    let to_limit = [b"/".as_slice(), &b"%61".repeat(1023)].concat();
    type Call<'a> = ((Option<TraceId>, Option<SpanId>), [&'a [u8]; 4], u32);
    let calls: [(&str, &str, Call); 18] = [
        (
            "get",
            "a plain call; the query is not part of it",
            (ids, [REQUEST_ID, b"GET", b"shop.example", b"/cart/42?coupon=x"], 200),
        ),
        (
            "post-503",
            "another method and status",
            (ids, [REQUEST_ID, b"POST", b"shop.example:8080", b"/cart"], 503),
        ),
        (
            "no-context",
            "no trace context crossed",
            (none, [REQUEST_ID, b"GET", b"shop.example", b"/"], 200),
        ),
        (
            "no-response",
            "status 0: no complete response crossed",
            (ids, [REQUEST_ID, b"GET", b"shop.example", b"/"], 0),
        ),
        (
            "64-bit-trace",
            "a widened trace id",
            (narrow, [REQUEST_ID, b"GET", b"shop.example", b"/"], 204),
        ),
        (
            "fragment",
            "a fragment before the question mark ends the path",
            (ids, [b"1", b"GET", b"h", b"/a#b?c"], 200),
        ),
        ("not-utf8", "texts are bytes", (ids, [b"1", b"GET", b"h", b"/\xff\xfe"], 200)),
        ("nothing", "nothing is known: the encoding is empty", (none, [b"", b"", b"", b""], 0)),
        (
            "limit",
            "a path of just 1024 bytes is not cut",
            (ids, [b"1", b"GET", b"h", &at_limit], 200),
        ),
        (
            "limit-query",
            "only the query is long: nothing is cut",
            (ids, [b"1", b"GET", b"h", &over_query], 200),
        ),
        ("overflow", "a path of 1025 bytes is cut", (ids, [b"1", b"GET", b"h", &over], 200)),
        (
            "overflow-authority",
            "a long authority is cut",
            (ids, [b"1", b"GET", &wide, b"/a?b"], 200),
        ),
        (
            "overflow-canonical",
            "a path that is long in canonical form too: the canonical one is cut and hashed",
            (ids, [b"1", b"GET", b"h", &over_escaped], 200),
        ),
        (
            "limit-canonical",
            "only the path as seen is long: nothing is cut",
            (ids, [b"1", b"GET", b"h", &to_limit], 200),
        ),
        (
            "same-client",
            "a call as its client's mesh shows it",
            (
                ids,
                [
                    b"6b1d4e0f-3c5a-9f8e-9d27-1a2b3c4d5e6f",
                    b"GET",
                    b"Shop.example:8080",
                    b"/a//b/%2e%2e/c%2fd%c3%a9?x=1",
                ],
                200,
            ),
        ),
        (
            "same-server",
            "the same call as its server's mesh shows it: the digest is the same",
            (
                ids,
                [b"6b1d4e0f-3c5a-4f8e-9d27-1a2b3c4d5e6f", b"GET", b"shop.example", b"/a/c/d%C3%A9"],
                200,
            ),
        ),
        (
            "same-raw",
            "and as a proxy shows it that changes nothing",
            (
                ids,
                [
                    b"6b1d4e0f-3c5a-bf8e-9d27-1a2b3c4d5e6f",
                    b"GET",
                    b"SHOP.EXAMPLE.:8080",
                    b"/a/.;v=1//b\\..\\c/%64%C3%a9#x",
                ],
                200,
            ),
        ),
        (
            "short-request-id",
            "a request id that is no UUID stays as it is",
            (ids, [b"6b1d4e0f-3c5a-9", b"GET", b"h", b"/"], 200),
        ),
    ];
    let valid =
        calls.map(|(name, case, ((trace, span), [id, method, authority, target], status))| {
            let seen = Seen { request_id: id, method, authority, target };
            let mut room = Room::default();
            let hop = HopPart::capture(trace, span, &seen, status, &mut room);
            let input = json!({
                "trace_id": show_hex(trace.map_or(vec![], |t| t.0.to_vec()).as_slice()),
                "span_id": show_hex(span.map_or(vec![], |s| s.0.to_vec()).as_slice()),
                "request_id": show(id),
                "method": show(method),
                "authority": show(authority),
                "target": show(target),
                "status": status,
            });
            Vector::valid("hop", name, case, input)
                .encoded(&hop.encode())
                .with("digests", json!({"hop": hex::encode(hop.digest())}))
        });
    let base = proto::HopPart::decode(hop().encode().as_slice()).expect("prost reads it");
    let p = |change: fn(&mut proto::HopPart)| changed(&base, change);
    let bad = [
        ("zero-trace-id", "an all-zero trace id written out", p(|h| h.trace_id = vec![0; 16])),
        ("short-trace-id", "a trace id of 8 bytes", p(|h| h.trace_id = vec![1; 8])),
        ("zero-span-id", "an all-zero span id written out", p(|h| h.span_id = vec![0; 8])),
        ("long-text", "a method of 1025 bytes", p(|h| h.method = vec![b'M'; 1025])),
        ("path-with-query", "a question mark in the path", p(|h| h.path = b"/a?b".to_vec())),
        ("path-with-fragment", "a fragment in the path", p(|h| h.path = b"/a#b".to_vec())),
        (
            "overflow-without-cut",
            "overflow although every text is short",
            p(|h| h.overflow = vec![7; 32]),
        ),
        ("short-overflow", "an overflow of 31 bytes", p(|h| h.overflow = vec![7; 31])),
        ("explicit-default", "status 0 written out", [b"\x38\x00".as_slice()].concat()),
        ("wide-status", "a status over 32 bits", b"\x38\x80\x80\x80\x80\x10".to_vec()),
    ];
    let bad = bad.map(|(name, case, bytes)| refused::<HopPart>("hop", name, case, bytes.leak()));
    [valid.to_vec(), bad.to_vec(), liberties::<HopPart>("hop", &hop().encode())].concat()
}

fn changed<M: Message + Clone>(base: &M, change: impl Fn(&mut M)) -> Vec<u8> {
    let mut message = base.clone();
    change(&mut message);
    message.encode_to_vec()
}

fn own_json(own: &OwnPart) -> Value {
    json!({
        "side": own.side as u8,
        "parent_span_id": show_hex(own.parent_span_id.map_or(vec![], |s| s.0.to_vec()).as_slice()),
        "sampling": own.sampling as u8,
        "context": own.context as u8,
        "protocol": show(own.protocol),
        "grpc_status_plus_one": own.grpc_status.map_or(0, |s| u64::from(s) + 1),
        "response_flags": own.response_flags,
        "code_details": show(own.code_details),
        "start_ns": own.start_ns,
        "duration_ns": own.duration_ns,
        "request_bytes": own.request_bytes,
        "response_bytes": own.response_bytes,
        "peer_principal": show(own.peer_principal),
        "cluster": show(own.cluster),
        "route": show(own.route),
        "attempts": own.attempts,
        "query": show(own.query),
        "salt": show_hex(&own.salt),
        "headers": own.headers.iter()
            .map(|h| json!({"name": show(h.name), "value": show(h.value)})).collect::<Vec<_>>(),
        "raw_path": show(own.raw_path),
        "raw_authority": show(own.raw_authority),
        "peer_session": show_hex(own.peer_session.as_ref().map_or(&[], |id| id)),
    })
}

fn owns() -> Vec<Vector> {
    let salt = [0x5a; 16];
    let longest = [b'r'; 1024];
    let valid = [
        ("client", "the caller's side", own()),
        (
            "server",
            "the callee's side",
            OwnPart {
                side: Side::Server,
                attempts: 0,
                peer_session: Some(super::session::key().id()),
                ..own()
            },
        ),
        ("minimal", "side and salt only", OwnPart { salt, ..Default::default() }),
        (
            "grpc-ok",
            "gRPC status 0, which is not the same as no gRPC",
            OwnPart { grpc_status: Some(0), ..own() },
        ),
        ("grpc-max", "the largest gRPC status", OwnPart { grpc_status: Some(u32::MAX), ..own() }),
        (
            "extremes",
            "every integer at its maximum",
            OwnPart {
                sampling: Sampling::Debug,
                context: ContextSource::Generated,
                response_flags: u64::MAX,
                start_ns: u64::MAX,
                duration_ns: u64::MAX,
                request_bytes: u64::MAX,
                response_bytes: u64::MAX,
                attempts: u32::MAX,
                ..own()
            },
        ),
        (
            "gateway-in",
            "a proxy in the middle, of the hop that it received",
            OwnPart { side: Side::GatewayIn, attempts: 0, ..own() },
        ),
        (
            "gateway-out",
            "a proxy in the middle, of the hop that it sent: its parent is the span received",
            OwnPart { side: Side::GatewayOut, parent_span_id: Some(SpanId(SPAN)), ..own() },
        ),
        (
            "raw",
            "path and authority as they were seen, where not canonical",
            OwnPart { raw_path: b"/cart//%34%32", raw_authority: b"Shop.example:8080", ..own() },
        ),
        (
            "raw-bytes",
            "what was seen may be any bytes",
            OwnPart { raw_path: b"/\xff\n", raw_authority: &longest, ..own() },
        ),
        (
            "query-and-headers",
            "what a configuration may add, in the order given",
            OwnPart {
                query: b"coupon=x",
                headers: vec![
                    HeaderField { name: b"x-tenant", value: b"acme" },
                    HeaderField { name: b"x-empty", value: b"" },
                    HeaderField { name: b"x-tenant", value: b"\xff" },
                ],
                ..own()
            },
        ),
    ];
    let hop_digest = hop().digest();
    let valid = valid.map(|(name, case, own)| {
        let encoded = own.encode();
        let mut input = own_json(&own);
        input["hop_digest"] = hex::encode(hop_digest).into();
        Vector::valid("own", name, case, input)
            .encoded(&encoded)
            .with("digests", json!({"span": hex::encode(span_digest(&hop_digest, &encoded))}))
    });
    let base = proto::OwnPart::decode(own().encode().as_slice()).expect("prost reads it");
    let p = |change: fn(&mut proto::OwnPart)| changed(&base, change);
    let field = |name: &[u8]| proto::HeaderField { name: name.to_vec(), value: b"v".to_vec() };
    let many = proto::OwnPart { headers: vec![field(b"n"); 33], ..base.clone() };
    let nameless = proto::OwnPart { headers: vec![field(b"")], ..base.clone() };
    let bad = [
        ("no-side", "the side is missing", p(|o| o.side = 0)),
        ("side-5", "a side that does not exist", p(|o| o.side = 5)),
        (
            "raw-path-with-query",
            "a question mark in the raw path",
            p(|o| o.raw_path = b"/a?b".to_vec()),
        ),
        (
            "raw-path-with-fragment",
            "a fragment in the raw path",
            p(|o| o.raw_path = b"/a#b".to_vec()),
        ),
        ("long-raw-path", "a raw path of 1025 bytes", p(|o| o.raw_path = vec![b'/'; 1025])),
        (
            "long-raw-authority",
            "a raw authority of 1025 bytes",
            p(|o| o.raw_authority = vec![b'h'; 1025]),
        ),
        ("zero-peer-session", "an all-zero session", p(|o| o.peer_session = vec![0; 16])),
        ("short-peer-session", "a session of 15 bytes", p(|o| o.peer_session = vec![1; 15])),
        ("peer-workload", "field 14, which earlier drafts had", {
            let good = own().encode();
            let at = good.windows(3).position(|w| w == b"\x7a\x2ao").expect("the cluster");
            [&good[..at], b"\x72\x01w", &good[at..]].concat()
        }),
        ("sampling-4", "a sampling decision that does not exist", p(|o| o.sampling = 4)),
        ("context-3", "a context source that does not exist", p(|o| o.context = 3)),
        ("no-salt", "the salt is missing", p(|o| o.salt = vec![])),
        ("short-salt", "a salt of 15 bytes", p(|o| o.salt = vec![1; 15])),
        (
            "wide-grpc-status",
            "a gRPC status over 32 bits",
            p(|o| o.grpc_status_plus_one = (1 << 32) + 1),
        ),
        ("long-route", "a route of 1025 bytes", p(|o| o.route = vec![b'r'; 1025])),
        ("33-headers", "more headers than a record may have", many.encode_to_vec()),
        ("nameless-header", "a header without a name", nameless.encode_to_vec()),
        ("empty", "no bytes at all", vec![]),
    ];
    let bad = bad.map(|(name, case, bytes)| refused::<OwnPart>("own", name, case, bytes.leak()));
    [valid.to_vec(), bad.to_vec(), liberties::<OwnPart>("own", &own().encode())].concat()
}

fn records() -> Vec<Vector> {
    let (whole, own) = (hop().encode(), own().encode());
    let bare = HopPart { path: b"", ..hop() }.encode();
    let path_hash = crate::naive::sha256(&[hop().path]);
    let record = |hop, path| SpanRecord { hop, own: &own, path };
    let valid = [
        ("whole", "both parts as they are hashed", record(&whole, ShownPath::Whole)),
        (
            "path-hashed",
            "the path's SHA-256 in its place",
            record(&bare, ShownPath::Hashed(path_hash)),
        ),
        ("path-dropped", "no path", record(&bare, ShownPath::Dropped)),
    ];
    let valid = valid.map(|(name, case, record)| {
        let input = json!({
            "hop": show_hex(record.hop),
            "own": show_hex(record.own),
            "path_hash": match record.path { ShownPath::Hashed(h) => show_hex(&h), _ => String::new() },
            "path_dropped": record.path == ShownPath::Dropped,
        });
        Vector::valid("record", name, case, input).encoded(&record.encode())
    });
    let proto = |hop: &[u8], own: &[u8], path_hash: &[u8], path_dropped| {
        let (hop, own, path_hash) = (hop.to_vec(), own.to_vec(), path_hash.to_vec());
        proto::SpanRecord { hop, own, path_hash, path_dropped }.encode_to_vec()
    };
    let bad = [
        ("no-own", "the own part is missing", proto(&whole, b"", b"", false)),
        ("bad-hop", "the hop part is not one", proto(b"\x38\x00", &own, b"", false)),
        ("bad-own", "the own part is not one", proto(&whole, b"\x08\x09", b"", false)),
        ("hashed-and-shown", "path and hash of the path", proto(&whole, &own, &path_hash, false)),
        ("dropped-and-shown", "a path that is said to be withheld", proto(&whole, &own, b"", true)),
        (
            "hashed-and-dropped",
            "both ways to withhold the path",
            proto(&bare, &own, &path_hash, true),
        ),
        ("short-path-hash", "a path hash of 31 bytes", proto(&bare, &own, &path_hash[1..], false)),
        (
            "dropped-2",
            "a boolean other than 0 and 1",
            [&proto(&bare, &own, b"", false), b"\x20\x02".as_slice()].concat(),
        ),
    ];
    let bad = bad.map(|(name, case, b)| refused::<SpanRecord>("record", name, case, b.leak()));
    let good = record(&whole, ShownPath::Whole).encode();
    [valid.to_vec(), bad.to_vec(), liberties::<SpanRecord>("record", &good)].concat()
}

/// The entry that a client and a server make of the same call.
pub(super) fn entry(side: Side) -> Entry {
    let own = OwnPart { side, ..own() };
    let hop = hop();
    let span = span_digest(&hop.digest(), &own.encode());
    Entry::new(side, hop.trace_id, hop.span_id, hop.digest(), span)
}

fn entries() -> Vec<Vector> {
    let valid = [
        ("client", "the caller's entry", entry(Side::Client)),
        (
            "server",
            "the callee's entry of the same call: the hop digest is the same",
            entry(Side::Server),
        ),
        ("gateway-out", "a proxy in the middle, of the hop that it sent", entry(Side::GatewayOut)),
        (
            "gateway-in",
            "a proxy in the middle, of the hop that it received",
            entry(Side::GatewayIn),
        ),
        (
            "no-context",
            "ids are zero where no trace context crossed",
            Entry { trace_id: [0; 16], span_id: [0; 8], ..entry(Side::Client) },
        ),
    ];
    let valid = valid.map(|(name, case, entry)| {
        let input = json!({
            "side": entry.side as u8,
            "trace_id": hex::encode(entry.trace_id),
            "span_id": hex::encode(entry.span_id),
            "hop_digest": hex::encode(entry.hop_digest),
            "span_digest": hex::encode(entry.span_digest),
        });
        Vector::valid("entry", name, case, input).encoded(&entry.to_bytes())
    });
    let good = entry(Side::Client).to_bytes();
    let with = |at: usize, value| {
        let mut bytes = good.to_vec();
        bytes[at] = value;
        bytes
    };
    let bad = [
        ("89-bytes", "a byte is missing", good[..89].to_vec()),
        ("91-bytes", "a byte too many", [good.as_slice(), &[0]].concat()),
        ("no-bytes", "nothing", vec![]),
        ("version-0", "version 0", with(0, 0)),
        ("version-2", "version 2", with(0, 2)),
        ("side-0", "side 0", with(1, 0)),
        ("side-5", "side 5", with(1, 5)),
        ("no-span-id", "a trace id without a span id", {
            let mut bytes = good.to_vec();
            bytes[18..26].fill(0);
            bytes
        }),
        ("no-trace-id", "a span id without a trace id", {
            let mut bytes = good.to_vec();
            bytes[2..18].fill(0);
            bytes
        }),
    ];
    let bad = bad.map(|(name, case, bytes)| match Entry::parse(&bytes) {
        Ok(entry) => panic!("entry-{name} was accepted: {entry:?}"),
        Err(error) => Vector::invalid("entry", name, case, error).encoded(&bytes),
    });
    [valid.to_vec(), bad.to_vec()].concat()
}
