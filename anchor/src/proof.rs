//! What is kept of a final anchor: made of a node's answers, as far as they prove it.

use crate::node::Anchored;
use crate::runner::{Runner, now_ms};
use crate::state::{FinalAnchor, VERSION};
use crate::trouble::Trouble;
use alloy_primitives::B256;
use meshchain_core::{SignedHead, TreeHead};
use meshchain_evm::{AnchorFact, Block, Expected, Receipt, anchoring, prove, read_anchor};

/// How far a block's time may lie ahead of this host's clock, in seconds. A node that lags is told by the time of the
/// last final anchor: one of the distant future would make all of them lag.
const AHEAD_S: u64 = 2 * 60 * 60;

/// An anchor in a block, and what neither header nor receipts hold of it.
pub(crate) struct InBlock<'a> {
    pub(crate) block: &'a Block,
    pub(crate) receipts: &'a [Receipt],
    pub(crate) tx: B256,
    pub(crate) nonce: u64,
    /// The tree that it anchors.
    pub(crate) signed: SignedHead,
    pub(crate) gas_used: u64,
    /// Wei per gas.
    pub(crate) price: u128,
}

impl Runner {
    /// The block of this number and hash, by which the node's answers must agree.
    pub(crate) async fn block_on_chain(&self, number: u64, hash: B256) -> Result<Block, Trouble> {
        let hold = |reason: &str| Trouble::Hold(format!("block {hash}: {reason}"));
        let gone = || hold("the node does not have it any more");
        let block = self.node.block_by_hash(hash).await?.ok_or_else(gone)?;
        let there = self.node.block(&format!("{number:#x}")).await?.ok_or_else(gone)?;
        if [block.hash, there.hash] != [hash; 2] || block.number != there.number {
            return Err(hold("the node's answers contradict each other"));
        }
        Ok(block)
    }

    /// Proves an anchor and keeps it.
    pub(crate) async fn keep(&self, anchor: InBlock<'_>) -> Result<FinalAnchor, Trouble> {
        let InBlock { block, receipts, tx, nonce, signed, gas_used, price } = anchor;
        let SignedHead { head, checkpoint } = signed;
        let expected = self.expected(head);
        let evidence = prove(block, receipts, tx, &expected)?;
        let block_timestamp = block.timestamp.to();
        if block_timestamp > (now_ms() / 1000).saturating_add(AHEAD_S) {
            return Err(Trouble::Hold(format!(
                "block {} is of a time that has not come: look at this host's clock",
                block.hash
            )));
        }
        let anchor = FinalAnchor {
            version: VERSION,
            chain: self.config.chain.clone(),
            contract: expected.contract,
            sender: expected.sender,
            log_id: self.log_id,
            size: head.size,
            root: head.root.into(),
            checkpoint,
            evidence,
            block_number: block.number.to(),
            block_hash: block.hash,
            block_timestamp,
            tx,
            nonce,
            gas_used,
            effective_gas_price: price,
        };
        self.objects.put_final(&anchor).await?;
        self.finals.insert(head.size);
        self.set_aside(&anchor).await?;
        Ok(anchor)
    }

    /// Sets aside what is kept of anchors that the chain gave up: the contract's head went past their sizes, as the
    /// event of this one proves.
    async fn set_aside(&self, anchor: &FinalAnchor) -> Result<(), Trouble> {
        let Ok(fact) = read_anchor(&anchor.evidence) else { return Ok(()) };
        for size in self.finals.between(fact.prev_size, anchor.size) {
            // Those of another account stand.
            let Some(kept) = self.kept(size).await else { break };
            self.objects.set_aside(size, &kept.hash).await?;
            self.finals.remove(size);
        }
        Ok(())
    }

