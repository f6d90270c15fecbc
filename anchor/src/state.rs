//! What anchoring keeps on disk, below `anchor/<chain>/`:
//!
//! - `pending.json`: the anchor in flight with all its attempts, the next nonce and what was spent
//!   today. One object, so that one atomic write moves all of it.
//! - `receipts/<size, 20 digits>.json`: one final anchor each.

use alloy_primitives::{Address, B256, Bytes};
use meshchain_core::evidence::EvmAnchor;
use meshchain_store::{Store, StoreError, Version};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::Mutex;

/// The only version of both objects.
pub(crate) const VERSION: u32 = 1;
/// Digits of a size in a name, so that names sort as sizes do.
const DIGITS: usize = 20;
/// Milliseconds of a day.
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Why state could not be read or written.
#[derive(Debug, Error)]
pub enum StateError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An object that is not of this format.
    #[error("{name}: {source}")]
    Json {
        /// Name of the object.
        name: String,
        /// Cause.
        source: serde_json::Error,
    },
    /// An object of another version, or of another account or contract.
    #[error("{name}: {reason}")]
    Foreign {
        /// Name of the object.
        name: String,
        /// What differs.
        reason: String,
    },
}

/// Durable state of one anchor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    pub(crate) version: u32,
    /// Whose nonce it is, and where: a changed configuration must not inherit it.
    pub(crate) sender: Address,
    pub(crate) contract: Address,
    pub(crate) chain_id: u64,
    /// Nonce after the last final anchor; `None` before the first.
    pub(crate) next_nonce: Option<u64>,
    /// When the last anchor was started, Unix ms.
    pub(crate) last_start_ms: u64,
    /// Largest final size and its root.
    pub(crate) last_final: Option<(u64, B256)>,
    /// UTC day, in days since 1970, and wei spent on it by final transactions.
    pub(crate) spent: (u64, u128),
    pub(crate) in_flight: Option<InFlight>,
}

/// One nonce and all that was ever signed for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct InFlight {
    pub(crate) nonce: u64,
    /// Oldest first; never empty.
    pub(crate) attempts: Vec<Attempt>,
    /// Since when the newest attempt waits for a block, Unix ms.
    pub(crate) waiting_since_ms: u64,
    /// Where an attempt was last seen in a block.
    pub(crate) mined: Option<Mined>,
}

/// One signed transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Attempt {
    pub(crate) tx: B256,
    pub(crate) raw: Bytes,
    pub(crate) prev_size: u64,
    pub(crate) size: u64,
    pub(crate) root: B256,
    pub(crate) checkpoint: String,
    pub(crate) max_fee: u128,
    pub(crate) tip: u128,
    pub(crate) gas_limit: u64,
    pub(crate) time_ms: u64,
}

/// A block that held an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mined {
    pub(crate) tx: B256,
    pub(crate) block: u64,
    pub(crate) block_hash: B256,
}

/// A final anchor: what the evidence of every entry below its size can carry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinalAnchor {
    pub(crate) version: u32,
    /// Chain as configured.
    pub chain: String,
    /// Anchor contract.
    pub contract: Address,
    /// Account that anchored.
    pub sender: Address,
    /// Key of the log in the contract.
    pub log_id: B256,
    /// Tree size.
    pub size: u64,
    /// Root of the tree of that size.
    pub root: B256,
    /// The signed checkpoint of that size, verbatim.
    pub checkpoint: String,
    /// Header and receipt proof; `consistency` is empty and up to whoever writes the evidence.
    pub evidence: EvmAnchor,
    /// Number of the block.
    pub block_number: u64,
    /// Hash of the block.
    pub block_hash: B256,
    /// Time of the block, Unix seconds.
    pub block_timestamp: u64,
    /// Hash of the transaction.
    pub tx: B256,
    /// Account nonce of the transaction.
    pub nonce: u64,
    /// Gas used.
    pub gas_used: u64,
    /// Price paid per gas, wei.
    pub effective_gas_price: u128,
}

impl State {
    pub(crate) fn new(sender: Address, contract: Address, chain_id: u64) -> Self {
        Self {
            version: VERSION,
            sender,
            contract,
            chain_id,
            next_nonce: None,
            last_start_ms: 0,
            last_final: None,
            spent: (0, 0),
            in_flight: None,
        }
    }

