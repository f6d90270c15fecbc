//! What leaves a runner: events, and the status that readers see.

use crate::event::{AnchorEvent, Witness};
use crate::handle::InFlightStatus;
use crate::runner::{Compared, Runner, now_ms};
use alloy_primitives::U256;
use std::time::Instant;

impl Runner {
    pub(crate) fn emit(&self, event: AnchorEvent) {
        (self.events)(event);
    }

    pub(crate) fn alert(&mut self, reason: String, stopped: bool) {
        let before = self.shared.get();
        let tell = self.voice.alert(&reason, stopped, Instant::now());
        if before.alert.as_ref() == Some(&reason) && before.stopped == stopped && !tell {
            return;
        }
        self.shared.change(|s| {
            s.alert = Some(reason.clone());
            s.stopped = stopped;
        });
        self.emit(AnchorEvent::Alert { chain: self.config.chain.clone(), reason, stopped, tell });
    }

    pub(crate) fn other_history(&mut self, reason: String) {
        let (chain, witness) = (self.config.chain.clone(), Witness::Kept);
        self.emit(AnchorEvent::OtherHistory { chain, witness, reason: reason.clone() });
        self.alert(reason, true);
    }

    /// The node's word is told once, until it takes it back; it is asked again at each look.
    pub(crate) fn node_says_other(&mut self, reason: String) {
        if self.compared != Compared::Other {
            let (chain, witness) = (self.config.chain.clone(), Witness::Node);
            self.emit(AnchorEvent::OtherHistory { chain, witness, reason: reason.clone() });
        }
        (self.compared, self.checked) = (Compared::Other, false);
        self.alert(reason, false);
    }

    pub(crate) fn node_says_own(&mut self) {
        if self.compared != Compared::Own {
            self.emit(AnchorEvent::Compared { chain: self.config.chain.clone() });
        }
        (self.compared, self.checked) = (Compared::Own, true);
    }

    pub(crate) fn recovered(&mut self) {
        if self.shared.get().alert.is_some() {
            self.shared.change(|s| s.alert = None);
            let tell = self.voice.recovered();
            self.emit(AnchorEvent::Recovered { chain: self.config.chain.clone(), tell });
        }
    }

    /// Copies the state to where readers see it.
    pub(crate) fn show(&self) {
        let flight = self.state.in_flight.as_ref();
        let in_flight =
            flight.and_then(|f| f.newest().map(|a| (f, a))).map(|(f, a)| InFlightStatus {
                nonce: f.nonce,
                attempts: f.attempts.len(),
                tx: a.tx,
                size: a.size,
                root: a.root,
                max_fee: a.max_fee,
                mined_block: f.mined.map(|m| m.block),
            });
        let spent = self.state.spent_on_day(now_ms());
        self.shared.change(|s| {
            s.in_flight = in_flight;
            s.last_final_size = self.finals.last_size();
            s.spent_today_wei = U256::from(spent);
        });
    }

    /// Tells what the runs before have left.
    pub(crate) async fn tell_found(&self) {
        let size = self.finals.last_size();
        let newest = match size {
            // Rot is told where the kept anchor is compared with the log.
            Some(size) => self.finals.get(size).await.ok().flatten(),
            None => None,
        };
        self.emit(AnchorEvent::Found {
            chain: self.config.chain.clone(),
            size,
            block_time: newest.map(|anchor| anchor.block_timestamp),
            gas_used: self.state.gas_used,
        });
    }
}
