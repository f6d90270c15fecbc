//! The final anchors that a collector keeps, against their own proofs and against the tree.

use super::check::Fsck;
use super::files;
use super::findings::{Damage, FsckReport};
use super::given_up;
use super::kept::{Expected, MAX_LEN, read_final};
use super::log_key::LogKey;
use super::onchain::{self, ChainNode};
use super::refetch::refetch;
use super::restate::{doubt, restate};
use super::source::{LogSource, SourceError};
use super::tiles::{Column, fetch};
use crate::shown::{quoted, shown};
use meshchain_core::tile::{EdgeTiles, TileKind, TileName, width_at};
use meshchain_core::{Hash, TreeHead, VerifierKey};
use meshchain_stored::anchor::{
    AnchorState, FinalAnchor, final_path, finals_path, parse_final_path, state_path,
};
use std::collections::BTreeMap;

/// What is kept of one chain.
pub(crate) struct KeptChain {
    /// Folder's name.
    pub(crate) name: String,
    pub(crate) state: Option<AnchorState>,
    /// Anchors that are what they say, by size.
    pub(crate) anchors: BTreeMap<u64, FinalAnchor>,
    /// Sizes whose files are not.
    pub(crate) rotten: Vec<u64>,
    /// Sizes whose files are, and whose blocks the chain gave up.
    pub(crate) given_up: Vec<u64>,
}

impl KeptChain {
    /// EIP-155 chain id: what most of the files say. None of them proves it.
    pub(crate) fn chain_id(&self) -> Option<u64> {
        let mut votes: BTreeMap<u64, usize> = BTreeMap::new();
        let anchors = self.anchors.values().map(|kept| kept.evidence.chain_id);
        let state = self.state.as_ref().map(|state| state.chain_id);
        state.into_iter().chain(anchors).for_each(|id| *votes.entry(id).or_default() += 1);
        let most = votes.values().max().copied()?;
        let mut first = votes.iter().filter(|(_, count)| **count == most).map(|(id, _)| *id);
        state.filter(|id| votes.get(id) == Some(&most)).or_else(|| first.next())
    }

    /// Size of the last final anchor by the state, where nothing is there of it.
    pub(crate) fn last_missing(&self) -> Option<u64> {
        let (size, _) = self.state.as_ref()?.last_final?;
        let there = self.rotten.iter().chain(&self.given_up).chain(self.anchors.keys());
        (!there.into_iter().any(|one| *one == size)).then_some(size)
    }

    /// Tells the files that say another chain id than the others.
    fn agree(&mut self, report: &mut FsckReport) {
        let Some(chain_id) = self.chain_id() else { return };
        let fault = |id: u64| format!("says chain id {id}, the other files {chain_id}");
        if let Some(state) = self.state.as_ref().filter(|state| state.chain_id != chain_id) {
            let file = format!("anchor/{}/pending.json", self.name);
            damage(&file, fault(state.chain_id), COST_STATE, report);
        }
        let of_others = |kept: &FinalAnchor| kept.evidence.chain_id != chain_id;
        for (size, kept) in self.anchors.extract_if(.., |_, kept| of_others(kept)) {
            let file = final_path(&self.name, size);
            damage(&file, fault(kept.evidence.chain_id), ROTTEN, report);
            self.rotten.push(size);
        }
    }
}

/// The tree that anchors are compared with.
pub(crate) struct Tree<'a> {
    pub(crate) source: &'a dyn LogSource,
    /// Published, recomputed, and its tiles undamaged; `None` where it is not so.
    pub(crate) head: Option<TreeHead>,
}

/// What the tree says of another tree head of the log.
pub(crate) enum Against {
    /// It is the beginning of it, or nothing can be said.
    Same,
    /// Its tree of that size has this root.
    OtherRoot(Hash),
    /// It has fewer leaves.
    Larger,
}

