//! Anchors: what they prove, whether the policy believes it, and whether the chain has the block.

use crate::chain::{BlockAnswer, BlockQuery, ChainView};
use crate::checkpoint::Checkpoints;
use crate::history::LogHead;
use crate::policy::{AnchorPolicy, LogPolicy, Policy};
use crate::report::{AnchorReport, Outcome, Step};
use crate::shown::shown;
use meshchain_core::evidence::EvmAnchor;
use meshchain_core::{Checkpoint, Hash, TreeHead, hash, merkle};
use meshchain_evm::{AnchorFact, read_anchor};
use std::collections::HashMap;

/// Most anchors of one file that the chain is asked about.
pub const MAX_LOOKUPS: usize = 32;

/// One anchor, with what later steps need of it.
pub(crate) struct CheckedAnchor<'p> {
    pub(crate) fact: Option<AnchorFact>,
    /// The policy's rule that makes the event the log's own word.
    pub(crate) rule: Option<&'p AnchorPolicy>,
    /// Tree heads that the anchor's consistency proof ties to the anchored one.
    pub(crate) extends: Vec<LogHead>,
    pub(crate) report: AnchorReport,
}

impl CheckedAnchor<'_> {
    /// Whether the block is on the chain, for good.
    pub(crate) fn is_final(&self) -> bool {
        let ok = |step: &Step| step.name == "block" && step.outcome == Outcome::Ok;
        self.report.steps.iter().any(ok)
    }
}

/// What the anchors before one in the file leave it to start from.
#[derive(Default)]
struct Before {
    /// The newest one that could be read, by log: its head, and what it covers.
    newest: HashMap<Hash, (TreeHead, Vec<usize>)>,
    /// One proves nothing: proofs that start at it cannot be checked.
    unread: bool,
}

pub(crate) fn check_anchors<'p>(
    anchors: &[EvmAnchor],
    policy: Option<&'p Policy>,
    checkpoints: &Checkpoints<'p>,
) -> Vec<CheckedAnchor<'p>> {
    let mut before = Before::default();
    let numbered = (1..).zip(anchors);
    numbered.map(|(n, anchor)| check_anchor(n, anchor, policy, checkpoints, &mut before)).collect()
}

fn check_anchor<'p>(
    number: usize,
    anchor: &EvmAnchor,
    policy: Option<&'p Policy>,
    checkpoints: &Checkpoints<'p>,
    before: &mut Before,
) -> CheckedAnchor<'p> {
    let chain_id = anchor.chain_id;
    let mut report = AnchorReport { number, chain_id, ..Default::default() };
    let fact = match read(anchor) {
        Ok(fact) => fact,
        Err(reason) => {
            before.unread = true;
            // Nothing is anchored by it, and nothing contradicted: as if it were not there.
            report.steps.push(Step::unchecked("anchor", format!("it proves nothing: {reason}")));
            return CheckedAnchor { fact: None, rule: None, extends: Vec::new(), report };
        }
    };
    report.block_number = Some(fact.number);
    report.block_hash = Some(fact.hash.to_string());
    report.block_time = Some(fact.timestamp);
    report.contract = Some(hex_address(&fact.contract));
    report.sender = Some(hex_address(&fact.sender));
    report.size = Some(fact.head.size);
    let (mut rule, mut extends) = (None, Vec::new());
    let step = match covered(anchor, &fact, checkpoints, before) {
        Err(uncovered) => uncovered.step(),
        Ok((covers, heads)) => {
            let log = covers.iter().find_map(|&at| checkpoints.list.get(at)?.log);
            report.covers = covers.iter().map(|at| at + 1).collect();
            extends = heads;
            before.newest.insert(fact.log_id, (fact.head, covers));
            let says = says(anchor, &fact);
            match apply_policy(chain_id, &fact, policy, log) {
                Ok(found) => {
                    rule = Some(found);
                    Step::of("anchor", Ok(says))
                }
                Err((Outcome::Refuted, why)) => Step::of("anchor", Err(format!("{says}; {why}"))),
                Err((_, why)) => Step::unchecked("anchor", format!("{why}; it says: {says}")),
            }
        }
    };
    report.steps.push(step);
    CheckedAnchor { fact: Some(fact), rule, extends, report }
}

/// What the anchor's bytes prove, or why they do not prove what the anchor says.
fn read(anchor: &EvmAnchor) -> Result<AnchorFact, String> {
    let fact = read_anchor(anchor).map_err(|e| shown(e.to_string()))?;
    match fact.head.size {
        size if size == anchor.size => Ok(fact),
        size => Err(format!("its event is of size {size}, and it says {}", anchor.size)),
    }
}

fn says(anchor: &EvmAnchor, fact: &AnchorFact) -> String {
    format!(
        "chain {} block {} tx {} contract {} sender {}: size {}",
        anchor.chain_id,
        fact.number,
        anchor.transaction_index,
        hex_address(&fact.contract),
        hex_address(&fact.sender),
        fact.head.size
    )
}

