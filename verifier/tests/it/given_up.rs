//! Kept anchors, and states of anchors, that speak of what a chain does not have.

use crate::anchors::{
    STATE, anchored, check, file, head, heads, keep, kept_of, only, put_state, state,
};
use crate::fixture::Event;
use crate::grown::Grown;
use crate::node::{Chain, chain, event};
use meshchain::log::{FsckVerdict, repair};
use meshchain_core::TreeHead;

#[test]
fn an_anchor_whose_block_the_chain_gave_up_is_told_and_set_aside_and_comes_back() {
    let log = anchored();
    let kept = [25, 40].map(|size| log.read(&file(size)));
    let rewound = chain(heads(&log)[..1].to_vec()).serve();
    let report = check(&log, &[&rewound]);
    let told: Vec<_> = report.damages.iter().map(|d| (d.file.clone(), d.fault.clone())).collect();
    let gone = |size| (file(size), format!("block {size} of the chain does not have it"));
    let state_fault = "speaks of an anchor of 40 leaves, which the chain does not have";
    assert_eq!(told, [gone(25), gone(40), (STATE.to_owned(), state_fault.to_owned())]);
    assert!(report.damages[0].cost.contains("--repair sets the file aside"), "{report:#?}");
    let written = repair(log.folder.path(), &report).unwrap();
    let aside = &written[..2];
    for (name, bytes) in aside.iter().zip(&kept) {
        assert!(name.starts_with("anchor/anvil/given-up/") && log.read(name) == *bytes, "{name}");
    }
    assert!(!log.path(&file(25)).exists() && !log.path(&file(40)).exists());
    assert_eq!(state(&log).last_final, Some((10, head(&log, 10).root.into())));
    assert_eq!(state(&log).next_nonce, None, "nothing that is kept tells it");
    assert_eq!(check(&log, &[&rewound]).verdict, FsckVerdict::Clean);
    // The node had lied.
    let honest = chain(heads(&log)).serve();
    repair(log.folder.path(), &check(&log, &[&honest])).unwrap();
    assert!([25, 40].map(|size| log.read(&file(size))) == kept);
    assert_eq!(check(&log, &[&honest]).verdict, FsckVerdict::Clean);
}

#[test]
fn an_anchor_that_the_chain_took_up_again_is_fetched_and_the_former_one_set_aside() {
    let log = anchored();
    let good = log.read(&file(25));
    let former = Event { block_time: 1_800_000_000, ..event(head(&log, 25)) };
    let former = serde_json::to_vec_pretty(&kept_of(&log, &former)).unwrap();
    log.write(&file(25), &former);
    let url = chain(heads(&log)).serve();
    let report = check(&log, &[&url]);
    assert_eq!(only(&report, &file(25)), "block 25 of the chain does not have it");
    let written = repair(log.folder.path(), &report).unwrap();
    assert!(written[0].starts_with("anchor/anvil/given-up/") && written[1..] == [file(25)]);
    assert!(log.read(&written[0]) == former && log.read(&file(25)) == good);
    assert_eq!(check(&log, &[&url]).verdict, FsckVerdict::Clean);
}

#[test]
fn a_chain_that_lags_is_told_from_one_that_was_rewound() {
    let log = anchored();
    let at = |heads: &[TreeHead], newest| Chain { end: 30, newest, ..chain(heads.to_vec()) };
    let (all, time) = (heads(&log), 1_800_000_100);
    for (node, verdict, words) in [
        (at(&all, (40, time)), FsckVerdict::Clean, ""),
        (at(&all[..2], (50, time)), FsckVerdict::Damaged, "block 40 of the chain does not"),
        (
            at(&all[..2], (39, time)),
            FsckVerdict::NotChecked,
            "no block 40: it lags, or the chain was",
        ),
        // Made again: shorter, and of a later time.
        (at(&all[..2], (39, time + 1)), FsckVerdict::Damaged, "block 40 of the chain does not"),
    ] {
        let report = check(&log, &[&node.serve()]);
        assert_eq!(report.verdict, verdict, "{words}: {report:#?}");
        assert!(format!("{report:?}").contains(words), "{words}: {report:#?}");
    }
}

#[test]
fn a_state_that_speaks_of_an_anchor_that_never_was_is_told_and_made_again() {
    for (heads, last) in [(&[10, 25][..], 25), (&[10, 25, 40], 40), (&[], 0)] {
        let log = Grown::new(40, 5);
        let heads: Vec<_> = heads.iter().map(|size| head(&log, *size)).collect();
        heads.iter().for_each(|head| keep(&log, *head));
        put_state(&log, Some(head(&log, 33)));
        let url = chain(heads).serve();
        let report = check(&log, &[&url]);
        let fault = "speaks of an anchor of 33 leaves, which the chain does not have";
        assert_eq!(only(&report, STATE), fault);
        assert_eq!(repair(log.folder.path(), &report), Ok(vec![STATE.to_owned()]));
        let expected = (last > 0).then(|| (last, head(&log, last).root.into()));
        assert_eq!((state(&log).last_final, state(&log).next_nonce), (expected, None));
        assert_eq!(check(&log, &[&url]).verdict, FsckVerdict::Clean);
    }
}