    /// Wei spent by final transactions on the UTC day of `now_ms`.
    pub(crate) fn spent_on_day(&self, now_ms: u64) -> u128 {
        let (day, wei) = self.spent;
        if day == now_ms / DAY_MS { wei } else { 0 }
    }

    /// The state after the nonce in flight became final at a cost in wei.
    pub(crate) fn settled(&self, cost: u128, now_ms: u64) -> Self {
        let mut next = self.clone();
        next.spent = (now_ms / DAY_MS, self.spent_on_day(now_ms).saturating_add(cost));
        next.next_nonce =
            next.in_flight.take().map(|f| f.nonce.saturating_add(1)).or(next.next_nonce);
        next
    }
}

impl FinalAnchor {
    /// Whether the root stands in the kept receipt, as it must.
    pub(crate) fn proves_its_root(&self) -> bool {
        let node = self.evidence.receipt_proof.last();
        node.is_some_and(|node| node.windows(32).any(|window| window == self.root))
    }
}

impl InFlight {
    /// The attempt that counts while none is mined.
    pub(crate) fn newest(&self) -> Option<&Attempt> {
        self.attempts.last()
    }

    /// Most that this nonce can cost: one of its attempts will be mined.
    pub(crate) fn worst_cost(&self) -> u128 {
        let cost = |a: &Attempt| a.max_fee.saturating_mul(u128::from(a.gas_limit));
        self.attempts.iter().map(cost).max().unwrap_or(0)
    }
}

/// The objects of one anchor.
#[derive(Clone)]
pub(crate) struct Objects {
    store: Store,
    prefix: String,
    pending: Arc<Mutex<Pending>>,
}

/// The state as it was last loaded or saved: who took the log over has replaced it.
#[derive(Default)]
struct Pending {
    version: Version,
    /// What a save that failed was to write: it may be there all the same.
    doubtful: Option<Vec<u8>>,
}

impl Objects {
    pub(crate) fn new(store: Store, chain: &str) -> Self {
        Self { store, prefix: format!("anchor/{chain}"), pending: Arc::default() }
    }

    fn pending_name(&self) -> String {
        format!("{}/pending.json", self.prefix)
    }

    fn receipt_name(&self, size: u64) -> String {
        format!("{}/receipts/{size:0DIGITS$}.json", self.prefix)
    }

    /// Reads the state, or begins with `fresh`: also where the account was changed, or the contract while nothing was
    /// in flight. Final anchors of the old ones stay; an attempt of the old account, if a block takes it, does no harm.
    pub(crate) async fn load(&self, fresh: State) -> Result<State, StateError> {
        let name = self.pending_name();
        let Some((data, version)) = self.store.get_version(&name).await? else {
            return Ok(fresh);
        };
        self.pending.lock().await.version = version;
        let json = |source| StateError::Json { name: name.clone(), source };
        let state: State = serde_json::from_slice(&data).map_err(json)?;
        let foreign = |reason: &str| {
            Err(StateError::Foreign { name: name.clone(), reason: reason.to_owned() })
        };
        if (state.version, state.chain_id) != (fresh.version, fresh.chain_id) {
            return foreign(
                "is of another version or chain id: give the anchor another chain name",
            );
        }
        let same = (state.sender, state.contract) == (fresh.sender, fresh.contract);
        match &state.in_flight {
            Some(flight) if flight.attempts.is_empty() => {
                foreign("has a nonce in flight without an attempt")
            }
            Some(_) if !same && state.sender == fresh.sender => {
                foreign("has an anchor in flight of another contract")
            }
            _ if !same => Ok(State { spent: state.spent, ..fresh }),
            _ => Ok(state),
        }
    }