impl Tree<'_> {
    /// Compares a head that an anchor speaks of.
    pub(crate) fn against(&self, head: &TreeHead) -> Result<Against, SourceError> {
        let Some(published) = self.head else { return Ok(Against::Same) };
        if head.size > published.size {
            // A running collector may have published since.
            let now = files::size_now(self.source)?;
            return Ok(if head.size > now { Against::Larger } else { Against::Same });
        }
        match self.root(head.size, published.size)? {
            Some(root) if root != head.root => Ok(Against::OtherRoot(root)),
            _ => Ok(Against::Same),
        }
    }

    /// Root of the first `size` leaves, out of the tiles.
    fn root(&self, size: u64, published: u64) -> Result<Option<Hash>, SourceError> {
        let edge = EdgeTiles::load(size, |level, index, width| {
            let kind = TileKind::Hashes(level);
            let name = TileName { kind, index, width: width_at(published, level, index) };
            let stored = fetch(self.source, &name)?;
            let hashes = stored.map(|stored| Column::tile(stored, name.width).hashes);
            let mut hashes = hashes.unwrap_or_default();
            hashes.truncate(width.into());
            Ok::<_, SourceError>(hashes)
        })?;
        Ok(edge.map(|edge| edge.root()))
    }

    /// The damage where an anchor's head is not the tree's.
    pub(crate) fn compare(
        &self,
        file: &str,
        whose: &str,
        head: &TreeHead,
        report: &mut FsckReport,
    ) -> Result<(), SourceError> {
        let (fault, cost) = match self.against(head)? {
            Against::Same => return Ok(()),
            Against::OtherRoot(root) => (
                format!(
                    "two histories: for {} leaves {whose} has root {}, this log has {}",
                    head.size,
                    hex::encode(head.root),
                    hex::encode(root)
                ),
                "one of the two was signed and anchored, and this log is the other: keep the file \
                 and this log, they are the proof; do not let a collector go on with it",
            ),
            Against::Larger => (
                format!("{whose} has {} leaves, more than this log", head.size),
                "this is an older copy of the log, or another one: a collector that went on with \
                 it would make a second history; find the newest copy",
            ),
        };
        let (file, cost) = (file.to_owned(), cost.to_owned());
        report.damage(Damage { file, offset: None, fault, cost, leaves: None });
        Ok(())
    }
}

impl<'a> Fsck<'a> {
    /// The tree as far as it was recomputed.
    pub(super) fn tree(&self) -> Tree<'a> {
        let tiles = self.report.damages.iter().any(|damage| damage.file.starts_with("tile/"));
        let sound = self.report.root_recomputed && !tiles;
        Tree { source: self.source, head: sound.then_some(self.heads.published) }
    }

    /// What is kept of the anchors, and what is on these chains, against the tree.
    pub(super) fn check_anchors(&mut self, key: &LogKey, nodes: &[ChainNode]) {
        let origin = self.heads.origin.clone();
        let tree = self.tree();
        let kept = check_kept(&tree, &origin, key.of(&origin).ok(), &mut self.report);
        let mut kept = self.keep(kept).unwrap_or_default();
        let policy = match key {
            LogKey::Policy(policy) => policy.log(&origin),
            LogKey::Unknown | LogKey::Key(_) => None,
        };
        for node in nodes {
            let log = (origin.as_str(), policy);
            let compared = onchain::compare(node, &tree, &kept, log, &mut self.report);
            let Some(Some(found)) = self.keep(compared) else { continue };
            for chain in kept.iter_mut().filter(|chain| chain.chain_id() == Some(node.chain_id)) {
                let key = key.of(&origin).ok();
                let report = &mut self.report;
                given_up::check(node, chain, &found, report);
                let doubtful = doubt(node, chain, (&origin, &found), report);
                let name = chain.name.clone();
                let expected = Expected { chain: &name, origin: &origin, key };
                refetch(node, &tree, (chain, &expected), &found.anchors, report);
                let unreadable =
                    chain.state.is_none() && report.is_damaged(&state_path(&chain.name));
                if doubtful || unreadable {
                    restate(node, chain, (&origin, &found), report);
                }
            }
        }
        for chain in &kept {
            last_missing(chain, &mut self.report);
        }
        if !(tree.head.is_some() || kept.is_empty() && nodes.is_empty()) {
            self.report.not_checked("anchors were not compared with the tree, which is damaged");
        }
    }
}

