//! The Parquet files of a segment in the making. Each begins with its first row, so that a segment
//! without entries or records has no such file.

use super::pool;
use super::sealed::file_error;
use crate::store::{Store, StoreError, error};
use meshchain_core::{BatchHeader, BatchLeaf};
use meshchain_segment::entries::EntriesWriter;
use meshchain_segment::records::RecordsWriter;
use meshchain_segment::{FileError, Part, SegmentName};
use object_store::{MultipartUpload, PutPayload};
use std::io::{self, Write};
use tokio::runtime::Handle;

/// Bytes of an upload that are sent at once; S3 wants at least 5 MiB.
const PART_BYTES: usize = 8 << 20;

/// Both files. Only for threads that may block.
pub struct SegmentFiles {
    store: Store,
    handle: Handle,
    name: SegmentName,
    entries: Option<EntriesWriter<Upload>>,
    records: Option<RecordsWriter<Upload>>,
}

impl SegmentFiles {
    /// The files of segment `name`.
    pub fn new(store: Store, handle: Handle, name: SegmentName) -> Self {
        Self { store, handle, name, entries: None, records: None }
    }

    fn damaged(&self, part: Part) -> impl Fn(FileError) -> StoreError + use<> {
        let path = self.name.path(part);
        move |fault| file_error(&path, fault)
    }

    fn upload(&self, part: Part) -> Result<Upload, StoreError> {
        let (name, handle) = (self.name.path(part), self.handle.clone());
        let parts = handle.block_on(self.store.upload(&name))?;
        Ok(Upload { name, parts, handle, waiting: Vec::new(), sent: 0, completed: false })
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
        let damaged = self.damaged(Part::Entries);
        if self.entries.is_none() {
            let upload = self.upload(Part::Entries)?;
            self.entries = Some(EntriesWriter::new(upload).map_err(&damaged)?);
        }
        let pushed = self.entries.as_mut().map(|writer| writer.push(at, leaf, header, entries));
        pushed.transpose().map(drop).map_err(damaged)
    }

    /// Appends the records of leaf `at`, each behind its length; their number.
    pub fn records(
        &mut self,
        at: u64,
        header: &BatchHeader<'_>,
        records: &[u8],
    ) -> Result<u32, StoreError> {
        let damaged = self.damaged(Part::Records);
        let mut count = 0;
        for record in pool::records(records) {
            if self.records.is_none() {
                let upload = self.upload(Part::Records)?;
                self.records = Some(RecordsWriter::new(upload).map_err(&damaged)?);
            }
            let pushed = self.records.as_mut().map(|w| w.push(at, count, header, record));
            pushed.transpose().map_err(&damaged)?;
            count += 1;
        }
        Ok(count)
    }

    /// Makes the objects; their lengths.
    pub fn finish(mut self) -> Result<(Option<u64>, Option<u64>), StoreError> {
        let entries = self.entries.take().map(EntriesWriter::finish).transpose();
        let entries = entries.map_err(self.damaged(Part::Entries))?;
        let records = self.records.take().map(RecordsWriter::finish).transpose();
        let records = records.map_err(self.damaged(Part::Records))?;
        let complete = |upload: Option<Upload>| upload.map(Upload::complete).transpose();
        Ok((complete(entries)?, complete(records)?))
    }
}

/// Writes an object part by part. Where it is dropped before it is complete, nothing is left of it.
struct Upload {
    name: String,
    parts: Box<dyn MultipartUpload>,
    handle: Handle,
    waiting: Vec<u8>,
    sent: u64,
    completed: bool,
}

impl Upload {
    fn send(&mut self) -> Result<(), StoreError> {
        let part = std::mem::take(&mut self.waiting);
        self.sent += part.len() as u64;
        let put = self.parts.put_part(PutPayload::from(part));
        self.handle.block_on(put).map_err(error("write", &self.name))
    }

    /// Makes the object; its length.
    fn complete(mut self) -> Result<u64, StoreError> {
        if !self.waiting.is_empty() {
            self.send()?;
        }
        let completed = self.handle.block_on(self.parts.complete());
        completed.map_err(error("write", &self.name))?;
        self.completed = true;
        Ok(self.sent)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.completed
            && let Err(error) = self.handle.block_on(self.parts.abort())
        {
            log::warn!("parts of {} are left in the bucket: {error}", self.name);
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
