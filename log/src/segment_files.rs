//! The Parquet files of a segment in the making. Each begins with its first row, so that a segment
//! without entries or records has no such file.

use crate::segment::file_error;
use meshchain_core::{BatchHeader, BatchLeaf};
use meshchain_store::{Store, StoreError, wait};
use meshchain_stored::entries::EntriesWriter;
use meshchain_stored::records::RecordsWriter;
use meshchain_stored::{FileError, SegmentFile, SegmentName, staging};
use std::io::{self, Write};
use std::ops::Range;
use tokio::runtime::Handle;

/// Bytes of an upload that are sent at once.
const PART_BYTES: usize = 8 << 20;

/// Both files. Only for threads that may block.
pub struct SegmentFiles {
    store: Store,
    runtime: Handle,
    name: SegmentName,
    entries: Option<EntriesWriter<Upload>>,
    records: Option<RecordsWriter<Upload>>,
}

impl SegmentFiles {
    /// The files of segment `name`.
    pub fn new(store: Store, runtime: Handle, name: SegmentName) -> Self {
        Self { store, runtime, name, entries: None, records: None }
    }

    fn damaged(&self, part: SegmentFile) -> impl Fn(FileError) -> StoreError + use<> {
        let path = self.name.path(part);
        move |fault| file_error(&path, fault)
    }

    fn upload(&self, part: SegmentFile) -> Result<Upload, StoreError> {
        let (name, store) = (self.name.path(part), self.store.clone());
        let of = name.clone();
        let parts = wait(&self.runtime, async move { store.upload(&of).await })?;
        let runtime = self.runtime.clone();
        Ok(Upload { name, parts: Some(parts), runtime, waiting: Vec::new(), sent: 0 })
    }

    /// Appends the entries of leaf `at`.
    pub fn entries(
        &mut self,
        at: u64,
        leaf: &BatchLeaf<'_>,
        header: &BatchHeader<'_>,
        entries: &[u8],
    ) -> Result<(), StoreError> {
        if entries.is_empty() {
            return Ok(());
        }
        let damaged = self.damaged(SegmentFile::Entries);
        if self.entries.is_none() {
            let upload = self.upload(SegmentFile::Entries)?;
            self.entries = Some(EntriesWriter::new(upload).map_err(&damaged)?);
        }
        let pushed = self.entries.as_mut().map(|writer| writer.push(at, leaf, header, entries));
        pushed.transpose().map(drop).map_err(damaged)
    }

    /// Appends the records of leaf `at`, which lie in these bytes of a bundle; their number.
    pub fn records(
        &mut self,
        at: u64,
        header: &BatchHeader<'_>,
        bundle: &[u8],
        within: Range<usize>,
    ) -> Result<u32, StoreError> {
        let damaged = self.damaged(SegmentFile::Records);
        let mut count = 0;
        for record in staging::records(bundle, within).map_while(Result::ok) {
            if self.records.is_none() {
                let upload = self.upload(SegmentFile::Records)?;
                self.records = Some(RecordsWriter::new(upload).map_err(&damaged)?);
            }
            let pushed =
                self.records.as_mut().map(|w| w.push(at, count, header, &bundle[record.clone()]));
            pushed.transpose().map_err(&damaged)?;
            count += 1;
        }
        Ok(count)
    }

    /// Makes the objects; their lengths.
    pub fn finish(mut self) -> Result<(Option<u64>, Option<u64>), StoreError> {
        let entries = self.entries.take().map(EntriesWriter::finish).transpose();
        let entries = entries.map_err(self.damaged(SegmentFile::Entries))?;
        let records = self.records.take().map(RecordsWriter::finish).transpose();
        let records = records.map_err(self.damaged(SegmentFile::Records))?;
        let complete = |upload: Option<Upload>| upload.map(Upload::complete).transpose();
        Ok((complete(entries)?, complete(records)?))
    }
}

/// Writes an object part by part. Where it is dropped before it is complete, nothing is left of it.
struct Upload {
    name: String,
    /// Taken while a part is written, and for good by its end.
    parts: Option<meshchain_store::Upload>,
    runtime: Handle,
    waiting: Vec<u8>,
    sent: u64,
}

impl Upload {
    fn send(&mut self) -> Result<(), StoreError> {
        let mut parts = self.parts.take().ok_or_else(|| StoreError::missing(&self.name))?;
        let part = std::mem::take(&mut self.waiting);
        self.sent += part.len() as u64;
        let (parts, put) = wait(&self.runtime, async move {
            let put = parts.put(part).await;
            Ok((parts, put))
        })?;
        self.parts = Some(parts);
        put
    }

    /// Makes the object; its length.
    fn complete(mut self) -> Result<u64, StoreError> {
        if !self.waiting.is_empty() {
            self.send()?;
        }
        let parts = self.parts.take().ok_or_else(|| StoreError::missing(&self.name))?;
        wait(&self.runtime, parts.complete())?;
        Ok(self.sent)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(parts) = self.parts.take()
            && let Err(error) = wait(&self.runtime, parts.call_off())
        {
            log::warn!("parts of {} are left: {error}", self.name);
        }
    }
}

impl Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() >= PART_BYTES {
            self.send().map_err(io::Error::other)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
