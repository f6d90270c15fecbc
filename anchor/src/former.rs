//! Accounts and contracts that anchored this log before: what they did stands, and speaks of the log's past.

use crate::objects::Objects;
use crate::rpc::RpcError;
use crate::runner::Runner;
use crate::state::{FormerAccount, State, StateError};
use crate::trouble::Trouble;
use alloy_primitives::Address;

/// Most that are asked at a start, the newest ones.
const MOST: usize = 64;

/// All that what is kept in this place tells of on the chain of `state`, beside its own and those that are disowned.
pub(crate) async fn former(
    objects: &Objects,
    state: &State,
    disowned: &[Address],
) -> Result<Vec<FormerAccount>, StateError> {
    let own = FormerAccount { sender: state.sender, contract: state.contract };
    let mut all = state.former.clone();
    all.extend(objects.accounts(state.chain_id).await?);
    let mut former: Vec<FormerAccount> = Vec::new();
    for account in all {
        let named = [account.sender, account.contract];
        let counts = account != own && !disowned.iter().any(|other| named.contains(other));
        if counts && !former.contains(&account) {
            former.push(account);
        }
    }
    let over = former.len().saturating_sub(MOST);
    Ok(former.split_off(over))
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
                "what contract {contract} holds of the former account {sender} (see `disowned` in docs/restore.md), by the \
                 word of the RPC node,"
            );
            match self.compare_head(&what, head.size, &head.root.into()).await {
                Err(Trouble::OtherHistory(reason)) => return Err(Trouble::NodeSaysOther(reason)),
                compared => compared?,
            }
        }
        Ok(())
    }

    /// Whether the proof that is kept of this size is another account's, which policies may still name.
    pub(crate) async fn is_of_former(&self, size: u64) -> bool {
        if !self.finals.sizes().contains(&size) {
            return false;
        }
        let kept = self.finals.get(size).await.ok().flatten();
        let own = (self.account.address(), self.config.contract);
        kept.is_some_and(|kept| (kept.sender, kept.contract) != own)
    }
}
