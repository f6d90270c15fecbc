//! Writing a session table: what the sessions of a new segment have now, and what the tables say that it
//! takes in.

use crate::table::{Table, Tables};
use crate::upload::Upload;
use bytes::Bytes;
use meshchain_core::SessionId;
use meshchain_store::{Store, StoreError, wait};
use meshchain_stored::{Row, SegmentName, Session, TableWriter, table_path};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tokio::runtime::Handle;

/// Writes the table `name`, and opens it. `newer` is what is newer than `tables`. Only for threads that may
/// block.
pub(crate) fn write_table(
    store: &Store,
    runtime: &Handle,
    name: SegmentName,
    tables: &[Arc<Table>],
    newer: &BTreeMap<SessionId, Session>,
) -> Result<Table, StoreError> {
    let path = table_path(&name);
    let failed = |error: std::io::Error| match error.downcast() {
        Ok(error) => error,
        Err(error) => StoreError::damaged(&path, error),
    };
    let mut writer = TableWriter::new(Upload::begin(store, runtime, path.clone())?, name);
    let mut newer = newer.iter().peekable();
    let mut older = Vec::new();
    for table in tables.iter().rev() {
        older.push(Cursor::begin(store, runtime, table.clone())?);
    }
    loop {
        let next = newer.peek().map(|(id, _)| **id);
        let Some(id) = older.iter().filter_map(Cursor::id).chain(next).min() else {
            break;
        };
        let new = newer.next_if(|(of, _)| **of == id);
        if let Some((_, session)) = new {
            writer.push(&id, session).map_err(failed)?;
        }
        // The newest table that has it comes first.
        let mut known = new.is_some();
        for cursor in older.iter_mut().filter(|cursor| cursor.id() == Some(id)) {
            let Some((row, state)) = cursor.take()? else { continue };
            if !std::mem::replace(&mut known, true) {
                writer.push_state(&id, row.heard_ns, &state).map_err(failed)?;
            }
        }
    }
    let (upload, _) = writer.finish().map_err(failed)?;
    let len = upload.complete()?;
    let store = store.clone();
    wait(runtime, async move { Table::load(&store, name, len).await })
}

/// What sessions had before, that are in `tables`. Only for threads that may block.
pub(crate) fn find(
    store: &Store,
    runtime: &Handle,
    tables: &Tables,
    ids: Vec<SessionId>,
) -> Result<Vec<(SessionId, Session)>, StoreError> {
    let (store, tables) = (store.clone(), tables.clone());
    wait(runtime, async move { tables.find_all(&store, ids).await })
}

/// A table that is read through, block by block.
struct Cursor {
    store: Store,
    runtime: Handle,
    table: Arc<Table>,
    next: usize,
    block: VecDeque<(Row, Bytes)>,
}

impl Cursor {
    fn begin(store: &Store, runtime: &Handle, table: Arc<Table>) -> Result<Self, StoreError> {
        let (store, runtime) = (store.clone(), runtime.clone());
        let mut this = Self { store, runtime, table, next: 0, block: VecDeque::new() };
        this.read_on()?;
        Ok(this)
    }

    fn id(&self) -> Option<SessionId> {
        self.block.front().map(|(row, _)| row.id)
    }

    fn take(&mut self) -> Result<Option<(Row, Bytes)>, StoreError> {
        let taken = self.block.pop_front();
        if self.block.is_empty() {
            self.read_on()?;
        }
        Ok(taken)
    }

    fn read_on(&mut self) -> Result<(), StoreError> {
        let (store, table, at) = (self.store.clone(), self.table.clone(), self.next);
        self.block = wait(&self.runtime, async move { table.block(&store, at).await })?.into();
        self.next += 1;
        Ok(())
    }
}
