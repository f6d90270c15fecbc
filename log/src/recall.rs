//! Sessions that left memory, and are back where they speak again.

use crate::log::Log;
use crate::read::again_if_missing;
use crate::table::Tables;
use meshchain_core::SessionId;
use meshchain_store::StoreError;
use meshchain_stored::Session;
use std::collections::{BTreeMap, HashSet};
use std::sync::PoisonError;

/// A session as a list shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    /// Its id.
    pub id: SessionId,
    /// What it has in the log.
    pub session: Session,
    /// It ended without a close batch.
    pub silent: bool,
}

/// What became of sessions that were asked for.
#[derive(Debug, Default)]
pub(crate) struct Recalled {
    /// They came back.
    pub(crate) back: Vec<SessionId>,
    /// Nothing is known of them: a read failed.
    pub(crate) unread: HashSet<SessionId>,
}

impl Log {
    /// Whether the log has the session. Mostly nothing is read for one that it has not.
    pub async fn knows(&self, id: &SessionId) -> Result<bool, StoreError> {
        if self.sessions().has(id) {
            return Ok(true);
        }
        if !self.tables().may_hold(id) {
            return Ok(false);
        }
        let _turn = self.lookups.acquire().await;
        let found = self.look_up(vec![*id]).await.pop();
        Ok(found.map(|(_, session)| session).transpose()?.is_some())
    }

    /// What the tables say of those sessions that they have.
    async fn look_up(&self, ids: Vec<SessionId>) -> Vec<(SessionId, Result<Session, StoreError>)> {
        let mut found = self.tables().look_up(&self.store, ids).await;
        // Those tables were merged meanwhile.
        let gone =
            |session: &Result<_, StoreError>| session.as_ref().is_err_and(StoreError::is_missing);
        let again = found.extract_if(.., |(_, session)| gone(session)).map(|(id, _)| id);
        let again: Vec<SessionId> = again.collect();
        found.extend(self.tables().look_up(&self.store, again).await);
        for error in found.iter().filter_map(|(_, session)| session.as_ref().err()) {
            self.is_torn(error);
        }
        found
    }

    /// Has the table made again that fails by this error, if one does.
    fn is_torn(&self, error: &StoreError) {
        if let Some(torn) = self.tables().torn(error) {
            *self.torn.lock().unwrap_or_else(PoisonError::into_inner) = Some(torn);
            self.parts_closed.notify_one();
        }
    }

    /// Takes those sessions into memory that left it and are asked for again. Only for the writer: nobody else
    /// may change sessions.
    pub(crate) async fn recall(&self, mut ids: Vec<SessionId>) -> Recalled {
        {
            let sessions = self.sessions();
            ids.retain(|id| sessions.get(id).is_none());
        }
        let found = self.look_up(ids).await;
        let mut recalled = Recalled::default();
        let mut sessions = self.sessions_mut();
        for (id, session) in found {
            match session {
                Ok(session) => {
                    sessions.restore(id, session);
                    recalled.back.push(id);
                }
                Err(error) => {
                    log::error!("a session cannot be looked up: {error}");
                    recalled.unread.insert(id);
                }
            }
        }
        recalled
    }

    /// The first `limit` sessions behind `after`, by id, and whether there are more.
    pub async fn session_page(
        &self,
        after: Option<SessionId>,
        limit: usize,
    ) -> Result<(Vec<Listed>, bool), StoreError> {
        let read = again_if_missing(|| self.read_page(after, limit)).await;
        read.inspect_err(|error| self.is_torn(error))
    }

    async fn read_page(
        &self,
        after: Option<SessionId>,
        limit: usize,
    ) -> Result<(Vec<Listed>, bool), StoreError> {
        let most = limit.saturating_add(1);
        // Memory first: what leaves it meanwhile is in the tables.
        let first = self.sessions().page(after.as_ref(), most);
        let mut page: BTreeMap<SessionId, Session> = first.into_iter().collect();
        let Tables(tables) = self.tables();
        for table in tables.iter().rev() {
            for (id, session) in table.page(&self.store, after.as_ref(), most).await? {
                page.entry(id).or_insert(session);
            }
            while page.len() > most {
                page.pop_last();
            }
        }
        let more = page.len() > limit;
        let sessions = self.sessions();
        let listed = page.into_iter().take(limit).map(|(id, session)| {
            let silent = sessions.is_silent(&id, &session);
            Listed { id, session, silent }
        });
        Ok((listed.collect(), more))
    }
}
