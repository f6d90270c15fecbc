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
        let used = sight.nonce > flight.nonce;
        if used || sight.found.is_some() {
            let latest = self.node.latest().await?.number.to();
            sight.final_block = self.node.final_block(self.config.finality, latest).await?;
        }
        if let (true, None, Some(block)) = (used, sight.found, sight.final_block) {
            sight.final_nonce = Some(self.node.nonce(sender, &format!("{block:#x}")).await?);
        }
        let missed = sight.final_nonce.is_some_and(|n| n > flight.nonce);
        self.misses = if missed { self.misses.saturating_add(1).min(MAX_MISSES) } else { 0 };
        sight.misses = self.misses;
        if let (None, false, Some(newest)) = (sight.found, used, flight.newest()) {
            sight.known = self.node.knows(newest.tx).await?;
        }
        Ok(sight)
    }
}
