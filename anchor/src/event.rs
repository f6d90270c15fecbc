//! What an anchor tells whoever runs it: lines of an audit log and metrics are made of this.

use alloy_primitives::{Address, B256};
use serde::Serialize;

/// What happens to anchors: a line of the audit log each, and the source of metrics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum AnchorEvent {
    /// The account that anchors was loaded.
    KeyLoaded {
        /// Chain as configured.
        chain: String,
        /// Account address.
        address: Address,
    },
    /// What the runs before have left, told once at the start.
    Found {
        /// Chain as configured.
        chain: String,
        /// Largest final tree size; `None` before the first.
        size: Option<u64>,
        /// Time of its block, Unix seconds; `None` where what is kept of it cannot be read.
        block_time: Option<u64>,
        /// Gas that all final transactions of this chain used.
        gas_used: u64,
    },
    /// The first attempt of an anchor is durable and about to be sent.
    Submitted(Sent),
    /// An attempt that takes the place of the ones before it, with the newest root.
    Replaced(Sent),
    /// An attempt is in a block that is not yet final.
    Mined {
        /// Chain as configured.
        chain: String,
        /// Block number.
        block: u64,
        /// Block hash.
        block_hash: B256,
        /// Transaction hash.
        tx: B256,
        /// Anchored tree size.
        size: u64,
    },
    /// The block of a mined attempt left the chain: the anchor is pending again.
    Reorged {
        /// Chain as configured.
        chain: String,
        /// Number of the block that left.
        block: u64,
        /// Its hash.
        block_hash: B256,
        /// Transaction hash.
        tx: B256,
    },
    /// A final attempt that reverted: gas was spent, nothing was anchored.
    Reverted {
        /// Chain as configured.
        chain: String,
        /// Block number.
        block: u64,
        /// Transaction hash.
        tx: B256,
    },
    /// An anchor is final and its proof is on disk.
    Final {
        /// Chain as configured.
        chain: String,
        /// Block number.
        block: u64,
        /// Block hash.
        block_hash: B256,
        /// Time of the block, Unix seconds.
        block_time: u64,
        /// Transaction hash.
        tx: B256,
        /// Gas used.
        gas_used: u64,
        /// Anchored tree size.
        size: u64,
        /// Anchored root.
        root: B256,
    },
    /// What the contract holds was compared, and is of this log's history: told at first, and where the node
    /// said otherwise before.
    Compared {
        /// Chain as configured.
        chain: String,
    },
    /// What is kept or what the contract holds is not of this log's history: the log must not grow.
    OtherHistory {
        /// Chain as configured.
        chain: String,
        /// Who says so.
        witness: Witness,
        /// What differs.
        reason: String,
    },
    /// The chain holds a newer anchor of this log by this account than the state knows of: its proof is kept, and the
    /// state goes on from there.
    OlderState {
        /// Chain as configured.
        chain: String,
        /// Tree size of the newest final anchor.
        size: u64,
        /// Its root.
        root: B256,
        /// Its block's number.
        block: u64,
    },
    /// The chain does not hold what the state calls final, by the word of a node that does not lag: the state went
    /// back to what the chain holds. Kept proofs stay.
    Rewound {
        /// Chain as configured.
        chain: String,
        /// Tree size of the anchor that was the last final one.
        was: u64,
        /// Tree size of the newest final anchor now; 0 where there is none.
        size: u64,
        /// What the node shows.
        reason: String,
    },
    /// Something needs the operator, or did not work this time.
    Alert {
        /// Chain as configured.
        chain: String,
        /// What and why.
        reason: String,
        /// Whether this anchor stopped for good: it needs the operator and a restart.
        stopped: bool,
        /// Whether it is worth a line: one a minute is, and whatever changes `stopped`.
        #[serde(skip)]
        tell: bool,
    },
    /// The reason of the last alert is gone.
    Recovered {
        /// Chain as configured.
        chain: String,
        /// Whether it is worth a line: where the alert was.
        #[serde(skip)]
        tell: bool,
    },
}

impl AnchorEvent {
    /// Whether it is worth a line. A node chooses the words of alerts, and may choose others each time.
    pub fn worth_a_line(&self) -> bool {
        !matches!(self, Self::Alert { tell: false, .. } | Self::Recovered { tell: false, .. })
    }
}

/// Who says that a log is not the one that was anchored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Witness {
    /// What is kept of the anchor: for good.
    Kept,
    /// The chain's node, which is asked again and may take its word back.
    Node,
}

/// An attempt as it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sent {
    /// Chain as configured.
    pub chain: String,
    /// Account nonce.
    pub nonce: u64,
    /// Number of the attempt for this nonce, from 1.
    pub attempt: usize,
    /// Transaction hash.
    pub tx: B256,
    /// Tree size.
    pub size: u64,
    /// Root.
    pub root: B256,
    /// Highest price per gas that it offers, in wei.
    pub max_fee: u128,
}
