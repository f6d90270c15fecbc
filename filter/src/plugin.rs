//! The callbacks that Envoy makes into this module, by way of proxy-wasm's dispatcher.
//!
//! proxy-wasm brings every callback of its ABI along; the build leaves only those that are used here
//! (filter/finish), for each one costs a crossing. What the dispatcher costs is in docs/performance.md.

use crate::attributes::Expressions;
use crate::capture::RequestPhase;
use crate::host::{Host, Proxy};
use crate::vm::Vm;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType};
use std::cell::RefCell;

thread_local! {
    /// One for all root contexts: inbound and outbound listeners share it, and with it one session.
    static VM: RefCell<Vm> = RefCell::default();
}

/// Runs `f` on the VM's state. It is not re-entered: Envoy defers callbacks that fall into a
/// host call. Should that ever change, the call is passed over rather than the VM killed.
fn with_vm<T>(f: impl FnOnce(&mut Vm) -> T) -> Option<T> {
    VM.try_with(|vm| vm.try_borrow_mut().ok().map(|mut vm| f(&mut vm))).ok().flatten()
}

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

/// The filter in one place of the configuration.
#[derive(Default)]
struct Root {
    expressions: Option<Expressions>,
}

impl Context for Root {
    fn on_http_call_response(&mut self, token: u32, headers: usize, _: usize, _: usize) {
        let status = (headers > 0).then(|| Proxy.response_status()).flatten();
        with_vm(|vm| vm.on_response(&Proxy, token, status));
    }

    fn on_done(&mut self) -> bool {
        with_vm(|vm| vm.closed(&Proxy));
        true
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        if self.expressions.is_none() {
            self.expressions = Some(Expressions::create(&Proxy));
            with_vm(Vm::opened);
        }
        let json = Proxy.configuration(size);
        if let Some(tick_ms) = with_vm(|vm| vm.configure(&Proxy, &json)) {
            Proxy.set_tick_period(tick_ms);
        }
        true
    }

    fn on_tick(&mut self) {
        with_vm(|vm| vm.on_tick(&Proxy));
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        let expressions = self.expressions.unwrap_or_default();
        Some(Box::new(Stream { expressions, phase: None }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Stream {
    expressions: Expressions,
    phase: Option<RequestPhase>,
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        self.phase = with_vm(|vm| vm.on_request(&Proxy)).flatten();
        Action::Continue
    }

    fn on_log(&mut self) {
        let phase = self.phase.take();
        with_vm(|vm| vm.on_log(&Proxy, self.expressions, phase.as_ref()));
    }
}
