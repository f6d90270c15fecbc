//! A new key, contract or name of the chain: what was anchored before stands, and still speaks of the log's past.

use super::support::{Anvil, Bench, OTHER_KEY};
use alloy_primitives::B256;
use meshchain_anchor::{AnchorEvent, Witness};
use serde_json::json;

/// What an operator changes.
#[derive(Debug, Clone, Copy)]
enum Change {
    Account,
    Contract,
    Name,
    /// The account, and then its state is lost.
    AccountAndState,
}

impl Change {
    const ALL: [Self; 4] = [Self::Account, Self::Contract, Self::Name, Self::AccountAndState];

    fn make(self, bench: &mut Bench, anvil: &Anvil) {
        match self {
            Self::Account | Self::AccountAndState => bench.key(OTHER_KEY),
            Self::Contract => bench.config.contract = anvil.deploy(),
            Self::Name => bench.config.chain = "other".to_owned(),
        }
        if matches!(self, Self::AccountAndState) {
            bench.lose_pending();
        }
    }
}

/// A log of 6 leaves, anchored at 3 and 6, whose anchor is stopped.
async fn anchored(anvil: &Anvil) -> Bench {
    let mut bench = Bench::new(anvil);
    bench.start().await;
    for size in [3, 6] {
        bench.anchored(size).await;
    }
    bench.stop().await;
    bench
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_account_goes_on_with_the_next_size_and_replaces_no_proof_of_the_former_one() {
    for change in [Change::Account, Change::Contract, Change::AccountAndState] {
        let anvil = Anvil::start();
        let mut bench = anchored(&anvil).await;
        let kept = [3, 6].map(|size| bench.receipt(size).unwrap());
        change.make(&mut bench, &anvil);
        bench.start().await;
        bench.event("comparison", |e| matches!(e, AnchorEvent::Compared { .. })).await;
        bench.grow(8);
        assert_eq!(bench.submitted().await.size, 8, "{change:?}");
        let new = bench.finalized(8).await;
        assert_eq!([3, 6].map(|size| bench.receipt(size).unwrap()), kept, "{change:?}");
        bench.stop().await;
        // So it is after one more start, and after a way back.
        bench.start().await;
        bench.stop().await;
        assert_eq!(new.size, 8);
        assert_eq!([3, 6].map(|size| bench.receipt(size).unwrap()), kept, "{change:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_is_known_by_what_its_former_account_contract_or_name_anchored() {
    for change in Change::ALL {
        let anvil = Anvil::start();
        let mut bench = Bench::new(&anvil);
        bench.start().await;
        bench.anchored(3).await;
        let copied = bench.pending();
        bench.anchored(6).await;
        bench.stop().await;
        // The copy of before, which grew by one leaf of its own.
        bench.put_pending(&copied);
        bench.lose_receipt(6);
        bench.grow(4);
        change.make(&mut bench, &anvil);
        for _ in 0..2 {
            bench.start().await;
            bench.other_history("of 6 leaves, the log has fewer", Witness::Node).await;
            assert!(bench.anchor().status().in_flight.is_none());
            bench.stop().await;
        }
        assert_eq!((anvil.nonce(), anvil.head().0), (2, 6), "{change:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_former_account_that_was_stolen_can_be_disowned() {
    let anvil = Anvil::start();
    let mut bench = anchored(&anvil).await;
    bench.key(OTHER_KEY);
    bench.start().await;
    bench.anchored(8).await;
    bench.stop().await;
    anvil.anchor_other(6, 1000, B256::repeat_byte(7));
    bench.start().await;
    bench.other_history("see `disowned` in docs/restore.md", Witness::Node).await;
    bench.stop().await;
    bench.config.disowned = vec![anvil.sender()];
    bench.start().await;
    bench.event("comparison", |e| matches!(e, AnchorEvent::Compared { .. })).await;
    bench.anchored(9).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_former_contract_that_is_something_else_now_is_passed_over() {
    // It reverts, stops at an invalid opcode, or answers one word.
    for code in ["0x60006000fd", "0xfe", "0x60206000f3", "0x"] {
        let anvil = Anvil::start();
        let mut bench = anchored(&anvil).await;
        bench.config.contract = anvil.deploy();
        anvil.rpc("anvil_setCode", json!([anvil.contract, code]));
        bench.start().await;
        bench.event("comparison", |e| matches!(e, AnchorEvent::Compared { .. })).await;
        bench.anchored(8).await;
        bench.stop().await;
    }
}
