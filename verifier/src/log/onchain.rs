//! The log against its anchors on the chains: every final anchor of its accounts, whether it is kept
//! or not, must be of this log's tree.

use super::anchors::{Against, KeptChain, Tree};
use super::findings::FsckReport;
use super::source::SourceError;
use crate::policy::{Finality, LogPolicy};
use crate::rpc::{RpcChain, RpcError};
use crate::rpc_anchors::{Account, OnChain};
use crate::shown::shown;
use meshchain_core::{Hash, hash};
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

/// What a node told of a chain.
pub(crate) struct Found {
    pub(crate) anchors: Anchored,
    /// Newest block that it calls final.
    pub(crate) to: u64,
}

/// Compares the log with the anchors on one chain; returns these, where the node told all of them.
pub(crate) fn compare(
    node: &ChainNode,
    tree: &Tree<'_>,
    kept: &[KeptChain],
    (origin, policy): (&str, Option<&LogPolicy>),
    report: &mut FsckReport,
) -> Result<Option<Found>, SourceError> {
    let chain_id = node.chain_id;
    let accounts = accounts(chain_id, kept, hash::log_id(origin), policy);
    if accounts.is_empty() {
        report.not_checked(format!(
            "chain {chain_id}: neither anchor/ nor a policy says which contract and account \
             anchor this log there"
        ));
        return Ok(None);
    }
    let (mut found, mut end) = (Anchored::new(), u64::MAX);
    for (account, finality) in accounts {
        match ask(node, &account, finality) {
            Ok((anchors, to)) => {
                end = end.min(to);
                for anchor in anchors {
                    found.entry(anchor.head.size).or_default().push((account, anchor));
                }
            }
            Err(reason) => {
                report.not_checked(format!("chain {chain_id}: {}", shown(reason)));
                return Ok(None);
            }
        }
    }
    let rules =
        || policy.iter().flat_map(|log| &log.anchors).filter(|rule| rule.chain_id == chain_id);
    for (account, anchor) in found.values().flatten() {
        let whose = format!("the anchor in block {}", anchor.block_number);
        // Once a policy names others, a former account may be anybody's.
        let named = rules().any(|r| (r.contract, r.sender) == (account.contract, account.sender));
        if !named && rules().next().is_some() {
            if !matches!(tree.against(&anchor.head)?, Against::Same) {
                let sender = account.sender;
                report.note(format!(
                    "chain {chain_id}: {whose}, of {} leaves, is not of this log: it is of {sender}, which the policy does not name",
                    anchor.head.size
                ));
            }
            continue;
        }
        tree.compare(&format!("chain {chain_id}"), &whose, &anchor.head, report)?;
    }
    report.anchors_on_chain += found.values().flatten().count() as u64;
    Ok(Some(Found { anchors: found, to: end }))
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

/// The final anchors of an account, checked against the contract's own head, and the newest final block.
fn ask(
    node: &ChainNode,
    account: &Account,
    finality: Finality,
) -> Result<(Vec<OnChain>, u64), String> {
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
        (last, head) if last == head => Ok((anchors, to)),
        (_, head) => Err(format!(
            "the node's events do not lead to the contract's head of {} leaves: it has not all of them",
            head.map_or(0, |head| head.size)
        )),
    }
}
