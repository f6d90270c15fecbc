//! Random valid messages, as prost structs: core must read what another encoder writes.

use meshchain_tests::proto;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// A text as headers carry it: any bytes, sometimes of just the largest length.
fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![8 => vec(any::<u8>(), 0..40), 1 => vec(any::<u8>(), 1024)]
}

fn name() -> impl Strategy<Value = String> {
    "\\PC{0,60}"
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), 0..300u64, Just(0), Just(u64::MAX)]
}

fn id(len: usize) -> impl Strategy<Value = Vec<u8>> {
    option::of(vec(any::<u8>(), len).prop_filter("zero", |id| id.iter().any(|b| *b != 0)))
        .prop_map(Option::unwrap_or_default)
}

pub(crate) fn hop() -> impl Strategy<Value = proto::HopPart> {
    let path = text().prop_map(|p| p.into_iter().filter(|b| !b"?#".contains(b)).collect());
    let overflow = option::of(any::<[u8; 32]>());
    let ids = prop_oneof![
        Just((vec![], vec![])),
        (id(16), id(8)).prop_filter("both", |(t, s)| !t.is_empty() && !s.is_empty())
    ];
    (ids, text(), text(), text(), path, any::<u32>(), overflow).prop_map(
        |((trace_id, span_id), request_id, method, authority, path, status, overflow)| {
            let path: Vec<u8> = path;
            let long = [&request_id, &method, &authority, &path].iter().any(|t| t.len() == 1024);
            let overflow = overflow.filter(|_| long).map_or(vec![], |o| o.to_vec());
            proto::HopPart {
                trace_id,
                span_id,
                request_id,
                method,
                authority,
                path,
                status,
                overflow,
            }
        },
    )
}

pub(crate) fn own() -> impl Strategy<Value = proto::OwnPart> {
    let header = (vec(any::<u8>(), 1..20), text());
    let header = header.prop_map(|(name, value)| proto::HeaderField { name, value });
    let numbers = (1..=3i32, 0..=3i32, 0..=2i32, 0..=1u64 << 32, any::<u32>());
    let salt = any::<[u8; 16]>().prop_map(|s| [s[0] | 1].into_iter().chain(s[1..].to_vec()));
    let lists = (salt, vec(header, 0..4), id(8));
    (numbers, lists, vec(number(), 5), vec(text(), 7)).prop_map(
        |((side, sampling, context, grpc, attempts), (salt, headers, parent), n, t)| {
            let mut t = t.into_iter();
            let mut text = || t.next().unwrap_or_default();
            proto::OwnPart {
                side,
                parent_span_id: parent,
                sampling,
                context,
                protocol: text(),
                grpc_status_plus_one: grpc,
                response_flags: n[0],
                code_details: text(),
                start_ns: n[1],
                duration_ns: n[2],
                request_bytes: n[3],
                response_bytes: n[4],
                peer_principal: text(),
                peer_workload: text(),
                cluster: text(),
                route: text(),
                attempts,
                query: text(),
                salt: salt.collect(),
                headers,
            }
        },
    )
}

pub(crate) fn header() -> impl Strategy<Value = proto::BatchHeader> {
    let source = (name(), name(), name(), name(), name()).prop_map(
        |(mesh, cluster, namespace, workload, pod)| {
            let source = proto::Source { mesh, cluster, namespace, workload, pod };
            Some(source).filter(|s| *s != proto::Source::default())
        },
    );
    let kind = prop_oneof![(Just(1), 1..=10_000u32), (Just(2), Just(0)), (Just(3), 0..=10_000u32)];
    let dropped = proptest::collection::btree_map(1..u32::MAX, 1..u64::MAX, 0..4);
    let session = any::<[u8; 16]>().prop_filter("zero", |s| *s != [0; 16]);
    let notices = vec("\\PC{1,60}", 0..4);
    let times = (number(), number()).prop_map(|(a, b)| (a.min(b), a.max(b)));
    (kind, source, session, number(), dropped, times, notices).prop_map(
        |((kind, count), source, session, seq, dropped, (first_ns, last_ns), notices)| {
            let dropped = dropped.into_iter();
            proto::BatchHeader {
                version: 1,
                kind,
                source,
                session: session.to_vec(),
                seq,
                count,
                dropped: dropped.map(|(reason, count)| proto::Dropped { reason, count }).collect(),
                first_ns,
                last_ns,
                notices,
            }
        },
    )
}
