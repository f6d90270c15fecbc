//! The module as it was built, by `./wasm-build.sh`.

use meshchain_filter_finish::{expected, exports, panics};
use std::path::PathBuf;
use walrus::Module;

fn module() -> Module {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target"),
        PathBuf::from,
    );
    let path = target.join("wasm32-wasip1/release-wasm/meshchain_filter.wasm");
    Module::from_file(&path)
        .unwrap_or_else(|e| panic!("{}: {e}: run ./wasm-build.sh", path.display()))
}

#[test]
fn it_exports_the_callbacks_in_use_and_nothing_else() {
    assert_eq!(exports(&module()), expected());
}

/// Libraries that check what cannot be otherwise: lengths that are constants, orders that are total, places in
/// tables of their own. serde_json runs only when a configuration comes.
const LIBRARIES: [&str; 9] = [
    "4core",
    "core..",
    "3std",
    "5alloc",
    "serde_json",
    "rand_chacha",
    "4sha2",
    "hashbrown",
    "curve25519_dalek",
];

/// Memory that runs out ends a VM in any case; it is no panic.
#[test]
fn no_callback_reaches_a_panic_of_ours_or_of_the_sdks() {
    let panics = panics(&module());
    let (theirs, others): (Vec<_>, Vec<_>) = panics
        .iter()
        .partition(|(caller, _)| LIBRARIES.iter().any(|library| caller.contains(library)));
    assert_eq!(others, Vec::<&(String, String)>::new());
    let seen = |library: &str| theirs.iter().any(|(caller, _)| caller.contains(library));
    assert!(seen("serde_json"), "it panics: a scan that misses it sees nothing");
    assert!(theirs.iter().all(|(caller, _)| !caller.contains("meshchain")), "{theirs:?}");
}
