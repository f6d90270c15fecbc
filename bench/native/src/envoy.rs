//! What this module calls in Envoy. Names and layouts are those of Envoy 1.40's
//! `source/extensions/dynamic_modules/abi/abi.h`.

use std::ffi::{CStr, c_void};
use std::ptr::null;

pub const ABI_VERSION: &CStr = c"v0.2.0";
pub const REQUEST_HEADERS: u32 = 0;
pub const RESPONSE_HEADERS: u32 = 2;
/// `connection.uri_san_peer_certificate` among the attributes.
pub const PEER: u32 = 37;

/// Envoy's side of a configuration, a filter or a log call.
pub type Handle = *mut c_void;
/// This module's side of them.
pub type Module = *const c_void;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Text {
    at: *const u8,
    length: usize,
}

impl Text {
    pub const NONE: Self = Self { at: null(), length: 0 };

    pub fn of(bytes: &[u8]) -> Self {
        Self { at: bytes.as_ptr(), length: bytes.len() }
    }

    /// The bytes, which are Envoy's.
    ///
    /// # Safety
    /// Envoy must still be in the call in which it told them.
    pub unsafe fn bytes<'a>(self) -> &'a [u8] {
        if self.at.is_null() {
            return &[];
        }
        unsafe { std::slice::from_raw_parts(self.at, self.length) }
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Header {
    pub name: Text,
    pub value: Text,
}

/// Start of the request (unix ns), its duration and six more times (ns; -1 where there is none).
pub type Times = [i64; 8];
/// Received and sent, of bodies; received and sent by the upstream's connection, all of it.
pub type Bytes = [u64; 4];

macro_rules! envoy {
    ($($name:ident as $short:ident($($argument:ty),*) $(-> $result:ty)?;)*) => {
        unsafe extern "C" {
            $(#[link_name = concat!("envoy_dynamic_module_callback_", stringify!($name))]
            pub fn $short(of: Handle $(, _: $argument)*) $(-> $result)?;)*
        }
    };
}

envoy! {
    http_get_headers_size as filter_headers_size(u32) -> usize;
    http_get_headers as filter_headers(u32, *mut Header) -> bool;
    http_set_header as set_header(u32, Text, Text) -> bool;
    access_logger_get_headers_size as log_headers_size(u32) -> usize;
    access_logger_get_headers as log_headers(u32, *mut Header) -> bool;
    access_logger_get_timing_info as times(*mut Times);
    access_logger_get_bytes_info as bytes(*mut Bytes);
    access_logger_get_response_flags as flags() -> u64;
    access_logger_get_response_code as code() -> u32;
    access_logger_get_response_code_details as code_details(*mut Text) -> bool;
    access_logger_get_protocol as protocol(*mut Text) -> bool;
    access_logger_get_route_name as route(*mut Text) -> bool;
    access_logger_get_upstream_cluster as cluster(*mut Text) -> bool;
    access_logger_get_attribute_string as attribute(u32, *mut Text) -> bool;
    http_filter_config_define_counter as define_counter(Text, *mut Text, usize, *mut usize) -> u32;
    http_filter_config_increment_counter as add_to_counter(usize, *mut Text, usize, u64) -> u32;
    http_filter_config_scheduler_new as scheduler() -> Handle;
    http_filter_config_scheduler_commit as schedule(u64);
    http_filter_config_http_callout as callout(*mut u64, Text, *mut Header, usize, Text, u64) -> u32;
}

type Size = unsafe extern "C" fn(Handle, u32) -> usize;
type Fill = unsafe extern "C" fn(Handle, u32, *mut Header) -> bool;

/// All headers of a map.
///
/// # Safety
/// `of` must be what `size` and `fill` are about.
pub unsafe fn headers(of: Handle, map: u32, size: Size, fill: Fill) -> Vec<Header> {
    let count = unsafe { size(of, map) };
    let mut all = Vec::with_capacity(count);
    if unsafe { fill(of, map, all.as_mut_ptr()) } {
        // SAFETY: that is how many Envoy filled in.
        unsafe { all.set_len(count) };
    }
    all
}

/// A text of a log call; empty where there is none.
///
/// # Safety
/// Of `call` that is being logged.
pub unsafe fn text<'a>(
    call: Handle,
    get: unsafe extern "C" fn(Handle, *mut Text) -> bool,
) -> &'a [u8] {
    let mut text = Text::NONE;
    if unsafe { get(call, &mut text) } { unsafe { text.bytes() } } else { &[] }
}
