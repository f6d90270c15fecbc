//! The check of a whole log under way: what was read so far, and what was found.

use super::edge::Edge;
use super::findings::{Damage, FsckReport};
use super::heads::Heads;
use super::segments::Segments;
use super::served::Served;
use super::sessions::Sessions;
use super::signatures::Signatures;
use super::source::{LogSource, SourceError};
use super::staging::Staging;
use super::tiles::Column;
use super::told::Told;
use meshchain_stored::sealed::SealedState;

/// `sealed`, and what is recomputed to compare it with.
#[derive(Default)]
pub(super) struct SealedCheck {
    /// What it says, where it can be read.
    pub(super) state: Option<SealedState>,
    /// Leaves that it speaks of.
    pub(super) end: u64,
    /// How many of its session tables were compared.
    pub(super) compared: usize,
    /// Some of these leaves are lost.
    pub(super) lost: bool,
}

pub(super) struct Fsck<'a> {
    pub(super) source: &'a dyn LogSource,
    pub(super) heads: Heads,
    pub(super) report: FsckReport,
    pub(super) edge: Edge,
    pub(super) sessions: Sessions,
    pub(super) signatures: Signatures,
    pub(super) told: Told,
    pub(super) served: Served,
    pub(super) segments: Option<Segments<'a>>,
    pub(super) sealed: SealedCheck,
    pub(super) staging: Option<Staging<'a>>,
    /// Level-1 tile that was read last, by index.
    pub(super) above: Option<(u64, Option<Column>)>,
    /// The tree cannot be recomputed from here on: leaves are lost.
    pub(super) doubt: bool,
    pub(super) absent: u64,
    pub(super) unreadable: usize,
    /// Leaves were sealed since the heads were read.
    pub(super) moved: bool,
}

impl<'a> Fsck<'a> {
    pub(super) fn new(source: &'a dyn LogSource, heads: Heads, report: FsckReport) -> Self {
        Self {
            source,
            heads,
            report,
            edge: Edge::default(),
            sessions: Sessions::default(),
            signatures: Signatures::default(),
            told: Told::default(),
            served: Served::default(),
            segments: None,
            sealed: SealedCheck::default(),
            staging: None,
            above: None,
            doubt: false,
            absent: 0,
            unreadable: 0,
            moved: false,
        }
    }

    /// What was read; what could not be is told.
    pub(super) fn keep<T>(&mut self, read: Result<T, SourceError>) -> Option<T> {
        match read {
            Ok(found) => return Some(found),
            Err(SourceError::TooLarge { name, limit }) => self.report.damage(Damage {
                file: name,
                offset: Some(limit),
                fault: format!("over {limit} bytes, more than it can have"),
                cost: "the file cannot be read".to_owned(),
                leaves: None,
            }),
            Err(error) => {
                self.unreadable += 1;
                self.report.not_checked(error.to_string());
            }
        }
        None
    }
}
