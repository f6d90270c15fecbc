//! The audit log: one JSON object per line, for the auditor. Schema: `docs/audit-log.md`.

use crate::limit::{RefusalLimit, Suppressed};
use meshchain_anchor::AnchorEvent;
use meshchain_core::{Equivocation, TreeHead};
use meshchain_store::{Location, Store, StoreError};
use meshchain_stored::audit_line::{AuditLine, AuditedLog};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Mutex;
use std::time::{Instant, SystemTime};

/// Bytes that may wait to be written to a bucket that fails.
const MAX_UNSHIPPED: usize = 4 << 20;

/// Where the audit lines go: a file or the bucket, and the standard output.
pub struct Audit {
    origin: String,
    inner: Mutex<Inner>,
}

enum Sink {
    File(File),
    /// Lines that wait to be written to the bucket.
    Bucket(Vec<u8>),
}

/// Ends a line that was cut off, so that the next one stands by itself.
fn end_line(file: &mut File) -> io::Result<()> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(());
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    if last == *b"\n" { Ok(()) } else { file.write_all(b"\n") }
}

impl Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::File(file) => {
                // Best effort: where even this fails, the line that was cut off ends at the next one.
                file.write_all(line).inspect_err(|_| drop(end_line(file)))
            }
            Self::Bucket(waiting) if waiting.len() + line.len() > MAX_UNSHIPPED => {
                Err(io::Error::other("the bucket does not take lines"))
            }
            Self::Bucket(waiting) => {
                waiting.extend_from_slice(line);
                Ok(())
            }
        }
    }
}

/// Behind the one lock of the audit log, which a writer of a line holds until file and echo have it.
struct Inner {
    sink: Sink,
    echo: Box<dyn Write + Send>,
    head: TreeHead,
    limit: RefusalLimit,
}

/// The parts of a refusal that an auditor needs.
#[derive(Debug, Serialize)]
pub struct RefusalLine<'a> {
    /// Label of the fault.
    pub reason: &'static str,
    /// What is wrong, in words.
    pub detail: String,
    /// Session, hex, where it could be read.
    pub session: Option<String>,
    /// Seq, where it could be read.
    pub seq: Option<u64>,
    /// Chain value that was offered, hex: with the log's own it proves an equivocation.
    pub chain: Option<String>,
    /// SPIFFE id that delivered it, empty where unknown.
    pub principal: &'a str,
    /// Of an equivocation: the logged batch and this one, as `meshchain verify` reads them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proof: Option<Equivocation>,
    /// SPIFFE id whose session it is, where that is another's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<&'a str>,
}

impl Audit {
    /// Opens `audit.jsonl` in a directory for appending; a bucket cannot append, its lines wait for
    /// [`Audit::ship`]. `origin` is the log that the lines speak of. Each line also goes to `echo`.
    pub fn open(
        data: &Location,
        origin: &str,
        echo: impl Write + Send + 'static,
    ) -> io::Result<Self> {
        let sink = match data.directory() {
            Some(directory) => {
                let path = directory.join("audit.jsonl");
                let mut options = OpenOptions::new();
                let mut file = options.read(true).append(true).create(true).open(path)?;
                end_line(&mut file)?;
                Sink::File(file)
            }
            None => Sink::Bucket(Vec::new()),
        };
        let head = TreeHead { size: 0, root: meshchain_core::merkle::empty_root() };
        let inner =
            Inner { sink, echo: Box::new(echo), head, limit: RefusalLimit::new(Instant::now()) };
        Ok(Self { origin: origin.to_owned(), inner: Mutex::new(inner) })
    }

    /// From now on, lines speak of this tree: the one last committed.
    pub fn set_head(&self, head: TreeHead) {
        self.lock().head = head;
    }

    /// Writes a line: `event`, and the members of `fields`, which must serialize to an object.
    pub fn line(&self, event: &str, fields: impl Serialize) {
        self.write(&mut self.lock(), event, fields);
    }

    /// Writes a step of an anchor.
    pub fn anchor(&self, event: &AnchorEvent) {
        let Ok(Value::Object(mut fields)) = serde_json::to_value(event) else {
            return;
        };
        if let Some(step) = fields.remove("event") {
            fields.insert("step".into(), step);
        }
        self.line("anchor", fields);
    }

    /// Writes a refusal, unless its sender had too many of its reason this second.
    pub fn refusal(&self, refusal: &RefusalLine<'_>) {
        let mut inner = self.lock();
        let ended = inner.limit.ended(Instant::now());
        self.suppressed(&mut inner, ended);
        if inner.limit.admits(refusal.reason, refusal.principal) {
            self.write(&mut inner, "refusal", refusal);
        }
    }

    /// Tells which refusals were not written, where their second is over.
    pub fn tell_suppressed(&self) {
        let mut inner = self.lock();
        let ended = inner.limit.ended(Instant::now());
        self.suppressed(&mut inner, ended);
    }

    /// Tells which refusals were not written, though their second is not over.
    pub fn tell_all_suppressed(&self) {
        let mut inner = self.lock();
        let ended = inner.limit.end();
        self.suppressed(&mut inner, ended);
    }

    fn suppressed(&self, inner: &mut Inner, suppressed: Vec<Suppressed>) {
        for Suppressed { reason, principal, count } in suppressed {
            let line = json!({ "reason": reason, "principal": principal, "count": count });
            self.write(inner, "refusals_suppressed", line);
        }
    }

    /// Puts all lines so far on disk.
    pub fn sync(&self) -> io::Result<()> {
        match &self.lock().sink {
            Sink::File(file) => file.sync_data(),
            Sink::Bucket(_) => Ok(()),
        }
    }

    /// Writes the lines that wait to the bucket, as an object of their own.
    pub async fn ship(&self, store: &Store) -> Result<(), StoreError> {
        let lines = match &mut self.lock().sink {
            Sink::Bucket(waiting) if !waiting.is_empty() => std::mem::take(waiting),
            _ => return Ok(()),
        };
        let millis = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let millis = millis.map_or(0, |d| d.as_millis());
        // The hash keeps two collectors apart that write in the same moment.
        let sum = meshchain_core::hash::tagged(&[], &[&lines]);
        let name = format!("audit/{millis:020}-{}.jsonl", hex::encode(&sum[..8]));
        let put = store.put(&name, lines.clone()).await;
        if put.is_err()
            && let Sink::Bucket(waiting) = &mut self.lock().sink
        {
            waiting.splice(..0, lines);
        }
        put
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self, inner: &mut Inner, event: &str, fields: impl Serialize) {
        let TreeHead { size, root } = inner.head;
        let members = match serde_json::to_value(fields) {
            Ok(Value::Object(members)) => members,
            _ => Map::new(),
        };
        let line = AuditLine {
            time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            event: event.to_owned(),
            log: AuditedLog { origin: self.origin.clone(), size, root },
            members,
        };
        let text = line.print() + "\n";
        if let Err(error) = inner.sink.write(text.as_bytes()) {
            log::error!("audit log: {error}; the line was: {text}");
        }
        // The same line for whoever collects the standard output; a closed pipe is not our fault.
        let _ = inner.echo.write_all(text.as_bytes());
    }
}