    pub(crate) async fn save(&self, state: &State) -> Result<(), StateError> {
        let name = self.pending_name();
        let data = serde_json::to_vec_pretty(state);
        let data = data.map_err(|source| StateError::Json { name: name.clone(), source })?;
        let mut pending = self.pending.lock().await;
        if let Some(doubtful) = pending.doubtful.take()
            && let Some((found, version)) = self.store.get_version(&name).await?
            && found == doubtful
        {
            pending.version = version;
        }
        match self.store.swap(&name, data.clone(), &pending.version).await {
            Ok(version) => pending.version = version,
            Err(error) => {
                pending.doubtful = Some(data);
                return Err(error.into());
            }
        }
        Ok(())
    }

    pub(crate) async fn put_final(&self, anchor: &FinalAnchor) -> Result<(), StateError> {
        let name = self.receipt_name(anchor.size);
        let data = serde_json::to_vec_pretty(anchor);
        let data = data.map_err(|source| StateError::Json { name: name.clone(), source })?;
        Ok(self.store.put(&name, data).await?)
    }

    pub(crate) async fn get_final(&self, size: u64) -> Result<Option<FinalAnchor>, StateError> {
        let name = self.receipt_name(size);
        let Some(data) = self.store.get(&name).await? else { return Ok(None) };
        let anchor: FinalAnchor = serde_json::from_slice(&data)
            .map_err(|source| StateError::Json { name: name.clone(), source })?;
        if anchor.version != VERSION || anchor.size != size {
            let reason = "is of another version or size".to_owned();
            return Err(StateError::Foreign { name, reason });
        }
        Ok(Some(anchor))
    }

    /// Sizes of all final anchors, ascending; known by their names alone.
    pub(crate) async fn final_sizes(&self) -> Result<Vec<u64>, StateError> {
        let names = self.store.list(&format!("{}/receipts", self.prefix)).await?;
        let size = |(name, _): &(String, u64)| {
            let file = name.rsplit('/').next()?.strip_suffix(".json")?;
            (file.len() == DIGITS).then(|| file.parse().ok()).flatten()
        };
        Ok(names.iter().filter_map(size).collect())
    }
}

impl From<StateError> for StoreError {
    /// For readers: an object that cannot be understood is as good as unreadable.
    fn from(error: StateError) -> Self {
        let (name, fault) = match error {
            StateError::Store(error) => return error,
            StateError::Json { name, source } => (name, source.to_string()),
            StateError::Foreign { name, reason } => (name, reason),
        };
        Self::damaged(&name, fault)
    }
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Objects").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshchain_store::Location;

    #[tokio::test]
    async fn state_survives_and_another_account_begins_anew_unless_an_anchor_is_in_flight() {
        let directory = tempfile::tempdir().unwrap();
        let objects =
            Objects::new(Store::open(&Location::Directory(directory.path().into())).unwrap(), "a");
        let fresh =
            |byte, chain| State::new(Address::repeat_byte(byte), Address::repeat_byte(9), chain);
        let mut state = fresh(1, 1);
        state.next_nonce = Some(7);
        // More wei than an integer of JSON's usual 64 bits holds.
        state.spent = (3, u128::from(u64::MAX) * 5);
        objects.save(&state).await.unwrap();
        assert_eq!(objects.load(fresh(1, 1)).await.unwrap(), state);
        let rotated = objects.load(fresh(2, 1)).await.unwrap();
        assert_eq!((rotated.next_nonce, rotated.spent), (None, state.spent));
        assert!(objects.load(fresh(1, 2)).await.is_err(), "another chain");

        let mut flight =
            InFlight { nonce: 7, attempts: Vec::new(), waiting_since_ms: 0, mined: None };
        state.in_flight = Some(flight.clone());
        objects.save(&state).await.unwrap();
        assert!(objects.load(fresh(1, 1)).await.is_err(), "no attempt");
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
        assert_eq!(objects.load(fresh(1, 1)).await.unwrap(), state);
        let moved = State { contract: Address::repeat_byte(8), ..fresh(1, 1) };
        assert!(objects.load(moved).await.is_err(), "another contract's anchor in flight");
        let rotated = objects.load(fresh(2, 1)).await.unwrap();
        assert_eq!((rotated.in_flight, rotated.spent), (None, state.spent), "a new account");

        objects.store.put(&objects.pending_name(), "{").await.unwrap();
        assert!(matches!(objects.load(fresh(1, 1)).await, Err(StateError::Json { .. })));
    }
}
