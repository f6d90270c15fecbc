//! The signed heads: `checkpoint`, which readers follow, and `head`, the collector's commit point.

use super::findings::{Damage, FsckReport, SignatureCheck};
use super::log_key::LogKey;
use super::source::{LogSource, SourceError};
use crate::shown::{quoted, shown};
use meshchain_core::note::MAX_NOTE;
use meshchain_core::{Checkpoint, TreeHead};

/// How often the heads are read again, where a running collector publishes meanwhile.
const ATTEMPTS: usize = 5;

pub(crate) struct Heads {
    /// The tree to recompute.
    pub(crate) published: TreeHead,
    /// Origin of its checkpoint.
    pub(crate) origin: String,
    /// Its file.
    pub(crate) file: &'static str,
    /// The tree of `head`, where it is ahead.
    pub(crate) ahead: Option<TreeHead>,
}

/// One of the two files.
struct Signed {
    checkpoint: Option<Checkpoint>,
    good: bool,
    signature: SignatureCheck,
}

/// Reads and judges the heads; `None` where there is no tree to check. `collector`: the source is
/// the data directory of a collector.
pub(crate) fn read(
    source: &dyn LogSource,
    key: &LogKey,
    collector: bool,
    report: &mut FsckReport,
) -> Result<Option<Heads>, SourceError> {
    let get = |name| source.get(name, MAX_NOTE as u64);
    let mut checkpoint = get("checkpoint")?;
    let mut head = None;
    for _ in 0..ATTEMPTS {
        head = if collector { get("head")? } else { None };
        let again = get("checkpoint")?;
        if again == checkpoint {
            break;
        }
        checkpoint = again;
    }
    if checkpoint.is_none() && head.is_none() {
        report.not_checked("no checkpoint: there is no log here");
        return Ok(None);
    }
    let head_missing = collector && head.is_none();
    let (no_checkpoint, checkpoint) = (checkpoint.is_none(), checkpoint.map(|b| judge(&b, key)));
    let head = head.map(|bytes| judge(&bytes, key));
    let published = split("checkpoint", checkpoint, report, COST_CHECKPOINT);
    let committed = split("head", head, report, COST_HEAD);
    if head_missing {
        missing("head", COST_NO_HEAD, report);
    }
    if no_checkpoint && committed.as_ref().is_some_and(|h| h.tree().is_some_and(|t| t.size == 0)) {
        report.note("there is no checkpoint yet: the collector has not published anything");
    } else if no_checkpoint {
        missing("checkpoint", COST_NO_CHECKPOINT, report);
    }
    Ok(choose(published, committed, report))
}

const COST_CHECKPOINT: &str = "readers cannot follow the log, and the collector does not start; nothing is lost: \
                               delete the file, and the next start publishes `head` again";
const COST_NO_CHECKPOINT: &str =
    "readers cannot follow the log; nothing is lost: the next start publishes `head` again";
const COST_HEAD: &str = "the collector does not start; `checkpoint` is the last published head";
const COST_NO_HEAD: &str = "the collector does not start; restore the newest copy of the whole directory \
                            (docs/restore.md)";

fn missing(file: &str, cost: &str, report: &mut FsckReport) {
    let (file, fault, cost) = (file.to_owned(), "missing".to_owned(), cost.to_owned());
    report.damage(Damage { file, offset: None, fault, cost, leaves: None });
}

impl Signed {
    fn tree(&self) -> Option<TreeHead> {
        self.checkpoint.as_ref().map(|c| c.head)
    }
}

/// Reports what is wrong with a file, and keeps what can be used of it.
fn split(
    file: &str,
    judged: Option<(Signed, Option<(u64, String)>)>,
    report: &mut FsckReport,
    cost: &str,
) -> Option<Signed> {
    let (signed, fault) = judged?;
    if let Some((offset, fault)) = fault {
        let (file, cost) = (file.to_owned(), cost.to_owned());
        report.damage(Damage { file, offset: Some(offset), fault, cost, leaves: None });
    }
    Some(signed)
}

fn judge(bytes: &[u8], key: &LogKey) -> (Signed, Option<(u64, String)>) {
    let mut signed = Signed { checkpoint: None, good: false, signature: SignatureCheck::Failed };
    let note = match std::str::from_utf8(bytes) {
        Ok(note) => note,
        Err(e) => return (signed, Some((e.valid_up_to() as u64, "not UTF-8".to_owned()))),
    };
    let parsed = match Checkpoint::parse_unverified(note) {
        Ok(parsed) => parsed,
        Err(e) => return (signed, Some((0, shown(e.to_string())))),
    };
    let opened = match key.of(&parsed.origin) {
        Ok(key) => Checkpoint::open(note, key).map(|_| SignatureCheck::Ok(shown(key.short()))),
        Err(why) => Ok(SignatureCheck::NotChecked(why)),
    };
    signed.checkpoint = Some(parsed);
    match opened {
        Ok(signature) => {
            signed.signature = signature;
            signed.good = true;
            (signed, None)
        }
        Err(e) => {
            let text_end = note.rfind("\n\n").map_or(0, |at| at as u64 + 2);
            (signed, Some((text_end, shown(e.to_string()))))
        }
    }
}

/// The tree to check, and whether the two files contradict each other.
fn choose(
    published: Option<Signed>,
    committed: Option<Signed>,
    report: &mut FsckReport,
) -> Option<Heads> {
    let good = |s: &Option<Signed>| s.as_ref().is_some_and(|s| s.good);
    let from_head = !good(&published) && good(&committed);
    let (first, file) = match from_head || published.as_ref().is_none_or(|p| p.checkpoint.is_none())
    {
        true => (committed.as_ref(), "head"),
        false => (published.as_ref(), "checkpoint"),
    };
    let first = first?;
    let checkpoint = first.checkpoint.as_ref()?;
    let tree = checkpoint.head;
    report.origin = Some(shown(&checkpoint.origin));
    report.size = Some(tree.size);
    report.root = Some(hex::encode(tree.root));
    report.signature = first.signature.clone();
    if let SignatureCheck::NotChecked(why) = &report.signature {
        let what = format!("signature: {why}");
        report.not_checked(what);
    }
    let mut ahead = None;
    if file == "checkpoint"
        && good(&committed)
        && let Some(head) = committed.as_ref().and_then(|c| c.checkpoint.as_ref())
    {
        if head.origin != checkpoint.origin {
            contradicts(format!("of another log, {}", quoted(&head.origin)), COST_HEAD, report);
        } else if head.head.size == tree.size && head.head.root != tree.root {
            contradicts(
                "another root than the checkpoint's of this size".into(),
                COST_HEAD,
                report,
            );
        } else if head.head.size < tree.size {
            let fault = format!("{} leaves, the checkpoint has {}", head.head.size, tree.size);
            contradicts(fault, COST_OLD_HEAD, report);
        } else if head.head.size > tree.size {
            ahead = Some(head.head);
        }
    }
    Some(Heads { published: tree, origin: checkpoint.origin.clone(), file, ahead })
}

const COST_OLD_HEAD: &str = "the collector does not start; restore the newest copy of the whole directory \
                             (docs/restore.md)";

fn contradicts(fault: String, cost: &str, report: &mut FsckReport) {
    let (file, cost) = ("head".to_owned(), cost.to_owned());
    report.damage(Damage { file, offset: Some(0), fault, cost, leaves: None });
}
