//! Whole logs, as a directory or over HTTP: checking all of one, and showing its leaves.

mod batch_leaf;
mod blame;
mod check;
mod edge;
mod files;
mod findings;
mod fsck;
mod heads;
mod log_key;
mod recompute;
mod render;
mod rows;
mod sealed_state;
mod segment;
mod segment_columns;
mod segment_index;
mod segments;
mod sessions;
mod signatures;
mod source;
mod staged_leaf;
mod staging;
mod staging_bundle;
mod staging_names;
mod tiles;
mod view;

pub use findings::{Damage, FSCK_FORMAT, FsckReport, FsckVerdict, Gap, OddBatch, SignatureCheck};
pub use fsck::fsck;
pub use log_key::LogKey;
pub use render::{leaf_line, render_fsck, render_leaf};
pub use source::{Directory, HttpLog, Item, LogSource, SourceError};
pub use view::{DropsShown, LeafShown, LogView, PreviousShown, ViewError};
