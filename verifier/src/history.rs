//! One log has one history: what the file's leaves, checkpoints and anchors say of a log must fit
//! one tree, and proofs in the file must show that it does.
//!
//! Contradictions are refuted, with the words "two histories". Tree heads that no proof ties to
//! each other are not checked: each may be true alone, and both together two histories.

use crate::anchor::CheckedAnchor;
use crate::checkpoint::Checkpoints;
use crate::report::{Outcome, Step};
use crate::shown::quoted;
use crate::span::CheckedSpan;
use meshchain_core::{Checkpoint, Hash, TreeHead, hash, merkle};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Name of the step, of a span, a checkpoint or an anchor.
pub(crate) const STEP: &str = "history";

/// A tree head of a log, whoever stated it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LogHead {
    pub(crate) log_id: Hash,
    pub(crate) size: u64,
    pub(crate) root: Hash,
}

impl LogHead {
    pub(crate) fn new(log_id: Hash, head: &TreeHead) -> Self {
        Self { log_id, size: head.size, root: head.root }
    }

    fn of(checkpoint: &Checkpoint) -> Self {
        Self::new(hash::log_id(&checkpoint.origin), &checkpoint.head)
    }
}

/// Adds the `history` steps. Returns the origins of the logs of which the file proves two
/// histories to whoever has the policy: both sides of a contradiction are the log's own word, signed
/// by its key or anchored by its account in a block that is on the chain.
pub(crate) fn check_history(
    spans: &mut [CheckedSpan<'_>],
    checkpoints: &mut Checkpoints<'_>,
    anchors: &mut [CheckedAnchor<'_>],
) -> Vec<String> {
    let mut proven = BTreeSet::new();
    check_leaves(spans, checkpoints, &mut proven);
    check_roots(checkpoints, anchors, &mut proven);
    check_ties(checkpoints, anchors);
    proven.into_iter().collect()
}

/// Two leaves at one index of one log.
fn check_leaves(
    spans: &mut [CheckedSpan<'_>],
    checkpoints: &Checkpoints<'_>,
    proven: &mut BTreeSet<String>,
) {
    /// A span's number, its leaf, and whether a signature stands for it.
    type Seen = (usize, Hash, bool);
    // Each leaf that stands at an index, once for each kind of word for it.
    let mut seen: HashMap<(&str, u64), Vec<Seen>> = HashMap::new();
    for span in spans {
        let in_log = |s: &Step| s.name == "log" && s.outcome == Outcome::Ok;
        let included = span.report.steps.iter().any(in_log);
        let Some(place) = span.report.place.as_ref().filter(|_| included) else { continue };
        let Some(checkpoint) = checkpoints.list.get(place.checkpoint - 1) else { continue };
        let Some(Checkpoint { origin, .. }) = &checkpoint.parsed else { continue };
        let (number, leaf) = (span.report.number, merkle::leaf_hash(span.leaf_bytes));
        let signed = checkpoint.is_signed();
        let leaves = seen.entry((origin, place.leaf_index)).or_default();
        let others = || leaves.iter().filter(|(_, other, _)| *other != leaf);
        let other = others().next().map(|(number, ..)| *number);
        let proves = signed && others().any(|(.., signed)| *signed);
        if !leaves.iter().any(|(_, known, by)| (known, by) == (&leaf, &signed)) {
            leaves.push((number, leaf, signed));
        }
        let Some(other) = other else { continue };
        let text = format!(
            "two histories: leaf {} of log {} is another one in span {other}",
            place.leaf_index,
            quoted(origin)
        );
        span.report.steps.push(Step::of(STEP, Err(text)));
        if proves {
            proven.insert(quoted(origin));
        }
    }
}

/// Two roots for one size of one log.
fn check_roots(
    checkpoints: &mut Checkpoints<'_>,
    anchors: &mut [CheckedAnchor<'_>],
    proven: &mut BTreeSet<String>,
) {
    let mut seen: HashMap<(Hash, u64), Vec<(Hash, bool)>> = HashMap::new();
    let mut forked = |head: LogHead, own_word: bool| {
        let roots = seen.entry((head.log_id, head.size)).or_default();
        let others = roots.iter().filter(|(root, _)| *root != head.root);
        let (count, proves) =
            others.fold((0, false), |(n, any), (_, own)| (n + 1, any || (*own && own_word)));
        if !roots.contains(&(head.root, own_word)) {
            roots.push((head.root, own_word));
        }
        let two = format!("two histories: another root for size {} stands above", head.size);
        (count > 0).then(|| (Step::of(STEP, Err(two)), proves))
    };
    for checkpoint in &mut checkpoints.list {
        let Some(parsed) = &checkpoint.parsed else { continue };
        let Some((step, proves)) = forked(LogHead::of(parsed), checkpoint.is_signed()) else {
            continue;
        };
        proven.extend(proves.then(|| quoted(&parsed.origin)));
        checkpoint.report.steps.push(step);
    }
    for anchor in anchors.iter_mut().filter(|anchor| anchor.rule.is_some()) {
        let Some(fact) = &anchor.fact else { continue };
        let found = forked(LogHead::new(fact.log_id, &fact.head), anchor.is_final());
        let Some((step, proves)) = found else { continue };
        let log = checkpoints.list.iter().find_map(|checkpoint| {
            let log = checkpoint.log.filter(|log| log.log_id() == fact.log_id);
            log.map(|log| quoted(&log.origin))
        });
        proven.extend(log.filter(|_| proves));
        anchor.report.steps.push(step);
    }
}

/// Tree heads of one log that no proof of the file ties to the largest of them. That each is the
/// beginning of the largest one's tree makes all of them beginnings of one.
fn check_ties(checkpoints: &mut Checkpoints<'_>, anchors: &mut [CheckedAnchor<'_>]) {
    let mut extends: HashMap<LogHead, Vec<LogHead>> = HashMap::new();
    let mut largest: BTreeMap<Hash, LogHead> = BTreeMap::new();
    let mut stated = |head: LogHead| {
        let top = largest.entry(head.log_id).or_insert(head);
        if top.size < head.size {
            *top = head;
        }
    };
    for checkpoint in &checkpoints.list {
        checkpoint.parsed.iter().for_each(|parsed| stated(LogHead::of(parsed)));
    }
    for anchor in anchors.iter() {
        let Some(fact) = &anchor.fact else { continue };
        let head = LogHead::new(fact.log_id, &fact.head);
        extends.entry(head).or_default().extend(&anchor.extends);
        if anchor.rule.is_some() {
            stated(head);
        }
    }
    let tied = tied(largest.values().copied(), &extends);
    let step = |head: LogHead| {
        let top = largest.get(&head.log_id).filter(|_| !tied.contains(&head))?;
        let text = format!(
            "no consistency proof in the file ties size {} to size {}: they may be two histories",
            head.size, top.size
        );
        (head.size != top.size).then(|| Step::unchecked(STEP, text))
    };
    for checkpoint in &mut checkpoints.list {
        let found = checkpoint.parsed.as_ref().and_then(|parsed| step(LogHead::of(parsed)));
        checkpoint.report.steps.extend(found);
    }
    for anchor in anchors.iter_mut().filter(|anchor| anchor.rule.is_some()) {
        let Some(fact) = &anchor.fact else { continue };
        anchor.report.steps.extend(step(LogHead::new(fact.log_id, &fact.head)));
    }
}

/// The heads that are beginnings of one of `tops`, these included.
fn tied(
    tops: impl Iterator<Item = LogHead>,
    extends: &HashMap<LogHead, Vec<LogHead>>,
) -> HashSet<LogHead> {
    let mut open: Vec<_> = tops.collect();
    let mut tied = HashSet::new();
    while let Some(head) = open.pop() {
        if tied.insert(head) {
            open.extend(extends.get(&head).into_iter().flatten());
        }
    }
    tied
}
