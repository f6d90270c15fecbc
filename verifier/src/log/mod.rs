//! Whole logs, as a directory or over HTTP: checking all of one, and showing its leaves.

mod blame;
mod edge;
mod files;
mod fsck;
mod heads;
mod leaf;
mod leaves;
mod pool;
mod pool_leaf;
mod pool_names;
mod pools;
mod recompute;
mod report;
mod rows;
mod sealed;
mod segment;
mod segment_columns;
mod segment_index;
mod segments;
mod sessions;
mod signatures;
mod source;
mod state;
mod stored;
mod text;

pub use fsck::{LogKey, fsck};
pub use leaf::{DropsShown, LeafShown, LogView, PreviousShown, ViewError};
pub use report::{Damage, FSCK_FORMAT, FsckReport, FsckVerdict, Gap, OddBatch, SignatureCheck};
pub use source::{Directory, HttpLog, Item, LogSource, SourceError};
pub use text::{leaf_line, render_fsck, render_leaf};
