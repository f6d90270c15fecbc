//! Whether the log is the one that was anchored: what is kept and what the contract holds, against its own tree.

use crate::node::Anchored;
use crate::rewound::HEAD_BEHIND;
use crate::runner::Runner;
use crate::trouble::Trouble;
use alloy_primitives::B256;
use meshchain_core::{SignedHead, TreeHead};
use meshchain_store::StoreError;
use std::pin::Pin;

/// The log's own tree as it was at a size, signed; `None` where the log has not so many leaves. What it signed then it
/// signs again, byte for byte.
pub type OwnHeads = Box<dyn Fn(u64) -> OwnHead + Send + Sync>;
/// What [`OwnHeads`] gives.
pub type OwnHead = Pin<Box<dyn Future<Output = Result<Option<SignedHead>, StoreError>> + Send>>;

impl Runner {
    /// Compares the log with what is kept of it, and with what its chain holds.
    pub(crate) async fn compare(&mut self) -> Result<(), Trouble> {
        self.compare_kept().await?;
        self.check().await
    }

    /// Asks a node that is new, or was away, whether it is on the right chain, and what that holds of the log.
    async fn check(&mut self) -> Result<(), Trouble> {
        let expected = self.config.chain_id;
        let chain_id = self.node.chain_id().await?;
        if chain_id != expected {
            let reason = format!("the node is on chain {chain_id}, chain_id is {expected}");
            return Err(Trouble::Hold(reason));
        }
        if !self.node.has_code(self.config.contract).await? {
            let reason = format!("there is no contract at {}", self.config.contract);
            return Err(Trouble::Hold(reason));
        }
        let held = self.compare_contract().await?.head.size;
        self.compare_former().await?;
        if self.state.last_final.is_some_and(|(size, _)| held < size) {
            self.behind(HEAD_BEHIND).await?;
        }
        self.look_at_balance().await?;
        Ok(())
    }

    /// Compares what is kept of this anchor with the log.
    async fn compare_kept(&self) -> Result<(), Trouble> {
        let mut kept: Vec<_> = self.state.last_final.into_iter().collect();
        let newest = self.state.in_flight.as_ref().and_then(|flight| flight.newest());
        kept.extend(newest.map(|attempt| (attempt.size, attempt.root)));
        for (size, root) in kept {
            self.compare_head("what was anchored last", size, &root).await?;
        }
        let Some(size) = self.finals.last_size() else { return Ok(()) };
        let file = format!("the kept anchor of {size} leaves");
        match self.finals.get(size).await {
            // What its own proof does not hold is rot, and says nothing of the log.
            Ok(Some(anchor)) if anchor.proves_its_root() => {
                self.compare_head(&file, size, &anchor.root).await
            }
            Ok(_) | Err(StoreError::Damaged { .. }) => {
                let chain = &self.config.chain;
                log::warn!(
                    "{file} on {chain} is damaged: `meshchain fsck --rpc --repair` mends it"
                );
                Ok(())
            }
            Err(error) => Err(Trouble::Hold(error.to_string())),
        }
    }

    /// Compares the contract's head for this account and log with the log.
    pub(crate) async fn compare_contract(&self) -> Result<Anchored, Trouble> {
        let (contract, sender) = (self.config.contract, self.account.address());
        let anchored = self.node.anchored(contract, sender, self.log_id).await?;
        self.compare_held("the contract's head", &anchored.head).await?;
        Ok(anchored)
    }

    /// Compares what a contract holds, by the word of the node, with the log.
    pub(crate) async fn compare_held(&self, what: &str, head: &TreeHead) -> Result<(), Trouble> {
        let what = format!("{what}, by the word of the RPC node,");
        match self.compare_head(&what, head.size, &head.root.into()).await {
            Err(Trouble::OtherHistory(reason)) => Err(Trouble::NodeSaysOther(reason)),
            compared => compared,
        }
    }

    async fn compare_head(&self, what: &str, size: u64, root: &B256) -> Result<(), Trouble> {
        if size == 0 {
            return Ok(());
        }
        match (self.own)(size).await {
            Ok(Some(own)) if own.head.root == root.0 => Ok(()),
            Ok(Some(_)) => Err(Trouble::OtherHistory(format!(
                "this log is not the one that was anchored: {what} has another root for {size} \
                 leaves"
            ))),
            Ok(None) => Err(Trouble::OtherHistory(format!(
                "this log is not all of the one that was anchored: {what} is of {size} leaves, \
                 the log has fewer"
            ))),
            Err(error) => Err(Trouble::Hold(format!("cannot compare {what}: {error}"))),
        }
    }
}
