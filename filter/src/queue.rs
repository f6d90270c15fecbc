//! What waits for the collector: the open batch and the sealed ones of this VM's session.

use crate::config::{Config, PathPrivacy};
use crate::node::Node;
use crate::pending::{AT_ONCE, Parts, Pending};
use meshchain_core::canonical::put_bytes;
use meshchain_core::hop::path_hash;
use meshchain_core::leaf::CHAIN_START;
use meshchain_core::record::ShownPath;
use meshchain_core::{
    BatchHeader, BatchKind, Canonical, DropReason, Dropped, ENTRY_LEN, Entry, Hash, HopPart,
    OwnPart, Source, SpanRecord, chain_hash,
};
use std::collections::VecDeque;

/// Fields of [`meshchain_wire::Batch`], which is written here as it grows.
const HEADER: u32 = 1;
const PREV: u32 = 2;
const CHAIN: u32 = 3;
const ENTRIES: u32 = 4;
const RECORDS: u32 = 5;

/// Sealed batch, ready to be sent as often as it takes.
#[derive(Debug)]
struct Sealed {
    body: Vec<u8>,
    calls: u64,
}

#[derive(Debug, Default)]
struct Open {
    /// Those of the last calls still lack their digests.
    entries: Vec<u8>,
    pending: Pending,
    /// As in the batch: each record behind its tag and length.
    records: Vec<u8>,
    first_ns: u64,
    last_ns: u64,
}

/// Where an entry's digests begin.
const DIGESTS: usize = ENTRY_LEN - 64;

impl Open {
    fn count(&self) -> u32 {
        (self.entries.len() / ENTRY_LEN) as u32
    }

    /// Fills in the digests that were put off.
    fn hash(&mut self) {
        let Self { entries, pending, .. } = self;
        let start = entries.len() / ENTRY_LEN - pending.len();
        pending.digest(|at, [hop, span]| {
            let end = (start + at + 1) * ENTRY_LEN;
            let room = entries.get_mut(end - ENTRY_LEN + DIGESTS..end);
            if let Some((hop_room, span_room)) = room.and_then(|r| r.split_at_mut_checked(32)) {
                hop_room.copy_from_slice(&hop);
                span_room.copy_from_slice(&span);
            }
        });
    }
}

/// Counts since the session began; monotonic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls put in the queue.
    pub digests: u64,
    /// Those of them whose record goes along.
    pub records: u64,
    /// Batches sealed.
    pub batches: u64,
    /// Batches that the collector acknowledged.
    pub acked: u64,
    /// Calls dropped, by [`DropReason::ALL`].
    pub dropped: [u64; DropReason::ALL.len()],
}

/// The session of one VM.
#[derive(Debug)]
pub struct Queue {
    session: [u8; 16],
    node: Node,
    seq: u64,
    chain: Hash,
    open: Open,
    /// Room for one record.
    record: Vec<u8>,
    sealed: VecDeque<Sealed>,
    sealed_bytes: usize,
    counts: Counts,
    /// Most bytes of a batch besides its entries and records.
    overhead: usize,
}

/// Those that are of the same length in each: session, counters, times, chain values, tags.
const FIXED_OVERHEAD: usize = 512;

impl Queue {
    /// An empty session; `session` are 16 random bytes.
    pub fn new(session: [u8; 16], node: Node) -> Self {
        let names = [&node.mesh, &node.cluster, &node.namespace, &node.workload, &node.pod];
        Self {
            overhead: FIXED_OVERHEAD + names.iter().map(|name| name.len()).sum::<usize>(),
            session,
            node,
            seq: 0,
            chain: CHAIN_START,
            open: Open::default(),
            record: Vec::new(),
            sealed: VecDeque::new(),
            sealed_bytes: 0,
            counts: Counts::default(),
        }
    }

