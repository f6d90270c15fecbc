//! Reading sealed segments: a few ranges of their objects, never a whole one.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use meshchain_store::{Store, StoreError, wait};
use meshchain_stored::entries::EntriesFile;
use meshchain_stored::records::RecordsFile;
use meshchain_stored::{FileError, Layout, RowRange, SegmentFile, SegmentName};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use std::collections::VecDeque;
use std::io::Cursor;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// One entry: its leaf, and its index within the leaf's batch.
pub type EntryPlace = (u64, u32);

/// Segments that are asked for a trace at the same time.
const LOOKUPS: usize = 16;
/// Batches that are read at the same time.
const READERS: usize = 16;
/// Open files that are kept: each holds its footer, some 100 kB.
const OPEN_FILES: usize = 16;

/// One segment: what its index says, and the lengths of its files.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// Its leaves.
    pub name: SegmentName,
    /// Header of its index.
    pub layout: Layout,
    /// Length of the entries file; `None` where there are no entries.
    pub entries_len: Option<u64>,
    /// Length of the records file; `None` where there are none (any more).
    pub records_len: Option<u64>,
}

impl Sealed {
    /// Reads the header of an index of `len` bytes.
    pub async fn load(store: &Store, name: SegmentName, len: u64) -> Result<Layout, StoreError> {
        let path = name.path(SegmentFile::Index);
        let header = store.get_range(&path, 0..Layout::LEN.min(len)).await?;
        let layout = Layout::parse(&header, len).map_err(|e| StoreError::damaged(&path, e))?;
        if layout.name() != name {
            return Err(StoreError::damaged(&path, "of another segment than its name says"));
        }
        Ok(layout)
    }

    async fn index(&self, store: &Store, range: std::ops::Range<u64>) -> Result<Bytes, StoreError> {
        store.get_range(&self.name.path(SegmentFile::Index), range).await
    }

    fn damaged(&self, fault: impl ToString) -> StoreError {
        StoreError::damaged(&self.name.path(SegmentFile::Index), fault)
    }

    /// Rows and records of a leaf.
    pub async fn place(&self, store: &Store, leaf: u64) -> Result<RowRange, StoreError> {
        let at = self.layout.leaf_at(leaf).ok_or_else(|| self.damaged("leaf of another one"))?;
        let bytes = self.index(store, at).await?;
        self.layout.leaf(&bytes).map_err(|e| self.damaged(e))
    }

    /// Rows and records of consecutive leaves.
    pub async fn places(
        &self,
        store: &Store,
        leaves: Range<u64>,
    ) -> Result<Vec<RowRange>, StoreError> {
        let foreign = || self.damaged("leaf of another one");
        let at = |leaf| self.layout.leaf_at(leaf).ok_or_else(foreign);
        let Some(last) = leaves.clone().last() else { return Ok(Vec::new()) };
        let begin = at(leaves.start)?.start;
        let bytes = self.index(store, begin..at(last)?.end).await?;
        let place = |leaf| {
            let at = at(leaf)?;
            let range = (at.start - begin) as usize..(at.end - begin) as usize;
            let bytes = bytes.get(range).ok_or_else(|| self.damaged("its index ends early"))?;
            self.layout.leaf(bytes).map_err(|e| self.damaged(e))
        };
        leaves.map(place).collect()
    }

    /// Entries that may be of a trace, in log order, behind `after`; `most` at most and one more.
    async fn trace(
        &self,
        store: &Store,
        trace_id: &[u8; 16],
        after: Option<EntryPlace>,
        most: usize,
    ) -> Result<Vec<EntryPlace>, StoreError> {
        let Some(block) = self.layout.bloom_block_at(trace_id) else {
            return Ok(Vec::new());
        };
        if !self.layout.may_hold(trace_id, &self.index(store, block).await?) {
            return Ok(Vec::new());
        }
        let bounds = self.index(store, self.layout.bucket_at(trace_id)).await?;
        let bucket = self.layout.bucket(trace_id, &bounds).map_err(|e| self.damaged(e))?;
        let items = self.index(store, bucket.items.clone()).await?;
        let rows = bucket.rows(&items);
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let starts = self.index(store, self.layout.leaves_at()).await?;
        let mut places = self.layout.places(&starts, &rows);
        places.retain(|place| after.is_none_or(|after| *place > after));
        places.truncate(most + 1);
        Ok(places)
    }

    /// Where a session's batch can be, given that it is in no later segment.
    pub async fn session_batch(
        &self,
        store: &Store,
        session: &[u8; 16],
        seq: u64,
    ) -> Result<SessionBatch, StoreError> {
        let table = self.index(store, self.layout.sessions_table_at()).await?;
        match self.layout.session(&table, session) {
            Some(run) if seq > run.last_seq => Ok(SessionBatch::Nowhere),
            Some(run) if seq >= run.first_seq => {
                let bytes = self.index(store, self.layout.run_at(&run)).await?;
                Ok(SessionBatch::Among(self.layout.run(&bytes)))
            }
            _ => Ok(SessionBatch::Before),
        }
    }
}

/// Where a session's batch can be.
pub enum SessionBatch {
    /// In an earlier segment.
    Before,
    /// One of these leaves, ascending.
    Among(Vec<u64>),
    /// The session skipped it.
    Nowhere,
}

