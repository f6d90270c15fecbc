//! A state that was put back from an older copy: what this anchor did after that copy was made is on the chain.

use crate::event::AnchorEvent;
use crate::node::Anchored;
use crate::runner::Runner;
use crate::state::State;
use crate::trouble::Trouble;
use alloy_primitives::B256;

/// How to go on where the account is somebody else's too.
const SHARED: &str = "the key is shared or stolen. Give this anchor a key of its own (key_file of a new account), and name \
     that account in the policies beside the old one, whose anchors stay valid";

impl Runner {
    /// The nonce that the state speaks of is used, by a transaction that it does not know: this anchor's own, where the
    /// contract holds a larger tree of this log than the state, else somebody else's.
    pub(crate) async fn nonce_used(&mut self, reason: String) -> Result<(), Trouble> {
        // What this process sent itself the state knows.
        if self.attempted {
            return Err(Trouble::Stop(format!("{reason}: {SHARED}")));
        }
        let Anchored { head, block } = self.compare_contract().await?;
        if head.size <= self.state.last_final.map_or(0, |(size, _)| size) {
            return Err(Trouble::Stop(format!("{reason}: {SHARED}")));
        }
        let size = head.size;
        let latest = self.node.latest().await?.number.to();
        let end = self.node.final_block(self.config.finality, latest).await?;
        let Some(end) = end.filter(|end| *end >= block) else {
            return Err(Trouble::Hold(format!(
                "the state of this anchor is an older copy: it goes on when the anchor of {size} leaves in block {block} is final"
            )));
        };
        let nonce = self.node.nonce(self.account.address(), &format!("{end:#x}")).await?;
        let root = B256::from(head.root);
        let state = self.state.clone();
        let next = State {
            next_nonce: Some(nonce),
            last_final: Some((size, root)),
            in_flight: None,
            ..state
        };
        self.save(next).await?;
        self.emit(AnchorEvent::OlderState { chain: self.config.chain.clone(), size, root, block });
        Ok(())
    }
}
