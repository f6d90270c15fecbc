//! The check of a whole log, one tile of leaves at a time.

use super::edge::Edge;
use super::files;
use super::heads::{self, Heads};
use super::onchain::ChainNode;
use super::pools::Pools;
use super::report::{Damage, FsckReport};
use super::sealed::Sealed;
use super::segments::{Listing, Segments};
use super::sessions::Sessions;
use super::signatures::Signatures;
use super::source::{LogSource, SourceError};
use super::stored::Column;
use crate::policy::Policy;
use crate::shown::quoted;
use meshchain_core::tile::TILE_WIDTH;
use meshchain_core::{TreeHead, VerifierKey, merkle};

/// Objects that may be unreadable before the check gives up: a server that is gone stays gone.
const MAX_UNREADABLE: usize = 8;
/// Tiles in a row of which nothing is there, before the check gives up: a checkpoint may claim any
/// size.
const MAX_ABSENT: u64 = 64;

/// Who is to have signed the checkpoint.
#[derive(Debug, Clone)]
pub enum LogKey {
    /// Unknown: the signature is not checked.
    Unknown,
    /// This key.
    Key(VerifierKey),
    /// The policy's key for the origin.
    Policy(Policy),
}

impl LogKey {
    /// The key for an origin, or why there is none.
    pub(crate) fn of(&self, origin: &str) -> Result<&VerifierKey, String> {
        match self {
            Self::Unknown => Err("no key given (--vkey or --policy)".to_owned()),
            Self::Key(key) => Ok(key),
            Self::Policy(policy) => match policy.log(origin) {
                Some(log) => Ok(&log.vkey),
                None => Err(format!("the policy does not know log {}", quoted(origin))),
            },
        }
    }
}

/// Recomputes a log from its leaves. `progress` is told (leaves done, leaves in all).
pub fn fsck(
    source: &dyn LogSource,
    key: &LogKey,
    progress: &mut dyn FnMut(u64, u64),
) -> FsckReport {
    fsck_with(source, key, &[], progress)
}

/// As [`fsck`], and compares the log with its anchors on these chains.
pub fn fsck_with(
    source: &dyn LogSource,
    key: &LogKey,
    nodes: &[ChainNode],
    progress: &mut dyn FnMut(u64, u64),
) -> FsckReport {
    for _ in 1..ATTEMPTS {
        match attempt(source, key, nodes, progress) {
            (_, true) => {}
            (report, false) => return report,
        }
    }
    let (mut report, moved) = attempt(source, key, nodes, progress);
    if moved && report.damages.is_empty() {
        report.not_checked("the log was sealed while it was read: check it again");
    }
    report.conclude()
}

/// How often a log is checked anew whose pools were sealed meanwhile.
const ATTEMPTS: usize = 3;

/// One check, and whether pools were sealed meanwhile.
fn attempt(
    source: &dyn LogSource,
    key: &LogKey,
    nodes: &[ChainNode],
    progress: &mut dyn FnMut(u64, u64),
) -> (FsckReport, bool) {
    let mut report = FsckReport::new(source.name());
    let collector = match files::of_collector(source) {
        Ok(collector) => collector,
        Err(e) => return (give_up(report, &e), false),
    };
    match heads::read(source, key, collector, &mut report) {
        Ok(Some(heads)) => {
            let mut fsck = Fsck::new(source, heads, report);
            fsck.run(collector, progress);
            fsck.check_anchors(key, nodes);
            let moved = fsck.moved || fsck.pools.is_some_and(|pools| pools.moved);
            (fsck.report.conclude(), moved)
        }
        Ok(None) => (report.conclude(), false),
        Err(e) => (give_up(report, &e), false),
    }
}

fn give_up(mut report: FsckReport, error: &SourceError) -> FsckReport {
    report.not_checked(error.to_string());
    report.conclude()
}

pub(super) struct Fsck<'a> {
    pub(super) source: &'a dyn LogSource,
    pub(super) heads: Heads,
    pub(super) report: FsckReport,
    pub(super) edge: Edge,
    pub(super) sessions: Sessions,
    pub(super) signatures: Signatures,
    pub(super) segments: Option<Segments<'a>>,
    pub(super) sealed: Sealed,
    pub(super) pools: Option<Pools<'a>>,
    /// Level-1 tile that was read last, by index.
    pub(super) above: Option<(u64, Option<Column>)>,
    /// The tree cannot be recomputed from here on: leaves are lost.
    pub(super) doubt: bool,
    pub(super) absent: u64,
    pub(super) unreadable: usize,
    moved: bool,
}

impl<'a> Fsck<'a> {
    fn new(source: &'a dyn LogSource, heads: Heads, report: FsckReport) -> Self {
        Self {
            source,
            heads,
            report,
            edge: Edge::default(),
            sessions: Sessions::default(),
            signatures: Signatures::default(),
            segments: None,
            sealed: Sealed::default(),
            pools: None,
            above: None,
            doubt: false,
            absent: 0,
            unreadable: 0,
            moved: false,
        }
    }

