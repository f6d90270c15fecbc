//! A chain that holds more of this log than the state knows of: it was put back from an older copy, or went back with
//! a chain, or with the word of a node.

use crate::event::AnchorEvent;
use crate::node::Anchored;
use crate::runner::{Runner, now_ms};
use crate::state::gone_on_from;
use crate::trouble::Trouble;

/// How to go on where the account is somebody else's too.
const SHARED: &str = "the key is shared or stolen. Give this anchor a key of its own (key_file of a new account), and name \
     that account in the policies beside the old one, whose anchors stay valid";

impl Runner {
    /// The nonce that the state speaks of is used, by a transaction that it does not know: this anchor's own, where the
    /// contract holds a larger tree of this log than the state, else somebody else's.
    pub(crate) async fn nonce_used(&mut self, reason: String) -> Result<(), Trouble> {
        let anchored = self.compare_contract().await?;
        let held = anchored.head.size;
        let last = self.state.last_final.map_or(0, |(size, _)| size);
        if held < last {
            return self.behind(&reason).await;
        }
        if held == last && self.state.next_nonce.is_none() {
            // It was a nonce by the word of a node, of before, and says nothing of anybody else.
            return self.go_on_from(&anchored).await;
        }
        // What this process sent itself the state knows.
        if held == last || self.sure {
            return Err(Trouble::Hold(format!("{reason}: {SHARED}")));
        }
        self.take_up().await
    }

    /// Goes on from the newest anchor that the chain holds, and keeps its proof.
    pub(crate) async fn take_up(&mut self) -> Result<(), Trouble> {
        let anchored = self.compare_contract().await?;
        self.go_on_from(&anchored).await?;
        let Anchored { head, block } = anchored;
        let (chain, root) = (self.config.chain.clone(), head.root.into());
        self.emit(AnchorEvent::OlderState { chain, size: head.size, root, block });
        Ok(())
    }

    /// Makes what the contract holds the last final anchor, once its proof is kept.
    pub(crate) async fn go_on_from(&mut self, anchored: &Anchored) -> Result<(), Trouble> {
        if anchored.head.size > 0 {
            self.keep_head(anchored).await?;
        }
        self.save(gone_on_from(&self.state, &anchored.head, now_ms())).await?;
        (self.attempted, self.sure) = (false, false);
        Ok(())
    }
}
