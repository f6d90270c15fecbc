//! What waits for the collector: the open batch and the sealed ones of this VM's session.

use meshchain_core::leaf::CHAIN_START;
use meshchain_core::{
    BatchHeader, BatchKind, Canonical, DropReason, Dropped, ENTRY_LEN, Hash, Source,
};
use meshchain_wire::Batch;
use prost::Message;
use std::collections::VecDeque;

/// Who this VM is: read once, when the session opens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Mesh id.
    pub mesh: String,
    /// Cluster id.
    pub cluster: String,
    /// Namespace.
    pub namespace: String,
    /// Workload name.
    pub workload: String,
    /// Pod name.
    pub pod: String,
    /// Whether this proxy is a gateway.
    pub gateway: bool,
}

/// Sealed batch, ready to be sent as often as it takes.
#[derive(Debug)]
struct Sealed {
    body: Vec<u8>,
    calls: u64,
}

#[derive(Debug, Default)]
struct Open {
    entries: Vec<u8>,
    records: Vec<Vec<u8>>,
    record_bytes: usize,
    first_ns: u64,
    last_ns: u64,
}

impl Open {
    fn count(&self) -> u32 {
        (self.entries.len() / ENTRY_LEN) as u32
    }
}

/// Counts since the session began; monotonic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls put in the queue.
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
    sealed: VecDeque<Sealed>,
    sealed_bytes: usize,
    counts: Counts,
}

impl Queue {
    /// An empty session; `session` are 16 random bytes.
    pub fn new(session: [u8; 16], node: Node) -> Self {
        Self {
            session,
            node,
            seq: 0,
            chain: CHAIN_START,
            open: Open::default(),
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
        self.sealed_bytes + self.open.entries.len() + self.open.record_bytes
    }

    /// Number of calls in the open batch.
    pub fn open_calls(&self) -> u32 {
        self.open.count()
    }

    /// Takes in a call, or counts it as dropped where `limit` bytes are held already: the oldest
    /// calls are kept.
    pub fn push(&mut self, entry: &[u8; ENTRY_LEN], record: Vec<u8>, start_ns: u64, limit: usize) {
        if self.bytes() + ENTRY_LEN + record.len() > limit {
            return self.drop_calls(DropReason::QueueFull, 1);
        }
        let open = &mut self.open;
        if open.entries.is_empty() {
            (open.first_ns, open.last_ns) = (start_ns, start_ns);
        }
        open.first_ns = open.first_ns.min(start_ns);
        open.last_ns = open.last_ns.max(start_ns);
        open.entries.extend_from_slice(entry);
        open.record_bytes += record.len();
        if !record.is_empty() {
            open.records.push(record);
        }
        self.counts.records += 1;
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
        let open = std::mem::take(&mut self.open);
        let count = open.count();
        let dropped = DropReason::ALL.iter().zip(self.counts.dropped);
        let header = BatchHeader {
            kind: if count == 0 { BatchKind::Heartbeat } else { BatchKind::Data },
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
        let batch = Batch::seal(&self.chain, header, open.entries, open.records);
        self.seq += 1;
        if let Ok(chain) = batch.chain.as_slice().try_into() {
            self.chain = chain;
        }
        let body = batch.encode_to_vec();
        self.sealed_bytes += body.len();
        self.sealed.push_back(Sealed { body, calls: count.into() });
        self.counts.batches += 1;
    }

    /// Body of the oldest sealed batch.
    pub fn front(&self) -> Option<&[u8]> {
        self.sealed.front().map(|sealed| sealed.body.as_slice())
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use meshchain_core::chain_hash;

    fn queue() -> Queue {
        Queue::new([1; 16], Node { namespace: "ns".into(), ..Node::default() })
    }

    fn front(queue: &Queue) -> Batch {
        Batch::decode(queue.front().unwrap()).unwrap()
    }

    #[test]
    fn batches_form_a_chain_and_carry_their_calls() {
        let mut queue = queue();
        queue.push(&[1; ENTRY_LEN], vec![1], 20, 1 << 20);
        queue.push(&[2; ENTRY_LEN], vec![2, 2], 10, 1 << 20);
        queue.seal(99, &["never shown with calls".into()]);
        queue.seal(99, &["shown".into()]);
        let first = front(&queue);
        let header = BatchHeader::decode(&first.header).unwrap();
        assert_eq!((header.seq, header.count, header.first_ns, header.last_ns), (0, 2, 10, 20));
        assert_eq!(header.source.namespace, "ns");
        assert_eq!(first.records, [vec![1], vec![2, 2]]);
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
    fn a_full_queue_keeps_the_oldest_and_the_next_header_tells_what_was_lost() {
        let mut queue = queue();
        for _ in 0..5 {
            queue.push(&[1; ENTRY_LEN], vec![0; 10], 1, 2 * (ENTRY_LEN + 10));
        }
        queue.seal(1, &[]);
        queue.refuse();
        queue.seal(1, &[]);
        let batch = front(&queue);
        let header = BatchHeader::decode(&batch.header).unwrap();
        let expected = [(DropReason::QueueFull, 3), (DropReason::Refused, 2)];
        let expected = expected.map(|(reason, count)| Dropped { reason: reason as u32, count });
        assert_eq!(header.dropped, expected);
    }
}
