//! What anchoring keeps: its state, and one object for each final anchor.

use alloy_primitives::{Address, B256, Bytes};
use meshchain_core::evidence::EvmAnchor;
use meshchain_store::StoreError;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The only version of both objects.
pub(crate) const VERSION: u32 = 1;
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
    /// Whose state it is: a number that the writer drew when it started, so that no two write the
    /// same bytes. Empty in states of before there was one.
    #[serde(default)]
    pub(crate) writer: String,
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
    /// Gas that all final transactions used.
    #[serde(default)]
    pub(crate) gas_used: u64,
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
            writer: String::new(),
            sender,
            contract,
            chain_id,
            next_nonce: None,
            last_start_ms: 0,
            last_final: None,
            spent: (0, 0),
            gas_used: 0,
            in_flight: None,
        }
    }

    /// What to go on with as the account and contract of `fresh`: another account or contract begins
    /// anew. Final anchors of the old ones stay; an attempt of the old account, if a block takes it, does
    /// no harm.
    pub(crate) fn resumed(self, fresh: &Self) -> Result<Self, &'static str> {
        if (self.version, self.chain_id) != (fresh.version, fresh.chain_id) {
            return Err("is of another version or chain id: give the anchor another chain name");
        }
        let same = (self.sender, self.contract) == (fresh.sender, fresh.contract);
        let writer = fresh.writer.clone();
        match &self.in_flight {
            Some(flight) if flight.attempts.is_empty() => {
                Err("has a nonce in flight without an attempt")
            }
            Some(_) if !same && self.sender == fresh.sender => {
                Err("has an anchor in flight of another contract")
            }
            _ if !same => Ok(Self { spent: self.spent, gas_used: self.gas_used, ..fresh.clone() }),
            _ => Ok(Self { writer, ..self }),
        }
    }

    /// Wei spent by final transactions on the UTC day of `now_ms`.
    pub(crate) fn spent_on_day(&self, now_ms: u64) -> u128 {
        let (day, wei) = self.spent;
        if day == now_ms / DAY_MS { wei } else { 0 }
    }

    /// The state after the nonce in flight became final, at a price in wei per gas.
    pub(crate) fn settled(&self, gas_used: u64, price: u128, now_ms: u64) -> Self {
        let mut next = self.clone();
        let cost = price.saturating_mul(u128::from(gas_used));
        next.spent = (now_ms / DAY_MS, self.spent_on_day(now_ms).saturating_add(cost));
        next.gas_used = self.gas_used.saturating_add(gas_used);
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
