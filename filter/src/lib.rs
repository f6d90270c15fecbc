//! MeshChain's filter: it turns each request that a sidecar sees into a record and two digests, and
//! hands them to the organisation's collector.
//!
//! The contexts below only connect Envoy's callbacks to [`vm::Vm`]; every decision is there and in
//! the modules it uses, behind [`host::Host`], and runs natively in tests.

pub mod attributes;
pub mod capture;
pub mod config;
pub mod context;
pub mod headers;
pub mod host;
pub mod metrics;
pub mod queue;
pub mod sender;
#[cfg(test)]
mod test_host;
pub mod vm;

#[cfg(target_arch = "wasm32")]
mod plugin {
    use crate::attributes::Expressions;
    use crate::capture::RequestPhase;
    use crate::host::{Host, Proxy};
    use crate::vm::Vm;
    use proxy_wasm::traits::{Context, HttpContext, RootContext};
    use proxy_wasm::types::{Action, ContextType};
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::time::Duration;

    thread_local! {
        /// Inbound and outbound listeners have root contexts of their own in one VM.
        static VM: RefCell<Vm> = RefCell::default();
    }

    /// Runs `f` on the VM's state. It is not re-entered: Envoy defers callbacks that fall into a
    /// host call. Should that ever change, the call is passed over rather than the VM killed.
    fn with_vm<T>(f: impl FnOnce(&mut Vm) -> T) -> Option<T> {
        VM.with(|vm| vm.try_borrow_mut().ok().map(|mut vm| f(&mut vm)))
    }

    proxy_wasm::main! {{
        proxy_wasm::set_root_context(|_| Box::new(Root::default()));
    }}

    #[derive(Default)]
    struct Root {
        expressions: Rc<Expressions>,
    }

    impl Context for Root {
        fn on_http_call_response(&mut self, token: u32, headers: usize, _: usize, _: usize) {
            let status = (headers > 0).then(|| Proxy.response_status()).flatten();
            with_vm(|vm| vm.on_response(&Proxy, token, status));
        }
    }

    impl RootContext for Root {
        fn on_configure(&mut self, _: usize) -> bool {
            let json = self.get_plugin_configuration().unwrap_or_default();
            if let Some(tick_ms) = with_vm(|vm| vm.configure(&Proxy, &json)) {
                self.set_tick_period(Duration::from_millis(tick_ms));
            }
            true
        }

        fn on_tick(&mut self) {
            with_vm(|vm| vm.on_tick(&Proxy));
        }

        fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
            Some(Box::new(Stream { phase: None, expressions: self.expressions.clone() }))
        }

        fn get_type(&self) -> Option<ContextType> {
            Some(ContextType::HttpContext)
        }
    }

    struct Stream {
        phase: Option<RequestPhase>,
        expressions: Rc<Expressions>,
    }

    impl Context for Stream {}

    impl HttpContext for Stream {
        fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
            self.phase = with_vm(|vm| vm.on_request(&Proxy)).flatten();
            Action::Continue
        }

        fn on_log(&mut self) {
            let phase = self.phase.take();
            with_vm(|vm| vm.on_log(&Proxy, &self.expressions, phase));
        }
    }
}
