//! What the verifier asks about a chain, and the two answers that need no network.

use crate::policy::Finality;
use crate::shown::shown_seconds;
use alloy_primitives::{Address, B256};
use std::str::FromStr;
use thiserror::Error;

/// A block that an anchor needs, and what the policy demands of it.
#[derive(Debug, Clone, Copy)]
pub struct BlockQuery {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Block number.
    pub number: u64,
    /// Keccak-256 of the header in the evidence.
    pub hash: B256,
    /// Time in the header, unix seconds; only to tell a reader which block to look up.
    pub timestamp: u64,
    /// Anchor contract of the policy.
    pub contract: Address,
    /// Keccak-256 that the contract's code must have; `None`: the code of this build's artifact.
    pub code_hash: Option<B256>,
    /// When the block counts as final.
    pub finality: Finality,
}

/// What a [`ChainView`] knows of a block. Each carries the reason, in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlockAnswer {
    /// The block is on the chain, for good.
    Final(String),
    /// The chain has another block there, or another contract.
    Refuted(String),
    /// No answer: unknown, not final yet, or the source could not be asked.
    Unknown(String),
}

/// Where knowledge about chains comes from. All input and output of a verification is behind it.
pub trait ChainView {
    /// Whether the block is on its chain.
    fn block(&self, query: &BlockQuery) -> BlockAnswer;
}

/// Knows nothing: the reader is told what to look up.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoChain;

impl ChainView for NoChain {
    fn block(&self, query: &BlockQuery) -> BlockAnswer {
        BlockAnswer::Unknown(look_up(query))
    }
}

/// A block hash that the verifier's user got elsewhere, and which chain's block it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeaderHash {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Hash of the block.
    pub hash: B256,
}

/// A text that is not `CHAIN:HASH`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("give CHAIN:HASH: the chain id in decimal, a colon, 64 hex digits")]
pub struct NotHeaderHash;

impl FromStr for HeaderHash {
    type Err = NotHeaderHash;

    fn from_str(text: &str) -> Result<Self, NotHeaderHash> {
        let (chain_id, hash) = text.split_once(':').ok_or(NotHeaderHash)?;
        let digits = !chain_id.is_empty() && chain_id.bytes().all(|b| b.is_ascii_digit());
        let chain_id = chain_id.parse().ok().filter(|_| digits).ok_or(NotHeaderHash)?;
        Ok(Self { chain_id, hash: hash.parse().map_err(|_| NotHeaderHash)? })
    }
}

/// Block hashes that the verifier's user vouches for as final.
#[derive(Debug, Clone, Default)]
pub struct KnownHashes(pub Vec<HeaderHash>);

impl ChainView for KnownHashes {
    fn block(&self, query: &BlockQuery) -> BlockAnswer {
        let of_block: Vec<_> = self.0.iter().filter(|known| known.hash == query.hash).collect();
        if of_block.iter().any(|known| known.chain_id == query.chain_id) {
            let said = "was given with --header-hash: taken as final on your word; the contract's \
                        code is not looked at";
            return BlockAnswer::Final(format!("{}:{} {said}", query.chain_id, query.hash));
        }
        let none = match of_block.first() {
            Some(known) => format!("this block's hash was given for chain {}", known.chain_id),
            None => "none of the hashes given is this block's".to_owned(),
        };
        BlockAnswer::Unknown(format!("{none}; {}", look_up(query)))
    }
}

fn look_up(query: &BlockQuery) -> String {
    format!(
        "look up block {} of chain {} ({}): its hash must be {}",
        query.number,
        query.chain_id,
        shown_seconds(query.timestamp),
        query.hash
    )
}
