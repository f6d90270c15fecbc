//! The log against its anchors on the chains: every final anchor of its accounts, whether it is kept
//! or not, must be of this log's tree.

use super::anchors::{KeptChain, Tree, missing};
use super::findings::{Damage, FsckReport};
use super::source::SourceError;
use crate::policy::{Finality, LogPolicy};
use crate::rpc::{RpcChain, RpcError};
use crate::rpc_anchors::{Account, OnChain};
use crate::shown::shown;
use meshchain_core::{Hash, hash};
use meshchain_stored::anchor::final_path;
use std::collections::BTreeMap;

/// A node of a chain, which is the user's word.
pub struct ChainNode {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The node.
    pub rpc: RpcChain,
}

/// Anchors of the log that are on a chain, by size: each account has one of a size at most.
pub(crate) type Anchored = BTreeMap<u64, Vec<(Account, OnChain)>>;

/// Compares the log with the anchors on one chain; returns these.
pub(crate) fn compare(
    node: &ChainNode,
    tree: &Tree<'_>,
    kept: &[KeptChain],
    (origin, policy): (&str, Option<&LogPolicy>),
    report: &mut FsckReport,
) -> Result<Anchored, SourceError> {
    let chain_id = node.chain_id;
    let accounts = accounts(chain_id, kept, hash::log_id(origin), policy);
    if accounts.is_empty() {
        report.not_checked(format!(
            "chain {chain_id}: neither anchor/ nor a policy says which contract and account \
             anchor this log there"
        ));
    }
    let mut found = Anchored::new();
    for (account, finality) in accounts {
        match ask(node, &account, finality) {
            Ok(anchors) => {
                for anchor in anchors {
                    found.entry(anchor.head.size).or_default().push((account, anchor));
                }
            }
            Err(reason) => {
                report.not_checked(format!("chain {chain_id}: {}", shown(reason)));
                return Ok(Anchored::new());
            }
        }
    }
    for (_, anchor) in found.values().flatten() {
        let whose = format!("the anchor in block {}", anchor.block_number);
        tree.compare(&format!("chain {chain_id}"), &whose, &anchor.head, report)?;
    }
    for chain in kept.iter().filter(|chain| chain.chain_id() == Some(chain_id)) {
        compare_kept(chain, &found, report);
    }
    report.anchors_on_chain += found.values().flatten().count() as u64;
    Ok(found)
}

/// Who anchors the log on a chain, by the policy and by what is kept.
fn accounts(
    chain_id: u64,
    kept: &[KeptChain],
    log_id: Hash,
    policy: Option<&LogPolicy>,
) -> Vec<(Account, Finality)> {
    let rules = policy.iter().flat_map(|log| &log.anchors).filter(|rule| rule.chain_id == chain_id);
    let mut all: Vec<_> = rules.map(|rule| ((rule.contract, rule.sender), rule.finality)).collect();
    for chain in kept.iter().filter(|chain| chain.chain_id() == Some(chain_id)) {
        let state = chain.state.iter().map(|state| (state.contract, state.sender));
        let anchors = chain.anchors.values().map(|kept| (kept.contract, kept.sender));
        for account in state.chain(anchors) {
            if !all.iter().any(|(known, _)| *known == account) {
                all.push((account, Finality::Finalized));
            }
        }
    }
    let account = |((contract, sender), finality)| (Account { contract, sender, log_id }, finality);
    all.into_iter().map(account).collect()
}

/// The final anchors of an account, checked against the contract's own head.
fn ask(node: &ChainNode, account: &Account, finality: Finality) -> Result<Vec<OnChain>, String> {
    let said = |e: RpcError| e.to_string();
    let chain_id = node.rpc.chain_id().map_err(said)?;
    if chain_id != node.chain_id {
        return Err(format!("the RPC node is of chain {chain_id}"));
    }
    let Some(to) = node.rpc.final_to(finality).map_err(said)? else {
        return Err(format!("the RPC node knows no block that is {finality}"));
    };
    let anchors = node.rpc.anchors(account, to).map_err(said)?;
    let head = node.rpc.head(account, to).map_err(said)?;
    match (anchors.last().map(|anchor| anchor.head), head) {
        (last, head) if last == head => Ok(anchors),
        (_, head) => Err(format!(
            "the node's events do not lead to the contract's head of {} leaves: it has not all of them",
            head.map_or(0, |head| head.size)
        )),
    }
}

/// What is kept of a chain, against what is on it.
fn compare_kept(chain: &KeptChain, found: &Anchored, report: &mut FsckReport) {
    let blocks = found.values().flatten().map(|(_, anchor)| anchor.block_number);
    let newest = blocks.max().unwrap_or(0);
    for (size, kept) in &chain.anchors {
        let there = found.get(size).into_iter().flatten().any(|(account, anchor)| {
            (account.contract, account.sender) == (kept.contract, kept.sender)
                && (anchor.block_hash, anchor.tx) == (kept.block_hash, kept.tx)
        });
        // A collector may count a block as final sooner than the node does.
        if !there && kept.block_number <= newest {
            report.damage(Damage {
                file: final_path(&chain.name, *size),
                offset: None,
                fault: format!("block {} of the chain does not have it", kept.block_number),
                cost: "evidence that carries it cannot be checked: the block was given up, or the \
                       file is not of this chain; --repair fetches the anchor of this size, where \
                       there is one"
                    .to_owned(),
                leaves: None,
            });
        }
    }
    let known = |size: &u64| chain.anchors.contains_key(size) || chain.rotten.contains(size);
    let last = chain.anchors.keys().chain(&chain.rotten).max().copied().unwrap_or(0);
    for (size, anchors) in found.iter().filter(|(size, _)| !known(size)) {
        let Some((_, anchor)) = anchors.first() else { continue };
        match *size < last {
            true => missing(&chain.name, *size, anchor.block_number, report),
            // The state says which one was the last that the collector called final.
            false => report.note(format!(
                "block {} of the chain has the anchor of {size} leaves, which is not kept yet",
                anchor.block_number
            )),
        }
    }
}
