//! Sealed segments: runs of leaves whose entries and records left the staging bundles for Parquet
//! files that any analytics engine reads, in log order, with an index beside them that finds a trace
//! and a session's batch. `docs/storage.md`, "Segments", has the columns and draws the index.
//!
//! ```text
//! segment/FIRST-END-SEED.entries.parquet    a row per entry
//! segment/FIRST-END-SEED.records.parquet    a row per record, where records came along and are kept yet
//! segment/FIRST-END-SEED.index              finds rows by trace id and leaves by session
//! ```

mod build;
mod columns;
pub mod entries;
mod index;
mod name;
pub mod records;

pub(crate) use build::bloom;
pub use build::{IndexBuilder, MAX_ROWS};
pub use columns::FileError;
pub(crate) use index::probes;
pub use index::{Bucket, IndexError, Layout, RowRange, SessionRun, trace_key};
pub use name::{NameError, SegmentFile, SegmentName};
