//! The callbacks that Envoy makes into this module (proxy-wasm ABI 0.2.1).
//!
//! proxy-wasm's own dispatcher would make them calls of traits, by way of several maps and a box for each
//! stream, and panics where a host breaks the protocol. So these go straight to [`Vm`], and the build
//! (filter/finish) puts each in the place of the dispatcher's. What that saves is in docs/performance.md.

use crate::host::Proxy;
use crate::vm::Vm;
use proxy_wasm::types::Action;
use std::cell::RefCell;

thread_local! {
    /// One for all root contexts: inbound and outbound listeners share it, and with it one session.
    static VM: RefCell<Vm> = RefCell::default();
}

// What the linker calls before anything else; there is nothing to set up.
proxy_wasm::main! {{}}

/// Runs `f` on the VM's state. It is not re-entered: Envoy defers callbacks that fall into a
/// host call. Should that ever change, the call is passed over rather than the VM killed.
fn with_vm<T>(f: impl FnOnce(&mut Vm) -> T) -> Option<T> {
    VM.try_with(|vm| vm.try_borrow_mut().ok().map(|mut vm| f(&mut vm))).ok().flatten()
}

#[unsafe(export_name = "meshchain_on_context_create")]
extern "C" fn on_context_create(context: u32, parent: u32) {
    with_vm(|vm| vm.begin(context, parent));
}

#[unsafe(export_name = "meshchain_on_configure")]
extern "C" fn on_configure(place: u32, size: usize) -> bool {
    let json = Proxy.configuration(size);
    if let Some(tick_ms) = with_vm(|vm| vm.configure(&Proxy, place, &json)) {
        Proxy.set_tick_period(tick_ms);
    }
    true
}

#[unsafe(export_name = "meshchain_on_request_headers")]
extern "C" fn on_request_headers(stream: u32, _headers: usize, _end_of_stream: u32) -> Action {
    with_vm(|vm| vm.on_request(&Proxy, stream));
    Action::Continue
}

#[unsafe(export_name = "meshchain_on_log")]
extern "C" fn on_log(stream: u32) {
    with_vm(|vm| vm.on_log(&Proxy, stream));
}

/// Of streams and of root contexts.
#[unsafe(export_name = "meshchain_on_done")]
extern "C" fn on_done(context: u32) -> bool {
    with_vm(|vm| vm.done(&Proxy, context));
    true
}

#[unsafe(export_name = "meshchain_on_tick")]
extern "C" fn on_tick(place: u32) {
    with_vm(|vm| vm.on_tick(&Proxy, place));
}

#[unsafe(export_name = "meshchain_on_http_call_response")]
extern "C" fn on_http_call_response(
    _place: u32,
    token: u32,
    headers: usize,
    _body: usize,
    _trailers: usize,
) {
    let status = (headers > 0).then(|| Proxy.response_status()).flatten();
    with_vm(|vm| vm.on_response(&Proxy, token, status));
}
