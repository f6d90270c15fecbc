//! The module as it was built, by `./wasm-build.sh`.

use meshchain_filter_finish::{expected, exports, panics};
use std::collections::BTreeSet;
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

/// Memory that runs out ends a VM in any case; it is no panic.
#[test]
fn no_function_of_ours_can_panic() {
    let panics = panics(&module());
    let ours = panics.iter().filter(|(function, _)| function.contains("meshchain"));
    assert_eq!(ours.collect::<BTreeSet<_>>(), BTreeSet::new());
    assert!(!panics.is_empty(), "the standard library panics: a scan that misses it sees nothing");
}
