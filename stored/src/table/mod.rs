//! Session tables: what each session of a run of sealed leaves had in the log at the end of the run. So a
//! session that ended needs no memory. `docs/storage.md`, "Session tables", draws one.
//!
//! ```text
//! blocks   every 128 sessions, by id:
//!            states  per session: its members, JSON
//!            rows    per session { id 16 B, heard u64, end of its state u32, sum 8 B }
//! fences   per block { first id 16 B, end of the block u64, newest u64, sum of its rows 16 B }
//! bloom    bloom blocks x 64 B
//! footer   "meshchain-table1" | first leaf u64 | end u64 | seed u64 | bytes of the blocks u64
//!          sessions u32 | bloom blocks u32                                           56 B
//! SHA-256 over fences, bloom and footer                                              32 B
//! ```
//!
//! Numbers are big-endian. `heard` is when the last batch was received, unix nanoseconds; 0 where that was
//! a close. `newest` is the greatest of the block's. The end of a state counts from the block's first byte.
//! Sums are the first bytes of a SHA-256, so that whatever a look-up reads is checked. A session's key in the
//! bloom filter is made of its id and `seed` as that of a trace is in a segment's index.

mod index;
mod layout;
mod merge;
mod write;

pub use index::{Block, Row, TableIndex};
pub use layout::{TableError, TableLayout, parse_table_path, table_path};
pub use merge::covered;
pub use write::{TableWriter, heard};
