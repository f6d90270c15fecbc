//! A chain as an Ethereum JSON-RPC node tells it. The node is believed: whoever does not trust it
//! runs an own one, or looks the hash up elsewhere (`--header-hash`).

use crate::chain::{BlockAnswer, BlockQuery, ChainView};
use crate::policy::Finality;
use alloy_primitives::{B256, keccak256};
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;
use thiserror::Error;

/// Time for one call. A node that is slower than that is asked again by whoever ran the verifier.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer that is read, in bytes: a block with all its transaction hashes is below 1 MiB.
const MAX_ANSWER: u64 = 4 * 1024 * 1024;

/// Code of the anchor contract as this build knows it.
const ARTIFACT: &str = include_str!("../../contracts/artifacts/MeshChainAnchor.json");

/// A JSON-RPC node.
pub struct RpcChain {
    agent: ureq::Agent,
    url: String,
}

/// Why there is no answer. The node's URL is left out: it may hold an access key.
#[derive(Debug, Error)]
pub(crate) enum RpcError {
    #[error("the RPC node did not answer {method}: {reason}")]
    Transport { method: &'static str, reason: String },
    #[error("the RPC node refuses {method}: {reason}")]
    Refused { method: &'static str, reason: String },
    #[error("the RPC node answers {0} with something else")]
    Malformed(&'static str),
}

#[derive(Deserialize)]
struct Answer {
    result: Option<Value>,
    error: Option<Value>,
}

impl RpcChain {
    /// A node at `url`, http or https. Nothing is sent yet.
    pub fn new(url: impl Into<String>) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .max_redirects(0)
            .http_status_as_error(false);
        Self { agent: config.build().into(), url: url.into() }
    }

    pub(crate) fn call(&self, method: &'static str, params: Value) -> Result<Value, RpcError> {
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let transport = |e: ureq::Error| RpcError::Transport { method, reason: without_url(&e) };
        let mut response = self.agent.post(&self.url).send_json(&request).map_err(transport)?;
        let status = response.status();
        let body = response.body_mut().with_config().limit(MAX_ANSWER);
        let body = match body.read_to_vec() {
            // Less of it may be asked for.
            Err(ureq::Error::BodyExceedsLimit(_)) => {
                let reason = format!("its answer has over {MAX_ANSWER} bytes");
                return Err(RpcError::Refused { method, reason });
            }
            read => read.map_err(transport)?,
        };
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| RpcError::Transport {
            method,
            reason: format!("HTTP {status}, not JSON-RPC"),
        })?;
        match answer.error {
            Some(error) => {
                let reason = error["message"].as_str().unwrap_or("no message").to_owned();
                Err(RpcError::Refused { method, reason })
            }
            None => Ok(answer.result.unwrap_or_default()),
        }
    }

    pub(crate) fn quantity(&self, method: &'static str) -> Result<u64, RpcError> {
        quantity(&self.call(method, json!([]))?).ok_or(RpcError::Malformed(method))
    }

    /// Hash and time of the block of a number; `None` where the node has no such block.
    pub(crate) fn block_at(&self, number: u64) -> Result<Option<(B256, u64)>, RpcError> {
        let method = "eth_getBlockByNumber";
        let block = self.call(method, json!([format!("{number:#x}"), false]))?;
        if block.is_null() {
            return Ok(None);
        }
        let hash = block["hash"].as_str().and_then(|hash| hash.parse().ok());
        hash.zip(quantity(&block["timestamp"])).map(Some).ok_or(RpcError::Malformed(method))
    }

    /// A block's field; `None` where the node has no such block.
    fn block_field(&self, block: &str, field: &str) -> Result<Option<Value>, RpcError> {
        let block = self.call("eth_getBlockByNumber", json!([block, false]))?;
        Ok((!block.is_null()).then(|| block[field].clone()))
    }

    /// Number of the highest block that counts as final.
    pub(crate) fn final_to(&self, finality: Finality) -> Result<Option<u64>, RpcError> {
        let tag = match finality {
            Finality::Finalized => "finalized",
            Finality::Safe => "safe",
            Finality::Depth(blocks) => {
                return Ok(self.quantity("eth_blockNumber")?.checked_sub(blocks));
            }
        };
        let number = self.block_field(tag, "number")?;
        let parse = |v| quantity(&v).ok_or(RpcError::Malformed("eth_getBlockByNumber"));
        number.map(parse).transpose()
    }

    /// Keccak-256 of the contract's code at the block; at the newest one where the node has pruned
    /// the state of that block.
    fn code_hash(&self, query: &BlockQuery) -> Result<(B256, &'static str), RpcError> {
        let contract = format!("{:#x}", query.contract);
        let at = |block: String| self.call("eth_getCode", json!([contract, block]));
        let (code, when) = match at(format!("{:#x}", query.number)) {
            Ok(code) => (code, ""),
            Err(RpcError::Refused { .. }) => (at("latest".to_owned())?, " of today"),
            Err(error) => return Err(error),
        };
        let bytes = code.as_str().and_then(|c| hex::decode(c.strip_prefix("0x")?).ok());
        Ok((keccak256(bytes.ok_or(RpcError::Malformed("eth_getCode"))?), when))
    }

    fn ask(&self, query: &BlockQuery) -> Result<BlockAnswer, RpcError> {
        let unknown = |reason: String| Ok(BlockAnswer::Unknown(reason));
        let refuted = |reason: String| Ok(BlockAnswer::Refuted(reason));
        let chain_id = self.quantity("eth_chainId")?;
        if chain_id != query.chain_id {
            return unknown(format!("the RPC node is of chain {chain_id}, not {}", query.chain_id));
        }
        // Finality first: a block that is final by this answer is still the same for the next.
        let final_to = self.final_to(query.finality)?;
        let number = query.number;
        if final_to.is_none_or(|to| to < number) {
            let to = final_to.map_or("none".to_owned(), |to| to.to_string());
            return unknown(format!("block {number} is not {} yet: up to {to}", query.finality));
        }
        let Some(hash) = self.block_field(&format!("{number:#x}"), "hash")? else {
            return unknown(format!("the RPC node has no block {number}"));
        };
        let hash: B256 = hash
            .as_str()
            .and_then(|h| h.parse().ok())
            .ok_or(RpcError::Malformed("eth_getBlockByNumber"))?;
        if hash != query.hash {
            // Rotten, forged, or of a block that was given up: it proves nothing on this chain.
            return unknown(format!(
                "block {number} of the chain is {hash}; the evidence's header hashes to {}",
                query.hash
            ));
        }
        let expected = query.code_hash.map_or_else(known_code_hash, Some);
        let (code, when) = self.code_hash(query)?;
        if Some(code) != expected {
            return refuted(format!(
                "the code{when} at {:#x} hashes to {code}: not the anchor contract",
                query.contract
            ));
        }
        Ok(BlockAnswer::Final(format!(
            "{hash} is block {number} of chain {chain_id}, {}, by the RPC node's word; the \
             contract's code{when} is the known one",
            query.finality
        )))
    }
}

impl ChainView for RpcChain {
    fn block(&self, query: &BlockQuery) -> BlockAnswer {
        self.ask(query).unwrap_or_else(|error| BlockAnswer::Unknown(error.to_string()))
    }
}

fn without_url(error: &ureq::Error) -> String {
    match error {
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => "its URL cannot be used".to_owned(),
        other => other.to_string(),
    }
}

fn quantity(value: &Value) -> Option<u64> {
    u64::from_str_radix(value.as_str()?.strip_prefix("0x")?, 16).ok()
}

/// Keccak-256 of the committed `deployedBytecode`.
fn known_code_hash() -> Option<B256> {
    let artifact: Value = serde_json::from_str(ARTIFACT).ok()?;
    let code = artifact["deployedBytecode"].as_str()?.strip_prefix("0x")?;
    Some(keccak256(hex::decode(code).ok()?))
}
