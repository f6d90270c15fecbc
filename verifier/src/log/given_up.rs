//! Kept anchors whose block is not on the chain any more: it was rewound past what the collector called final.

use super::anchors::{KeptChain, damage};
use super::findings::FsckReport;
use super::onchain::{ChainNode, Found};
use crate::rpc::RpcError;
use crate::shown::shown;
use meshchain_stored::anchor::{FinalAnchor, final_path, given_up_path};

const COST: &str = "evidence that carries it cannot be checked: the chain gave the block up, by the word of this node, \
                    which a second one may contradict. The log stands: --repair sets the file aside (given-up/), and \
                    fetches the anchor of this size, where the chain has one; larger ones cover its leaves";

/// Tells them, and takes them out of what is kept.
pub(super) fn check(
    node: &ChainNode,
    chain: &mut KeptChain,
    found: &Found,
    report: &mut FsckReport,
) {
    let mut gone = Vec::new();
    for (size, kept) in &chain.anchors {
        let there = found.anchors.get(size).into_iter().flatten().any(|(account, anchor)| {
            (account.contract, account.sender) == (kept.contract, kept.sender)
                && (anchor.block_hash, anchor.tx) == (kept.block_hash, kept.tx)
        });
        if there {
            continue;
        }
        match is_gone(node, kept, found.to) {
            Ok(true) => gone.push(*size),
            Ok(false) => {}
            Err(why) => report.not_checked(format!(
                "the kept anchor of {size} leaves on chain {}: {}",
                node.chain_id,
                shown(why)
            )),
        }
    }
    for size in gone {
        let Some(kept) = chain.anchors.remove(&size) else { continue };
        let file = final_path(&chain.name, size);
        let fault = format!("block {} of the chain does not have it", kept.block_number);
        damage(&file, fault, COST, report);
        report.moves.push((file, given_up_path(&chain.name, size, &kept.block_hash)));
        chain.given_up.push(size);
    }
}

/// Whether the chain has another block in the place of an anchor's. A collector may count a block as final sooner than
/// the policy does.
fn is_gone(node: &ChainNode, kept: &FinalAnchor, to: u64) -> Result<bool, String> {
    if kept.block_number <= to {
        return Ok(true);
    }
    let said = |e: RpcError| e.to_string();
    if let Some((hash, _)) = node.rpc.block_at(kept.block_number).map_err(said)? {
        return Ok(hash != kept.block_hash);
    }
    // A chain that was made again may be shorter, and is of a later time.
    match node.rpc.block_at(to).map_err(said)? {
        Some((_, time)) if time > kept.block_timestamp => Ok(true),
        _ => Err(format!(
            "the node has no block {}: it lags, or the chain was rewound",
            kept.block_number
        )),
    }
}
