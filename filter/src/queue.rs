//! What waits for the collector: the open batch and the sealed ones of this VM's session.

use crate::config::PathPrivacy;
use crate::node::Node;
use crate::pending::{AT_ONCE, Parts, Pending};
use meshchain_core::canonical::put_bytes;
use meshchain_core::header::MAX_ENTRIES;
use meshchain_core::hop::path_hash;
use meshchain_core::leaf::{CHAIN_START, chain_of};
use meshchain_core::record::ShownPath;
use meshchain_core::session::{SIGNATURE_LEN, Signature};
use meshchain_core::{
    BatchHeader, BatchKind, Canonical, DropReason, Dropped, ENTRY_LEN, Entry, Hash, HopPart,
    OwnPart, Previous, SessionId, SessionKey, Source, SpanRecord,
};
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::ops::Range;

/// Fields of [`meshchain_wire::Batch`], which is written here as it grows: records first, since they are the
/// most, and the rest behind them.
const HEADER: u32 = 1;
const PREV: u32 = 2;
const CHAIN: u32 = 3;
const ENTRIES: u32 = 4;
const RECORDS: u32 = 5;
const PUBLIC_KEY: u32 = 6;
const SIGNATURE: u32 = 7;

/// Bytes of entries and records at which a batch is sealed in any case: with all besides, below the
/// 16 MiB that a collector takes.
const MAX_BATCH_BYTES: usize = 12 << 20;

/// A run of calls, with what a batch says of it.
#[derive(Debug, Default)]
struct Calls {
    entries: Vec<u8>,
    /// As in the batch: each record behind its tag and length.
    records: Vec<u8>,
    /// SHA-256 of the entries.
    digest: Hash,
    first_ns: u64,
    last_ns: u64,
}

impl Calls {
    fn count(&self) -> u32 {
        (self.entries.len() / ENTRY_LEN) as u32
    }
}

/// Sealed batch, ready to be sent as often as it takes.
#[derive(Debug)]
struct Sealed {
    /// The calls' records, then the rest.
    body: Vec<u8>,
    records_len: usize,
    entries: Range<usize>,
    kind: BatchKind,
    digest: Hash,
    first_ns: u64,
    last_ns: u64,
}

impl Sealed {
    fn count(&self) -> u64 {
        (self.entries.len() / ENTRY_LEN) as u64
    }

    /// Its calls, to be sealed again.
    fn open(self) -> (BatchKind, Calls) {
        let Self { mut body, records_len, entries, kind, digest, first_ns, last_ns } = self;
        let entries = body.get(entries).unwrap_or_default().to_vec();
        body.truncate(records_len);
        (kind, Calls { entries, records: body, digest, first_ns, last_ns })
    }
}

#[derive(Debug, Default)]
struct Open {
    /// Those of the last calls still lack their digests.
    calls: Calls,
    pending: Pending,
    /// Over the entries that have theirs.
    hasher: Sha256,
}

/// Where an entry's digests begin.
const DIGESTS: usize = ENTRY_LEN - 64;

impl Open {
    fn bytes(&self) -> usize {
        self.calls.entries.len() + self.calls.records.len()
    }

    /// Fills in the digests that were put off, and hashes those entries.
    fn hash(&mut self) {
        let Self { calls, pending, hasher } = self;
        let start = calls.entries.len() / ENTRY_LEN - pending.len();
        pending.digest(|at, [hop, span]| {
            let end = (start + at + 1) * ENTRY_LEN;
            let room = calls.entries.get_mut(end - ENTRY_LEN + DIGESTS..end);
            if let Some((hop_room, span_room)) = room.and_then(|r| r.split_at_mut_checked(32)) {
                hop_room.copy_from_slice(&hop);
                span_room.copy_from_slice(&span);
            }
        });
        hasher.update(calls.entries.get(start * ENTRY_LEN..).unwrap_or_default());
    }

    /// The calls, all hashed; what is left is empty.
    fn take(&mut self) -> Calls {
        self.hash();
        let digest = self.hasher.finalize_reset().into();
        Calls { digest, ..std::mem::take(&mut self.calls) }
    }
}

/// Counts since the VM began; monotonic.
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
    /// Sessions that a refusal ended.
    pub ended: u64,
    /// Calls dropped, by [`DropReason::ALL`].
    pub dropped: Drops,
}

/// Calls by [`DropReason::ALL`].
pub type Drops = [u64; DropReason::ALL.len()];

