//! What a runner does for each action: attempt, send, note, settle.

use crate::event::{AnchorEvent, Sent};
use crate::machine::{self, Plan, Terms};
use crate::objects::Written;
use crate::proof::InBlock;
use crate::rewound::HEAD_BEHIND;
use crate::rpc::Refusal;
use crate::runner::Runner;
use crate::state::{Attempt, FinalAnchor, InFlight, Mined, settled};
use crate::trouble::Trouble;
use crate::tx::{Call, Fees, anchor_input};
use alloy_primitives::B256;
use meshchain_core::{SignedHead, TreeHead};
use meshchain_evm::{ProofError, place};

/// Largest estimate of gas that is believed. An anchor takes less than a hundred thousand today.
const MAX_GAS: u64 = 10_000_000;

impl Runner {
    /// Builds the next attempt, makes it durable, and only then sends it.
    pub(crate) async fn attempt(
        &mut self,
        newest: SignedHead,
        nonce: u64,
        now: u64,
    ) -> Result<(), Trouble> {
        let terms = self.terms().await?;
        let plan = machine::plan(&self.state, nonce, &terms, &newest.head, &self.rules);
        let (nonce, prev_size, fees) = match plan {
            Plan::Rest => return Ok(()),
            Plan::Hold(reason) => return Err(Trouble::Hold(reason)),
            Plan::OtherHistory(reason) => return Err(Trouble::NodeSaysOther(reason)),
            Plan::Behind => return self.behind(HEAD_BEHIND).await,
            Plan::TakeUp => return self.take_up().await,
            Plan::Attempt { nonce, prev_size, fees } => (nonce, prev_size, fees),
        };
        let attempt = self.build(newest, nonce, prev_size, fees, now).await?;
        let gas_limit = attempt.gas_limit;
        machine::afford(&self.state, &fees, gas_limit, terms.balance, &self.rules, now)
            .map_err(Trouble::Hold)?;
        let (sent, written) = self.persist(nonce, attempt, now).await?;
        let first = sent.attempt == 1;
        self.emit(if first { AnchorEvent::Submitted(sent) } else { AnchorEvent::Replaced(sent) });
        self.send_newest(written).await
    }

    async fn terms(&self) -> Result<Terms, Trouble> {
        let base = self.node.latest().await?.base_fee_per_gas.map(|fee| fee.to());
        let sender = self.account.address();
        let anchored = self.node.anchored(self.config.contract, sender, self.log_id).await?.head;
        let own = (self.own)(anchored.size).await;
        let own = own.map_err(|error| Trouble::Hold(error.to_string()))?;
        Ok(Terms {
            anchored,
            own: own.map(|own| own.head.root),
            market: self.node.market(base).await?,
            balance: self.look_at_balance().await?,
        })
    }

    async fn build(
        &self,
        newest: SignedHead,
        nonce: u64,
        prev_size: u64,
        fees: Fees,
        now: u64,
    ) -> Result<Attempt, Trouble> {
        let (size, root) = (newest.head.size, B256::from(newest.head.root));
        let input = anchor_input(self.log_id, prev_size, size, root);
        let (sender, contract) = (self.account.address(), self.config.contract);
        let gas = self.node.estimate_gas(sender, contract, &input).await?;
        if gas > MAX_GAS {
            return Err(Trouble::Hold(format!("the node estimates {gas} gas for an anchor")));
        }
        // A quarter more: the state may differ when it is mined.
        let gas_limit = gas + gas / 4;
        let chain_id = self.config.chain_id;
        let call = Call { chain_id, contract, nonce, gas_limit, fees, input };
        let unsigned = |e| Trouble::Stop(format!("cannot sign: {e}"));
        let (tx, raw) = self.account.sign(&call).map_err(unsigned)?;
        let Fees { max: max_fee, tip } = fees;
        let checkpoint = newest.checkpoint;
        Ok(Attempt {
            tx,
            raw,
            prev_size,
            size,
            root,
            checkpoint,
            max_fee,
            tip,
            gas_limit,
            time_ms: now,
        })
    }

    async fn persist(
        &mut self,
        nonce: u64,
        attempt: Attempt,
        now: u64,
    ) -> Result<(Sent, Written), Trouble> {
        let chain = self.config.chain.clone();
        let Attempt { tx, size, root, max_fee, .. } = attempt;
        let mut next = self.state.clone();
        if next.in_flight.is_none() {
            next.last_start_ms = now;
        }
        let fresh = || InFlight { nonce, attempts: Vec::new(), waiting_since_ms: now, mined: None };
        let flight = next.in_flight.get_or_insert_with(fresh);
        flight.attempts.push(attempt);
        flight.waiting_since_ms = now;
        let number = flight.attempts.len();
        let written = self.save(next).await?;
        self.attempted = true;
        Ok((Sent { chain, nonce, attempt: number, tx, size, root, max_fee }, written))
    }

