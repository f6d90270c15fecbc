//! Logs grown as a collector grows them: pools, head, tiles, bundles, checkpoint.

use meshchain_core::hop::{Room, Seen};
use meshchain_core::leaf::{CHAIN_START, Signature, chain_hash, entry_hashes};
use meshchain_core::tile::{EdgeTiles, TileKind, TileName, put_entry};
use meshchain_core::{
    BatchHeader, BatchLeaf, Canonical, Checkpoint, Entry, Hash, HopPart, OwnPart, SessionKey, Side,
    SigningKey, Source, SpanId, SpanRecord, TraceId, TreeHead, hash, merkle, own,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub(crate) const ORIGIN: &str = "grown.example/meshchain";
/// Sessions that take turns.
const SESSIONS: u64 = 3;

/// One batch: leaf, entries, records each behind its length.
#[derive(Clone)]
pub(crate) struct Batch {
    pub(crate) leaf: Vec<u8>,
    pub(crate) entries: Vec<u8>,
    pub(crate) records: Vec<u8>,
}

/// A log in a folder of its own.
pub(crate) struct Grown {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) key: SigningKey,
    pub(crate) batches: Vec<Batch>,
    /// First leaves of the pools.
    pub(crate) pools: Vec<u64>,
    /// Chain value and next seq of each session.
    sessions: BTreeMap<u64, (Hash, u64)>,
    edge: EdgeTiles,
    bundle: Vec<u8>,
}

impl Grown {
    /// A log of `size` leaves, committed `per_commit` at a time.
    pub(crate) fn new(size: u64, per_commit: u64) -> Self {
        let mut log = Self {
            folder: tempfile::tempdir().unwrap(),
            key: SigningKey::from_seed(ORIGIN, &[3; 32]).unwrap(),
            batches: Vec::new(),
            pools: Vec::new(),
            sessions: BTreeMap::new(),
            edge: EdgeTiles::default(),
            bundle: Vec::new(),
        };
        log.write("key", b"secret");
        log.write("lock", b"");
        log.write("audit.jsonl", b"");
        log.publish();
        while log.size() < size {
            let count = per_commit.min(size - log.size());
            log.commit(count);
            log.publish();
        }
        log
    }

