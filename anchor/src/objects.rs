//! The objects of an anchor, below `anchor/<chain>/`, and the right to replace its state:
//!
//! - `pending.json`: the anchor in flight with all its attempts, the next nonce and what was spent
//!   today. One object, so that one atomic write moves all of it. Whoever starts makes it its own, and
//!   the writer before can replace it no more.
//! - `receipts/<size, 20 digits>.json`: one final anchor each.
//! - `given-up/<size, 20 digits>-<block hash>.json`: one whose block the chain gave up, once there is a proof of another.

use crate::state::{FinalAnchor, FormerAccount, State, StateError, resumed};
use alloy_primitives::B256;
use meshchain_store::{Store, StoreError, Version};
use meshchain_stored::anchor::{
    AnchorFormatError, final_path, finals_path, given_up_path, parse_final_path, parse_state_path,
    state_path,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::Mutex;

/// How often a state is taken over that its former writer replaces meanwhile. Its writes are a poll or
/// an answer of its node apart.
const ATTEMPTS: usize = 4;

/// States in doubt that are remembered.
const MOST_DOUBTFUL: usize = 16;

/// That the state on disk was this writer's own a moment ago, with all that it is to send. Only a write
/// gives it.
#[derive(Debug)]
pub(crate) struct Written(());

/// What a start finds.
pub(crate) struct Kept {
    /// Sizes of the final anchors; known by their names alone.
    pub(crate) sizes: BTreeSet<u64>,
    /// Whose anchors on this chain the states and newest proofs are, also under other names of the chain.
    pub(crate) accounts: Vec<FormerAccount>,
}

/// The objects of one anchor.
#[derive(Clone)]
pub(crate) struct Objects {
    store: Store,
    chain: String,
    pending: Arc<Mutex<Pending>>,
}

/// The state as this writer last left it: who took it over has replaced it.
#[derive(Default)]
struct Pending {
    version: Version,
    /// What saves that failed were to write: any of them may be there all the same.
    doubtful: Vec<Vec<u8>>,
}

impl Objects {
    pub(crate) fn new(store: Store, chain: &str) -> Self {
        Self { store, chain: chain.to_owned(), pending: Arc::default() }
    }

    fn pending_name(&self) -> String {
        state_path(&self.chain)
    }

    fn receipt_name(&self, size: u64) -> String {
        final_path(&self.chain, size)
    }

    /// Makes the state this writer's, which `fresh` names, and gives what to go on with. Nothing but the
    /// writer is changed: whoever starts with the wrong account by mistake loses nothing.
    pub(crate) async fn take_over(&self, fresh: State) -> Result<State, StateError> {
        let name = self.pending_name();
        for _ in 0..ATTEMPTS {
            let (found, version) = match self.store.get_version(&name).await? {
                Some((data, version)) => {
                    (State::parse(&data).map_err(|source| format(&name, source))?, version)
                }
                None => (fresh.clone(), Version::default()),
            };
            let foreign = |reason: &str| StateError::Foreign {
                name: name.clone(),
                reason: reason.to_owned(),
            };
            let state = resumed(found.clone(), &fresh).map_err(foreign)?;
            self.pending.lock().await.version = version;
            match self.save(&State { writer: fresh.writer.clone(), ..found }).await {
                Ok(Written(())) => return Ok(state),
                // The former writer wrote in this moment.
                Err(StateError::Store(StoreError::TakenOver(_))) => {}
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::TakenOver(name).into())
    }

    /// Replaces the state; [`StoreError::TakenOver`] where it is another writer's by now.
    pub(crate) async fn save(&self, state: &State) -> Result<Written, StateError> {
        let name = self.pending_name();
        let data = state.to_json().map_err(|source| format(&name, source))?;
        let mut pending = self.pending.lock().await;
        if !pending.doubtful.is_empty()
            && let Some((found, version)) = self.store.get_version(&name).await?
            && pending.doubtful.iter().any(|doubtful| *doubtful == found)
        {
            pending.version = version;
        }
        match self.store.swap(&name, data.clone(), &pending.version).await {
            Ok(version) => pending.version = version,
            Err(error) => {
                // The same is tried again and again; others are few.
                if !pending.doubtful.contains(&data) && pending.doubtful.len() < MOST_DOUBTFUL {
                    pending.doubtful.push(data);
                }
                return Err(error.into());
            }
        }
        pending.doubtful.clear();
        Ok(Written(()))
    }

    /// What is in this place.
    pub(crate) async fn kept(&self, chain_id: u64) -> Result<Kept, StateError> {
        let (mut sizes, mut accounts) = (BTreeSet::new(), Vec::new());
        let mut newest = BTreeMap::new();
        let own = finals_path(&self.chain);
        for (name, _) in self.store.list("anchor").await? {
            let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
            if let Some(size) = parse_final_path(&name) {
                sizes.extend((folder == own).then_some(size));
                newest.insert(folder, name);
            } else if parse_state_path(&name).is_some()
                && let Some(data) = self.store.get(&name).await?
                && let Ok(state) = State::parse(&data)
                && state.chain_id == chain_id
            {
                let own = state.account();
                accounts.extend(state.former.into_iter().chain([own]));
            }
        }
        for name in newest.into_values() {
            if let Some(data) = self.store.get(&name).await?
                && let Ok(kept) = FinalAnchor::parse(&data)
                && kept.evidence.chain_id == chain_id
            {
                accounts.push(kept.account());
            }
        }
        Ok(Kept { sizes, accounts })
    }

    /// Keeps a final anchor. One of the same size in another block, which a chain gave up, stays beside it; one of
    /// another account stays in its place, as policies name that one.
    pub(crate) async fn put_final(&self, anchor: &FinalAnchor) -> Result<(), StateError> {
        let name = self.receipt_name(anchor.size);
        if let Some(data) = self.store.get(&name).await?
            && let Ok(former) = FinalAnchor::parse(&data)
            && former.block_hash != anchor.block_hash
        {
            if former.account() != anchor.account() {
                return Ok(());
            }
            let aside = given_up_path(&self.chain, former.size, &former.block_hash);
            self.store.put(&aside, data).await?;
        }
        let data = anchor.to_json().map_err(|source| format(&name, source))?;
        Ok(self.store.put(&name, data).await?)
    }

    /// Moves a final anchor to where those are whose block the chain gave up.
    pub(crate) async fn set_aside(&self, size: u64, block: &B256) -> Result<(), StateError> {
        let name = self.receipt_name(size);
        let Some(data) = self.store.get(&name).await? else { return Ok(()) };
        self.store.put(&given_up_path(&self.chain, size, block), data).await?;
        Ok(self.store.delete(&name).await?)
    }

    pub(crate) async fn get_final(&self, size: u64) -> Result<Option<FinalAnchor>, StateError> {
        let name = self.receipt_name(size);
        let Some(data) = self.store.get(&name).await? else { return Ok(None) };
        let anchor = FinalAnchor::parse(&data).map_err(|source| format(&name, source))?;
        if anchor.size != size {
            let reason = "is of another size".to_owned();
            return Err(StateError::Foreign { name, reason });
        }
        Ok(Some(anchor))
    }
}

fn format(name: &str, source: AnchorFormatError) -> StateError {
    StateError::Format { name: name.to_owned(), source }
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Objects").field("chain", &self.chain).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Attempt, InFlight};
    use alloy_primitives::{Address, B256, Bytes};
    use meshchain_store::Location;
    use object_store::memory::InMemory;

    fn fresh(account: u8, chain: u64) -> State {
        State::new(Address::repeat_byte(account), Address::repeat_byte(9), chain)
    }

    fn of(writer: &str) -> State {
        State { writer: writer.to_owned(), ..fresh(1, 1) }
    }

    #[tokio::test]
    async fn state_survives_and_another_account_begins_anew_unless_an_anchor_is_in_flight() {
        let directory = tempfile::tempdir().unwrap();
        let objects =
            Objects::new(Store::open(&Location::Directory(directory.path().into())).unwrap(), "a");
        let mut state = fresh(1, 1);
        state.next_nonce = Some(7);
        // More wei than an integer of JSON's usual 64 bits holds.
        state.spent = (3, u128::from(u64::MAX) * 5);
        state.gas_used = 11;
        objects.save(&state).await.unwrap();
        assert_eq!(objects.take_over(fresh(1, 1)).await.unwrap(), state);
        let rotated = objects.take_over(fresh(2, 1)).await.unwrap();
        assert_eq!((rotated.next_nonce, rotated.spent), (None, state.spent));
        assert_eq!(rotated.gas_used, 11);
        assert!(objects.take_over(fresh(1, 2)).await.is_err(), "another chain");
        assert_eq!(objects.take_over(fresh(1, 1)).await.unwrap(), state, "nothing was lost");

        let mut flight =
            InFlight { nonce: 7, attempts: Vec::new(), waiting_since_ms: 0, mined: None };
        state.in_flight = Some(flight.clone());
        objects.save(&state).await.unwrap();
        assert!(objects.take_over(fresh(1, 1)).await.is_err(), "no attempt");
        flight.attempts.push(Attempt {
            tx: B256::ZERO,
            raw: Bytes::from_static(&[2, 3]),
            prev_size: 0,
            size: u64::MAX,
            root: B256::ZERO,
            checkpoint: "c".into(),
            max_fee: u128::MAX,
            tip: 1,
            gas_limit: 1,
            time_ms: 1,
        });
        state.in_flight = Some(flight);
        objects.save(&state).await.unwrap();
        assert_eq!(objects.take_over(fresh(1, 1)).await.unwrap(), state);
        let moved = State { contract: Address::repeat_byte(8), ..fresh(1, 1) };
        assert!(objects.take_over(moved).await.is_err(), "another contract's anchor in flight");
        let rotated = objects.take_over(fresh(2, 1)).await.unwrap();
        assert_eq!((rotated.in_flight, rotated.spent), (None, state.spent), "a new account");

        objects.store.put(&objects.pending_name(), "{").await.unwrap();
        assert!(matches!(objects.take_over(fresh(1, 1)).await, Err(StateError::Format { .. })));
    }

    #[tokio::test]
    async fn a_state_of_before_there_were_writers_is_taken_over() {
        let objects = Objects::new(Store::over(Arc::new(InMemory::new()), false), "a");
        let mut old = serde_json::to_value(fresh(1, 1)).unwrap();
        old["next_nonce"] = 7.into();
        old.as_object_mut().unwrap().retain(|field, _| !["writer", "gas_used"].contains(&&**field));
        objects.store.put(&objects.pending_name(), old.to_string()).await.unwrap();
        let taken = objects.take_over(of("a")).await.unwrap();
        assert_eq!(taken, State { next_nonce: Some(7), ..of("a") });
    }

    #[tokio::test]
    async fn in_a_bucket_the_state_is_that_of_who_started_last() {
        let bucket = Arc::new(InMemory::new());
        let at = || Objects::new(Store::over(bucket.clone(), false), "a");
        let taken = |saved: Result<Written, StateError>| {
            matches!(saved, Err(StateError::Store(StoreError::TakenOver(_))))
        };
        let (a, b, c) = (at(), at(), at());
        let first = a.take_over(of("a")).await.unwrap();
        a.save(&first).await.unwrap();
        let next = State { next_nonce: Some(1), ..first.clone() };
        a.save(&next).await.unwrap();
        let second = b.take_over(of("b")).await.unwrap();
        assert_eq!(second, State { next_nonce: Some(1), ..of("b") }, "what the first one left");
        for _ in 0..2 {
            assert!(taken(a.save(&next).await), "not even what it wrote itself");
            b.save(&second).await.unwrap();
        }
        c.take_over(of("c")).await.unwrap();
        assert!(taken(a.save(&next).await) && taken(b.save(&second).await));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_state_that_is_written_meanwhile_is_taken_over_all_the_same() {
        for _ in 0..50 {
            let bucket = Arc::new(InMemory::new());
            let at = || Objects::new(Store::over(bucket.clone(), false), "a");
            let (a, b) = (at(), at());
            let first = a.take_over(of("a")).await.unwrap();
            let writing = tokio::spawn(async move {
                let mut written = 0;
                // As often as one may be overtaken.
                for nonce in 1..ATTEMPTS as u64 {
                    let next = State { next_nonce: Some(nonce), ..first.clone() };
                    if a.save(&next).await.is_err() {
                        break;
                    }
                    written = nonce;
                }
                written
            });
            let second = b.take_over(of("b")).await.unwrap();
            let written = writing.await.unwrap();
            assert_eq!(second.next_nonce.unwrap_or(0), written, "all that was written, or refused");
        }
    }
}
