//! The check of a whole log, one tile of leaves at a time.

use super::check::{Fsck, SealedCheck};
use super::files;
use super::findings::{Damage, FsckReport};
use super::heads;
use super::log_key::LogKey;
use super::onchain::ChainNode;
use super::segments::{Listing, Segments};
use super::source::{LogSource, SourceError};
use super::staging::Staging;
use meshchain_core::tile::TILE_WIDTH;
use meshchain_core::{TreeHead, merkle};

/// Objects that may be unreadable before the check gives up: a server that is gone stays gone.
const MAX_UNREADABLE: usize = 8;
/// Tiles in a row of which nothing is there, before the check gives up: a checkpoint may claim any
/// size.
const MAX_ABSENT: u64 = 64;

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

/// How often a log is checked anew whose bundles were sealed meanwhile.
const ATTEMPTS: usize = 3;

/// One check, and whether bundles were sealed meanwhile.
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
            let moved = fsck.moved || fsck.staging.is_some_and(|staging| staging.moved);
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

impl Fsck<'_> {
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
                return self.signatures.check(&mut self.report);
            }
        }
        self.root();
        self.session_tables(size);
        self.unpublished(progress);
        self.followed();
        self.signatures.check(&mut self.report);
        if collector {
            self.check_needed();
            let listed = self.other_tables();
            self.keep(listed);
            let walked = files::check(self.source, size, committed, &mut self.report);
            self.keep(walked);
            self.check_audit();
        } else if matches!(self.source.list(""), Ok(Some(_))) {
            self.report.note("a copy of what the log publishes: entries and records are not in it");
        }
        for name in self.staging.as_ref().map_or(&[][..], Staging::passed_over) {
            self.report.note(format!("{name} was never committed: starts pass over it"));
        }
        self.report.sessions = self.sessions.len();
    }

    /// Opens segments and staging bundles.
    fn open(&mut self, size: u64, committed: u64) {
        let listing = Listing::read(self.source);
        let Some(listing) = self.keep(listing) else { return };
        // Sealed since the heads were read, or by a state that is damaged.
        let now = files::head_size(self.source).unwrap_or(0).max(committed);
        let mut segments = Segments::open(self.source, &listing, (size, now), &mut self.report);
        let state = segments.state.take_if(|state| state.end() <= now);
        let sealed = state.as_ref().map_or(0, |state| state.end()).max(segments.end());
        if sealed > size {
            self.moved = true;
            self.old_checkpoint(format!("{size} leaves, {sealed} are sealed"), (size, sealed - 1));
        }
        let sizes = (sealed, size, committed);
        self.staging = Some(Staging::open(self.source, &listing.staged, sizes, &mut self.report));
        self.segments = Some(segments);
        self.sealed = SealedCheck {
            end: state.as_ref().map_or(0, |s| s.end()),
            state,
            ..SealedCheck::default()
        };
    }

    /// A crash leaves at most one commit unpublished.
    fn check_age(&mut self) {
        let (Some(head), size) = (self.heads.ahead, self.heads.published.size) else { return };
        let between = self.staging.as_ref().and_then(|s| s.beginning_between(size, head.size));
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

    /// Leaves that are committed and not published: only staging bundles have them.
    fn unpublished(&mut self, progress: &mut dyn FnMut(u64, u64)) {
        let Some(head) = self.heads.ahead else { return };
        if let Some(staging) = self.staging.as_mut().filter(|_| !self.doubt) {
            let decided = staging.decide_ahead(&self.edge, head);
            self.keep(decided);
        }
        for leaf in self.heads.published.size..head.size {
            let found = self.staging.as_mut().map(|staging| staging.leaf(leaf));
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
            self.stored(leaf, found.as_deref(), None);
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
