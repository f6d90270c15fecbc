//! What the chain shows of an account and its attempts.

use crate::machine::{MAX_MISSES, Sight};
use crate::rpc::RpcError;
use crate::runner::Runner;
use crate::state::Mined;

impl Runner {
    /// Looks at what the decision needs: first the nonce, then the receipts. In the other order an
    /// attempt mined in between would look like a stranger's.
    pub(crate) async fn look(&mut self) -> Result<Sight, RpcError> {
        let sender = self.account.address();
        let mut sight =
            Sight { nonce: self.node.nonce(sender, "latest").await?, ..Sight::default() };
        let Some(flight) = &self.state.in_flight else {
            sight.pool_nonce = Some(self.node.nonce(sender, "pending").await?);
            let used = self.state.next_nonce.filter(|next| sight.nonce > *next);
            self.look_at_use(&mut sight, used).await?;
            return Ok(sight);
        };
        // All of them until one is found, the likeliest first.
        for (index, attempt) in flight.attempts.iter().enumerate().rev() {
            if let Some(receipt) = self.node.receipt(attempt.tx).await? {
                let (block, block_hash) = (receipt.block_number.to(), receipt.block_hash);
                sight.found = Some((index, Mined { tx: attempt.tx, block, block_hash }));
                break;
            }
        }
        let newest = flight.newest().map(|attempt| attempt.tx);
        let used = Some(flight.nonce).filter(|nonce| sight.nonce > *nonce);
        if sight.found.is_some() {
            sight.final_block = self.final_block().await?;
        }
        let missed = used.filter(|_| sight.found.is_none());
        self.look_at_use(&mut sight, missed).await?;
        if let (None, None, Some(newest)) = (sight.found, used, newest) {
            sight.known = self.node.knows(newest).await?;
        }
        Ok(sight)
    }

    /// Looks whether a final block used a nonce that the newest one shows as used, by none of our attempts.
    async fn look_at_use(&mut self, sight: &mut Sight, used: Option<u64>) -> Result<(), RpcError> {
        let mut missed = false;
        if let Some(nonce) = used {
            sight.final_block = self.final_block().await?;
            if let Some(block) = sight.final_block {
                let seen = self.node.nonce(self.account.address(), &format!("{block:#x}")).await?;
                sight.final_nonce = Some(seen);
                missed = seen > nonce;
            }
        }
        self.misses = if missed { self.misses.saturating_add(1).min(MAX_MISSES) } else { 0 };
        sight.misses = self.misses;
        Ok(())
    }

    /// Number of the newest final block, if any is.
    pub(crate) async fn final_block(&self) -> Result<Option<u64>, RpcError> {
        let latest = self.node.latest().await?.number.to();
        self.node.final_block(self.config.finality, latest).await
    }
}
