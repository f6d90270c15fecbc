//! A chain that holds less of this log than the state calls final: the node lags, the chain was rewound past a block
//! that counted as final, or the state speaks of what never was.

use crate::event::AnchorEvent;
use crate::machine::MAX_MISSES;
use crate::runner::Runner;
use crate::trouble::Trouble;
use meshchain_evm::Block;

pub(crate) const HEAD_BEHIND: &str = "the contract's head is older than the last final anchor";
/// Time after the last attempt, in seconds, from which a nonce counts that is smaller than one which was final, though
/// no anchor is gone: a transaction that failed was taken back.
const SETTLED_S: u64 = 60 * 60;

impl Runner {
    /// The node shows less than what was final. Where it lags, it is waited for; else the state goes back to what the
    /// chain holds, after some looks. A node may lie about that: then gas is spent, and no proof is lost.
    pub(crate) async fn behind(&mut self, seen: &str) -> Result<(), Trouble> {
        let end = match self.final_block().await? {
            Some(end) => self.node.block(&format!("{end:#x}")).await?,
            None => None,
        };
        let lags = || Trouble::Hold(format!("{seen}: the node lags"));
        let end = end.ok_or_else(lags)?;
        let anchored = self.compare_contract().await?;
        let was = self.state.last_final.map_or(0, |(size, _)| size);
        let why = if anchored.head.size < was {
            self.why_gone(was, &end).await?
        } else {
            let settled = self.state.last_start_ms / 1000 + SETTLED_S;
            let known = self.state.next_nonce.is_some() && end.timestamp.to::<u64>() <= settled;
            (!known).then(|| "no anchor that is kept tells another".to_owned())
        };
        let reason = format!("{seen}: {}", why.ok_or_else(lags)?);
        // A node that says now this and now that is looked at for longer.
        let looks = if self.went_back { 10 * MAX_MISSES } else { MAX_MISSES };
        if self.rewound.saturating_add(1) < looks {
            return Err(Trouble::Rewound(format!("{reason}; looking again")));
        }
        self.go_on_from(&anchored).await?;
        self.went_back = true;
        let (chain, size) = (self.config.chain.clone(), anchored.head.size);
        self.emit(AnchorEvent::Rewound { chain, was, size, reason });
        Ok(())
    }

    /// Why the chain whose newest final block is `end` does not hold the anchor of `size` leaves; `None` where it may
    /// not have come so far.
    async fn why_gone(&self, size: u64, end: &Block) -> Result<Option<String>, Trouble> {
        let Some(kept) = self.kept(size).await else {
            return Ok(Some(format!("no proof of one of {size} leaves is kept")));
        };
        let there = self.node.block(&format!("{:#x}", kept.number)).await?;
        if there.is_some_and(|there| there.hash == kept.hash) {
            return Ok(None);
        }
        // By its number, or by its time: a chain that was made again may be shorter.
        let (number, time) = (end.number.to::<u64>(), end.timestamp.to::<u64>());
        Ok((number >= kept.number || time > kept.timestamp).then(|| {
            format!(
                "the chain was rewound, its block {} is not the one of the anchor of {size} leaves",
                kept.number
            )
        }))
    }
}
