//! Reading session tables: where the sessions stand that are not in memory.

use crate::sessions::Heard;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use meshchain_core::SessionId;
use meshchain_store::{Store, StoreError};
use meshchain_stored::{Row, SegmentName, Session, TableIndex, TableLayout, table_path};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Sessions that are looked up at the same time.
const LOOKUPS: usize = 16;
/// Blocks that are read ahead of the one that is looked through.
const READ_AHEAD: usize = 8;
/// Sessions that are in memory at a time where many are looked up.
const MOST_AT_ONCE: usize = 1024;

/// One table: what of it is in memory.
#[derive(Debug)]
pub struct Table(pub(crate) TableIndex);

impl Table {
    /// Opens a table of `len` bytes.
    pub async fn load(store: &Store, name: SegmentName, len: u64) -> Result<Self, StoreError> {
        let path = table_path(&name);
        let damaged = |e| StoreError::damaged(&path, e);
        if len == 0 {
            return Err(StoreError::damaged(&path, "it is empty"));
        }
        let tail = len.saturating_sub(TableLayout::TAIL)..len;
        let layout = TableLayout::parse(&store.get_range(&path, tail).await?, len);
        let layout = layout.map_err(damaged)?;
        if layout.name != name {
            return Err(StoreError::damaged(&path, "of other leaves than its name says"));
        }
        let index = layout.index(store.get_range(&path, layout.index_at()).await?);
        Ok(Self(index.map_err(damaged)?))
    }

    /// Its name.
    pub(crate) fn name(&self) -> SegmentName {
        self.0.layout.name
    }

    fn damaged(&self, fault: impl ToString) -> StoreError {
        StoreError::damaged(&table_path(&self.name()), fault)
    }

    async fn find(&self, store: &Store, id: &SessionId) -> Result<Option<Session>, StoreError> {
        let block = self.0.block(self.0.block_of(id));
        let Some(block) = block.filter(|_| self.0.may_hold(id)) else {
            return Ok(None);
        };
        let path = table_path(&self.name());
        let rows = block.read_rows(&store.get_range(&path, block.rows.clone()).await?);
        let rows = rows.map_err(|e| self.damaged(e))?;
        let Ok(at) = rows.binary_search_by(|row| row.id.cmp(id)) else {
            return Ok(None);
        };
        let state = store.get_range(&path, rows[at].state.clone()).await?;
        rows[at].session(&state).map(Some).map_err(|e| self.damaged(e))
    }

    /// The sessions of a block by id, with their states as they are stored; none behind the last block.
    pub(crate) async fn block(
        &self,
        store: &Store,
        at: usize,
    ) -> Result<Vec<(Row, Bytes)>, StoreError> {
        let Some(block) = self.0.block(at) else {
            return Ok(Vec::new());
        };
        let bytes = store.get_range(&table_path(&self.name()), block.all.clone()).await?;
        block.read(&bytes).map_err(|e| self.damaged(e))
    }

    fn session(&self, row: &Row, state: &[u8]) -> Result<(SessionId, Session), StoreError> {
        row.session(state).map(|session| (row.id, session)).map_err(|e| self.damaged(e))
    }

    /// The first `most` sessions behind `after`, by id.
    pub(crate) async fn page(
        &self,
        store: &Store,
        after: Option<&SessionId>,
        most: usize,
    ) -> Result<Vec<(SessionId, Session)>, StoreError> {
        let mut found = Vec::new();
        for at in after.map_or(0, |after| self.0.block_of(after)).. {
            let block = self.block(store, at).await?;
            if block.is_empty() {
                break;
            }
            let behind = |(row, _): &&(Row, Bytes)| after.is_none_or(|after| row.id > *after);
            for (row, state) in block.iter().filter(behind).take(most - found.len()) {
                found.push(self.session(row, state)?);
            }
            if found.len() == most {
                break;
            }
        }
        Ok(found)
    }

