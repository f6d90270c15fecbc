//! The state of an anchor from one run and one nonce to the next, and why it cannot be read or written.

use meshchain_core::TreeHead;
use meshchain_store::StoreError;
use meshchain_stored::anchor::AnchorFormatError;
use thiserror::Error;

pub use meshchain_stored::anchor::FinalAnchor;
pub(crate) use meshchain_stored::anchor::{
    AnchorState as State, Attempt, FormerAccount, InFlight, Mined, VERSION,
};

/// Why state could not be read or written.
#[derive(Debug, Error)]
pub enum StateError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An object that is not of its format.
    #[error("{name}: {source}")]
    Format {
        /// Name of the object.
        name: String,
        /// Cause.
        source: AnchorFormatError,
    },
    /// An object of another size or chain, or with an anchor in flight of another contract.
    #[error("{name}: {reason}")]
    Foreign {
        /// Name of the object.
        name: String,
        /// What differs.
        reason: String,
    },
}

/// What to go on with as the account and contract of `fresh`: another account or contract begins
/// anew, and remembers the old one. Its final anchors stay; an attempt of the old account, if a block takes it, does
/// no harm.
pub(crate) fn resumed(found: State, fresh: &State) -> Result<State, &'static str> {
    if found.chain_id != fresh.chain_id {
        return Err("is of another chain id: give the anchor another chain name");
    }
    let (former_one, fresh_one) = (found.account(), fresh.account());
    let same = former_one == fresh_one;
    let writer = fresh.writer.clone();
    match &found.in_flight {
        Some(_) if !same && found.sender == fresh.sender => {
            Err("has an anchor in flight of another contract")
        }
        _ if !same => {
            let mut former = found.former;
            former.retain(|account| ![fresh_one, former_one].contains(account));
            former.push(former_one);
            Ok(State { spent: found.spent, gas_used: found.gas_used, former, ..fresh.clone() })
        }
        _ => Ok(State { writer, ..found }),
    }
}

/// The state after the nonce in flight became final, at a price in wei per gas.
pub(crate) fn settled(state: &State, gas_used: u64, price: u128, now_ms: u64) -> State {
    let mut next = state.clone();
    next.spend(gas_used, price, now_ms);
    next.next_nonce = next.in_flight.take().map(|f| f.nonce.saturating_add(1)).or(next.next_nonce);
    next
}

/// The state that goes on from what a chain holds. Of the account's nonce there is no proof: none is remembered, nor
/// what is in flight with one, which is spent all the same if a block takes it.
pub(crate) fn gone_on_from(state: &State, held: &TreeHead, now_ms: u64) -> State {
    let lost = state.in_flight.as_ref().map_or(0, InFlight::worst_cost);
    let mut next = state.clone();
    next.spend(1, lost, now_ms);
    next.gas_used = state.gas_used;
    next.last_final = (held.size > 0).then(|| (held.size, held.root.into()));
    State { next_nonce: None, in_flight: None, ..next }
}

impl From<StateError> for StoreError {
    /// For readers: an object that cannot be understood is as good as unreadable.
    fn from(error: StateError) -> Self {
        let (name, fault) = match error {
            StateError::Store(error) => return error,
            StateError::Format { name, source } => (name, source.to_string()),
            StateError::Foreign { name, reason } => (name, reason),
        };
        Self::damaged(&name, fault)
    }
}
