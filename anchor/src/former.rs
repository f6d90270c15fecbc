//! Accounts and contracts that anchored this log before: what they did stands, and speaks of the log's past.

use crate::rpc::RpcError;
use crate::runner::Runner;
use crate::state::{FormerAccount, State};
use crate::trouble::Trouble;
use alloy_primitives::Address;

/// Most that are asked at a start, the newest ones.
const MOST: usize = 64;

/// All that the state and what is `kept` beside it tell of, without its own and those that are disowned.
pub(crate) fn former(
    state: &State,
    kept: Vec<FormerAccount>,
    disowned: &[Address],
) -> Vec<FormerAccount> {
    let mut former: Vec<FormerAccount> = Vec::new();
    for account in state.former.iter().copied().chain(kept) {
        let named = [account.sender, account.contract];
        let counts =
            account != state.account() && !disowned.iter().any(|other| named.contains(other));
        if counts && !former.contains(&account) {
            former.push(account);
        }
    }
    let over = former.len().saturating_sub(MOST);
    former.split_off(over)
}

impl Runner {
    /// Compares what contracts hold for those with the log: an older copy of it may have come back with a new key.
    pub(crate) async fn compare_former(&self) -> Result<(), Trouble> {
        for FormerAccount { sender, contract } in &self.former {
            let held = match self.node.anchored_if_there(*contract, *sender, self.log_id).await {
                // Something else stands there now: it speaks of no log.
                Err(error @ (RpcError::Refused { .. } | RpcError::Malformed { .. })) => {
                    log::warn!(
                        "the former contract {contract} of account {sender} is none any more: {error}"
                    );
                    continue;
                }
                held => held?,
            };
            let Some(head) = held.map(|anchored| anchored.head) else { continue };
            let what = format!(
                "what contract {contract} holds of the former account {sender} (see `disowned` in docs/restore.md)"
            );
            self.compare_held(&what, &head).await?;
        }
        Ok(())
    }

    /// Whether the proof that is kept of this size is another account's, which policies may still name.
    pub(crate) async fn is_of_former(&self, size: u64) -> bool {
        if self.finals.covering_size(size) != Some(size) {
            return false;
        }
        let kept = self.finals.get(size).await.ok().flatten();
        kept.is_some_and(|kept| kept.account() != self.state.account())
    }
}