/// Why an anchor covers no checkpoint.
enum Uncovered {
    /// It is of another log, or of another history.
    Refuted(String),
    /// Nothing says so.
    Unknown(&'static str),
}

impl Uncovered {
    fn step(self) -> Step {
        match self {
            Self::Refuted(reason) => Step::of("anchor", Err(reason)),
            Self::Unknown(reason) => Step::unchecked("anchor", reason),
        }
    }
}

/// Positions of the checkpoints that the anchored tree extends, and the heads that its proof ties to
/// it. The proof starts at a checkpoint of the log, or at the log's anchor before it in the file.
fn covered(
    anchor: &EvmAnchor,
    fact: &AnchorFact,
    checkpoints: &Checkpoints<'_>,
    before: &Before,
) -> Result<(Vec<usize>, Vec<LogHead>), Uncovered> {
    let TreeHead { size, .. } = fact.head;
    if checkpoints.list.is_empty() {
        return Err(Uncovered::Unknown("no span to anchor"));
    }
    let mut reason = "the event is about another log than the spans'".to_owned();
    let (mut covers, mut heads) = (Vec::new(), Vec::new());
    let leads_from = |head| merkle::verify_consistency(head, &fact.head, &anchor.consistency);
    for (at, checkpoint) in checkpoints.list.iter().enumerate() {
        let Some(Checkpoint { origin, head }) = &checkpoint.parsed else { continue };
        if hash::log_id(origin) != fact.log_id {
            continue;
        }
        match leads_from(head) {
            Ok(()) => {
                covers.push(at);
                heads.push(LogHead::new(fact.log_id, head));
            }
            Err(error) => reason = format!("checkpoint {} -> anchored {size}: {error}", head.size),
        }
    }
    if let Some((head, covered)) = before.newest.get(&fact.log_id)
        && leads_from(head).is_ok()
    {
        covers.extend(covered);
        covers.sort_unstable();
        covers.dedup();
        heads.push(LogHead::new(fact.log_id, head));
    }
    match covers.is_empty() {
        false => Ok((covers, heads)),
        true if before.unread => Err(Uncovered::Unknown(
            "its proof may start at an anchor before it that proves nothing",
        )),
        true => Err(Uncovered::Refuted(reason)),
    }
}

/// The policy's rule that allows the anchor, or why there is none.
fn apply_policy<'p>(
    chain_id: u64,
    fact: &AnchorFact,
    policy: Option<&'p Policy>,
    log: Option<&'p LogPolicy>,
) -> Result<&'p AnchorPolicy, (Outcome, String)> {
    let unknown = |why: &str| Err((Outcome::NotChecked, why.to_owned()));
    if policy.is_none() {
        return unknown("no policy says which contract and sender to believe");
    }
    let Some(log) = log else {
        return unknown("the policy does not know the log");
    };
    let of_chain: Vec<_> = log.anchors.iter().filter(|rule| rule.chain_id == chain_id).collect();
    let Some(first) = of_chain.first() else {
        return unknown("the policy names no anchor of this log on this chain");
    };
    let of_contract = of_chain.iter().filter(|rule| rule.contract == fact.contract);
    if let Some(rule) = of_contract.clone().find(|rule| rule.sender == fact.sender) {
        return Ok(rule);
    }
    Err((
        Outcome::Refuted,
        match of_contract.clone().next() {
            Some(rule) => format!("the policy's sender is {}", hex_address(&rule.sender)),
            None => format!("the policy's contract is {}", hex_address(&first.contract)),
        },
    ))
}

/// The `block` step of every anchor; notes at the checkpoints which anchors prove them.
pub(crate) fn check_blocks(
    anchors: &mut [CheckedAnchor<'_>],
    checkpoints: &mut Checkpoints<'_>,
    chain: &dyn ChainView,
) {
    let mut lookups = 0;
    for anchor in anchors {
        let Some(fact) = &anchor.fact else { continue };
        let Some(rule) = anchor.rule else {
            let which = format!("block {}, {}, is not looked up", fact.number, fact.hash);
            let why = format!("{which}, as the anchor is not accepted");
            anchor.report.steps.push(Step::unchecked("block", why));
            continue;
        };
        lookups += 1;
        if lookups > MAX_LOOKUPS {
            let many = format!("only the first {MAX_LOOKUPS} anchors are looked up");
            anchor.report.steps.push(Step::unchecked("block", many));
            continue;
        }
        let step = match chain.block(&query(fact, rule)) {
            BlockAnswer::Final(why) => Step::of("block", Ok(shown(why))),
            BlockAnswer::Refuted(why) => Step::of("block", Err(shown(why))),
            BlockAnswer::Unknown(why) => Step::unchecked("block", shown(why)),
        };
        if step.outcome == Outcome::Ok {
            for covered in &anchor.report.covers {
                if let Some(checkpoint) = checkpoints.list.get_mut(covered - 1) {
                    checkpoint.report.anchored_by.push(anchor.report.number);
                }
            }
        }
        anchor.report.steps.push(step);
    }
}

fn query(fact: &AnchorFact, rule: &AnchorPolicy) -> BlockQuery {
    BlockQuery {
        chain_id: rule.chain_id,
        number: fact.number,
        hash: fact.hash,
        timestamp: fact.timestamp,
        contract: rule.contract,
        code_hash: rule.code_hash,
        finality: rule.finality,
    }
}

/// Lower case, as explorers and configurations write it.
fn hex_address(address: &alloy_primitives::Address) -> String {
    format!("{address:#x}")
}