    pub(crate) fn size(&self) -> u64 {
        self.batches.len() as u64
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    pub(crate) fn write(&self, file: &str, bytes: &[u8]) {
        let path = self.path(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    pub(crate) fn read(&self, file: &str) -> Vec<u8> {
        std::fs::read(self.path(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
    }

    pub(crate) fn vkey(&self) -> String {
        self.key.verifier().to_string()
    }

    /// Makes the next `count` batches durable: pool and head. Session 2 jumps over every other seq.
    pub(crate) fn commit(&mut self, count: u64) {
        let batches: Vec<Batch> = (0..count).map(|n| self.next(self.size() + n)).collect();
        self.commit_batches(batches);
    }

    pub(crate) fn commit_batches(&mut self, batches: Vec<Batch>) {
        let first = self.size();
        let bytes = pool(&batches);
        self.write(&pool_name(first, &bytes), &bytes);
        self.pools.push(first);
        self.batches.extend(batches);
        let hashes: Vec<Hash> = self.batches.iter().map(|b| merkle::leaf_hash(&b.leaf)).collect();
        let head = TreeHead { size: self.size(), root: merkle::root(&hashes) };
        let note = Checkpoint::sign_extended(&head, "writer 0123456789abcdef\n", &self.key);
        self.write("head", note.as_bytes());
    }

    /// Name of the pool that begins at a leaf.
    pub(crate) fn pool_file(&self, first: u64) -> String {
        let prefix = format!("pool/{first:020}-");
        let found = files(self.folder.path()).into_iter().find(|file| file.starts_with(&prefix));
        found.unwrap_or_else(|| panic!("no {prefix}"))
    }

    /// Writes tiles and bundles, then the checkpoint; deletes partial tiles that became full.
    pub(crate) fn publish(&mut self) {
        let mut objects: Vec<(TileName, Vec<u8>)> = Vec::new();
        for batch in &self.batches[self.edge.size() as usize..] {
            put_entry(&mut self.bundle, &batch.leaf);
            self.edge.append(merkle::leaf_hash(&batch.leaf), |level, index, hashes| {
                let name = TileName { kind: TileKind::Hashes(level), index, width: 256 };
                objects.push((name, hashes.as_flattened().to_vec()));
            });
            if self.edge.size().is_multiple_of(256) {
                let index = self.edge.size() / 256 - 1;
                let name = TileName { kind: TileKind::Entries, index, width: 256 };
                objects.push((name, std::mem::take(&mut self.bundle)));
            }
        }
        for (level, index, hashes) in self.edge.partials() {
            let width = hashes.len() as u16;
            let name = TileName { kind: TileKind::Hashes(level), index, width };
            objects.push((name, hashes.as_flattened().to_vec()));
        }
        if !self.bundle.is_empty() {
            let (index, width) = (self.edge.size() / 256, (self.edge.size() % 256) as u16);
            let name = TileName { kind: TileKind::Entries, index, width };
            objects.push((name, self.bundle.clone()));
        }
        for (name, bytes) in &objects {
            self.write(&name.path(), bytes);
            if name.width == 256 {
                let _ = std::fs::remove_dir_all(self.path(&format!("{}.p", name.path())));
            }
        }
        let head = TreeHead { size: self.edge.size(), root: self.edge.root() };
        let note = Checkpoint::sign(&head, &self.key);
        self.write("checkpoint", note.as_bytes());
        if self.batches.is_empty() {
            self.write("head", note.as_bytes());
        }
    }

    fn next(&mut self, number: u64) -> Batch {
        let session = number % SESSIONS;
        let (prev, seq) = self.sessions.get(&session).copied().unwrap_or((CHAIN_START, 0));
        let batch = batch(session, seq, prev, number, "reviews");
        let step = if session == 2 { 2 } else { 1 };
        let chain = BatchLeaf::decode(&batch.leaf).unwrap().chain;
        self.sessions.insert(session, (chain, seq + step));
        batch
    }
}

/// Key of a session.
pub(crate) fn session_key(session: u64) -> SessionKey {
    let mut seed = [9; 32];
    seed[..8].copy_from_slice(&session.to_be_bytes());
    SessionKey::from_seed(seed)
}

/// A batch of two entries with their records; every fifth is a heartbeat.
pub(crate) fn batch(session: u64, seq: u64, prev: Hash, number: u64, workload: &str) -> Batch {
    let (mut entries, mut records) = (Vec::new(), Vec::new());
    let count = if number % 5 == 4 { 0 } else { 2 };
    for side in [Side::Client, Side::Server].into_iter().take(count) {
        let mut trace = [7; 16];
        trace[..8].copy_from_slice(&number.to_be_bytes());
        let seen = Seen {
            request_id: b"request",
            method: b"GET",
            authority: b"reviews:9080",
            target: b"/reviews/0",
        };
        let (span, mut room) = (SpanId::new([1 + side as u8; 8]), Room::default());
        let hop = HopPart::capture(TraceId::new(trace), span, &seen, 200, &mut room);
        let own = OwnPart {
            side,
            start_ns: 1_800_000_000_000_000_000,
            salt: [side as u8; 16],
            ..Default::default()
        };
        let (hop_bytes, own_bytes) = (hop.encode(), own.encode());
        let digest = own::span_digest(&hop.digest(), &own_bytes);
        let entry = Entry::new(side, hop.trace_id, hop.span_id, hop.digest(), digest);
        entries.extend_from_slice(&entry.to_bytes());
        let record = SpanRecord { hop: &hop_bytes, own: &own_bytes, ..Default::default() }.encode();
        records.extend_from_slice(&(record.len() as u32).to_be_bytes());
        records.extend_from_slice(&record);
    }
    let key = session_key(session);
    let source = Source { cluster: "east", namespace: "shop", workload, ..Default::default() };
    let header = BatchHeader {
        kind: match count {
            0 => meshchain_core::BatchKind::Heartbeat,
            _ => meshchain_core::BatchKind::Data,
        },
        source,
        session: key.id(),
        seq,
        count: count as u32,
        first_ns: 1_800_000_000_000_000_000,
        last_ns: 1_800_000_000_000_000_000,
        ..Default::default()
    };
    let header = header.encode();
    let chain = chain_hash(&prev, &header, &entries);
    let leaf = BatchLeaf {
        header: &header,
        prev,
        chain,
        entries_root: merkle::root(&entry_hashes(&entries)),
        principal: b"spiffe://grown.example/ns/shop/sa/reviews",
        received_ns: 1_800_000_001_000_000_000,
        public_key: *key.public(),
        signature: Signature(key.sign(&chain)),
    };
    Batch { leaf: leaf.encode(), entries, records }
}

/// Name of a pool of these bytes.
pub(crate) fn pool_name(first: u64, bytes: &[u8]) -> String {
    format!("pool/{first:020}-{}", hex::encode(&bytes[bytes.len() - 32..][..8]))
}

/// A pool's bytes.
pub(crate) fn pool(batches: &[Batch]) -> Vec<u8> {
    let mut bytes = b"meshchain-pool/1".to_vec();
    for Batch { leaf, entries, records } in batches {
        for part in [leaf, entries, records] {
            bytes.extend_from_slice(&(part.len() as u32).to_be_bytes());
        }
        for part in [leaf, entries, records] {
            bytes.extend_from_slice(part);
        }
    }
    seal(bytes)
}

/// Puts the right sum behind a pool's content.
pub(crate) fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = hash::tagged(&[], &[&bytes]);
    bytes.extend_from_slice(&sum);
    bytes
}

/// All files of a folder, below it.
pub(crate) fn files(folder: &Path) -> Vec<String> {
    fn walk(folder: &Path, below: &str, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{below}{}", entry.file_name().into_string().unwrap());
            match entry.file_type().unwrap().is_dir() {
                true => walk(&entry.path(), &format!("{name}/"), found),
                false => found.push(name),
            }
        }
    }
    let mut found = Vec::new();
    walk(folder, "", &mut found);
    found.sort();
    found
}