    /// The sessions without a close that were heard of at `since_ns` or later.
    async fn open_since(
        &self,
        store: &Store,
        since_ns: u64,
    ) -> Result<Vec<(SessionId, Heard)>, StoreError> {
        let blocks = (0..).map_while(|at| Some((at, self.0.block(at)?)));
        let newer = blocks.filter(|(_, block)| block.newest_ns >= since_ns.max(1));
        let reads: Vec<_> = newer.map(|(at, _)| self.block(store, at)).collect();
        let mut reads = stream::iter(reads).buffered(READ_AHEAD);
        let mut found = Vec::new();
        while let Some(block) = reads.try_next().await? {
            for (row, state) in block.iter().filter(|(row, _)| row.heard_ns >= since_ns.max(1)) {
                let (id, session) = self.session(row, state)?;
                found.push((id, Heard::from(&session)));
            }
        }
        Ok(found)
    }
}

/// All tables, oldest first. What a session had is in the last one that has the session.
#[derive(Debug, Clone, Default)]
pub struct Tables(pub(crate) Vec<Arc<Table>>);

impl Tables {
    /// The leaf behind those that they know of.
    pub fn end(&self) -> u64 {
        self.0.last().map_or(0, |table| table.name().end)
    }

    /// Whether one of them may have the session. Reads nothing.
    pub fn may_hold(&self, id: &SessionId) -> bool {
        self.0.iter().any(|table| table.0.may_hold(id))
    }

    async fn find(&self, store: &Store, id: &SessionId) -> Result<Option<Session>, StoreError> {
        for table in self.0.iter().rev() {
            if let Some(session) = table.find(store, id).await? {
                return Ok(Some(session));
            }
        }
        Ok(None)
    }

    /// What these sessions had, each by itself. Those that are in no table are left out, most of them
    /// without a read.
    pub async fn look_up(
        &self,
        store: &Store,
        mut ids: Vec<SessionId>,
    ) -> Vec<(SessionId, Result<Session, StoreError>)> {
        ids.retain(|id| self.may_hold(id));
        ids.sort_unstable();
        ids.dedup();
        // Made before they run: a closure in the stream would be tied to one lifetime.
        let lookups: Vec<_> = ids
            .iter()
            .map(|id| async move { Some((*id, self.find(store, id).await.transpose()?)) })
            .collect();
        let found: Vec<Option<_>> = stream::iter(lookups).buffered(LOOKUPS).collect().await;
        found.into_iter().flatten().collect()
    }

    /// As [`Tables::look_up`], of all or none.
    pub async fn find_all(
        &self,
        store: &Store,
        ids: Vec<SessionId>,
    ) -> Result<Vec<(SessionId, Session)>, StoreError> {
        let found = self.look_up(store, ids).await;
        found.into_iter().map(|(id, session)| Ok((id, session?))).collect()
    }

    /// The newest batch of a session that is not closed.
    pub fn newest_ns(&self) -> u64 {
        self.0.iter().map(|table| table.0.newest_ns()).max().unwrap_or(0)
    }

    /// The sessions without a close that were heard of at `since_ns` or later.
    pub async fn open_since(
        &self,
        store: &Store,
        since_ns: u64,
    ) -> Result<Vec<(SessionId, Heard)>, StoreError> {
        let mut open = HashMap::new();
        for (at, table) in self.0.iter().enumerate().rev() {
            let (newer, mut unsure) = (Self(self.0[at + 1..].to_vec()), Vec::new());
            for (id, heard) in table.open_since(store, since_ns).await? {
                match newer.may_hold(&id) {
                    true => unsure.push((id, heard)),
                    false => drop(open.insert(id, heard)),
                }
            }
            // A newer table speaks for itself, also where it says that the session was closed.
            let mut superseded: HashSet<SessionId> = HashSet::new();
            for some in unsure.chunks(MOST_AT_ONCE) {
                let ids = some.iter().map(|(id, _)| *id).collect();
                superseded.extend(newer.find_all(store, ids).await?.into_iter().map(|(id, _)| id));
            }
            unsure.retain(|(id, _)| !superseded.contains(id));
            open.extend(unsure);
        }
        Ok(open.into_iter().collect())
    }
}
