//! Session tables that are lost or damaged, made again of the leaves.

use crate::build_table::{find, write_table};
use crate::edge::{self, Look};
use crate::table::{Table, Tables};
use bytes::Bytes;
use meshchain_core::tile::{TILE_WIDTH, TileKind, TileName, split_bundle, width_at};
use meshchain_core::{BatchLeaf, Canonical, SessionId};
use meshchain_store::{Store, StoreError, wait};
use meshchain_stored::{SegmentName, Session, table_path};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use tokio::runtime::Handle;

/// Leaves whose sessions are in memory at a time.
pub(crate) const PART: u64 = 64 * TILE_WIDTH;

/// A table that is not there, or not what it should be.
pub(crate) struct Torn {
    pub(crate) name: SegmentName,
    /// The error of who read it.
    pub(crate) why: String,
}

impl Tables {
    /// Which of the tables is torn, by this error.
    pub(crate) fn torn(&self, error: &StoreError) -> Option<Torn> {
        let lost = error.lost()?;
        let name = self.0.iter().map(|table| table.name()).find(|name| table_path(name) == lost)?;
        Some(Torn { name, why: error.to_string() })
    }

    /// Reads, and where a table fails, makes that one again first.
    pub(crate) async fn insist<T>(
        &mut self,
        store: &Store,
        read: impl AsyncFn(&Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        // Each at most once.
        for _ in 0..self.0.len() {
            let done = read(self).await;
            match done.as_ref().err().and_then(|error| self.torn(error)) {
                Some(torn) => self.mend(store, &torn).await?,
                None => return done,
            }
        }
        read(self).await
    }

    /// Makes this table again, if it is still one of these.
    pub(crate) async fn mend(&mut self, store: &Store, torn: &Torn) -> Result<(), StoreError> {
        let at = self.0.iter().position(|table| table.name() == torn.name);
        let Some(at) = at else { return Ok(()) };
        let older = Self(self.0[..at].to_vec());
        self.0[at] = Arc::new(made_again(store, older, torn).await?);
        Ok(())
    }
}

/// Writes a table behind `older` ones once more.
pub(crate) async fn made_again(
    store: &Store,
    older: Tables,
    torn: &Torn,
) -> Result<Table, StoreError> {
    log::error!("{}: it is made again of the leaves", torn.why);
    let name = torn.name;
    let (store, runtime) = (store.clone(), Handle::current());
    let made = Rebuild { store, runtime, older, name, part: PART };
    let path = table_path(&name);
    let made = tokio::task::spawn_blocking(move || made.run()).await;
    let made = made.unwrap_or_else(|e| Err(StoreError::damaged(&path, e)));
    if made.is_ok() {
        log::warn!("{path} is made again");
    }
    made
}

/// A table in the making.
pub(crate) struct Rebuild {
    pub(crate) store: Store,
    pub(crate) runtime: Handle,
    /// Those before it.
    pub(crate) older: Tables,
    pub(crate) name: SegmentName,
    /// Leaves whose sessions are in memory at a time.
    pub(crate) part: u64,
}

impl Rebuild {
    /// Only for threads that may block.
    pub(crate) fn run(self) -> Result<Table, StoreError> {
        let Self { store, runtime, mut older, name, part } = self;
        let before = older.0.len();
        let mut from = name.first;
        loop {
            let end = name.end.min((from / part + 1) * part);
            let sessions = sessions(&store, &runtime, &older, from..end)?;
            if (from, end) == (name.first, name.end) {
                return write_table(&store, &runtime, name, &[], &sessions);
            }
            let part = SegmentName { first: from, end, ..name };
            older.0.push(Arc::new(write_table(&store, &runtime, part, &[], &sessions)?));
            if end == name.end {
                break;
            }
            from = end;
        }
        let parts = older.0.split_off(before);
        let table = write_table(&store, &runtime, name, &parts, &BTreeMap::new())?;
        let parts: Vec<_> = parts.iter().map(|part| table_path(&part.name())).collect();
        wait(&runtime, async move {
            store.delete_all(parts).await;
            Ok(table)
        })
    }
}

/// Where the sessions of these leaves stand behind the last of them.
fn sessions(
    store: &Store,
    runtime: &Handle,
    older: &Tables,
    leaves: Range<u64>,
) -> Result<BTreeMap<SessionId, Session>, StoreError> {
    let mut sessions: BTreeMap<SessionId, Session> = BTreeMap::new();
    let mut at = leaves.start;
    while at < leaves.end {
        let index = at / TILE_WIDTH;
        let width = width_at(leaves.end, 0, index);
        let name = TileName { kind: TileKind::Entries, index, width };
        let (path, of) = (name.path(), store.clone());
        let bundle: Option<Bytes> =
            wait(runtime, async move { edge::find(&of, &name, Look::There).await })?;
        let bundle = bundle.ok_or_else(|| StoreError::missing(&path))?;
        let damaged = || StoreError::damaged(&path, "not an entry bundle of this width");
        let found = split_bundle(&bundle).ok_or_else(damaged)?;
        let mut new = Vec::new();
        for bytes in found.iter().skip((at % TILE_WIDTH) as usize) {
            let leaf = BatchLeaf::decode(bytes).map_err(|e| StoreError::damaged(&path, e))?;
            let header = leaf.parse_header().map_err(|e| StoreError::damaged(&path, e))?;
            new.push((leaf, header));
        }
        let ids = new.iter().map(|(_, header)| header.session);
        let ids = ids.filter(|id| !sessions.contains_key(id)).collect();
        sessions.extend(find(store, runtime, older, ids)?);
        for (leaf, header) in new {
            let _ = sessions.entry(header.session).or_default().record(&leaf, &header, at);
            at += 1;
        }
        if at != leaves.end.min((index + 1) * TILE_WIDTH) {
            return Err(damaged());
        }
    }
    Ok(sessions)
}
