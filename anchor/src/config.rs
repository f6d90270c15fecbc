//! What the operator says about one chain.

use alloy_primitives::Address;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use std::path::PathBuf;
use thiserror::Error;

/// Wei in a gwei.
const GWEI: u128 = 1_000_000_000;
/// Most that can be configured per gas: one ether. Prices in wei then fit JSON's integers.
const MAX_FEE_GWEI: u64 = 1_000_000_000;
/// Decimals of an ether.
const ETHER_DECIMALS: usize = 18;

/// A configured value that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("anchor {chain:?}: {key}: {reason}")]
pub struct SettingError {
    /// Chain as configured.
    pub chain: String,
    /// The key at fault.
    pub key: &'static str,
    /// What is wrong with its value.
    pub reason: String,
}

/// Anchoring on one EVM chain.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnchorConfig {
    /// Name of this anchor in logs, metrics and the data directory: `[a-z0-9-]`, at most 32
    /// characters, unique. Renaming it starts a new state: an anchor in flight is forgotten, what was final is not.
    pub chain: String,
    /// JSON-RPC address of a node, `http://` or `https://`. May hold a secret; it is never logged.
    pub rpc: String,
    /// EIP-155 chain id. A node of another chain is refused.
    pub chain_id: u64,
    /// Address of the deployed `MeshChainAnchor`. An address without code is refused.
    pub contract: Address,
    /// File with the private key, 32 bytes in hex. Others (mode bits o+rwx) must have no access.
    /// The account serves this one log on this chain and nothing else: while its
    /// nonce is used by another, nothing is sent.
    pub key_file: PathBuf,
    /// Least time between the starts of two anchors, in seconds; 0 starts the next one as soon as
    /// the one before is final. Nothing is sent while the log does not grow. Default 60.
    #[serde(default = "default_interval_s")]
    pub interval_s: u64,
    /// When a block counts as final: `"finalized"` or `"safe"` as the node reports them, or a
    /// number of confirmations (1 = as soon as it is mined, right for Besu QBFT). Default
    /// `"finalized"`.
    #[serde(default)]
    pub finality: Finality,
    /// Highest price per gas that is ever offered, in gwei. Above it the anchor waits and raises
    /// an alert. Default 500.
    #[serde(default = "default_max_fee_gwei")]
    pub max_fee_gwei: u64,
    /// Most that is spent on gas per UTC day, in ether: a number or a decimal string. The worst
    /// case of the anchor in flight counts. Default 0.1: about the 110 anchors that a day of
    /// 13-minute finality has room for, of 36,000 gas each, at 25 gwei; and one anchor at
    /// `max_fee_gwei` still fits in.
    #[serde(default = "default_budget", deserialize_with = "ether", rename = "daily_budget_eth")]
    pub daily_budget_wei: u128,
    /// Time between two looks at the chain while an anchor is due or in flight, in milliseconds,
    /// at least 50. Default 2000.
    #[serde(default = "default_poll_ms")]
    pub poll_ms: u64,
    /// Age at which an attempt that is in no block is replaced by one with higher fees and the
    /// newest root, in seconds. Default 60.
    #[serde(default = "default_bump_after_s")]
    pub bump_after_s: u64,
    /// Former accounts of this anchor that are somebody else's too, as a key that was stolen, and former contracts that are
    /// others now: what is held of them, or there, counts for nothing any more. With them the log loses witnesses of its past: see docs/restore.md. Default none.
    #[serde(default)]
    pub disowned: Vec<Address>,
    /// Whether the log takes no batches after a start before this chain was asked what it holds of it.
    /// `false` lets an older copy of the log grow into a second history while the node is away: for
    /// nodes that are gone for long. Default true.
    #[serde(default = "default_required")]
    pub required_at_start: bool,
}

/// When a block counts as final.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Finality {
    /// The node's `finalized` block.
    #[default]
    Finalized,
    /// The node's `safe` block.
    Safe,
    /// This many confirmations; the block that holds the transaction is the first.
    Depth(u64),
}

impl AnchorConfig {
    /// Checks every value; the error names the key.
    pub fn validate(&self) -> Result<(), SettingError> {
        let name = !self.chain.is_empty() && self.chain.len() <= 32;
        let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        self.check(
            "chain",
            name && self.chain.bytes().all(letter),
            "must be 1 to 32 of [a-z0-9-]",
        )?;
        let url = self.rpc.parse::<ureq::http::Uri>().ok();
        let scheme = url.as_ref().and_then(|u| u.scheme_str());
        let host = url.as_ref().and_then(|u| u.host()).is_some_and(|h| !h.is_empty());
        let http = matches!(scheme, Some("http" | "https")) && host;
        self.check("rpc", http, "must be an http:// or https:// address")?;
        self.check("chain_id", self.chain_id > 0, "must not be 0")?;
        self.check("contract", !self.contract.is_zero(), "must not be the zero address")?;
        self.check("finality", self.finality != Finality::Depth(0), "must be at least 1")?;
        let gwei = 1..=MAX_FEE_GWEI;
        self.check("max_fee_gwei", gwei.contains(&self.max_fee_gwei), "must be 1 to 1000000000")?;
        self.check("poll_ms", self.poll_ms >= 50, "must be at least 50")?;
        self.check("bump_after_s", self.bump_after_s > 0, "must not be 0")
    }

