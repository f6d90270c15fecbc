//! Valid batches, as filters would send them, without an Envoy.

use crate::Ids;
use meshchain_core::hop::{HopPart, Room, Seen};
use meshchain_core::leaf::CHAIN_START;
use meshchain_core::own::span_digest;
use meshchain_core::{
    BatchHeader, Canonical, Entry, Hash, OwnPart, SessionKey, Side, Source, SpanId, SpanRecord,
    TraceId,
};
use meshchain_wire::{Batch, CONTENT_TYPE};
use prost::Message;

/// Start of the first call, unix nanoseconds: any fixed time does.
const START_NS: u64 = 1_795_000_000_000_000_000;

/// One side of one call.
pub struct Span {
    /// Its entry.
    pub entry: Entry,
    /// Canonical hop part.
    pub hop: Vec<u8>,
    /// Canonical own part.
    pub own: Vec<u8>,
}

impl Span {
    /// A call like those of the Bookinfo application: all fields that an inbound sidecar fills.
    pub fn new(trace_id: [u8; 16], ids: &mut Ids) -> Self {
        let (trace_id, span_id) = (TraceId::new(trace_id), SpanId::new(ids.bytes()));
        let request_id = format!("{:032x}", ids.number()).into_bytes();
        let authority = b"reviews.bookinfo.svc.cluster.local:9080";
        let target = b"/reviews/0";
        let seen = Seen { request_id: &request_id, method: b"GET", authority, target };
        let mut room = Room::default();
        let hop = HopPart::capture(trace_id, span_id, &seen, 200, &mut room).encode();
        let own = OwnPart {
            side: Side::Server,
            parent_span_id: SpanId::new(ids.bytes()),
            protocol: b"HTTP/1.1",
            code_details: b"via_upstream",
            start_ns: START_NS,
            duration_ns: ids.number() % 50_000_000,
            request_bytes: 900,
            response_bytes: 700,
            peer_principal: b"spiffe://cloud.example/ns/bookinfo/sa/bookinfo-productpage",
            cluster: b"inbound|9080||",
            route: b"default",
            salt: ids.bytes(),
            ..OwnPart::default()
        }
        .encode();
        let hop_digest = meshchain_core::hop::hop_digest(&hop);
        let digest = span_digest(&hop_digest, &own);
        let entry = Entry::new(Side::Server, trace_id, span_id, hop_digest, digest);
        Self { entry, hop, own }
    }

    /// The canonical record.
    pub fn record(&self) -> Vec<u8> {
        SpanRecord { hop: &self.hop, own: &self.own, ..SpanRecord::default() }.encode()
    }
}

/// Trace id of span `number` of the load with this seed: whoever knows both can ask for it.
pub fn trace_id(seed: u64, number: u64) -> [u8; 16] {
    Ids::new(seed << 40 | number).bytes()
}

/// A proxy's run of batches.
pub struct Session {
    key: SessionKey,
    pod: String,
    seq: u64,
    prev: Hash,
}

impl Session {
    /// A new session of the pod with this number.
    pub fn new(number: usize, ids: &mut Ids) -> Self {
        let pod = format!("reviews-v1-{number}");
        Self { key: SessionKey::from_seed(ids.bytes()), pod, seq: 0, prev: CHAIN_START }
    }

    /// Its key.
    pub fn key(&self) -> &SessionKey {
        &self.key
    }

    /// The canonical header of the next batch, of `count` calls.
    pub fn header(&self, count: u32) -> Vec<u8> {
        let source = Source {
            mesh: "mesh1",
            cluster: "cloud",
            namespace: "bookinfo",
            workload: "reviews-v1",
            pod: &self.pod,
            revision: "v1",
            filter: env!("CARGO_PKG_VERSION"),
        };
        let (first_ns, last_ns) = (START_NS, START_NS + 250_000_000);
        let (session, seq) = (self.key.id(), self.seq);
        BatchHeader { source, session, seq, count, first_ns, last_ns, ..BatchHeader::default() }
            .encode()
    }

    /// The next batch: one call of each trace, with their records.
    pub fn batch_with_records(&mut self, traces: &[[u8; 16]], ids: &mut Ids) -> Batch {
        let spans: Vec<_> = traces.iter().map(|trace| Span::new(*trace, ids)).collect();
        let entries = spans.iter().flat_map(|span| span.entry.to_bytes()).collect();
        self.seal(traces.len(), entries, spans.iter().map(Span::record).collect())
    }

    /// The next batch: one call of each trace, as digests of nothing, which are made sooner.
    pub fn batch(&mut self, traces: &[[u8; 16]], ids: &mut Ids) -> Batch {
        let entry = |trace: &[u8; 16]| {
            let (trace, span) = (TraceId::new(*trace), SpanId::new(ids.bytes()));
            Entry::new(Side::Server, trace, span, ids.bytes(), ids.bytes()).to_bytes()
        };
        let entries = traces.iter().flat_map(entry).collect();
        self.seal(traces.len(), entries, Vec::new())
    }

    fn seal(&mut self, count: usize, entries: Vec<u8>, records: Vec<Vec<u8>>) -> Batch {
        let batch = Batch::seal(&self.key, &self.prev, self.header(count as u32), entries, records);
        self.seq += 1;
        self.prev.copy_from_slice(&batch.chain);
        batch
    }
}

/// The POST that carries a batch.
pub fn post(batch: &Batch) -> Vec<u8> {
    let body = batch.encode_to_vec();
    let head = format!(
        "POST /v1/batches HTTP/1.1\r\nhost: collector\r\ncontent-type: {CONTENT_TYPE}\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    [head.into_bytes(), body].concat()
}
