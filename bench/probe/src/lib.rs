//! A filter that makes the host calls that its configuration names, and nothing else: what each costs is
//! the difference between two of its configurations.
//!
//! `{"request": [CALL, ...], "log": [CALL, ...]}`, with a CALL of `map` (all request headers), `response map`,
//! `clock`, `property PATH` (elements separated by dots), `cel EXPRESSION` or `replace NAME`.

#![cfg(target_arch = "wasm32")]

use proxy_wasm::hostcalls;
use proxy_wasm::types::{Action, BufferType};
use std::cell::RefCell;
use std::hint::black_box;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_get_property(
        path: *const u8,
        length: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_call_foreign_function(
        name: *const u8,
        name_length: usize,
        argument: *const u8,
        length: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
    fn proxy_replace_header_map_value(
        map: u32,
        name: *const u8,
        name_length: usize,
        value: *const u8,
        length: usize,
    ) -> u32;
}

proxy_wasm::main! {{}}

thread_local! {
    static CALLS: RefCell<Calls> = RefCell::default();
}

enum Call {
    Map(u32),
    Clock,
    Property(String),
    Cel([u8; 4]),
    Replace(String),
}

fn returned(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Option<Vec<u8>> {
    let (mut data, mut size) = (std::ptr::null_mut(), 0);
    if call(&mut data, &mut size) != 0 || data.is_null() {
        return None;
    }
    // SAFETY: the host filled a buffer of `size` bytes that this VM allocated, and gave it away.
    Some(unsafe { Vec::from_raw_parts(data, size, size) })
}

// SAFETY, for every block below: the pointers stand for live slices or locals of the lengths given.
fn foreign(name: &str, argument: &[u8]) -> Option<Vec<u8>> {
    returned(|data, size| unsafe {
        let (at, length) = (argument.as_ptr(), argument.len());
        proxy_call_foreign_function(name.as_ptr(), name.len(), at, length, data, size)
    })
}

impl Call {
    /// Panics, which leaves the variant without a filter, where the call cannot be made.
    fn parse(text: &str) -> Self {
        match text.split_once(' ').unwrap_or((text, "")) {
            ("map", _) => Self::Map(0),
            ("response", _) => Self::Map(2),
            ("clock", _) => Self::Clock,
            ("property", path) => Self::Property(path.replace('.', "\0")),
            ("replace", name) => Self::Replace(name.to_owned()),
            ("cel", expression) => {
                let token = foreign("expr_create", expression.as_bytes()).expect("an expression");
                Self::Cel(token.try_into().expect("a token"))
            }
            _ => panic!("{text} is no call"),
        }
    }

    fn make(&self) {
        let bytes = match self {
            Self::Map(map) => {
                returned(|data, size| unsafe { proxy_get_header_map_pairs(*map, data, size) })
            }
            Self::Property(path) => returned(|data, size| unsafe {
                proxy_get_property(path.as_ptr(), path.len(), data, size)
            }),
            Self::Cel(token) => Some(foreign("expr_evaluate", token).expect("a value")),
            Self::Clock => {
                let mut time = 0;
                unsafe { proxy_get_current_time_nanoseconds(&mut time) };
                black_box(time);
                None
            }
            Self::Replace(name) => {
                let value = "e457b5a2e4d86bd1";
                unsafe {
                    let (at, length) = (value.as_ptr(), value.len());
                    proxy_replace_header_map_value(0, name.as_ptr(), name.len(), at, length)
                };
                None
            }
        };
        black_box(bytes);
    }
}

#[derive(Default)]
struct Calls {
    request: Vec<Call>,
    log: Vec<Call>,
}

// The same callbacks as the filter's.

#[unsafe(export_name = "meshchain_on_context_create")]
extern "C" fn on_context_create(_: u32, _: u32) {}

#[unsafe(export_name = "meshchain_on_configure")]
extern "C" fn on_configure(_: u32, size: usize) -> bool {
    let bytes = hostcalls::get_buffer(BufferType::PluginConfiguration, 0, size).expect("bytes");
    let config: serde_json::Value =
        serde_json::from_slice(&bytes.unwrap_or_default()).expect("JSON");
    let calls = |key: &str| {
        let texts = config[key].as_array().into_iter().flatten();
        texts.filter_map(|text| text.as_str()).map(Call::parse).collect()
    };
    let calls = Calls { request: calls("request"), log: calls("log") };
    CALLS.with(|cell| cell.replace(calls));
    true
}

#[unsafe(export_name = "meshchain_on_request_headers")]
extern "C" fn on_request_headers(_: u32, _: usize, _: u32) -> Action {
    CALLS.with(|calls| calls.borrow().request.iter().for_each(Call::make));
    Action::Continue
}

#[unsafe(export_name = "meshchain_on_log")]
extern "C" fn on_log(_: u32) {
    CALLS.with(|calls| calls.borrow().log.iter().for_each(Call::make));
}

#[unsafe(export_name = "meshchain_on_done")]
extern "C" fn on_done(_: u32) -> bool {
    true
}

#[unsafe(export_name = "meshchain_on_tick")]
extern "C" fn on_tick(_: u32) {}

#[unsafe(export_name = "meshchain_on_http_call_response")]
extern "C" fn on_http_call_response(_: u32, _: u32, _: usize, _: usize, _: usize) {}
