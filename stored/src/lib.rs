//! The formats in which a log is stored, each written and parsed in one place, by the collector that keeps the
//! log and by the verifier that checks it. Pure: bytes in, bytes out; who reads and writes them is
//! elsewhere. `docs/storage.md` says what lies where.

pub mod anchor;
pub mod audit_leaf;
pub mod audit_line;
pub mod committed;
pub mod sealed;
pub mod segment;
mod session;
pub mod staging;
mod table;

pub use segment::{
    Bucket, FileError, IndexBuilder, IndexError, Layout, MAX_ROWS, NameError, RowRange,
    SegmentFile, SegmentName, SessionRun, entries, records, trace_key,
};
pub use session::{Drops, Followed, Former, Oddity, Session, Step};
pub use table::{
    Block, Row, TableError, TableIndex, TableLayout, TableWriter, covered, heard, parse_table_path,
    table_path,
};