/// Checks all that is kept below `anchor/`.
pub(crate) fn check_kept(
    tree: &Tree<'_>,
    origin: &str,
    key: Option<&VerifierKey>,
    report: &mut FsckReport,
) -> Result<Vec<KeptChain>, SourceError> {
    let mut chains = Vec::new();
    for item in tree.source.list("anchor")?.unwrap_or_default() {
        let name = item.name.trim_start_matches("anchor/");
        if !item.folder {
            report.note(format!("{} is not a file of the log", quoted(&item.name)));
            continue;
        }
        let state = state(tree, name, report)?;
        let expected = Expected { chain: name, origin, key };
        let mut chain = receipts(tree, &expected, state, report)?;
        chain.agree(report);
        report.anchors += chain.anchors.len() as u64;
        chains.push(chain);
    }
    Ok(chains)
}

fn state(
    tree: &Tree<'_>,
    chain: &str,
    report: &mut FsckReport,
) -> Result<Option<AnchorState>, SourceError> {
    let file = state_path(chain);
    let Some(bytes) = tree.source.get(&file, MAX_LEN)? else { return Ok(None) };
    let state = match AnchorState::parse(&bytes) {
        Ok(state) => state,
        Err(fault) => {
            let fault = format!("not the state of an anchor: {}", shown(fault.to_string()));
            damage(&file, fault, COST_STATE, report);
            return Ok(None);
        }
    };
    for head in state.heads() {
        tree.compare(&file, "the anchor that it speaks of", &head, report)?;
    }
    Ok(Some(state))
}

fn receipts(
    tree: &Tree<'_>,
    expected: &Expected<'_>,
    state: Option<AnchorState>,
    report: &mut FsckReport,
) -> Result<KeptChain, SourceError> {
    let folder = finals_path(expected.chain);
    let (mut anchors, mut rotten) = (BTreeMap::new(), Vec::new());
    for item in tree.source.list(&folder)?.unwrap_or_default() {
        let Some(size) = parse_final_path(&item.name).filter(|_| !item.folder) else {
            report.note(format!("{} is not a file of the log", quoted(&item.name)));
            continue;
        };
        let Some(bytes) = tree.source.get(&item.name, MAX_LEN)? else { continue };
        match read_final(&bytes, size, expected) {
            Ok(kept) => {
                tree.compare(&item.name, "what it anchored", &kept.head(), report)?;
                anchors.insert(size, kept);
            }
            Err(fault) => {
                damage(&item.name, fault, ROTTEN, report);
                rotten.push(size);
            }
        }
    }
    let (name, given_up) = (expected.chain.to_owned(), Vec::new());
    Ok(KeptChain { name, state, anchors, rotten, given_up })
}

/// Tells that the last final anchor is not there, unless a chain told what became of it.
fn last_missing(chain: &KeptChain, report: &mut FsckReport) {
    let Some(size) =
        chain.last_missing().filter(|size| chain.anchors.range(size..).next().is_none())
    else {
        return;
    };
    let file = final_path(&chain.name, size);
    if !(report.is_damaged(&file) || report.is_damaged(&state_path(&chain.name))) {
        damage(&file, "missing".to_owned(), LOST, report);
    }
}

const COST_STATE: &str = "the collector anchors nothing on this chain, the log goes on: --rpc CHAIN=URL --repair makes it \
                          again where nothing was in flight; else restore it from a copy, older ones do too";
const ROTTEN: &str = "evidence of the leaves that it covers has no anchor until a larger one covers \
                      them; the log stands, and the anchor is on the chain: --rpc CHAIN=URL --repair \
                      fetches it again, where a signed checkpoint of that size is left; else delete the \
                      file once a larger one is kept";
const LOST: &str = "evidence of the leaves that it covers has no anchor until a larger one covers them; the \
                    log stands: --rpc CHAIN=URL --repair fetches it again, where a signed checkpoint of \
                    that size is left, and the collector does, or anchors a larger one";

pub(super) fn damage(file: &str, fault: String, cost: &str, report: &mut FsckReport) {
    let (file, cost) = (file.to_owned(), cost.to_owned());
    report.damage(Damage { file, offset: None, fault, cost, leaves: None });
}