    fn check(&self, key: &'static str, good: bool, reason: &str) -> Result<(), SettingError> {
        let error = || SettingError { chain: self.chain.clone(), key, reason: reason.to_owned() };
        good.then_some(()).ok_or_else(error)
    }

    /// Highest price per gas, in wei.
    pub(crate) fn max_fee_wei(&self) -> u128 {
        u128::from(self.max_fee_gwei) * GWEI
    }
}

impl<'de> Deserialize<'de> for Finality {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Depth(u64),
            Tag(String),
        }
        match Written::deserialize(deserializer) {
            Ok(Written::Depth(depth)) => Ok(Self::Depth(depth)),
            Ok(Written::Tag(tag)) if tag == "finalized" => Ok(Self::Finalized),
            Ok(Written::Tag(tag)) if tag == "safe" => Ok(Self::Safe),
            _ => Err(D::Error::custom("must be \"finalized\", \"safe\" or a number of blocks")),
        }
    }
}

fn default_interval_s() -> u64 {
    60
}

fn default_max_fee_gwei() -> u64 {
    500
}

fn default_budget() -> u128 {
    GWEI * GWEI / 10
}

fn default_poll_ms() -> u64 {
    2000
}

fn default_bump_after_s() -> u64 {
    60
}

fn default_required() -> bool {
    true
}

/// An amount of ether, written as a number or as a decimal string, in wei.
fn ether<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Integer(u64),
        Float(f64),
        Text(String),
    }
    let text = match Written::deserialize(deserializer) {
        Ok(Written::Integer(n)) => n.to_string(),
        Ok(Written::Float(n)) => n.to_string(),
        Ok(Written::Text(text)) => text,
        Err(_) => String::new(),
    };
    parse_ether(&text)
        .ok_or_else(|| D::Error::custom("must be an amount of ether, such as \"0.1\""))
}

fn parse_ether(text: &str) -> Option<u128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > ETHER_DECIMALS {
        return None;
    }
    let wei = |part: &str| part.parse::<u128>().ok();
    let fraction = wei(&format!("{fraction:0<ETHER_DECIMALS$}"))?;
    wei(whole)?.checked_mul(GWEI * GWEI)?.checked_add(fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = r#"
        chain = "main"
        rpc = "http://127.0.0.1:8545"
        chain_id = 1
        contract = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
        key_file = "key"
    "#;

    fn parse(more: &str) -> Result<AnchorConfig, String> {
        toml::from_str(&format!("{LEAST}{more}")).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults_are_as_documented() {
        let config = parse("").unwrap();
        config.validate().unwrap();
        assert_eq!(config.interval_s, 60);
        assert_eq!(config.finality, Finality::Finalized);
        assert_eq!(config.max_fee_wei(), 500_000_000_000);
        assert_eq!(config.daily_budget_wei, 100_000_000_000_000_000);
        assert_eq!((config.poll_ms, config.bump_after_s), (2000, 60));
        assert!(config.required_at_start);
        assert!(!parse("required_at_start = false").unwrap().required_at_start);
    }

    #[test]
    fn finality_is_a_tag_or_a_depth() {
        for (text, finality) in [
            ("finality = \"safe\"", Finality::Safe),
            ("finality = \"finalized\"", Finality::Finalized),
            ("finality = 12", Finality::Depth(12)),
        ] {
            assert_eq!(parse(text).unwrap().finality, finality);
        }
        assert!(parse("finality = \"latest\"").is_err());
        assert!(parse("finality = -1").is_err());
    }

    #[test]
    fn budgets_are_exact() {
        for (text, wei) in [
            ("0.05", 50_000_000_000_000_000),
            ("\"1.000000000000000001\"", 1_000_000_000_000_000_001),
            ("2", 2_000_000_000_000_000_000),
            ("0", 0),
        ] {
            let config = parse(&format!("daily_budget_eth = {text}")).unwrap();
            assert_eq!(config.daily_budget_wei, wei, "{text}");
        }
        for text in ["-1", "\"\"", "\"1e3\"", "\"1.2.3\"", "\"0.0000000000000000001\"", "true"] {
            assert!(parse(&format!("daily_budget_eth = {text}")).is_err(), "{text}");
        }
    }

    #[test]
    fn unknown_keys_are_refused_and_bad_values_name_their_key() {
        assert!(parse("poll = 1").unwrap_err().contains("poll"));
        let good = parse("").unwrap();
        type Spoil = fn(&mut AnchorConfig);
        let bad: &[(&str, Spoil)] = &[
            ("chain", |c| c.chain = "Main".into()),
            ("chain", |c| c.chain = "a/b".into()),
            ("chain", |c| c.chain.clear()),
            ("rpc", |c| c.rpc = "127.0.0.1:8545".into()),
            ("rpc", |c| c.rpc = "ws://x".into()),
            ("rpc", |c| c.rpc = "http://".into()),
            ("chain_id", |c| c.chain_id = 0),
            ("contract", |c| c.contract = Address::ZERO),
            ("finality", |c| c.finality = Finality::Depth(0)),
            ("max_fee_gwei", |c| c.max_fee_gwei = 0),
            ("max_fee_gwei", |c| c.max_fee_gwei = u64::MAX),
            ("poll_ms", |c| c.poll_ms = 49),
            ("bump_after_s", |c| c.bump_after_s = 0),
        ];
        for (key, spoil) in bad {
            let mut config = good.clone();
            spoil(&mut config);
            assert_eq!(config.validate().unwrap_err().key, *key);
        }
    }
}
