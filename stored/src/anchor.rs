//! What is kept of an anchor below `anchor/<chain>/`: its state, and one object for each final anchor. JSON, of no other
//! members than these.

use alloy_primitives::{Address, B256, Bytes};
use meshchain_core::TreeHead;
use meshchain_core::evidence::EvmAnchor;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The only version of both objects.
pub const VERSION: u32 = 1;
/// Digits of a size in a name, so that names sort as sizes do.
const DIGITS: usize = 20;
/// Milliseconds of a day.
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Why an object is none of this format.
#[derive(Debug, Error)]
pub enum AnchorFormatError {
    /// It is not of these members.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// It is of another version.
    #[error("is of version {0}")]
    Version(u32),
    /// A nonce in flight has at least one attempt.
    #[error("has a nonce in flight without an attempt")]
    NoAttempt,
}

/// Durable state of one anchor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnchorState {
    /// [`VERSION`].
    pub version: u32,
    /// Whose state it is: a number that the writer drew when it started, so that no two write the
    /// same bytes. Empty in states of before there was one.
    #[serde(default)]
    pub writer: String,
    /// Whose nonce it is, and where: a changed configuration must not inherit it.
    pub sender: Address,
    /// Anchor contract.
    pub contract: Address,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Nonce after the last final transaction; `None` where nothing that is kept tells it.
    pub next_nonce: Option<u64>,
    /// When the last anchor was started, Unix ms.
    pub last_start_ms: u64,
    /// Largest final size and its root.
    pub last_final: Option<(u64, B256)>,
    /// UTC day, in days since 1970, and wei spent on it by final transactions.
    pub spent: (u64, u128),
    /// Gas that all final transactions used.
    #[serde(default)]
    pub gas_used: u64,
    /// The nonce in flight.
    pub in_flight: Option<InFlight>,
    /// Whose anchors of this log came before, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former: Vec<FormerAccount>,
}

/// An account that anchored the log, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FormerAccount {
    /// The account.
    pub sender: Address,
    /// Anchor contract.
    pub contract: Address,
}

/// One nonce and all that was ever signed for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InFlight {
    /// Account nonce.
    pub nonce: u64,
    /// Oldest first; never empty.
    pub attempts: Vec<Attempt>,
    /// Since when the newest attempt waits for a block, Unix ms.
    pub waiting_since_ms: u64,
    /// Where an attempt was last seen in a block.
    pub mined: Option<Mined>,
}

/// One signed transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attempt {
    /// Its hash.
    pub tx: B256,
    /// It, as it is sent.
    pub raw: Bytes,
    /// Size that the contract held before.
    pub prev_size: u64,
    /// Size that it anchors.
    pub size: u64,
    /// Root that it anchors.
    pub root: B256,
    /// The signed checkpoint of that tree.
    pub checkpoint: String,
    /// Most that it offers per gas, wei.
    pub max_fee: u128,
    /// What of it is for the miner, wei.
    pub tip: u128,
    /// Most gas that it may use.
    pub gas_limit: u64,
    /// When it was made, Unix ms.
    pub time_ms: u64,
}

/// A block that held an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mined {
    /// Hash of the attempt.
    pub tx: B256,
    /// Number of the block.
    pub block: u64,
    /// Its hash.
    pub block_hash: B256,
}

/// A final anchor: what the evidence of every entry below its size can carry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinalAnchor {
    /// [`VERSION`].
    pub version: u32,
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

/// Name of the state of a chain's anchor.
pub fn state_path(chain: &str) -> String {
    format!("anchor/{chain}/pending.json")
}

/// The chain in the name of a state.
pub fn parse_state_path(name: &str) -> Option<&str> {
    name.strip_prefix("anchor/")?.strip_suffix("/pending.json").filter(|chain| !chain.contains('/'))
}

/// Name of the object of a chain's final anchor.
pub fn final_path(chain: &str, size: u64) -> String {
    format!("{}/{size:0DIGITS$}.json", finals_path(chain))
}

/// Where the final anchors of a chain are.
pub fn finals_path(chain: &str) -> String {
    format!("anchor/{chain}/receipts")
}

/// Name of the object of a final anchor whose block the chain gave up, where it is no longer under
/// [`final_path`].
pub fn given_up_path(chain: &str, size: u64, block: &B256) -> String {
    format!("{}/{size:0DIGITS$}-{block:x}.json", given_up_folder(chain))
}

/// Where these are.
pub fn given_up_folder(chain: &str) -> String {
    format!("anchor/{chain}/given-up")
}

/// Size in the name of a final anchor's object.
pub fn parse_final_path(name: &str) -> Option<u64> {
    let digits = name.rsplit('/').next()?.strip_suffix(".json")?;
    let plain = digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}

fn of_version(version: u32) -> Result<(), AnchorFormatError> {
    (version == VERSION).then_some(()).ok_or(AnchorFormatError::Version(version))
}

