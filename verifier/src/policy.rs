//! The verifier's policy: whom it believes about which log. A JSON file that the verifying party
//! writes or gets from somebody it trusts, never from the evidence.
//!
//! ```json
//! {
//!   "format": "meshchain/policy/v1",
//!   "logs": [{
//!     "origin": "cloud.example/meshchain",
//!     "vkey": "cloud.example/meshchain+1a2b3c4d+AYQY...",
//!     "anchors": [{
//!       "type": "evm",
//!       "chain_id": 31337,
//!       "contract": "0x5fbdb2315678afecb367f032d93f642f64180aa3",
//!       "sender": "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266",
//!       "finality": "finalized"
//!     }]
//!   }],
//!   "require_anchor": true
//! }
//! ```

use alloy_primitives::{Address, B256};
use meshchain_core::evidence::EvmTag;
use meshchain_core::{Hash, VerifierKey, hash};
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The only version of the format.
const FORMAT: &str = "meshchain/policy/v1";
/// Largest policy that is read, in bytes.
pub(crate) const MAX_LEN: usize = 1024 * 1024;

/// Why a file is not a policy.
#[derive(Debug, Error)]
pub enum PolicyError {
    /// Over 1 MiB.
    #[error("the file has over {MAX_LEN} bytes")]
    TooLarge,
    /// Not JSON of this shape, or a value that cannot be; names key, line and column.
    #[error("{key}: {reason}")]
    Json {
        /// Path of the key, `logs[0].vkey`.
        key: String,
        /// What is wrong, with line and column.
        reason: serde_json::Error,
    },
    /// A contradiction between values that are each well-formed.
    #[error("{key}: {reason}")]
    Contradiction {
        /// Path of the key.
        key: String,
        /// What it contradicts.
        reason: &'static str,
    },
}

/// Which logs, keys, contracts and senders are believed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// `meshchain/policy/v1`.
    #[serde(deserialize_with = "format")]
    pub format: String,
    /// The logs; an origin stands once.
    pub logs: Vec<LogPolicy>,
    /// Whether evidence must be anchored to be verified. Default `true`; with `false` the log's
    /// operator alone vouches for what the log holds, and when.
    #[serde(default = "yes")]
    pub require_anchor: bool,
}

/// One log.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogPolicy {
    /// Origin line of the log's checkpoints.
    pub origin: String,
    /// Key that signs them, as `name+hash+base64`; its name is the origin.
    #[serde(deserialize_with = "vkey")]
    pub vkey: VerifierKey,
    /// Who keeps it. Two logs of one operator are no two parties' word.
    #[serde(default)]
    pub operator: Option<String>,
    /// Where its tree heads are anchored.
    #[serde(default)]
    pub anchors: Vec<AnchorPolicy>,
}

/// Who anchors a log, on which chain.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnchorPolicy {
    /// Always `evm`.
    #[serde(rename = "type")]
    pub kind: EvmTag,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Address of the MeshChainAnchor contract.
    #[serde(deserialize_with = "address")]
    pub contract: Address,
    /// Account that anchors.
    #[serde(deserialize_with = "address")]
    pub sender: Address,
    /// When a block counts as final. Default `finalized`.
    #[serde(default)]
    pub finality: Finality,
    /// Keccak-256 of the contract's code, where it is not the code that this build knows.
    #[serde(default)]
    pub code_hash: Option<B256>,
}

/// When a block counts as final: `"finalized"`, `"safe"`, or a number of blocks on top of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum Finality {
    /// The chain's `finalized` tag.
    #[default]
    Finalized,
    /// The chain's `safe` tag.
    Safe,
    /// So many blocks on top.
    Depth(u64),
}

impl Policy {
    /// Reads a policy's bytes.
    pub fn from_json(bytes: &[u8]) -> Result<Self, PolicyError> {
        if bytes.len() > MAX_LEN {
            return Err(PolicyError::TooLarge);
        }
        let mut json = serde_json::Deserializer::from_slice(bytes);
        let parsed: Result<Self, _> = serde_path_to_error::deserialize(&mut json);
        let named = |key: String, reason| PolicyError::Json { key, reason };
        let policy = parsed.map_err(|e| named(e.path().to_string(), e.into_inner()))?;
        json.end().map_err(|reason| named(".".to_owned(), reason))?;
        policy.check()?;
        Ok(policy)
    }

    /// The log of this origin.
    pub fn log(&self, origin: &str) -> Option<&LogPolicy> {
        self.logs.iter().find(|log| log.origin == origin)
    }

    fn check(&self) -> Result<(), PolicyError> {
        let err = |key: String, reason| Err(PolicyError::Contradiction { key, reason });
        if self.logs.is_empty() {
            return err("logs".to_owned(), "empty: nothing could ever be verified");
        }
        for (i, log) in self.logs.iter().enumerate() {
            if log.vkey.name() != log.origin {
                return err(format!("logs[{i}].vkey"), "the key's name is not the log's origin");
            }
            if self.logs[..i].iter().any(|other| other.origin == log.origin) {
                return err(format!("logs[{i}].origin"), "given twice");
            }
            if log.operator.as_ref().is_some_and(String::is_empty) {
                return err(format!("logs[{i}].operator"), "empty");
            }
            if self.require_anchor && log.anchors.is_empty() {
                return err(format!("logs[{i}].anchors"), "empty, although require_anchor is true");
            }
        }
        Ok(())
    }
}

