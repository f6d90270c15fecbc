//! The state of an anchor that is damaged, made again from the chain and the final anchors that are kept.

use super::anchors::KeptChain;
use super::findings::FsckReport;
use super::onchain::{Anchored, ChainNode};
use crate::rpc_anchors::Account;
use crate::shown::shown;
use alloy_primitives::B256;
use meshchain_stored::anchor::{AnchorState, state_path};

/// Makes the state of a chain's anchor again, where the report calls it damaged and the account has nothing in flight.
pub(super) fn restate(
    node: &ChainNode,
    chain: &KeptChain,
    found: &Anchored,
    report: &mut FsckReport,
) {
    let file = state_path(&chain.name);
    if !report.is_damaged(&file) || chain.state.is_some() {
        return;
    }
    match state(node, chain, found) {
        Ok(state) => match state.to_json() {
            Ok(bytes) => report.repairs.push((file, bytes)),
            Err(why) => {
                report.note(format!("{file} cannot be made again: {}", shown(why.to_string())))
            }
        },
        Err(why) => report.note(format!("{file} cannot be made again: {}", shown(why))),
    }
}

fn state(node: &ChainNode, chain: &KeptChain, found: &Anchored) -> Result<AnchorState, String> {
    let (_, newest) =
        chain.anchors.last_key_value().ok_or("no final anchor is kept that says whose it is")?;
    let account =
        Account { contract: newest.contract, sender: newest.sender, log_id: newest.log_id.0 };
    let of_account = |anchors: &Vec<_>| anchors.iter().any(|(owner, _)| *owner == account);
    let (size, anchors) = found
        .iter()
        .rfind(|(_, anchors)| of_account(anchors))
        .ok_or("the chain has no anchor of its account")?;
    let last = anchors.iter().find(|(owner, _)| *owner == account).map(|(_, anchor)| anchor.head);
    let nonce = |block| node.rpc.nonce(account.sender, block).map_err(|e| e.to_string());
    let (next, pool) = (nonce("latest")?, nonce("pending")?);
    if next != pool {
        return Err("a transaction of its account is in flight: wait until it is mined, or restore the file".to_owned());
    }
    let mut state = AnchorState::new(account.sender, account.contract, node.chain_id);
    state.next_nonce = Some(next);
    state.last_final = last.map(|head| (*size, B256::from(head.root)));
    for kept in chain.anchors.values().filter(|kept| kept.sender == account.sender) {
        state.spend(
            kept.gas_used,
            kept.effective_gas_price,
            kept.block_timestamp.saturating_mul(1000),
        );
    }
    Ok(state)
}
