//! The different checkpoints of a file, and who signed them.

use crate::policy::{LogPolicy, Policy};
use crate::report::{CheckpointReport, Outcome, Step};
use crate::shown::{quoted, shown};
use meshchain_core::Checkpoint;
use meshchain_core::note::split;
use std::collections::HashMap;

/// Most different checkpoints in one file; those beyond it are not checked.
///
/// A collector proves a whole trace against one checkpoint per log. The bound keeps checkpoints
/// times anchors, each pair a consistency proof, below a second of work.
pub const MAX_CHECKPOINTS: usize = 64;

/// One checkpoint, parsed where it is one.
pub(crate) struct CheckedCheckpoint<'p> {
    note: String,
    pub(crate) parsed: Option<Checkpoint>,
    pub(crate) log: Option<&'p LogPolicy>,
    pub(crate) report: CheckpointReport,
}

impl CheckedCheckpoint<'_> {
    /// Whether the policy's key for its origin has signed it.
    pub(crate) fn is_signed(&self) -> bool {
        let ok = |step: &Step| step.name == "checkpoint" && step.outcome == Outcome::Ok;
        self.report.steps.iter().any(ok)
    }
}

/// The different checkpoints of the file, by their text.
#[derive(Default)]
pub(crate) struct Checkpoints<'p> {
    pub(crate) list: Vec<CheckedCheckpoint<'p>>,
    by_note: HashMap<String, usize>,
}

impl<'p> Checkpoints<'p> {
    /// Position of the checkpoint with this text; `None` where there are too many.
    pub(crate) fn add(&mut self, note: &str) -> Option<usize> {
        if let Some(&at) = self.by_note.get(note) {
            return Some(at);
        }
        let at = self.list.len();
        if at == MAX_CHECKPOINTS {
            return None;
        }
        let parsed = Checkpoint::parse_unverified(note);
        let head = parsed.as_ref().ok().map(|c| c.head);
        let report = CheckpointReport {
            number: at + 1,
            origin: parsed.as_ref().ok().map(|c| shown(&c.origin)),
            size: head.map(|h| h.size),
            root: head.map(|h| hex::encode(h.root)),
            anchored_by: Vec::new(),
            steps: match &parsed {
                Ok(_) => Vec::new(),
                Err(error) => vec![Step::of("checkpoint", Err(shown(error.to_string())))],
            },
        };
        let (note, parsed) = (note.to_owned(), parsed.ok());
        self.by_note.insert(note.clone(), at);
        self.list.push(CheckedCheckpoint { note, parsed, log: None, report });
        Some(at)
    }

    pub(crate) fn check_signatures(&mut self, policy: Option<&'p Policy>) {
        for checkpoint in &mut self.list {
            let Some(parsed) = &checkpoint.parsed else { continue };
            checkpoint.log = policy.and_then(|policy| policy.log(&parsed.origin));
            let says = format!("says it is of log {}", quoted(&parsed.origin));
            checkpoint.report.steps.push(match (policy, checkpoint.log) {
                (None, _) => Step::unchecked(
                    "checkpoint",
                    format!("{says}; without a policy no key is known that could sign for it"),
                ),
                (Some(_), None) => {
                    Step::unchecked("checkpoint", format!("{says}, which the policy does not know"))
                }
                (Some(_), Some(log)) => check_signature(&checkpoint.note, log),
            });
        }
    }
}

fn check_signature(note: &str, log: &LogPolicy) -> Step {
    Step::of(
        "checkpoint",
        match Checkpoint::open(note, &log.vkey) {
            Ok(_) => Ok(format!("signed by {}{}", shown(log.vkey.short()), cosignatures(note))),
            Err(error) => Err(shown(error.to_string())),
        },
    )
}

/// How many signatures there are beside the log's own: nothing is known of those keys.
fn cosignatures(note: &str) -> String {
    let lines = split(note).map_or(0, |(_, signatures)| signatures.lines().count());
    match lines.saturating_sub(1) {
        0 => String::new(),
        others => format!("; {others} more signatures not checked"),
    }
}
