//! Kept anchors that are rotten or gone, made again from the chain.

use super::anchors::{KeptChain, Tree};
use super::findings::FsckReport;
use super::kept::{Expected, MAX_LEN, checkpoint_of, read_final};
use super::onchain::{Anchored, ChainNode};
use crate::shown::shown;
use alloy_primitives::B256;
use meshchain_core::TreeHead;
use meshchain_core::note::MAX_NOTE;
use meshchain_stored::anchor::{FinalAnchor, VERSION, final_path};

/// Most anchors that are fetched at once; a repair can be run again.
const MAX_FETCHED: usize = 1000;

/// Makes the files of a chain again whose sizes the report calls damaged and the chain has.
pub(super) fn refetch(
    node: &ChainNode,
    tree: &Tree<'_>,
    (chain, expected): (&KeptChain, &Expected<'_>),
    found: &Anchored,
    report: &mut FsckReport,
) {
    let damaged = |size: &u64| report.is_damaged(&final_path(&chain.name, *size));
    let wanted: Vec<_> = found.iter().filter(|(size, _)| damaged(size)).take(MAX_FETCHED).collect();
    for (size, anchors) in wanted {
        let Some((account, anchor)) = anchors.first() else { continue };
        let file = final_path(&chain.name, *size);
        let made = checkpoint(tree, &file, &anchor.head, expected).and_then(|checkpoint| {
            let fetched = node.rpc.fetch_anchor(node.chain_id, account, anchor)?;
            let kept = FinalAnchor {
                version: VERSION,
                chain: chain.name.clone(),
                contract: account.contract,
                sender: account.sender,
                log_id: account.log_id.into(),
                size: *size,
                root: B256::from(anchor.head.root),
                checkpoint,
                evidence: fetched.evidence,
                block_number: anchor.block_number,
                block_hash: anchor.block_hash,
                block_timestamp: fetched.timestamp,
                tx: anchor.tx,
                nonce: fetched.nonce,
                gas_used: fetched.gas_used,
                effective_gas_price: fetched.effective_gas_price,
            };
            let bytes = kept.to_json().map_err(|e| e.to_string())?;
            read_final(&bytes, *size, expected).map(|_| bytes)
        });
        match made {
            Ok(bytes) => report.repairs.push((file, bytes)),
            Err(why) => report.note(format!("{file} cannot be fetched again: {}", shown(why))),
        }
    }
}

/// A signed checkpoint of the anchored tree: in what is left of the file, in the state of any chain or
/// in another chain's file, or the published one. The chain does not have it.
fn checkpoint(
    tree: &Tree<'_>,
    file: &str,
    head: &TreeHead,
    expected: &Expected<'_>,
) -> Result<String, String> {
    if expected.key.is_none() {
        return Err("without the log's key no checkpoint can be told from another".to_owned());
    }
    let mut names = vec![file.to_owned(), "checkpoint".to_owned()];
    let folders = tree.source.list("anchor").ok().flatten().unwrap_or_default();
    for folder in folders.iter().filter(|item| item.folder) {
        let chain = folder.name.trim_start_matches("anchor/");
        names.extend([final_path(chain, head.size), format!("{}/pending.json", folder.name)]);
    }
    for name in names {
        let limit = if name == "checkpoint" { MAX_NOTE as u64 } else { MAX_LEN };
        let Ok(Some(bytes)) = tree.source.get(&name, limit) else { continue };
        let text = String::from_utf8_lossy(&bytes);
        let inside = text.split("\"checkpoint\":").skip(1).filter_map(|rest| {
            let mut values = serde_json::Deserializer::from_str(rest).into_iter::<String>();
            values.next()?.ok()
        });
        let whole = (name == "checkpoint").then(|| text.to_string());
        let good = |note: &String| checkpoint_of(note, head, expected).is_ok();
        if let Some(note) = inside.chain(whole).find(good) {
            return Ok(note);
        }
    }
    Err("no signed checkpoint of that size is left".to_owned())
}