    /// The proxy that this session speaks for.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Counts so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.sealed_bytes + self.open.entries.len() + self.open.records.len()
    }

    /// Number of calls in the open batch.
    pub fn open_calls(&self) -> u32 {
        self.open.count()
    }

    /// Takes in a call, or counts it as dropped where the queue is full: the oldest calls are kept.
    pub fn push(&mut self, hop: &HopPart<'_>, own: &OwnPart<'_>, config: &Config) {
        let held = self.bytes() + self.overhead + ENTRY_LEN;
        let open = &mut self.open;
        let before = open.records.len();
        let parts = open.pending.add(hop, own);
        if config.records {
            self.record.clear();
            put_record(&mut self.record, hop, parts, config.path_privacy);
            put_bytes(&mut open.records, RECORDS, &self.record);
        }
        if held + (open.records.len() - before) > config.queue_bytes {
            open.pending.take_back();
            open.records.truncate(before);
            return self.drop_calls(DropReason::QueueFull, 1);
        }
        if open.entries.is_empty() {
            (open.first_ns, open.last_ns) = (own.start_ns, own.start_ns);
        }
        open.first_ns = open.first_ns.min(own.start_ns);
        open.last_ns = open.last_ns.max(own.start_ns);
        let none = Hash::default();
        let entry = Entry::new(own.side, hop.trace_id, hop.span_id, none, none);
        open.entries.extend_from_slice(&entry.to_bytes());
        if open.pending.len() == AT_ONCE {
            open.hash();
        }
        self.counts.digests += 1;
        self.counts.records += u64::from(config.records);
    }

    /// Counts calls that no batch will carry.
    pub fn drop_calls(&mut self, reason: DropReason, calls: u64) {
        let slot = (reason as usize).checked_sub(1).and_then(|at| self.counts.dropped.get_mut(at));
        if let Some(count) = slot {
            *count += calls;
        }
    }

    /// Seals the open batch; without calls, a heartbeat of the time `now_ns`.
    pub fn seal(&mut self, now_ns: u64, notices: &[String]) {
        let kind =
            if self.open.entries.is_empty() { BatchKind::Heartbeat } else { BatchKind::Data };
        self.seal_as(kind, now_ns, notices);
    }

    /// Seals the open batch as the session's last.
    pub fn close(&mut self, now_ns: u64) {
        self.seal_as(BatchKind::Close, now_ns, &[]);
    }

    fn seal_as(&mut self, kind: BatchKind, now_ns: u64, notices: &[String]) {
        let open = &mut self.open;
        open.hash();
        let count = open.count();
        let dropped = DropReason::ALL.iter().zip(self.counts.dropped);
        let header = BatchHeader {
            kind,
            source: Source {
                mesh: &self.node.mesh,
                cluster: &self.node.cluster,
                namespace: &self.node.namespace,
                workload: &self.node.workload,
                pod: &self.node.pod,
            },
            session: self.session,
            seq: self.seq,
            count,
            dropped: dropped
                .filter(|(_, count)| *count > 0)
                .map(|(reason, count)| Dropped { reason: *reason as u32, count })
                .collect(),
            first_ns: if count == 0 { now_ns } else { open.first_ns },
            last_ns: if count == 0 { now_ns } else { open.last_ns },
            notices: if count == 0 { notices.iter().map(String::as_str).collect() } else { vec![] },
        }
        .encode();
        let chain = chain_hash(&self.chain, &header, &open.entries);
        let mut body =
            Vec::with_capacity(header.len() + open.entries.len() + open.records.len() + 128);
        put_bytes(&mut body, HEADER, &header);
        put_bytes(&mut body, PREV, &self.chain);
        put_bytes(&mut body, CHAIN, &chain);
        put_bytes(&mut body, ENTRIES, &open.entries);
        body.extend_from_slice(&open.records);
        open.entries.clear();
        open.records.clear();
        self.chain = chain;
        self.seq += 1;
        self.sealed_bytes += body.len();
        self.sealed.push_back(Sealed { body, calls: count.into() });
        self.counts.batches += 1;
    }

    /// Body of the oldest sealed batch.
    pub fn front(&self) -> Option<&[u8]> {
        self.sealed.front().map(|sealed| sealed.body.as_slice())
    }

    /// Bodies of all sealed batches, the oldest first.
    pub fn sealed(&self) -> impl Iterator<Item = &[u8]> {
        self.sealed.iter().map(|sealed| sealed.body.as_slice())
    }

    /// The oldest sealed batch is durable at the collector.
    pub fn acknowledge(&mut self) {
        if self.pop().is_some() {
            self.counts.acked += 1;
        }
    }

    /// The collector will never take the oldest sealed batch.
    pub fn refuse(&mut self) {
        if let Some(sealed) = self.pop() {
            self.drop_calls(DropReason::Refused, sealed.calls);
        }
    }

    fn pop(&mut self) -> Option<Sealed> {
        let sealed = self.sealed.pop_front()?;
        self.sealed_bytes -= sealed.body.len();
        Some(sealed)
    }
}

