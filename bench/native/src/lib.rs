//! The filter as a native module of Envoy's ("dynamic module"): an HTTP filter and an access logger around the
//! same [`Vm`] as in wasm. Beside the wasm filter it tells what the sandbox costs.
//!
//! For measuring: an inbound listener, one worker, and a fault in it is a fault of the proxy.

mod envoy;
mod host;

use envoy::{Handle, Header, Module, Text};
use host::{CONFIGURATION, Envoy};
use meshchain_filter::metrics::{Metrics, Other};
use meshchain_filter::queue::Counts;
use meshchain_filter::vm::Vm;
use std::cell::Cell;
use std::ptr::{null_mut, without_provenance};
use std::slice;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex};
use std::thread;
use std::time::Duration;

static VM: LazyLock<Mutex<Vm>> = LazyLock::new(Mutex::default);
/// The one place of the configuration.
const PLACE: u32 = 1;
static STREAMS: AtomicU32 = AtomicU32::new(PLACE + 1);

thread_local! {
    /// The stream that ended last: Envoy logs it next.
    static ENDED: Cell<u32> = const { Cell::new(0) };
}

struct Scheduler(Handle);
// SAFETY: Envoy's schedulers may be used from any thread.
unsafe impl Send for Scheduler {}

impl Scheduler {
    fn tick(&self) {
        // SAFETY: a scheduler is never deleted.
        unsafe { envoy::schedule(self.0, 0) };
    }
}

fn with_vm<T>(f: impl FnOnce(&mut Vm) -> T) -> T {
    f(&mut VM.lock().expect("no panic before"))
}

/// Asks for ticks on the main thread, where POSTs can be sent.
fn tick_every(period: Duration) {
    // SAFETY: of the configuration that is being made.
    let scheduler = Scheduler(unsafe { envoy::scheduler(CONFIGURATION.load(Ordering::Relaxed)) });
    thread::spawn(move || {
        while !CONFIGURATION.load(Ordering::Relaxed).is_null() {
            thread::sleep(period);
            scheduler.tick();
        }
    });
}

macro_rules! on {
    ($($name:ident($($argument:ident: $of:ty),*) $(-> $result:ty)? $body:block)*) => {
        $(#[unsafe(export_name = concat!("envoy_dynamic_module_on_", stringify!($name)))]
        extern "C" fn $name($($argument: $of),*) $(-> $result)? $body)*
    };
}

on! {
    program_init() -> Module {
        envoy::ABI_VERSION.as_ptr().cast()
    }

    http_filter_config_new(configuration: Handle, _name: Text, json: Text) -> Module {
        CONFIGURATION.store(configuration, Ordering::Relaxed);
        Metrics::default().push(&Envoy::idle(), &Counts::default(), &Other::default(), 0);
        // SAFETY: Envoy is in the call that came with it.
        let tick_ms = with_vm(|vm| vm.configure(&Envoy::idle(), PLACE, unsafe { json.bytes() }));
        tick_every(Duration::from_millis(tick_ms));
        configuration
    }

    http_filter_config_destroy(_configuration: Module) {
        CONFIGURATION.store(null_mut(), Ordering::Relaxed);
    }

    http_filter_config_scheduled(_configuration: Handle, _module: Module, _event: u64) {
        with_vm(|vm| vm.on_tick(&Envoy::idle(), PLACE));
    }

    http_filter_config_http_callout_done(
        _configuration: Handle, _module: Module, id: u64, _result: u32,
        headers: *const Header, count: usize, _body: *const Text, _chunks: usize
    ) {
        // SAFETY: Envoy is in the call that came with them.
        let headers = (!headers.is_null()).then(|| unsafe { slice::from_raw_parts(headers, count) });
        let pairs = headers.into_iter().flatten().map(|h| unsafe { (h.name.bytes(), h.value.bytes()) });
        let status = pairs.filter(|(name, _)| *name == b":status").find_map(|(_, value)| {
            str::from_utf8(value).ok()?.parse().ok()
        });
        with_vm(|vm| vm.on_response(&Envoy::idle(), id as u32, status));
    }

    http_filter_new(_configuration: Module, _stream: Handle) -> Module {
        let stream = STREAMS.fetch_add(1, Ordering::Relaxed);
        with_vm(|vm| vm.begin(stream, PLACE));
        without_provenance(stream as usize)
    }

    http_filter_request_headers(stream: Handle, filter: Module, _end: bool) -> u32 {
        let host = Envoy { stream, ..Envoy::idle() };
        with_vm(|vm| vm.on_request(&host, filter.addr() as u32));
        0
    }

    http_filter_stream_complete(_stream: Handle, filter: Module) {
        ENDED.set(filter.addr() as u32);
    }

    access_logger_log(call: Handle, _logger: Module, _kind: u32) {
        let host = Envoy { call, ..Envoy::idle() };
        with_vm(|vm| vm.on_log(&host, ENDED.take()));
    }
}

// What Envoy wants a module to have besides.
on! {
    http_filter_request_body(_stream: Handle, _filter: Module, _end: bool) -> u32 { 0 }
    http_filter_request_trailers(_stream: Handle, _filter: Module) -> u32 { 0 }
    http_filter_response_headers(_stream: Handle, _filter: Module, _end: bool) -> u32 { 0 }
    http_filter_response_body(_stream: Handle, _filter: Module, _end: bool) -> u32 { 0 }
    http_filter_response_trailers(_stream: Handle, _filter: Module) -> u32 { 0 }
    http_filter_destroy(_filter: Module) {}
    http_filter_http_callout_done() {}
    http_filter_http_stream_headers() {}
    http_filter_http_stream_data() {}
    http_filter_http_stream_trailers() {}
    http_filter_http_stream_complete() {}
    http_filter_http_stream_reset() {}
    http_filter_scheduled() {}
    http_filter_downstream_above_write_buffer_high_watermark() {}
    http_filter_downstream_below_write_buffer_low_watermark() {}
    access_logger_config_new(_configuration: Handle, _name: Text, _value: Text) -> Module {
        without_provenance(1)
    }
    access_logger_config_destroy(_configuration: Module) {}
    access_logger_new(_configuration: Module, _logger: Handle) -> Module { without_provenance(1) }
    access_logger_destroy(_logger: Module) {}
}
