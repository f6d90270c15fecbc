//! Random valid messages, as prost structs: core must read what another encoder writes.

use meshchain_tests::proto;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// A text as headers carry it: any bytes, sometimes of just the largest length.
fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![8 => vec(any::<u8>(), 0..40), 1 => vec(any::<u8>(), 1024)]
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    text().prop_map(|p| p.into_iter().filter(|b| !b"?#".contains(b)).collect())
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
    let overflow = option::of(any::<[u8; 32]>());
    let ids = prop_oneof![
        Just((vec![], vec![])),
        (id(16), id(8)).prop_filter("both", |(t, s)| !t.is_empty() && !s.is_empty())
    ];
    (ids, text(), text(), text(), path(), any::<u32>(), overflow).prop_map(
        |((trace_id, span_id), request_id, method, authority, path, status, overflow)| {
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
    let numbers = (1..=4i32, 0..=3i32, 0..=2i32, 0..=1u64 << 32, any::<u32>());
    let salt = any::<[u8; 16]>().prop_map(|s| [s[0] | 1].into_iter().chain(s[1..].to_vec()));
    let lists = (salt, vec(header, 0..4), id(8));
    let raw = (path(), text(), id(16));
    (numbers, lists, vec(number(), 5), vec(text(), 6), raw).prop_map(
        |((side, sampling, context, grpc, attempts), (salt, headers, parent), n, t, raw)| {
            let (raw_path, raw_authority, peer_session) = raw;
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
                cluster: text(),
                route: text(),
                attempts,
                query: text(),
                salt: salt.collect(),
                headers,
                raw_path,
                raw_authority,
                peer_session,
            }
        },
    )
}

fn dropped() -> impl Strategy<Value = Vec<proto::Dropped>> {
    let counters = proptest::collection::btree_map(1..u32::MAX, 1..u64::MAX, 0..4);
    let counter = |(reason, count)| proto::Dropped { reason, count };
    counters.prop_map(move |all| all.into_iter().map(counter).collect())
}

pub(crate) fn header() -> impl Strategy<Value = proto::BatchHeader> {
    let source = vec(name(), 7).prop_map(|names| {
        let [mesh, cluster, namespace, workload, pod, revision, filter] =
            names.try_into().expect("seven");
        let source = proto::Source { mesh, cluster, namespace, workload, pod, revision, filter };
        Some(source).filter(|s| *s != proto::Source::default())
    });
    let kind = prop_oneof![(Just(1), 1..=32_768u32), (Just(2), Just(0)), (Just(3), 0..=32_768u32)];
    let previous = (any::<[u8; 32]>(), number(), dropped()).prop_map(|(seed, batches, dropped)| {
        let key = meshchain_core::SessionKey::from_seed(seed);
        proto::Previous {
            session: key.id().to_vec(),
            batches,
            dropped,
            public_key: key.public().to_vec(),
            signature: key.hand_over(&[1; 16]).to_vec(),
        }
    });
    let session = any::<[u8; 16]>().prop_filter("zero", |s| *s != [0; 16]);
    let notices = vec("\\PC{1,60}", 0..4);
    let times = (number(), number()).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let place = (number(), option::of(previous));
    (kind, source, session, place, dropped(), times, notices).prop_map(
        |(
            (kind, count),
            source,
            session,
            (seq, previous),
            dropped,
            (first_ns, last_ns),
            notices,
        )| {
            let previous = previous.filter(|p| p.session != session);
            proto::BatchHeader {
                version: 1,
                kind,
                source,
                session: session.to_vec(),
                seq,
                count,
                dropped,
                first_ns,
                last_ns,
                notices,
                previous,
            }
        },
    )
}
