//! The audit log in a directory: its chain of lines, and the trees that they speak of against the log's.

use super::anchors::{Against, Tree};
use super::check::Fsck;
use super::files::of_collector;
use super::findings::Damage;
use super::source::{LogSource, SourceError};
use meshchain_core::{Hash, TreeHead};
use meshchain_stored::audit_line::{
    AUDIT_FILE, AuditLine, CHAIN_LOST, CHAIN_START, CUT_OFF, ROTATE_AT, line_hash, rotated_name,
    rotated_number,
};
use std::collections::HashSet;

/// Most bytes of a file: a collector begins another one far below that.
const MAX_LEN: u64 = 256 << 20;
/// How often the files are read that a running collector puts aside meanwhile.
const ATTEMPTS: usize = 3;

/// What it costs that the audit log is damaged.
const COST: &str =
    "the audit log is not as the collector of this log wrote it; the log itself stands";

/// Where the chain stands.
struct Followed {
    /// Hash of the line before; `None` where it is not there to be compared with.
    prev: Option<Hash>,
    /// Tree of the line before.
    head: Option<TreeHead>,
    /// Leaves that are accounted for: at a start all that are there, then those that a `checkpoint` line tells.
    told: Option<u64>,
}

impl Fsck<'_> {
    /// Follows the lines from the oldest file that is there. Without a file there is nothing to say.
    pub(super) fn check_audit(&mut self) {
        let read = read(self.source);
        let Some((numbers, newest)) = self.keep(read) else { return };
        let objects = self.source.list("audit");
        let objects = self.keep(objects).flatten().unwrap_or_default();
        let own = of_collector(self.source);
        let files = newest.is_some() || !numbers.is_empty();
        if !files && objects.is_empty() && self.keep(own) == Some(true) {
            let note = "there is no audit log beside the log: what it told of refusals and gaps is not here";
            self.report.note(note);
        }
        let tree = self.tree();
        let whole = numbers.first().is_none_or(|number| *number == 1);
        let mut followed = Followed { prev: whole.then_some(CHAIN_START), head: None, told: None };
        let first = numbers.first().copied().filter(|_| !whole).map(rotated_name);
        for name in numbers.into_iter().map(rotated_name) {
            let bytes = self.source.get(&name, MAX_LEN);
            if let Some(bytes) = self.keep(bytes).flatten() {
                if first.as_ref() == Some(&name) {
                    self.begins_late(&name, &bytes);
                }
                self.file(&tree, &name, &bytes, &mut followed);
            }
        }
        if let Some(bytes) = newest {
            self.file(&tree, AUDIT_FILE, &bytes, &mut followed);
        }
        let mut names: Vec<_> = objects.into_iter().map(|item| item.name).collect();
        names.sort_unstable();
        let checked = self.check_objects(&tree, &names);
        let objects = self.keep(checked).flatten();
        let last = followed.head.into_iter().chain(objects).max_by_key(|head| head.size);
        self.untold();
        if self.told.cut_off > 0 {
            let starts = self.told.cut_off;
            self.report.note(format!(
                "at {starts} starts the audit log ended before the log did: a kill took its last lines along, or somebody did; \
                 what leaves say was told again, refusals were not"
            ));
        }
        let size = self.heads.published.size;
        if let Some(head) = last.filter(|head| head.size < size) {
            self.report.note(format!(
                "the last line of the audit log speaks of {} leaves, the log has {size}: a collector is at work, was \
                 killed, or the end of the audit log was cut off",
                head.size
            ));
        }
    }

    /// Whoever wants the room may take the oldest files away; a part of one that was begun anew is none of these.
    fn begins_late(&mut self, name: &str, bytes: &[u8]) {
        if (bytes.len() as u64) < ROTATE_AT {
            let fault = format!(
                "the first file, and shorter than {ROTATE_AT} bytes: its beginning was cut off"
            );
            self.audit_damage((name, 0), fault);
        }
        let size = first_line(bytes).map_or(0, |line| line.log.size);
        self.report.note(format!(
            "the audit log begins with {name}: older files were taken away, and with them what was told of the first \
             {size} leaves"
        ));
    }

    fn file(&mut self, tree: &Tree<'_>, name: &str, bytes: &[u8], followed: &mut Followed) {
        if !self.lines(tree, name, bytes, followed).is_empty() {
            let note = "its last line is not whole: a crash, or being written";
            self.report.note(format!("{name}: {note}"));
        }
    }

    /// Lines that leaves take and that are not there. Where leaves are lost, nobody knows what they took.
    fn untold(&mut self) {
        let missing = if self.doubt { Vec::new() } else { self.told.missing() };
        let (Some((first, event)), Some((last, _))) = (missing.first(), missing.last()) else {
            return;
        };
        self.report.damage(Damage {
            file: "the audit log".to_owned(),
            offset: None,
            fault: format!(
                "{} lines are missing, the first a `{event}` of leaf {first}: they were taken out, or never kept",
                missing.len()
            ),
            cost: COST.to_owned(),
            leaves: Some((*first, *last)),
        });
    }

    /// Follows the lines within each object of a bucket's audit log, and from each to one before it: not always the last,
    /// as a collector that loses the log to another one may still write its last lines.
    /// Gives the largest tree that they speak of.
    fn check_objects(
        &mut self,
        tree: &Tree<'_>,
        names: &[String],
    ) -> Result<Option<TreeHead>, SourceError> {
        let mut largest: Option<TreeHead> = None;
        let mut ends = HashSet::from([CHAIN_START, CHAIN_LOST]);
        for name in names {
            let Some(bytes) = self.source.get(name, MAX_LEN)? else { continue };
            let prev = first_line(&bytes).map(|line| line.prev);
            if prev.is_some_and(|prev| !ends.contains(&prev)) {
                let fault = "follows no line that is there: one before it was changed or taken out";
                self.audit_damage((name, 0), fault.to_owned());
            }
            let mut followed = Followed { prev, head: None, told: None };
            let rest = self.lines(tree, name, &bytes, &mut followed);
            // An object is written whole.
            if !rest.is_empty() {
                let at = (bytes.len() - rest.len()) as u64;
                self.line(tree, (name, at), rest, &mut followed);
            }
            ends.extend(followed.prev);
            largest = largest.into_iter().chain(followed.head).max_by_key(|head| head.size);
        }
        Ok(largest)
    }

    /// Follows the whole lines of a file or an object; gives what stands behind the last one.
    fn lines<'b>(
        &mut self,
        tree: &Tree<'_>,
        name: &str,
        bytes: &'b [u8],
        followed: &mut Followed,
    ) -> &'b [u8] {
        let mut offset = 0;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let Some(text) = line.strip_suffix(b"\n") else { return line };
            self.line(tree, (name, offset), text, followed);
            offset += line.len() as u64;
        }
        &[]
    }

    fn line(&mut self, tree: &Tree<'_>, at: (&str, u64), line: &[u8], followed: &mut Followed) {
        let before = followed.prev.replace(line_hash(line));
        let Some(AuditLine { log, prev, event, members, .. }) = parse(line) else {
            return self.audit_damage(at, "no line of an audit log".to_owned());
        };
        let fits = self.told.hear(&event, &members);
        if !(fits || self.doubt) {
            self.audit_damage(at, format!("tells of a leaf, as `{event}`, what it does not say"));
        }
        match (before, prev) {
            (_, CHAIN_LOST) => self.told.from = Some(log.size),
            (Some(CHAIN_START), CHAIN_START) => self.told.from = Some(0),
            _ => {}
        }
        if ["start", "checkpoint"].contains(&event.as_str()) {
            self.told.from.get_or_insert(log.size);
            self.told.to = self.told.to.max(log.size);
        }
        if (before, prev) == (Some(CHAIN_START), CHAIN_LOST) {
            let fault = format!("begins at {} leaves: the audit log before it is gone", log.size);
            self.audit_damage(at, fault);
        } else if before.is_some_and(|before| before != prev) {
            let fault = "does not follow the line before: one was changed, taken out or put in";
            self.audit_damage(at, fault.to_owned());
        }
        if log.origin != self.heads.origin {
            return self.audit_damage(at, "speaks of another log".to_owned());
        }
        let head = TreeHead { size: log.size, root: log.root };
        let leaves = members.get("leaves").and_then(serde_json::Value::as_u64);
        match (event.as_str(), followed.told, leaves) {
            ("start", ..) => {
                let audited = members.get("audited_size").and_then(serde_json::Value::as_u64);
                self.told.cut_off += u64::from(audited.is_some_and(|audited| audited < head.size));
                followed.told = Some(head.size);
            }
            ("checkpoint", told, Some(leaves)) => {
                if told.is_some_and(|told| told.checked_add(leaves) != Some(head.size)) {
                    let told = followed.told.unwrap_or(0);
                    let fault = format!(
                        "lines are missing: it tells {leaves} new leaves of {}, the ones before it {told}",
                        head.size
                    );
                    self.audit_damage(at, fault);
                }
                followed.told = Some(head.size);
            }
            _ => {}
        }
        let last = followed.head.replace(head);
        if last == Some(head) {
            return;
        }
        let from = match (&last, before) {
            (Some(last), _) => last.size,
            (None, Some(CHAIN_START)) => 0,
            (None, _) => head.size,
        };
        if from + CUT_OFF < head.size {
            let fault = format!(
                "lines are missing: this one speaks of {} leaves, the one before of {from}",
                head.size
            );
            self.audit_damage(at, fault);
        }
        if let Some(last) = last.filter(|last| last.size > head.size) {
            let fault = format!("speaks of {} leaves, the line before of {}", head.size, last.size);
            self.audit_damage(at, fault);
        }
        let against = tree.against(&head);
        match self.keep(against) {
            Some(Against::OtherRoot(root)) => {
                let fault = format!(
                    "two histories: for {} leaves it has root {}, this log has {}",
                    head.size,
                    hex::encode(head.root),
                    hex::encode(root)
                );
                self.audit_damage(at, fault);
            }
            Some(Against::Larger) => {
                let fault = format!("speaks of {} leaves, more than this log has", head.size);
                self.audit_damage(at, fault);
            }
            Some(Against::Same) | None => {}
        }
    }

    fn audit_damage(&mut self, (file, offset): (&str, u64), fault: String) {
        self.report.damage(Damage {
            file: file.to_owned(),
            offset: Some(offset),
            fault,
            cost: COST.to_owned(),
            leaves: None,
        });
    }
}

fn parse(line: &[u8]) -> Option<AuditLine> {
    AuditLine::parse(std::str::from_utf8(line).ok()?).ok()
}

fn first_line(bytes: &[u8]) -> Option<AuditLine> {
    parse(bytes.split(|byte| *byte == b'\n').next()?)
}

/// The numbers of the files that were put aside, and what is in the one that grows. A running collector may put it
/// aside meanwhile.
fn read(source: &dyn LogSource) -> Result<(Vec<u64>, Option<Vec<u8>>), SourceError> {
    let mut before = numbers(source)?;
    for _ in 1..ATTEMPTS {
        let newest = source.get(AUDIT_FILE, MAX_LEN)?;
        let now = numbers(source)?;
        if now == before {
            return Ok((now, newest));
        }
        before = now;
    }
    Ok((before, source.get(AUDIT_FILE, MAX_LEN)?))
}

fn numbers(source: &dyn LogSource) -> Result<Vec<u64>, SourceError> {
    let items = source.list("")?.unwrap_or_default();
    let mut numbers: Vec<_> = items.iter().filter_map(|item| rotated_number(&item.name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}
