//! Anchors that are on the chain and not kept, or rotten here, made again from the chain.

use super::anchors::{KeptChain, Tree, damage};
use super::findings::FsckReport;
use super::kept::{Expected, MAX_LEN, checkpoint_of, read_final};
use super::onchain::{Anchored, ChainNode};
use crate::rpc_anchors::{Account, OnChain};
use crate::shown::shown;
use alloy_primitives::B256;
use meshchain_core::TreeHead;
use meshchain_core::note::MAX_NOTE;
use meshchain_stored::anchor::{FinalAnchor, VERSION, final_path, given_up_folder};
use std::collections::BTreeMap;

/// Most anchors that are looked for at once.
const MAX_FETCHED: usize = 1000;

const MISSING: &str = "evidence of the leaves that it covers has a larger anchor, or none yet: --rpc CHAIN=URL --repair \
                       fetches it again";

/// Makes the files of a chain's anchors that are not kept as they should be, newest first. What cannot be made is no
/// damage: a larger anchor covers it, or the next one will.
pub(super) fn refetch(
    node: &ChainNode,
    tree: &Tree<'_>,
    (chain, expected): (&KeptChain, &Expected<'_>),
    found: &Anchored,
    report: &mut FsckReport,
) {
    let newest_kept = chain.anchors.keys().next_back().copied().unwrap_or(0);
    let mut newest = newest_kept;
    // Why they cannot be made, and how many, from which size to which.
    let mut lost: BTreeMap<String, (u64, u64, u64)> = BTreeMap::new();
    let lacking = found.iter().rev().filter(|(size, _)| !chain.anchors.contains_key(size));
    for (at, (&size, anchors)) in lacking.enumerate() {
        let Some((account, anchor)) = anchors.first() else { continue };
        let file = final_path(&chain.name, size);
        let made = match at < MAX_FETCHED {
            true => make(node, tree, (account, anchor), expected),
            false => Err(format!("over {MAX_FETCHED} are lacking at once")),
        };
        let block = anchor.block_number;
        let told = report.is_damaged(&file);
        match made {
            Ok(bytes) => {
                if !told && size < newest_kept || chain.last_missing() == Some(size) {
                    let fault = format!("missing: block {block} of the chain has this anchor");
                    damage(&file, fault, MISSING, report);
                } else if !told {
                    report.note(format!(
                        "block {block} of the chain has the anchor of {size} leaves, which is not \
                         kept yet: --repair fetches it"
                    ));
                }
                newest = newest.max(size);
                report.repairs.push((file, bytes));
            }
            Err(why) if told => {
                report.note(format!("{file} cannot be fetched again: {}", shown(why)));
            }
            Err(why) => {
                let (count, from, _) = lost.entry(shown(why)).or_insert((0, size, size));
                (*count, *from) = (*count + 1, size);
            }
        }
    }
    for (why, (count, from, to)) in lost {
        let covered = match to < newest {
            true => format!("the one of {newest} leaves covers theirs"),
            false => "the next one covers theirs".to_owned(),
        };
        let chain = node.chain_id;
        let which = match count {
            1 => format!("the anchor of {from} leaves on chain {chain} is"),
            _ => format!("{count} anchors of {from} to {to} leaves on chain {chain} are"),
        };
        report.note(format!("{which} not kept and cannot be fetched: {why}; {covered}"));
    }
}

/// The file of an anchor, of what its block proves and the log signed.
fn make(
    node: &ChainNode,
    tree: &Tree<'_>,
    (account, anchor): (&Account, &OnChain),
    expected: &Expected<'_>,
) -> Result<Vec<u8>, String> {
    let size = anchor.head.size;
    let checkpoint = checkpoint(tree, &final_path(expected.chain, size), &anchor.head, expected)?;
    let fetched = node.rpc.fetch_anchor(node.chain_id, account, anchor)?;
    let kept = FinalAnchor {
        version: VERSION,
        chain: expected.chain.to_owned(),
        contract: account.contract,
        sender: account.sender,
        log_id: account.log_id.into(),
        size,
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
    read_final(&bytes, size, expected).map(|_| bytes)
}

/// A signed checkpoint of the anchored tree: in what is left of the file, in the state of any chain, in another chain's
/// file or one that was set aside, or the published one. The chain does not have it.
fn checkpoint(
    tree: &Tree<'_>,
    file: &str,
    head: &TreeHead,
    expected: &Expected<'_>,
) -> Result<String, String> {
    if expected.key.is_none() {
        return Err("without the log's key no checkpoint can be told from another".to_owned());
    }
    let size = format!("/{:020}-", head.size);
    let mut names = vec![file.to_owned(), "checkpoint".to_owned()];
    let folders = tree.source.list("anchor").ok().flatten().unwrap_or_default();
    for folder in folders.iter().filter(|item| item.folder) {
        let chain = folder.name.trim_start_matches("anchor/");
        names.extend([final_path(chain, head.size), format!("{}/pending.json", folder.name)]);
        let aside = tree.source.list(&given_up_folder(chain)).ok().flatten().unwrap_or_default();
        names.extend(aside.into_iter().map(|item| item.name).filter(|name| name.contains(&size)));
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