/// The session before this one.
#[derive(Debug)]
struct Former {
    key: SessionKey,
    batches: u64,
    dropped: Drops,
    /// Its key's, over this session's id.
    signature: [u8; SIGNATURE_LEN],
}

/// The session of one VM.
#[derive(Debug)]
pub struct Queue {
    key: SessionKey,
    session: SessionId,
    node: Node,
    seq: u64,
    chain: Hash,
    /// Of a session that follows another; told in each of its batches, as calls that began before name it.
    former: Option<Former>,
    /// Whether the collector acknowledged anything of the session.
    known: bool,
    /// What was dropped before the session began.
    before: Drops,
    open: Open,
    /// Room for one record.
    record: Vec<u8>,
    sealed: VecDeque<Sealed>,
    sealed_bytes: usize,
    counts: Counts,
    /// Most bytes of a batch besides its entries and records.
    overhead: usize,
}

/// Those that are of the same length in each (session, counters, times, chain values, key, signature, tags),
/// notices, and a former session.
const FIXED_OVERHEAD: usize = 3 << 10;

impl Queue {
    /// An empty session.
    pub fn new(key: SessionKey, node: Node) -> Self {
        let names = [&node.mesh, &node.cluster, &node.namespace, &node.workload, &node.pod];
        let names = names.into_iter().chain([&node.revision]);
        Self {
            overhead: FIXED_OVERHEAD + names.map(|name| name.len()).sum::<usize>(),
            session: key.id(),
            key,
            node,
            seq: 0,
            chain: CHAIN_START,
            former: None,
            known: false,
            before: Default::default(),
            open: Open::default(),
            record: Vec::new(),
            sealed: VecDeque::new(),
            sealed_bytes: 0,
            counts: Counts::default(),
        }
    }

    /// The session's id.
    pub fn session(&self) -> SessionId {
        self.session
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
        self.sealed_bytes + self.open.bytes()
    }

    /// Number of calls in the open batch.
    pub fn open_calls(&self) -> u32 {
        self.open.calls.count()
    }

    /// Whether nothing waits to be sent.
    pub fn is_idle(&self) -> bool {
        self.sealed.is_empty()
    }

    /// Takes in a call, or counts it as dropped where the queue is full: the oldest calls are kept. With
    /// `records` its record goes along; all of a batch have theirs, or none.
    pub fn push(
        &mut self,
        hop: &HopPart<'_>,
        own: &OwnPart<'_>,
        privacy: PathPrivacy,
        records: bool,
        queue_bytes: usize,
    ) {
        let open = &self.open.calls;
        if !open.entries.is_empty() && open.records.is_empty() == records {
            self.seal(own.start_ns, &[]);
        }
        let held = self.bytes() + self.overhead + ENTRY_LEN;
        let open = &mut self.open;
        let before = open.calls.records.len();
        let parts = open.pending.add(hop, own);
        if records {
            self.record.clear();
            put_record(&mut self.record, hop, parts, privacy);
            put_bytes(&mut open.calls.records, RECORDS, &self.record);
        }
        if held + (open.calls.records.len() - before) > queue_bytes {
            open.pending.take_back();
            open.calls.records.truncate(before);
            return self.drop_calls(DropReason::QueueFull, 1);
        }
        let calls = &mut open.calls;
        if calls.entries.is_empty() {
            (calls.first_ns, calls.last_ns) = (own.start_ns, own.start_ns);
        }
        calls.first_ns = calls.first_ns.min(own.start_ns);
        calls.last_ns = calls.last_ns.max(own.start_ns);
        let none = Hash::default();
        let entry = Entry::new(own.side, hop.trace_id, hop.span_id, none, none);
        calls.entries.extend_from_slice(&entry.to_bytes());
        if open.pending.len() == AT_ONCE {
            open.hash();
        }
        self.counts.digests += 1;
        self.counts.records += u64::from(records);
        // Largest records are below 80 KiB, so a batch never reaches what a collector refuses.
        if self.open_calls() >= MAX_ENTRIES || self.open.bytes() >= MAX_BATCH_BYTES {
            self.seal(own.start_ns, &[]);
        }
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
        let empty = self.open.calls.entries.is_empty();
        let kind = if empty { BatchKind::Heartbeat } else { BatchKind::Data };
        let calls = self.open.take();
        self.seal_as(kind, calls, now_ns, notices);
    }

