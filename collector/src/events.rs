//! What the log, the anchors and the doors tell, as audit lines and metrics.

use crate::audit::{Audit, RefusalLine};
use crate::metrics::{Chain, Metrics};
use crate::refusal::Refusal;
use meshchain_anchor::AnchorEvent;
use meshchain_core::Equivocation;
use meshchain_log::{Checked, Event, Witness};
use meshchain_stored::audit_leaf::{AGAIN, told};
use serde_json::json;
use std::sync::Arc;

/// What it means that something speaks of another history than the log's.
pub const OLDER_COPY: &str = "this is an older copy of the log, or another one";
/// What it means that a chain was not asked yet.
pub const CHAIN_UNKNOWN: &str = "this log is not yet compared with what its chains hold of it";
/// What to do about it.
const WAYS_OUT: &str = "reads go on, batches are refused: restore the newest copy, or retire this log and begin one \
     under a new origin that names the old one (docs/restore.md)";

/// What to do where it is the word of a node.
const ASK_ANOTHER: &str = "reads go on, batches are refused as long as this node says so, which is asked again and again: \
     ask a second node before you restore or retire anything (docs/restore.md)";

/// Where all events of a collector come together.
#[derive(Clone)]
pub struct Events {
    /// Audit log.
    pub audit: Arc<Audit>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
}

impl Events {
    /// Takes in what the log tells.
    pub fn log(&self, event: Event<'_>) {
        let Self { audit, metrics } = self;
        match event {
            Event::Committed(head) => audit.set_head(head),
            Event::Logged { index, leaf, header, step, again } => {
                if !again {
                    metrics.accepted(header.kind, header.count.into());
                    metrics.odd.inc_by(step.odd.len() as u64);
                    metrics.missing.inc_by(step.gap_from.map_or(0, |from| header.seq - from));
                }
                for (event, mut line) in told(index, leaf, header, step) {
                    if again {
                        line.insert(AGAIN.to_owned(), true.into());
                    }
                    audit.batch(event, line);
                }
            }
            Event::Replayed => drop(metrics.replayed.inc()),
            Event::Refused { batch, misfit, proof } => {
                self.refused(
                    &misfit.clone().into(),
                    &batch.principal,
                    Some(batch),
                    proof.map(|p| *p),
                );
            }
            Event::Halted { head, by, why } => {
                let (chain, ways) = match &by {
                    Witness::Kept => (None, WAYS_OUT),
                    Witness::Node { chain } => (Some(chain), ASK_ANOTHER),
                };
                log::error!("{OLDER_COPY}: {why}; {ways}");
                metrics.older_copy.set(1);
                audit.set_head(head);
                audit.line("older_copy", json!({ "chain": chain, "why": why }));
            }
            Event::TakenBack { head, chain, said, halted } => {
                log::warn!("the node of chain {chain} says no more that {OLDER_COPY}");
                metrics.older_copy.set(halted.into());
                audit.set_head(head);
                audit.line("recovered", json!({ "chain": chain, "why": said, "halted": halted }));
            }
            Event::CommitFailed => drop(metrics.commit_failures.inc()),
            Event::Published { head, leaves, took } => {
                metrics.published(head.size, took);
                audit.line("checkpoint", json!({ "leaves": leaves }));
            }
            Event::FellSilent { session, last_seq, last_received_ns } => {
                let line = json!({
                    "session": hex::encode(session), "why": "silent", "last_seq": last_seq,
                    "last_received_ns": last_received_ns,
                });
                audit.line("session_closed", line);
            }
            Event::Sealed { segment, leaves, entries, records } => {
                let line = json!({
                    "segment": segment.to_string(), "leaves": leaves, "entries": entries,
                    "records": records,
                });
                audit.line("sealed", line);
                metrics.segments.inc();
            }
            Event::SealFailed => drop(metrics.seal_failures.inc()),
            Event::RecordsDeleted { segment, records } => {
                metrics.records_deleted.inc_by(records.into());
                let line = json!({ "segment": segment.to_string(), "records": records });
                audit.line("records_deleted", line);
            }
        }
    }

    /// Counts a refusal and writes its audit line. `principal` is the sender, as far as it is known.
    pub fn refused(
        &self,
        refusal: &Refusal,
        principal: &str,
        batch: Option<&Checked>,
        proof: Option<Equivocation>,
    ) {
        self.metrics.refused(refusal.reason());
        self.audit.refusal(RefusalLine {
            reason: refusal.reason(),
            detail: refusal.to_string(),
            session: batch.map(|b| hex::encode(b.session)),
            seq: batch.map(|b| b.seq),
            chain: batch.map(|b| hex::encode(b.chain)),
            principal,
            owner: refusal.owner(),
            proof,
        });
    }

    /// Tells that the log takes nothing before these chains were asked.
    pub fn waits_for(&self, chains: &[String]) {
        log::warn!(
            "no batches are taken until the log was compared with what chain {} holds of it (docs/restore.md)",
            chains.join(", ")
        );
        self.audit.line("chain_unknown", json!({ "chains": chains }));
    }

    /// Takes in what an anchor tells.
    pub fn anchor(&self, event: &AnchorEvent) {
        let metrics = &self.metrics;
        match event {
            AnchorEvent::Found { chain, size, block_time, gas_used } => {
                if let (Some(size), Some(block_time)) = (size, block_time) {
                    metrics.anchored(chain, *size, *block_time);
                }
                let chain = Chain { chain: chain.clone() };
                metrics.anchor_gas.get_or_create(&chain).inc_by(*gas_used);
            }
            AnchorEvent::Final { chain, size, block_time, gas_used, .. } => {
                metrics.anchored(chain, *size, *block_time);
                let chain = Chain { chain: chain.clone() };
                metrics.anchor_gas.get_or_create(&chain).inc_by(*gas_used);
            }
            AnchorEvent::Alert { chain, reason, tell, .. } => {
                if *tell {
                    log::warn!("anchor {chain}: {reason}");
                }
                metrics.anchor_alert.get_or_create(&Chain { chain: chain.clone() }).set(1);
            }
            AnchorEvent::OlderState { chain, size, .. } => log::warn!(
                "anchor {chain}: its state is older than the chain, and goes on from the anchor of {size} leaves that \
                 the chain holds; larger ones cover what is not kept here of those before"
            ),
            AnchorEvent::Rewound { chain, was, size, reason } => log::warn!(
                "anchor {chain}: the chain does not hold what was final ({was} leaves): {reason}; going on from the \
                 {size} leaves that it holds. `meshchain fsck --rpc` tells which kept anchors are gone (docs/restore.md)"
            ),
            AnchorEvent::Recovered { chain, .. } => {
                metrics.anchor_alert.get_or_create(&Chain { chain: chain.clone() }).set(0);
            }
            AnchorEvent::Compared { chain } | AnchorEvent::OtherHistory { chain, .. } => {
                metrics.chain_unknown.get_or_create(&Chain { chain: chain.clone() }).set(0);
            }
            _ => {}
        }
        if event.worth_a_line() {
            self.audit.anchor(event);
        }
    }
}
