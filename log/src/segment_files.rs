//! The Parquet files of a segment in the making. Each begins with its first row, so that a segment
//! without entries or records has no such file.

use crate::segment::file_error;
use crate::upload::Upload;
use meshchain_core::{BatchHeader, BatchLeaf};
use meshchain_store::{Store, StoreError};
use meshchain_stored::entries::EntriesWriter;
use meshchain_stored::records::RecordsWriter;
use meshchain_stored::{FileError, SegmentFile, SegmentName, staging};
use std::ops::Range;
use tokio::runtime::Handle;

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
        Upload::begin(&self.store, &self.runtime, self.name.path(part))
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