impl AnchorState {
    /// That of an account before its first anchor.
    pub fn new(sender: Address, contract: Address, chain_id: u64) -> Self {
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
            former: Vec::new(),
        }
    }

    /// Whose anchor it is.
    pub fn account(&self) -> FormerAccount {
        FormerAccount { sender: self.sender, contract: self.contract }
    }

    /// Reads the object.
    pub fn parse(bytes: &[u8]) -> Result<Self, AnchorFormatError> {
        let state: Self = serde_json::from_slice(bytes)?;
        of_version(state.version)?;
        match &state.in_flight {
            Some(flight) if flight.attempts.is_empty() => Err(AnchorFormatError::NoAttempt),
            _ => Ok(state),
        }
    }

    /// Writes the object.
    pub fn to_json(&self) -> Result<Vec<u8>, AnchorFormatError> {
        Ok(serde_json::to_vec_pretty(self)?)
    }

    /// The trees that it speaks of.
    pub fn heads(&self) -> impl Iterator<Item = TreeHead> {
        let attempts = self.in_flight.iter().flat_map(|flight| &flight.attempts);
        let attempts = attempts.map(|attempt| (attempt.size, attempt.root));
        let all = self.last_final.into_iter().chain(attempts);
        all.map(|(size, root)| TreeHead { size, root: root.0 })
    }

    /// Wei spent by final transactions on the UTC day of `now_ms`.
    pub fn spent_on_day(&self, now_ms: u64) -> u128 {
        let (day, wei) = self.spent;
        if day == now_ms / DAY_MS { wei } else { 0 }
    }

    /// Adds a final transaction, at a price in wei per gas.
    pub fn spend(&mut self, gas_used: u64, price: u128, now_ms: u64) {
        let cost = price.saturating_mul(u128::from(gas_used));
        self.spent = (now_ms / DAY_MS, self.spent_on_day(now_ms).saturating_add(cost));
        self.gas_used = self.gas_used.saturating_add(gas_used);
    }
}

impl InFlight {
    /// The attempt that counts while none is mined.
    pub fn newest(&self) -> Option<&Attempt> {
        self.attempts.last()
    }

    /// Most that this nonce can cost, in wei: one of its attempts will be mined.
    pub fn worst_cost(&self) -> u128 {
        let cost = |a: &Attempt| a.max_fee.saturating_mul(u128::from(a.gas_limit));
        self.attempts.iter().map(cost).max().unwrap_or(0)
    }
}

impl FinalAnchor {
    /// Reads the object. Whether it says what its own proof proves is for a verifier.
    pub fn parse(bytes: &[u8]) -> Result<Self, AnchorFormatError> {
        let anchor: Self = serde_json::from_slice(bytes)?;
        of_version(anchor.version)?;
        Ok(anchor)
    }

    /// Writes the object.
    pub fn to_json(&self) -> Result<Vec<u8>, AnchorFormatError> {
        Ok(serde_json::to_vec_pretty(self)?)
    }

    /// Whose anchor it is.
    pub fn account(&self) -> FormerAccount {
        FormerAccount { sender: self.sender, contract: self.contract }
    }

    /// What was anchored.
    pub fn head(&self) -> TreeHead {
        TreeHead { size: self.size, root: self.root.0 }
    }

    /// Whether the root stands in the kept receipt, as it must.
    pub fn proves_its_root(&self) -> bool {
        let node = self.evidence.receipt_proof.last();
        node.is_some_and(|node| node.windows(32).any(|window| window == self.root))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn state() -> Value {
        let zero = B256::ZERO;
        json!({
            "version": 1, "writer": "ab", "sender": Address::ZERO, "contract": Address::ZERO, "chain_id": 5,
            "next_nonce": 7, "last_start_ms": 1, "last_final": [3, zero], "spent": [1, 2], "gas_used": 3,
            "in_flight": {"nonce": 7, "waiting_since_ms": 1, "mined": null, "attempts": [{
                "tx": zero, "raw": "0x02", "prev_size": 3, "size": 5, "root": zero, "checkpoint": "c", "max_fee": 2,
                "tip": 1, "gas_limit": 9, "time_ms": 1,
            }]},
        })
    }

    #[test]
    fn a_state_has_these_members_and_no_others() {
        let good = state();
        let parsed = AnchorState::parse(good.to_string().as_bytes()).unwrap();
        let written: Value = serde_json::from_slice(&parsed.to_json().unwrap()).unwrap();
        assert_eq!(written, good);
        assert_eq!(parsed.heads().map(|head| head.size).collect::<Vec<_>>(), [3, 5]);
        let optional = ["writer", "gas_used", "next_nonce", "last_final", "in_flight", "mined"];
        for path in ["", "/in_flight", "/in_flight/attempts/0"] {
            let members = good.pointer(path).unwrap().as_object().unwrap();
            for name in members.keys() {
                let mut other = good.clone();
                let object = other.pointer_mut(path).unwrap().as_object_mut().unwrap();
                let value = object.remove(name).unwrap();
                let without = AnchorState::parse(other.to_string().as_bytes());
                assert!(without.is_err() || optional.contains(&name.as_str()), "{path} {name}");
                let object = other.pointer_mut(path).unwrap().as_object_mut().unwrap();
                object.insert(format!("{name}s"), value);
                let renamed = AnchorState::parse(other.to_string().as_bytes());
                assert!(matches!(renamed, Err(AnchorFormatError::Json(_))), "{path} {name}");
            }
        }
        let mut other = good.clone();
        other["version"] = 2.into();
        let read = AnchorState::parse(other.to_string().as_bytes());
        assert!(matches!(read, Err(AnchorFormatError::Version(2))));
        let mut other = good;
        other["in_flight"]["attempts"] = json!([]);
        let read = AnchorState::parse(other.to_string().as_bytes());
        assert!(matches!(read, Err(AnchorFormatError::NoAttempt)));
    }

    #[test]
    fn names_sort_as_sizes_do_and_say_them() {
        for size in [0, 9, 10, u64::MAX] {
            assert_eq!(parse_final_path(&final_path("one", size)), Some(size));
        }
        assert!(final_path("one", 9) < final_path("one", 10));
        let given_up = given_up_path("one", 9, &B256::ZERO);
        let cut = &final_path("one", 9)[..30];
        for name in ["", "x.json", "anchor/one/receipts/9.json", cut, &given_up] {
            assert_eq!(parse_final_path(name), None, "{name}");
        }
    }
}