impl LogPolicy {
    /// What anchor contracts know the log by.
    pub fn log_id(&self) -> Hash {
        hash::log_id(&self.origin)
    }
}

fn yes() -> bool {
    true
}

fn format<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    let text = String::deserialize(d)?;
    if text == FORMAT { Ok(text) } else { Err(D::Error::custom(format!("must be {FORMAT:?}"))) }
}

fn vkey<'de, D: Deserializer<'de>>(d: D) -> Result<VerifierKey, D::Error> {
    VerifierKey::parse(&String::deserialize(d)?).map_err(D::Error::custom)
}

/// 0x and 40 hex digits; where their case is mixed, it must be the checksum of EIP-55.
fn address<'de, D: Deserializer<'de>>(d: D) -> Result<Address, D::Error> {
    let text = String::deserialize(d)?;
    let malformed = || D::Error::custom("an address reads 0x and 40 hex digits");
    let digits = text.strip_prefix("0x").filter(|t| t.len() == 40).ok_or_else(malformed)?;
    let parsed: Address = digits.parse().map_err(|_| malformed())?;
    let has = |class: fn(&u8) -> bool| digits.as_bytes().iter().any(class);
    let mixed = has(u8::is_ascii_lowercase) && has(u8::is_ascii_uppercase);
    if mixed && parsed.to_checksum(None) != text {
        return Err(D::Error::custom("the address's capitals are not its checksum: mistyped?"));
    }
    Ok(parsed)
}

impl<'de> Deserialize<'de> for Finality {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Depth(u64),
            Tag(String),
        }
        match Raw::deserialize(d) {
            Ok(Raw::Depth(blocks)) => Ok(Self::Depth(blocks)),
            Ok(Raw::Tag(tag)) if tag == "finalized" => Ok(Self::Finalized),
            Ok(Raw::Tag(tag)) if tag == "safe" => Ok(Self::Safe),
            _ => Err(D::Error::custom("must be \"finalized\", \"safe\" or a number of blocks")),
        }
    }
}

impl std::fmt::Display for Finality {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Finalized => f.write_str("finalized"),
            Self::Safe => f.write_str("safe"),
            Self::Depth(blocks) => write!(f, "{blocks} blocks deep"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshchain_core::SigningKey;

    fn sample() -> String {
        let key = SigningKey::from_seed("log.example", &[1; 32]).unwrap();
        format!(
            r#"{{
  "format": "meshchain/policy/v1",
  "logs": [{{
    "origin": "log.example",
    "vkey": "{}",
    "anchors": [{{
      "type": "evm",
      "chain_id": 31337,
      "contract": "0x5FbDB2315678afecb367f032d93F642f64180aa3",
      "sender": "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266",
      "finality": 2
    }}]
  }}]
}}"#,
            key.verifier()
        )
    }

    #[test]
    fn defaults_are_the_strict_ones() {
        let policy = Policy::from_json(sample().as_bytes()).unwrap();
        assert!(policy.require_anchor);
        assert_eq!(policy.logs[0].anchors[0].finality, Finality::Depth(2));
        let without = sample().replace(",\n      \"finality\": 2", "");
        let policy = Policy::from_json(without.as_bytes()).unwrap();
        assert_eq!(policy.logs[0].anchors[0].finality, Finality::Finalized);
    }

    #[test]
    fn errors_name_the_key_and_its_line() {
        let two = |s: &str| {
            let log = &s[s.find("[{").unwrap() + 1..s.rfind("]\n").unwrap()];
            s.replace(log, &format!("{log},{log}"))
        };
        let cases = [
            ("policy/v1".into(), "policy/v2", "format: must be", "line 2 "),
            ("\"origin\"".into(), "\"orign\"", "logs[0].orign: unknown field", "line 4 "),
            ("log.example+".into(), "log+", "logs[0].vkey: the key's hash", "line 5 "),
            ("31337".into(), "\"x\"", "logs[0].anchors[0].chain_id: invalid type", "line 8 "),
            ("0x5F".into(), "0x5f", "logs[0].anchors[0].contract: the address's", "line 9 "),
            ("0xf3".into(), "f3", "logs[0].anchors[0].sender: an address reads", "line 10 "),
            (": 2".into(), ": \"soon\"", "logs[0].anchors[0].finality: must be", "line 12 "),
            ("\"log.example\"".into(), "\"x\"", "logs[0].vkey: the key's name is not", ""),
            (sample(), &two(&sample()), "logs[1].origin: given twice", ""),
            (sample(), "{}x", ".: missing field `format`", "line 1 "),
            (sample(), "[", ".", "line 1 "),
        ];
        for (from, to, key, line) in cases {
            let text = sample().replacen(&from, to, 1);
            assert_ne!(text, sample(), "{to}");
            let error = Policy::from_json(text.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(key) && error.contains(line), "{key}: {error}");
        }
        let trailing = sample() + "x";
        assert!(Policy::from_json(trailing.as_bytes()).is_err());
    }

    #[test]
    fn a_policy_that_could_never_verify_is_refused() {
        let none = r#"{"format": "meshchain/policy/v1", "logs": []}"#;
        assert!(Policy::from_json(none.as_bytes()).is_err());
        let mut json: serde_json::Value = serde_json::from_str(&sample()).unwrap();
        json["logs"][0]["anchors"] = serde_json::json!([]);
        assert!(Policy::from_json(json.to_string().as_bytes()).is_err());
        json["require_anchor"] = false.into();
        assert!(Policy::from_json(json.to_string().as_bytes()).is_ok());
    }
}