/// A call's record, as far as the configuration shows it.
fn put_record(out: &mut Vec<u8>, hop: &HopPart<'_>, parts: Parts<'_>, privacy: PathPrivacy) {
    let path = match privacy {
        PathPrivacy::StripQuery | PathPrivacy::Keep => {
            let path = ShownPath::Whole;
            return SpanRecord { hop: parts.hop, own: parts.own, path }.encode_into(out);
        }
        PathPrivacy::Hash => ShownPath::Hashed(path_hash(hop.path)),
        PathPrivacy::Drop => ShownPath::Dropped,
    };
    let hop = HopPart { path: &[], ..*hop }.encode();
    SpanRecord { hop: &hop, own: parts.own, path }.encode_into(out);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use meshchain_core::Side;
    use meshchain_core::own::span_digest;
    use meshchain_wire::Batch;
    use prost::Message;

    fn queue() -> Queue {
        Queue::new([1; 16], Node { namespace: "ns".into(), ..Node::default() })
    }

    fn own(start_ns: u64) -> OwnPart<'static> {
        OwnPart { side: Side::Server, start_ns, salt: [9; 16], ..OwnPart::default() }
    }

    fn push(queue: &mut Queue, start_ns: u64, config: &Config) {
        queue.push(&HopPart { path: b"/a", ..HopPart::default() }, &own(start_ns), config);
    }

    fn front(queue: &Queue) -> Batch {
        let batch = Batch::decode(queue.front().unwrap()).unwrap();
        assert_eq!(batch.encode_to_vec(), queue.front().unwrap(), "as protobuf libraries write it");
        batch
    }

    #[test]
    fn batches_form_a_chain_and_carry_their_calls() {
        let mut queue = queue();
        push(&mut queue, 20, &Config::default());
        push(&mut queue, 10, &Config::default());
        queue.seal(99, &["never shown with calls".into()]);
        queue.seal(99, &["shown".into()]);
        let first = front(&queue);
        let header = BatchHeader::decode(&first.header).unwrap();
        assert_eq!((header.seq, header.count, header.first_ns, header.last_ns), (0, 2, 10, 20));
        assert_eq!(header.source.namespace, "ns");
        let starts = first.records.iter().map(|record| {
            let record = SpanRecord::decode(record).unwrap();
            OwnPart::decode(record.own).unwrap().start_ns
        });
        assert_eq!(starts.collect::<Vec<_>>(), [20, 10]);
        queue.acknowledge();
        let second = front(&queue);
        let header = BatchHeader::decode(&second.header).unwrap();
        assert_eq!((header.seq, header.kind, header.last_ns), (1, BatchKind::Heartbeat, 99));
        assert_eq!(header.notices, ["shown"]);
        assert_eq!(second.prev, first.chain);
        let chain = chain_hash(&first.chain.try_into().unwrap(), &second.header, &[]);
        assert_eq!(second.chain, chain);
        queue.acknowledge();
        assert_eq!((queue.bytes(), queue.counts().acked), (0, 2));
    }

    #[test]
    fn every_entry_has_its_digests_however_many_calls_a_batch_has() {
        for records in [true, false] {
            let config = Config { records, ..Config::default() };
            let mut queue = queue();
            for calls in [1, AT_ONCE, AT_ONCE + 1, 3 * AT_ONCE - 1] {
                (0..calls).for_each(|start_ns| push(&mut queue, start_ns as u64, &config));
                queue.seal(0, &[]);
                let batch = front(&queue);
                assert_eq!(batch.records.len(), if records { calls } else { 0 });
                let entries = batch.entries.chunks_exact(ENTRY_LEN).map(Entry::parse);
                let hop = HopPart { path: b"/a", ..HopPart::default() }.digest();
                for (start_ns, entry) in (0..calls as u64).zip(entries) {
                    let span_digest = span_digest(&hop, &own(start_ns).encode());
                    let entry = entry.unwrap();
                    assert_eq!((entry.hop_digest, entry.span_digest), (hop, span_digest));
                }
                let counts = queue.counts();
                assert_eq!(counts.records, if records { counts.digests } else { 0 });
                queue.acknowledge();
            }
        }
    }

    #[test]
    fn a_full_queue_keeps_the_oldest_and_the_next_header_tells_what_was_lost() {
        let mut queue = queue();
        push(&mut queue, 1, &Config::default());
        let queue_bytes = 2 * queue.bytes() + queue.overhead;
        let config = Config { queue_bytes, ..Config::default() };
        (0..4).for_each(|_| push(&mut queue, 1, &config));
        queue.seal(1, &[]);
        assert_eq!(front(&queue).records.len(), 2);
        assert!(queue.bytes() <= queue_bytes);
        queue.refuse();
        queue.seal(1, &[]);
        let batch = front(&queue);
        let header = BatchHeader::decode(&batch.header).unwrap();
        let expected = [(DropReason::QueueFull, 3), (DropReason::Refused, 2)];
        let expected = expected.map(|(reason, count)| Dropped { reason: reason as u32, count });
        assert_eq!(header.dropped, expected);
    }
}