    /// Seals the open batch as the session's last.
    pub fn close(&mut self, now_ns: u64) {
        let calls = self.open.take();
        self.seal_as(BatchKind::Close, calls, now_ns, &[]);
    }

    fn seal_as(&mut self, kind: BatchKind, mut calls: Calls, now_ns: u64, notices: &[String]) {
        if calls.entries.is_empty() {
            (calls.first_ns, calls.last_ns) = (now_ns, now_ns);
        }
        let header = BatchHeader {
            kind,
            source: Source {
                mesh: &self.node.mesh,
                cluster: &self.node.cluster,
                namespace: &self.node.namespace,
                workload: &self.node.workload,
                pod: &self.node.pod,
                revision: &self.node.revision,
                filter: env!("CARGO_PKG_VERSION"),
            },
            session: self.session,
            seq: self.seq,
            count: calls.count(),
            dropped: listed(self.dropped()),
            first_ns: calls.first_ns,
            last_ns: calls.last_ns,
            notices: notices.iter().map(String::as_str).collect(),
            previous: self.former.as_ref().map(|former| Previous {
                session: former.key.id(),
                batches: former.batches,
                dropped: listed(former.dropped),
                public_key: *former.key.public(),
                signature: Signature(former.signature),
            }),
        }
        .encode();
        let chain = chain_of(&self.chain, &header, &calls.digest);
        let mut body = std::mem::take(&mut calls.records);
        let records_len = body.len();
        body.reserve(header.len() + calls.entries.len() + 256);
        put_bytes(&mut body, HEADER, &header);
        put_bytes(&mut body, PREV, &self.chain);
        put_bytes(&mut body, CHAIN, &chain);
        put_bytes(&mut body, ENTRIES, &calls.entries);
        let entries = body.len() - calls.entries.len()..body.len();
        put_bytes(&mut body, PUBLIC_KEY, self.key.public());
        put_bytes(&mut body, SIGNATURE, &self.key.sign(&chain));
        self.chain = chain;
        self.seq += 1;
        self.sealed_bytes += body.len();
        let Calls { digest, first_ns, last_ns, .. } = calls;
        let sealed = Sealed { body, records_len, entries, kind, digest, first_ns, last_ns };
        self.sealed.push_back(sealed);
        self.counts.batches += 1;
    }

    /// What the session has dropped.
    fn dropped(&self) -> Drops {
        let mut dropped = self.counts.dropped;
        dropped.iter_mut().zip(self.before).for_each(|(count, before)| *count -= before);
        dropped
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
            self.known = true;
        }
    }

    /// The collector will never take the oldest sealed batch: its calls are lost and counted, and what comes
    /// after them goes on in the session of `key`.
    pub fn refuse(&mut self, key: SessionKey) {
        if let Some(sealed) = self.pop() {
            self.drop_calls(DropReason::Refused, sealed.count());
        }
        self.renew(key);
    }

    /// Ends the session: all that waits goes on in that of `key`, whose first batch names this one.
    pub fn renew(&mut self, key: SessionKey) {
        let mut dropped = self.dropped();
        self.session = key.id();
        let mut before = std::mem::replace(&mut self.key, key);
        let mut batches = self.seq;
        // Where nothing of the session reached the log, the one before it is named again.
        if let Some(former) = self.former.take().filter(|_| !self.known) {
            (before, batches) = (former.key, former.batches);
            dropped.iter_mut().zip(former.dropped).for_each(|(count, more)| *count += more);
        }
        let signature = before.hand_over(&self.session);
        self.former = Some(Former { key: before, batches, dropped, signature });
        self.before = self.counts.dropped;
        self.counts.ended += 1;
        (self.seq, self.chain, self.known) = (0, CHAIN_START, false);
        self.sealed_bytes = 0;
        for sealed in std::mem::take(&mut self.sealed) {
            let (kind, calls) = sealed.open();
            let now_ns = calls.last_ns;
            self.counts.batches -= 1; // it is sealed again
            self.seal_as(kind, calls, now_ns, &[]);
        }
    }

    fn pop(&mut self) -> Option<Sealed> {
        let sealed = self.sealed.pop_front()?;
        self.sealed_bytes -= sealed.body.len();
        Some(sealed)
    }
}

/// Drop counters as a header has them.
fn listed(drops: Drops) -> Vec<Dropped> {
    let dropped = DropReason::ALL.iter().zip(drops).filter(|(_, count)| *count > 0);
    dropped.map(|(reason, count)| Dropped { reason: *reason as u32, count }).collect()
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
mod tests;