/// Entries that may be of a trace, over all segments, in log order, behind `after`; `most` at most and some more.
pub async fn trace(
    store: &Store,
    segments: &[Arc<Sealed>],
    trace_id: &[u8; 16],
    after: Option<EntryPlace>,
    most: usize,
) -> Result<Vec<EntryPlace>, StoreError> {
    // Made before they run: a closure in the stream would be tied to one lifetime.
    let behind = segments.partition_point(|s| after.is_some_and(|after| s.layout.end() <= after.0));
    let reach = segments.get(behind..).unwrap_or_default().iter();
    let lookups: Vec<_> =
        reach.map(|segment| segment.trace(store, trace_id, after, most)).collect();
    stream::iter(lookups)
        .buffered(LOOKUPS)
        .try_fold(Vec::new(), async |mut places, found| {
            // What is beyond the most is not kept, but enough to tell that there is more.
            if places.len() <= most {
                places.extend(found);
            }
            Ok(places)
        })
        .await
}

/// Open Parquet files of segments, the ones last used.
pub struct Files {
    store: Store,
    entries: Open<EntriesFile<Object>>,
    records: Open<RecordsFile<Object>>,
    /// Reading takes a thread that waits for another one: both come from the same pool.
    readers: Semaphore,
}

/// (segment, its open file), the last used at the back.
type Open<F> = Mutex<VecDeque<(SegmentName, Arc<F>)>>;

impl Files {
    /// Files of the segments in `store`.
    pub fn new(store: Store) -> Self {
        let readers = Semaphore::new(READERS);
        Self { store, entries: Mutex::default(), records: Mutex::default(), readers }
    }

    /// The entries and records of some rows of a segment.
    pub async fn read(
        self: &Arc<Self>,
        sealed: Arc<Sealed>,
        place: RowRange,
    ) -> Result<(Vec<u8>, Vec<Vec<u8>>), StoreError> {
        let _permit = self.readers.acquire().await;
        let (this, runtime) = (self.clone(), Handle::current());
        let read = tokio::task::spawn_blocking(move || this.read_blocking(&sealed, place, runtime));
        read.await.unwrap_or_else(|e| Err(StoreError::damaged("segment", e)))
    }

    fn read_blocking(
        &self,
        sealed: &Sealed,
        place: RowRange,
        runtime: Handle,
    ) -> Result<(Vec<u8>, Vec<Vec<u8>>), StoreError> {
        let object = |part, len| Object {
            store: self.store.clone(),
            name: sealed.name.path(part),
            len,
            runtime: runtime.clone(),
        };
        let damaged = |part| {
            let path = sealed.name.path(part);
            move |fault: FileError| file_error(&path, fault)
        };
        let entries = match sealed.entries_len.filter(|_| !place.rows.is_empty()) {
            Some(len) => {
                let open = || EntriesFile::open(object(SegmentFile::Entries, len));
                let file = opened(&self.entries, sealed.name, open);
                file.and_then(|f| f.read(place.rows)).map_err(damaged(SegmentFile::Entries))?
            }
            None => Vec::new(),
        };
        let records = match sealed.records_len.filter(|_| !place.records.is_empty()) {
            Some(len) => {
                let open = || RecordsFile::open(object(SegmentFile::Records, len));
                let file = opened(&self.records, sealed.name, open);
                file.and_then(|f| f.read(place.records)).map_err(damaged(SegmentFile::Records))?
            }
            None => Vec::new(),
        };
        Ok((entries, records))
    }
}

/// What a Parquet file failed at: the storage below it, or its content.
pub fn file_error(path: &str, error: FileError) -> StoreError {
    match error {
        FileError::Parquet(ParquetError::External(cause)) => match cause.downcast::<StoreError>() {
            Ok(error) => *error,
            Err(cause) => match cause.downcast::<std::io::Error>().map(|e| e.downcast()) {
                Ok(Ok(error)) => error,
                Ok(Err(cause)) => StoreError::damaged(path, cause),
                Err(cause) => StoreError::damaged(path, cause),
            },
        },
        other => StoreError::damaged(path, other),
    }
}

fn opened<F>(
    files: &Open<F>,
    name: SegmentName,
    open: impl FnOnce() -> Result<F, FileError>,
) -> Result<Arc<F>, FileError> {
    let lock = || files.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = {
        let mut files = lock();
        let at = files.iter().position(|(of, _)| *of == name);
        at.and_then(|at| files.remove(at))
    };
    let (_, file) = match kept {
        Some(kept) => kept,
        None => (name, Arc::new(open()?)),
    };
    let mut files = lock();
    if files.len() == OPEN_FILES {
        files.pop_front();
    }
    files.push_back((name, file.clone()));
    Ok(file)
}

/// An object as the Parquet reader wants it. Only for threads that may block.
struct Object {
    store: Store,
    name: String,
    len: u64,
    runtime: Handle,
}

impl Length for Object {
    fn len(&self) -> u64 {
        self.len
    }
}

impl ChunkReader for Object {
    type T = Cursor<Bytes>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        let length = usize::try_from(self.len.saturating_sub(start)).unwrap_or(usize::MAX);
        self.get_bytes(start, length).map(Cursor::new)
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        let range = start..start.saturating_add(length as u64);
        let (store, name) = (self.store.clone(), self.name.clone());
        let read = wait(&self.runtime, async move { store.get_range(&name, range).await });
        let bytes = read.map_err(|e| ParquetError::External(Box::new(e)))?;
        if bytes.len() == length {
            Ok(bytes)
        } else {
            Err(ParquetError::EOF(format!("{} ends early", self.name)))
        }
    }
}
