//! The log: one writer that makes batches durable and publishes checkpoints over them.
//!
//! What is durable when, and what a crash leaves:
//! 1. the staging bundle (`pool/N-HASH`) is written: a crash now leaves a bundle that no head speaks
//!    of, which later starts pass over; the batches were not acknowledged;
//! 2. the head (`head`, a signed checkpoint) is replaced: the commit point;
//! 3. the batches are acknowledged;
//! 4. tiles and entry bundles are written: a crash leaves some out, and the next start writes them
//!    by the same code;
//! 5. the checkpoint (`checkpoint`) is replaced: the tree is published.
//!
//! Beside that, published bundles are sealed: their entries and records written as a segment
//! (`segment/N-M-SEED.*`) and where their sessions stand as a table (`sessions/N-M-SEED`), then `sealed` replaced, the
//! commit point; then the bundles are deleted, and the tables that are part of the new one. A crash leaves a segment
//! or a table that `sealed` does not speak of, which the next start deletes, or bundles that it does speak of, which
//! the next start deletes too.
//!
//! What happens is told as [`Event`]s; who runs the log makes audit lines and metrics of them. Each step is
//! in the log at level debug.

mod answers;
mod batch;
mod build;
mod build_table;
mod catalog;
mod clock;
#[cfg(test)]
mod commit_tests;
mod edge;
mod entries;
mod error;
mod event;
#[cfg(test)]
mod fault_tests;
mod growth;
mod intake;
mod judge;
mod lacking;
mod lag;
mod log;
mod misfit;
mod open;
mod owned;
mod past;
mod read;
mod rebuild;
mod recall;
mod replay;
mod retain;
mod seal;
mod segment;
mod segment_files;
#[cfg(test)]
mod session_tests;
mod sessions;
mod signatures;
mod submission;
mod table;
mod tiles;
mod tree;
mod upload;
mod writer;

pub use batch::Checked;
pub use catalog::SealAt;
pub use error::OpenError;
pub use event::{Event, Events};
pub use growth::{Barred, Witness};
pub use log::Log;
pub use misfit::{MAX_JUMP, Misfit};
pub use open::open;
pub use owned::{is_there, origin};
pub use read::Batch;
pub use recall::Listed;
pub use retain::delete_old_records;
pub use seal::Sealer;
pub use segment::EntryPlace;
pub use submission::{Accepted, Submission, SubmitError};
pub use writer::{Fatal, Writer, run};
