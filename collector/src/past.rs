//! The audit log, as a witness of the log's past: its lines speak of trees that were committed.

use crate::audit::newest_rotated;
use anyhow::{Result, bail};
use meshchain_core::Hash;
use meshchain_log::{Log, Witness};
use meshchain_store::{Location, Store};
use meshchain_stored::audit_line::{AUDIT_FILE, AuditedLog, CUT_OFF, line_hash, rotated_name};
use serde::Deserialize;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};

/// Objects of the audit log that are read, the newest ones: each line has the size that the log had.
const NEWEST: usize = 64;

/// What is read of a line.
#[derive(Deserialize)]
struct Line {
    event: String,
    log: AuditedLog,
    #[serde(with = "hex::serde")]
    prev: Hash,
}

/// What the audit log beside the log speaks of.
pub struct Audited {
    /// The largest tree.
    pub largest: AuditedLog,
    /// Leaves whose lines are all kept: they come before the line of the checkpoint, and after a start before its.
    pub told: u64,
}

/// What lines say together.
#[derive(Default)]
struct Lines {
    audited: Option<Audited>,
    /// Hash of the last one.
    last: Option<Hash>,
    /// One is no line, or does not follow the one before it.
    broken: bool,
    /// The other log that one speaks of.
    other: Option<String>,
}

impl Lines {
    fn take(&mut self, line: &[u8], origin: &str) {
        let Ok(Line { event, log, prev }) = serde_json::from_slice(line) else {
            self.broken = true;
            return;
        };
        if log.origin != origin {
            self.other = Some(log.origin);
            return;
        }
        self.broken |= self.last.replace(line_hash(line)).is_some_and(|last| last != prev);
        let told = if ["start", "checkpoint"].contains(&event.as_str()) { log.size } else { 0 };
        match &mut self.audited {
            None => self.audited = Some(Audited { largest: log, told }),
            Some(audited) => {
                audited.told = told.max(audited.told);
                if log.size > audited.largest.size {
                    audited.largest = log;
                }
            }
        }
    }
}

/// Reads the audit log, as far as it can be read.
pub async fn audited(data: &Location, store: &Store, origin: &str) -> Result<Option<Audited>> {
    let mut all = Lines::default();
    if let Some(directory) = data.directory() {
        let before = newest_rotated(directory)?.map(rotated_name);
        for name in before.into_iter().chain([AUDIT_FILE.to_owned()]) {
            let path = directory.join(name);
            // Of a pipe or a device there is nothing to read back; to open one may take for ever.
            if std::fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
                continue;
            }
            match File::open(path) {
                Ok(file) => {
                    let (mut file, mut line) = (BufReader::new(file), Vec::new());
                    // What has no end is cut off when the file is opened to write.
                    while file.read_until(b'\n', &mut line)? > 0 && line.pop() == Some(b'\n') {
                        all.take(&line, origin);
                        line.clear();
                    }
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    if all.broken {
        log::warn!("the audit log is not as it was written: `meshchain fsck` tells where");
    }
    let objects = store.list("audit").await?;
    for (name, _) in objects.iter().rev().take(NEWEST) {
        let lines = store.get(name).await?.unwrap_or_default();
        let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.for_each(|line| all.take(line, origin));
    }
    match (&all.audited, all.other) {
        (None, Some(other)) => bail!(
            "{data} holds the audit log of {other}, not of {origin}: a new log begins in a place of its own (docs/restore.md)"
        ),
        _ => Ok(all.audited),
    }
}

/// Says so where the audit log is not all there: it was taken away, or put back from an older copy.
pub fn warn_of_missing(size: u64, audited: Option<&Audited>) {
    match audited {
        None if size > 0 => log::warn!(
            "the log has {size} leaves and no audit log beside it: what that told is lost, and a new one begins"
        ),
        Some(Audited { largest, .. }) if largest.size + CUT_OFF < size => log::warn!(
            "the audit log ends at {} leaves, the log has {size}: its end was taken away, or it is an older copy",
            largest.size
        ),
        _ => {}
    }
}

/// Halts the log where the audit log speaks of a larger tree, or of another one.
pub async fn compare(log: &Log, audited: Option<Audited>) -> Result<()> {
    let Some(AuditedLog { size, root, .. }) = audited.map(|audited| audited.largest) else {
        return Ok(());
    };
    match log.root_at(size).await? {
        Some(own) if own == root => {}
        Some(_) => log
            .halt(Witness::Kept, format!("the audit log speaks of another tree of {size} leaves")),
        None => log.halt(
            Witness::Kept,
            format!("the audit log speaks of {size} leaves, the log has fewer"),
        ),
    }
    Ok(())
}
