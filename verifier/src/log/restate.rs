//! The state of an anchor that is damaged, or speaks of an anchor that is nowhere, made again from the chain and the
//! final anchors that are kept.

use super::anchors::{KeptChain, damage};
use super::findings::FsckReport;
use super::onchain::{Anchored, ChainNode, Found};
use crate::rpc::RpcError;
use crate::rpc_anchors::{Account, OnChain};
use crate::shown::shown;
use alloy_primitives::B256;
use meshchain_core::hash;
use meshchain_stored::anchor::{AnchorState, final_path, state_path};

const DOUBTFUL: &str = "the log stands. The collector finds out by itself, and goes back to what the chain holds; --rpc \
                        CHAIN=URL --repair does it now, where nothing is in flight";

/// Whether the state's last final anchor is neither on the chain nor kept with a proof that stands there; tells it. A
/// state that speaks of another or a larger tree is left alone: it may be right.
pub(super) fn doubt(
    node: &ChainNode,
    chain: &KeptChain,
    (origin, found): (&str, &Found),
    report: &mut FsckReport,
) -> bool {
    let file = state_path(&chain.name);
    let Some(state) = chain.state.as_ref().filter(|_| !report.is_damaged(&file)) else {
        return false;
    };
    let Some((size, _)) = state.last_final else { return false };
    if chain.anchors.contains_key(&size) || found.anchors.contains_key(&size) {
        return false;
    }
    let account =
        Account { contract: state.contract, sender: state.sender, log_id: hash::log_id(origin) };
    // It may be there, and not final by the policy.
    let newest = node.rpc.quantity("eth_blockNumber").and_then(|at| node.rpc.head(&account, at));
    let passed = found.anchors.range(size..).next().is_some();
    match newest {
        Ok(head) if !passed && head.is_some_and(|head| head.size >= size) => {}
        Ok(_) => {
            let fault =
                format!("speaks of an anchor of {size} leaves, which the chain does not have");
            damage(&file, fault, DOUBTFUL, report);
            return true;
        }
        Err(why) => {
            report.not_checked(format!("chain {}: {}", node.chain_id, shown(why.to_string())))
        }
    }
    false
}

/// Makes the state of a chain's anchor again, where the account has nothing in flight.
pub(super) fn restate(
    node: &ChainNode,
    chain: &KeptChain,
    (origin, found): (&str, &Found),
    report: &mut FsckReport,
) {
    let file = state_path(&chain.name);
    let made = state(node, chain, (origin, &found.anchors), report)
        .and_then(|state| state.to_json().map_err(|why| why.to_string()));
    match made {
        Ok(bytes) => report.repairs.push((file, bytes)),
        Err(why) => report.note(format!("{file} cannot be made again: {}", shown(why))),
    }
}

/// Last final is what the chain has and whose proof is kept, or fetched now. Of the nonce nothing that is kept tells.
fn state(
    node: &ChainNode,
    chain: &KeptChain,
    (origin, found): (&str, &Anchored),
    report: &FsckReport,
) -> Result<AnchorState, String> {
    let newest = chain.anchors.values().next_back().map(|kept| (kept.contract, kept.sender));
    let whose = chain.state.as_ref().map(|state| (state.contract, state.sender)).or(newest);
    let (contract, sender) = whose.ok_or("no final anchor is kept that says whose it is")?;
    let account = Account { contract, sender, log_id: hash::log_id(origin) };
    let nonce = |block| node.rpc.nonce(sender, block).map_err(|e: RpcError| e.to_string());
    let busy = chain.state.as_ref().is_some_and(|state| state.in_flight.is_some());
    if busy || nonce("latest")? != nonce("pending")? {
        return Err("a transaction of its account is in flight: wait until it is mined, or restore the file".to_owned());
    }
    let proved = |size: &u64| {
        let file = final_path(&chain.name, *size);
        chain.anchors.contains_key(size) || report.repairs.iter().any(|(name, _)| *name == file)
    };
    let on_chain = |(size, anchors): (&u64, &Vec<(Account, OnChain)>)| {
        let anchor = anchors.iter().find(|(owner, _)| *owner == account);
        anchor.filter(|_| proved(size)).map(|(_, anchor)| anchor.head)
    };
    let last = found.iter().rev().find_map(on_chain);
    let fresh = || {
        let mut state = AnchorState::new(sender, contract, node.chain_id);
        for kept in chain.anchors.values().filter(|kept| kept.sender == sender) {
            let time_ms = kept.block_timestamp.saturating_mul(1000);
            state.spend(kept.gas_used, kept.effective_gas_price, time_ms);
        }
        state
    };
    let mut state = chain.state.clone().unwrap_or_else(fresh);
    state.next_nonce = None;
    state.last_final = last.map(|head| (head.size, B256::from(head.root)));
    Ok(state)
}
