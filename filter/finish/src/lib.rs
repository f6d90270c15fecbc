//! The last step of the filter's build: of the linker's output, the module that Envoy loads.
//!
//! Envoy crosses into the VM for each callback that a module exports, also for those that proxy-wasm
//! brings along and the filter has no use for. These are taken out, and with them the code that nothing
//! calls any more.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use walrus::ir::{Call, Visitor, dfs_in_order};
use walrus::{Export, FunctionId, Module, passes};

/// What Envoy needs, and the callbacks that the filter has a use for. Without the last two, proxy-wasm
/// would not learn of a stream's beginning and end.
pub const KEPT: [&str; 13] = [
    "memory",
    "_initialize",
    "proxy_abi_version_0_2_1",
    "proxy_on_memory_allocate",
    "proxy_on_vm_start",
    "proxy_on_configure",
    "proxy_on_tick",
    "proxy_on_request_headers",
    "proxy_on_log",
    "proxy_on_http_call_response",
    "proxy_on_done",
    "proxy_on_context_create",
    "proxy_on_delete",
];

/// The finished module. Fails where `linked` is none of the filter's.
pub fn finish(linked: &[u8]) -> Result<Vec<u8>> {
    let mut module = Module::from_buffer(linked).context("not a wasm module")?;
    let unwanted = module.exports.iter().filter(|export| !KEPT.contains(&export.name.as_str()));
    for export in unwanted.map(Export::id).collect::<Vec<_>>() {
        module.exports.delete(export);
    }
    let names = exports(&module);
    let missing: Vec<_> = KEPT.iter().filter(|name| !names.contains(**name)).collect();
    ensure!(missing.is_empty(), "it does not export {missing:?}");
    passes::gc::run(&mut module);
    Ok(module.emit_wasm())
}

/// Names of all exports.
pub fn exports(module: &Module) -> BTreeSet<String> {
    module.exports.iter().map(|export| export.name.clone()).collect()
}

/// Each function that calls one of Rust's panics, with the panic. Panics of other functions that are
/// called from it are theirs.
pub fn panics(module: &Module) -> BTreeSet<(String, String)> {
    let name = |id: FunctionId| module.funcs.get(id).name.clone().unwrap_or_default();
    let mut found = BTreeSet::new();
    for (id, function) in module.funcs.iter_local() {
        let mut called = Called::default();
        dfs_in_order(&mut called, function, function.entry_block());
        let panics = called.0.into_iter().map(name).filter(|callee| is_panic(callee));
        found.extend(panics.map(|panic| (name(id), panic)));
    }
    found
}

/// What the compiler calls where a check fails. Out of memory is none of them.
fn is_panic(function: &str) -> bool {
    let parts = ["panick", "unwrap_failed", "expect_failed", "_fail", "panic_"];
    parts.iter().any(|part| function.contains(part))
}

#[derive(Default)]
struct Called(BTreeSet<FunctionId>);

impl<'a> Visitor<'a> for Called {
    fn visit_call(&mut self, call: &Call) {
        self.0.insert(call.func);
    }
}
