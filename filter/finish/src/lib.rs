//! The last step of the filter's build: of the linker's output, the module that Envoy loads.
//!
//! proxy-wasm exports its whole ABI, by way of its own dispatcher, and Envoy crosses into the VM for each
//! callback that a module exports. Here the filter's own callbacks take the place of those that it has a use
//! for; the others are taken out, and with them the code that nothing calls any more.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use walrus::ir::{Call, Visitor, dfs_in_order};
use walrus::{Export, ExportItem, FunctionId, FunctionKind, Module, passes};

/// What proxy-wasm and the linker bring that Envoy needs.
const KEPT: [&str; 4] =
    ["memory", "_initialize", "proxy_abi_version_0_2_1", "proxy_on_memory_allocate"];

/// The callbacks that the filter has a use for, as they are called in Envoy behind `proxy_` and in its
/// source behind `meshchain_`.
const CALLBACKS: [&str; 7] = [
    "on_context_create",
    "on_configure",
    "on_tick",
    "on_request_headers",
    "on_log",
    "on_http_call_response",
    "on_done",
];

/// The finished module. Fails where `linked` is none of the filter's.
pub fn finish(linked: &[u8]) -> Result<Vec<u8>> {
    let mut module = Module::from_buffer(linked).context("not a wasm module")?;
    let unwanted = module
        .exports
        .iter()
        .filter(|export| !KEPT.contains(&export.name.as_str()) && !export.name.starts_with(OWN));
    for export in unwanted.map(Export::id).collect::<Vec<_>>() {
        module.exports.delete(export);
    }
    for export in module.exports.iter_mut() {
        if let Some(callback) = export.name.strip_prefix(OWN) {
            export.name = format!("proxy_{callback}");
        }
    }
    let (names, expected) = (exports(&module), expected());
    ensure!(names == expected, "it exports {names:?}, not {expected:?}");
    passes::gc::run(&mut module);
    Ok(module.emit_wasm())
}

const OWN: &str = "meshchain_";

/// What a finished module exports.
pub fn expected() -> BTreeSet<String> {
    let callbacks = CALLBACKS.map(|callback| format!("proxy_{callback}"));
    KEPT.map(str::to_owned).into_iter().chain(callbacks).collect()
}

/// Names of all exports.
pub fn exports(module: &Module) -> BTreeSet<String> {
    module.exports.iter().map(|export| export.name.clone()).collect()
}

/// Each function that an export reaches by calls and that calls one of Rust's panics, with the panic. Where
/// a function is called through a table, the calls end.
pub fn panics(module: &Module) -> BTreeSet<(String, String)> {
    let name = |id: FunctionId| module.funcs.get(id).name.clone().unwrap_or_default();
    let exported = module.exports.iter().filter_map(|export| match export.item {
        ExportItem::Function(id) => Some(id),
        _ => None,
    });
    let mut open: Vec<FunctionId> = exported.collect();
    let mut reached: BTreeSet<FunctionId> = open.iter().copied().collect();
    let mut found = BTreeSet::new();
    while let Some(caller) = open.pop() {
        let FunctionKind::Local(function) = &module.funcs.get(caller).kind else {
            continue;
        };
        let mut called = Called::default();
        dfs_in_order(&mut called, function, function.entry_block());
        for callee in called.0 {
            if is_panic(&name(callee)) {
                found.insert((name(caller), name(callee)));
            } else if reached.insert(callee) {
                open.push(callee);
            }
        }
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
