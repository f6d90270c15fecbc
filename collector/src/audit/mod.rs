//! The audit log: one JSON object per line, for the auditor. Schema: `docs/audit-log.md`.

mod bucket;
mod file;
mod keeper;

use crate::aside::Aside;
use crate::limit::{RefusalLimit, Suppressed};
use crate::metrics::Metrics;
use bucket::AuditBucket;
use file::AuditFile;
pub(crate) use file::newest_rotated;
use hex::FromHex;
pub use keeper::NotKept;
use keeper::{Keeper, Sink, Weight};
use meshchain_anchor::AnchorEvent;
use meshchain_core::{Equivocation, Hash, SessionId, TreeHead};
use meshchain_store::{Location, Store};
use meshchain_stored::audit_line::{
    AuditLine, AuditedLog, CHAIN_LOST, CHAIN_START, ROTATE_AT, line_hash,
};
use prometheus_client::metrics::counter::Counter;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

/// Where the audit lines go: to the thread that keeps them, and aside to the standard output. Whoever tells a line
/// waits for neither.
pub struct Audit {
    origin: String,
    inner: Mutex<Inner>,
    keeper: Arc<Keeper>,
    echo: Aside,
    lost: Counter,
}

/// Behind the one lock of the audit log, which gives the lines their order. It is held for moments.
struct Inner {
    head: TreeHead,
    limit: RefusalLimit,
    /// Hash of the last line.
    prev: Hash,
    /// Sessions whose equivocation is proved here.
    proved: HashSet<SessionId>,
}

/// Sessions whose first proof is told whatever the limit says. Each of them is in the log, and so paid for.
const MOST_PROVED: usize = 1 << 18;

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
    /// Opens the audit log in a directory, or in the bucket that is `store`. `origin` is the log that the lines speak
    /// of. Each line also goes to `echo`.
    pub async fn open(
        data: &Location,
        store: &Store,
        origin: &str,
        echo: Aside,
        metrics: &Metrics,
    ) -> io::Result<Self> {
        let (sink, prev) = match data.directory() {
            Some(directory) => {
                let (file, prev) = AuditFile::open(directory, ROTATE_AT)?;
                (Sink::File(file), prev)
            }
            None => {
                let (bucket, prev) = AuditBucket::open(store).await.map_err(io::Error::other)?;
                (Sink::Bucket(bucket), prev)
            }
        };
        let head = TreeHead { size: 0, root: meshchain_core::merkle::empty_root() };
        let limit = RefusalLimit::new(Instant::now());
        let keeper = Keeper::start(sink, metrics.audit_failing.clone())?;
        let lost = metrics.audit_lines_lost.clone();
        let inner = Mutex::new(Inner { head, limit, prev, proved: HashSet::new() });
        Ok(Self { origin: origin.to_owned(), inner, keeper, echo, lost })
    }

    /// From now on, lines speak of this tree: the one last committed.
    pub fn set_head(&self, head: TreeHead) {
        let mut inner = self.lock();
        inner.head = head;
        // No line was told for any of these leaves: the audit log that did is gone.
        if head.size > 0 && inner.prev == CHAIN_START {
            inner.prev = CHAIN_LOST;
        }
    }

    /// Writes a line: `event`, and the members of `fields`, which must serialize to an object.
    pub fn line(&self, event: &str, fields: impl Serialize) {
        self.write(&mut self.lock(), event, fields, Weight::Log);
    }

    /// Writes a line of a batch that is not to be acknowledged before the line is kept.
    pub fn batch(&self, event: &str, fields: impl Serialize) {
        self.write(&mut self.lock(), event, fields, Weight::Batch);
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

    /// Writes a refusal, unless its sender had too many of its reason lately. The first proof against a session is
    /// always told.
    pub fn refusal(&self, mut refusal: RefusalLine<'_>) {
        let mut inner = self.lock();
        let ended = inner.limit.ended(Instant::now());
        self.suppressed(&mut inner, ended);
        let session = refusal.session.as_deref().and_then(|id| <SessionId>::from_hex(id).ok());
        let proves = session.filter(|_| refusal.proof.is_some());
        // It is long, and one is enough.
        if proves.is_some_and(|session| inner.proved.contains(&session)) {
            refusal.proof = None;
        }
        let first = refusal.proof.is_some() && inner.proved.len() < MOST_PROVED;
        if !first && !inner.limit.admits(refusal.reason, refusal.principal) {
            return;
        }
        let told = self.write(&mut inner, "refusal", refusal, Weight::Refusal);
        if told && first {
            inner.proved.extend(proves);
        }
    }

    /// Tells which refusals were not written, where their time is over.
    pub fn tell_suppressed(&self) {
        let mut inner = self.lock();
        let ended = inner.limit.ended(Instant::now());
        self.suppressed(&mut inner, ended);
    }

    /// Tells which refusals were not written, though their time is not over.
    pub fn tell_all_suppressed(&self) {
        let mut inner = self.lock();
        let ended = inner.limit.end();
        self.suppressed(&mut inner, ended);
    }

    fn suppressed(&self, inner: &mut Inner, suppressed: Vec<Suppressed>) {
        for Suppressed { reason, principal, count } in suppressed {
            let line = json!({ "reason": reason, "principal": principal, "count": count });
            self.write(inner, "refusals_suppressed", line, Weight::Refusal);
        }
    }

    /// Waits until the lines of the batches so far are kept.
    pub async fn kept(&self) -> Result<(), NotKept> {
        self.keeper.kept().await
    }

    /// Waits until all lines so far are kept.
    pub async fn all_kept(&self) -> Result<(), NotKept> {
        self.keeper.all_kept().await
    }

    /// Waits until no more lines are kept, as the thread that does so has ended.
    pub async fn ended(&self) {
        self.keeper.ended().await;
    }

    /// Why lines are not kept at the moment, if so.
    pub fn failing(&self) -> Option<NotKept> {
        self.keeper.failing()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the line is on its way to where it is kept.
    fn write(
        &self,
        inner: &mut Inner,
        event: &str,
        fields: impl Serialize,
        weight: Weight,
    ) -> bool {
        let TreeHead { size, root } = inner.head;
        let members = match serde_json::to_value(fields) {
            Ok(Value::Object(members)) => members,
            _ => Map::new(),
        };
        let line = AuditLine {
            time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            event: event.to_owned(),
            log: AuditedLog { origin: self.origin.clone(), size, root },
            prev: inner.prev,
            members,
        };
        let text = line.print();
        let prev = line_hash(text.as_bytes());
        let text = text + "\n";
        let kept = self.keeper.push(text.as_bytes(), weight);
        if kept {
            inner.prev = prev;
        } else {
            self.lost.inc();
        }
        // The same line for whoever collects the standard output.
        self.echo.write(text.into_bytes());
        kept
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.keeper.close();
    }
}