    fn run(&mut self, collector: bool, progress: &mut dyn FnMut(u64, u64)) {
        let TreeHead { size, .. } = self.heads.published;
        let committed = self.heads.ahead.map_or(size, |head| head.size);
        if collector {
            self.open(size, committed);
            self.check_age();
        }
        self.at_sealed_end();
        for index in 0..size.div_ceil(TILE_WIDTH) {
            self.tile(index);
            progress((size).min((index + 1) * TILE_WIDTH), committed);
            if self.unreadable > MAX_UNREADABLE || self.absent > MAX_ABSENT {
                let from = (index + 1) * TILE_WIDTH;
                self.report.not_checked(format!("given up: nothing from leaf {from} on was read"));
                return self.check_signatures();
            }
        }
        self.root();
        self.sealed_sessions(size);
        self.unpublished(progress);
        self.followed();
        self.check_signatures();
        if collector {
            self.check_needed();
            let walked = files::check(self.source, size, committed, &mut self.report);
            self.keep(walked);
        } else if matches!(self.source.list(""), Ok(Some(_))) {
            self.report.note("a copy of what the log publishes: entries and records are not in it");
        }
        for name in self.pools.as_ref().map_or(&[][..], Pools::passed_over) {
            self.report.note(format!("{name} was never committed: starts pass over it"));
        }
        self.report.sessions = self.sessions.len();
    }

    /// Opens segments and pools.
    fn open(&mut self, size: u64, committed: u64) {
        let listing = Listing::read(self.source);
        let Some(listing) = self.keep(listing) else { return };
        // Sealed since the heads were read, or by a state that is damaged.
        let now = files::head_size(self.source).unwrap_or(0).max(committed);
        let mut segments = Segments::open(self.source, &listing, (size, now), &mut self.report);
        let state = segments.state.take_if(|state| state.head.size <= now);
        let sealed = state.as_ref().map_or(0, |state| state.head.size).max(segments.end());
        if sealed > size {
            self.moved = true;
            self.old_checkpoint(format!("{size} leaves, {sealed} are sealed"), (size, sealed - 1));
        }
        let sizes = (sealed, size, committed);
        self.pools = Some(Pools::open(self.source, &listing.pools, sizes, &mut self.report));
        self.segments = Some(segments);
        self.sealed =
            Sealed { end: state.as_ref().map_or(0, |s| s.head.size), state, ..Sealed::default() };
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

    /// A crash leaves at most one commit unpublished.
    fn check_age(&mut self) {
        let (Some(head), size) = (self.heads.ahead, self.heads.published.size) else { return };
        let between = self.pools.as_ref().and_then(|p| p.beginning_between(size, head.size));
        if between.is_none() {
            let beyond = head.size - size;
            return self.report.note(format!(
                "head is {beyond} leaves ahead of the checkpoint: being published, or a crash \
                 before it; the next start publishes them"
            ));
        }
        let fault = format!("{size} leaves, where several commits led to {}", head.size);
        self.old_checkpoint(fault, (size, head.size - 1));
    }

    fn old_checkpoint(&mut self, fault: String, leaves: (u64, u64)) {
        self.report.damage(Damage {
            file: "checkpoint".to_owned(),
            offset: Some(0),
            fault: format!("older than the log: {fault}"),
            cost: "readers are shown an old tree; nothing is lost: the next start of the \
                   collector publishes `head` again"
                .to_owned(),
            leaves: Some(leaves),
        });
    }

    fn root(&mut self) {
        let partials = self.edge.partials();
        self.filled(partials);
        let TreeHead { size, root } = self.heads.published;
        let found = self.edge.head();
        self.report.root_recomputed = !self.doubt && found == self.heads.published;
        if self.report.root_recomputed || self.doubt {
            return;
        }
        self.report.damage(Damage {
            file: self.heads.file.to_owned(),
            offset: None,
            fault: format!(
                "speaks of {size} leaves with root {}, those stored have root {}",
                hex::encode(root),
                hex::encode(found.root)
            ),
            cost: "the tree that was signed is not the one stored: no proof leads to this root"
                .to_owned(),
            leaves: None,
        });
    }

    /// Leaves that are committed and not published: only pools have them.
    fn unpublished(&mut self, progress: &mut dyn FnMut(u64, u64)) {
        let Some(head) = self.heads.ahead else { return };
        if let Some(pools) = self.pools.as_mut().filter(|_| !self.doubt) {
            let decided = pools.decide_ahead(&self.edge, head);
            self.keep(decided);
        }
        for leaf in self.heads.published.size..head.size {
            let found = self.pools.as_mut().map(|pools| pools.leaf(leaf));
            let found = found.and_then(|found| self.keep(found).flatten());
            if found.is_none() {
                self.doubt = true;
                if self.unreadable > MAX_UNREADABLE {
                    return;
                }
            }
            let hash = found.as_deref().map(merkle::leaf_hash);
            self.edge.push(hash.unwrap_or_default());
            self.leaf(leaf, found.as_deref(), &None);
            self.pool(leaf, found.as_deref(), None);
            progress(leaf + 1, head.size);
        }
        if !self.doubt && self.edge.head() != head {
            self.report.damage(Damage {
                file: "head".to_owned(),
                offset: None,
                fault: format!("its root is not that of the {} leaves stored", head.size),
                cost: "the collector does not start".to_owned(),
                leaves: Some((self.heads.published.size, head.size - 1)),
            });
        }
    }
}