    /// Sends the newest attempt once more, if the state is still this collector's.
    pub(crate) async fn resend(&mut self) -> Result<(), Trouble> {
        let written = self.save(self.state.clone()).await?;
        self.send_newest(written).await
    }

    /// Hands the newest attempt to the node; safe to repeat.
    async fn send_newest(&self, _: Written) -> Result<(), Trouble> {
        let newest = self.state.in_flight.as_ref().and_then(InFlight::newest);
        let Some(attempt) = newest else { return Ok(()) };
        match self.node.send(&attempt.raw).await? {
            // Mined already: the next look finds which attempt, or that it was none of ours.
            None | Some((Refusal::NonceTooLow, _)) => Ok(()),
            Some((_, reason)) => Err(Trouble::Hold(reason)),
        }
    }

    pub(crate) async fn mined(&mut self, mined: Mined) -> Result<(), Trouble> {
        let mut next = self.state.clone();
        let Some(flight) = &mut next.in_flight else { return Ok(()) };
        flight.mined = Some(mined);
        let attempt = flight.attempts.iter().find(|a| a.tx == mined.tx);
        let size = attempt.map_or(0, |a| a.size);
        self.save(next).await?;
        let Mined { tx, block, block_hash } = mined;
        self.emit(AnchorEvent::Mined {
            chain: self.config.chain.clone(),
            block,
            block_hash,
            tx,
            size,
        });
        Ok(())
    }

    /// Back to pending. The wait starts anew: most often the pool takes the transaction up again.
    pub(crate) async fn reorged(&mut self, mined: Mined, now: u64) -> Result<(), Trouble> {
        let mut next = self.state.clone();
        let Some(flight) = &mut next.in_flight else { return Ok(()) };
        flight.mined = None;
        flight.waiting_since_ms = now;
        self.save(next).await?;
        let Mined { tx, block, block_hash } = mined;
        self.emit(AnchorEvent::Reorged { chain: self.config.chain.clone(), block, block_hash, tx });
        Ok(())
    }

    /// Proves the attempt's place in its block, keeps the proof, and gives the nonce up.
    pub(crate) async fn settle(
        &mut self,
        attempt: usize,
        mined: Mined,
        now: u64,
    ) -> Result<(), Trouble> {
        let flight = self.state.in_flight.as_ref();
        let Some(flight) = flight.filter(|f| attempt < f.attempts.len()) else { return Ok(()) };
        let (signed, nonce) = (&flight.attempts[attempt], flight.nonce);
        let block = self.block_on_chain(mined.block, mined.block_hash).await?;
        let receipts = self.node.receipts(&block).await?;
        let receipt = receipts.iter().find(|r| r.transaction_hash == mined.tx);
        let receipt = receipt.ok_or(ProofError::Place(block.hash))?;
        // Neither is in the receipt trie; what was signed bounds both.
        let price = receipt.effective_gas_price.to::<u128>().min(signed.max_fee);
        let gas_used = receipt.gas_used.to::<u64>().min(signed.gas_limit);
        let mut next = settled(&self.state, gas_used, price, now);
        if !receipt.succeeded() {
            // A nonce is given up for what is in the block, and for nothing less.
            place(&block, &receipts, mined.tx)?;
            self.save(next).await?;
            let (chain, tx) = (self.config.chain.clone(), mined.tx);
            self.emit(AnchorEvent::Reverted { chain, block: mined.block, tx });
            return Ok(());
        }
        let Attempt { size, root, checkpoint, .. } = signed.clone();
        let head = TreeHead { size, root: root.0 };
        let signed = SignedHead { head, checkpoint };
        let (block, receipts, tx) = (&block, receipts.as_slice(), mined.tx);
        let anchor = InBlock { block, receipts, tx, nonce, signed, gas_used, price };
        // A crash between the two writes settles the same anchor again, to the same bytes.
        let anchor = self.keep(anchor).await?;
        next.last_final = Some((size, root));
        self.save(next).await?;
        self.sure = self.attempted;
        let FinalAnchor { chain, tx, block_timestamp: block_time, .. } = anchor;
        let Mined { block, block_hash, .. } = mined;
        self.emit(AnchorEvent::Final {
            chain,
            block,
            block_hash,
            block_time,
            tx,
            gas_used,
            size,
            root,
        });
        Ok(())
    }
}