    /// Has the proof of the last final anchor kept out of the block that it is in now: it may be lost here, or the
    /// chain was rewound and took the same anchor up again.
    pub(crate) async fn place_last(&mut self) -> Result<(), Trouble> {
        let anchored = self.compare_contract().await?;
        let last = self.state.last_final.map(|(size, _)| size);
        if last != Some(anchored.head.size) || self.state.in_flight.is_some() {
            return Ok(());
        }
        match self.keep_head(&anchored).await {
            // The next anchor covers it.
            Err(Trouble::Hold(reason)) => log::warn!("{}: {reason}", self.config.chain),
            other => other?,
        }
        Ok(())
    }

    /// Has the proof of what the contract holds kept: what is there already, where its block is on the chain, else out
    /// of the block that has it now, once that is final.
    pub(crate) async fn keep_head(&self, anchored: &Anchored) -> Result<(), Trouble> {
        let head = anchored.head;
        let hold = |what: &str| {
            Trouble::Hold(format!(
                "the anchor of {} leaves that the contract holds {what}",
                head.size
            ))
        };
        let end = self.final_block().await?.unwrap_or(0);
        if let Some(kept) = self.kept(head.size).await.filter(|kept| kept.number <= end) {
            let there = self.node.block(&format!("{:#x}", kept.number)).await?;
            if there.is_some_and(|there| there.hash == kept.hash) {
                return Ok(());
            }
        }
        let found = self.find(anchored).await?;
        let (block, receipts) = found.ok_or_else(|| hold("is in no block that the node names"))?;
        if block.number.to::<u64>() > end {
            return Err(hold("is not final yet: going on from it when it is"));
        }
        let none = || hold("is not where it was");
        let receipt = anchoring(&receipts, &self.expected(head)).ok_or_else(none)?;
        let tx = receipt.transaction_hash;
        let own = (self.own)(head.size).await.map_err(|e| Trouble::Hold(e.to_string()))?;
        let signed = own.filter(|own| own.head == head);
        self.keep(InBlock {
            block: &block,
            receipts: &receipts,
            tx,
            nonce: self.node.nonce_of(tx).await?,
            signed: signed.ok_or_else(|| hold("is not of this log"))?,
            gas_used: receipt.gas_used.to(),
            price: receipt.effective_gas_price.to(),
        })
        .await?;
        Ok(())
    }

    /// The block that holds what the contract does: the one that it names, or that of its newest event, as rollups name
    /// blocks of another chain.
    async fn find(&self, anchored: &Anchored) -> Result<Option<(Block, Vec<Receipt>)>, Trouble> {
        let expected = self.expected(anchored.head);
        for named in [true, false] {
            let place = match named {
                true => {
                    let block = self.node.block(&format!("{:#x}", anchored.block)).await?;
                    block.map(|block| (anchored.block, block.hash))
                }
                false => {
                    let Expected { contract, sender, .. } = expected;
                    self.node.newest_event(contract, sender, self.log_id).await?
                }
            };
            let Some((number, hash)) = place else { continue };
            let block = self.block_on_chain(number, hash).await?;
            let receipts = self.node.receipts(&block).await?;
            if anchoring(&receipts, &expected).is_some() {
                return Ok(Some((block, receipts)));
            }
        }
        Ok(None)
    }

    /// What the kept anchor of a size proves; `None` where there is none, or its own proof does not hold.
    pub(crate) async fn kept(&self, size: u64) -> Option<AnchorFact> {
        let kept = self.finals.get(size).await.ok().flatten()?;
        let fact = read_anchor(&kept.evidence).ok()?;
        let expected = self.expected(kept.head());
        let says = (fact.contract, fact.sender, fact.log_id, fact.head);
        (says == (expected.contract, expected.sender, expected.log_id, expected.head))
            .then_some(fact)
    }

    fn expected(&self, head: TreeHead) -> Expected {
        Expected {
            chain_id: self.config.chain_id,
            contract: self.config.contract,
            sender: self.account.address(),
            log_id: self.log_id.0,
            head,
        }
    }
}
