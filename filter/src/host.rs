//! The proxy, as the filter sees it. This file alone names host calls.
//!
//! Reads go through the raw ABI (proxy-wasm 0.2.1): the SDK's wrappers panic on any status they do
//! not expect, and copy every header. A call that fails here has no result and no other effect.

use crate::headers::HeaderMap;

/// How grave a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// For the record.
    Info,
    /// Something is lost or ignored, and counted.
    Warn,
}

/// Kind of an Envoy metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// A POST to the collector.
#[derive(Debug, Clone, Copy)]
pub struct Post<'a> {
    /// Envoy cluster.
    pub cluster: &'a str,
    /// `:authority`.
    pub authority: &'a str,
    /// `:path`.
    pub path: &'a str,
    /// Body.
    pub body: &'a [u8],
}

/// What the filter needs from the proxy; tests stand in for it natively.
pub trait Host {
    /// Headers of the current stream's request.
    fn request_headers(&self) -> HeaderMap;
    /// Headers of the current stream's response; none where there is no response.
    fn response_headers(&self) -> HeaderMap;
    /// Takes a header out of the current stream's request.
    fn remove_request_header(&self, name: &str);
    /// Replaces a header of the current stream's request.
    fn set_request_header(&self, name: &str, value: &[u8]);
    /// An attribute; `path` has a 0 byte between its elements.
    fn property(&self, path: &str) -> Option<Vec<u8>>;
    /// Compiles a CEL expression for the current root context; `None` where the host has none.
    fn create_expression(&self, text: &str) -> Option<u32>;
    /// Evaluates an expression on the current stream; `None` where it fails.
    fn evaluate(&self, token: u32) -> Option<Vec<u8>>;
    /// Unix nanoseconds.
    fn now_ns(&self) -> u64;
    /// Nanoseconds of a clock that nobody sets; for pauses.
    fn monotonic_ns(&self) -> u64;
    /// Random bytes of the platform; false where it has none.
    fn random(&self, out: &mut [u8]) -> bool;
    /// Makes a context the one that calls are about.
    fn set_effective_context(&self, context: u32);
    /// A trailer, else a header, of the current stream's response.
    fn response_trailer(&self, name: &str) -> Option<Vec<u8>>;
    /// Starts an HTTP call; its token, or `None` where the cluster is unknown.
    fn post(&self, post: &Post<'_>) -> Option<u32>;
    /// Seconds that the answer to a call asks to wait for (`Retry-After`); `None` where it does not say.
    fn retry_after_s(&self) -> Option<u64>;
    /// Writes to the proxy's log.
    fn log(&self, level: Level, message: &str);
    /// Defines a metric; its id, or `None`.
    fn define_metric(&self, kind: MetricKind, name: &str) -> Option<u32>;
    /// Adds to a counter or, with either sign, to a gauge.
    fn add_to_metric(&self, id: u32, by: i64);
}

/// The proxy that runs this module.
#[cfg(target_arch = "wasm32")]
pub struct Proxy;

#[cfg(target_arch = "wasm32")]
mod abi {
    #[link(wasm_import_module = "env")]
    unsafe extern "C" {
        pub(super) fn proxy_get_header_map_pairs(
            map: u32,
            data: *mut *mut u8,
            size: *mut usize,
        ) -> u32;
        pub(super) fn proxy_replace_header_map_value(
            map: u32,
            name: *const u8,
            name_size: usize,
            value: *const u8,
            value_size: usize,
        ) -> u32;
        pub(super) fn proxy_remove_header_map_value(
            map: u32,
            name: *const u8,
            name_size: usize,
        ) -> u32;
        pub(super) fn proxy_get_buffer_bytes(
            buffer: u32,
            start: usize,
            length: usize,
            data: *mut *mut u8,
            size: *mut usize,
        ) -> u32;
        pub(super) fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
        pub(super) fn proxy_get_property(
            path: *const u8,
            path_size: usize,
            data: *mut *mut u8,
            size: *mut usize,
        ) -> u32;
        pub(super) fn proxy_call_foreign_function(
            name: *const u8,
            name_size: usize,
            argument: *const u8,
            argument_size: usize,
            data: *mut *mut u8,
            size: *mut usize,
        ) -> u32;
        pub(super) fn proxy_http_call(
            cluster: *const u8,
            cluster_size: usize,
            headers: *const u8,
            headers_size: usize,
            body: *const u8,
            body_size: usize,
            trailers: *const u8,
            trailers_size: usize,
            timeout_ms: u32,
            token: *mut u32,
        ) -> u32;
        pub(super) fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
        pub(super) fn proxy_get_header_map_value(
            map: u32,
            name: *const u8,
            name_size: usize,
            data: *mut *mut u8,
            size: *mut usize,
        ) -> u32;
        pub(super) fn proxy_set_effective_context(context: u32) -> u32;
        pub(super) fn proxy_define_metric(
            kind: u32,
            name: *const u8,
            size: usize,
            id: *mut u32,
        ) -> u32;
        pub(super) fn proxy_increment_metric(id: u32, by: i64) -> u32;
        pub(super) fn proxy_log(level: u32, message: *const u8, size: usize) -> u32;
    }

    #[link(wasm_import_module = "wasi_snapshot_preview1")]
    unsafe extern "C" {
        /// `clock` 1 is the monotonic one.
        pub(super) fn clock_time_get(clock: u32, precision: u64, time: *mut u64) -> u32;
    }
}

#[cfg(target_arch = "wasm32")]
mod proxy {
    use super::{HeaderMap, Host, Level, MetricKind, Post, Proxy, abi};
    use crate::headers::serialize;
    use crate::sender::timeout_ms;
    use proxy_wasm::types::{BufferType, LogLevel, MapType, MetricType, Status};
    use std::str::FromStr;

    const OK: u32 = Status::Ok as u32;
    const MONOTONIC: u32 = 1;

    impl Proxy {
        /// The JSON of `pluginConfig`, `size` bytes.
        pub fn configuration(&self, size: usize) -> Vec<u8> {
            // SAFETY: both pointers are valid for writes during the call.
            let bytes = returned(|data, returned| unsafe {
                abi::proxy_get_buffer_bytes(
                    BufferType::PluginConfiguration as u32,
                    0,
                    size,
                    data,
                    returned,
                )
            });
            bytes.unwrap_or_default()
        }

        /// Status of the answer to a call.
        pub fn response_status(&self) -> Option<u16> {
            answer_number(b":status")
        }

        /// Asks for ticks.
        pub fn set_tick_period(&self, milliseconds: u64) {
            let period = u32::try_from(milliseconds).unwrap_or(u32::MAX);
            // SAFETY: no pointers.
            unsafe { abi::proxy_set_tick_period_milliseconds(period) };
        }
    }

    /// Takes over the buffer that the host allocated in this VM for what it returns.
    fn returned(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Option<Vec<u8>> {
        let (mut data, mut size) = (std::ptr::null_mut(), 0);
        if call(&mut data, &mut size) != OK || data.is_null() {
            return None;
        }
        // SAFETY: the host filled a buffer of `size` bytes that `proxy_on_memory_allocate` made as
        // a boxed slice of just that size, and gave it away.
        Some(unsafe { Vec::from_raw_parts(data, size, size) })
    }

    fn foreign(name: &str, argument: &[u8]) -> Option<Vec<u8>> {
        // SAFETY: the pointers stand for live slices and locals, and the host keeps none of them.
        returned(|data, size| unsafe {
            abi::proxy_call_foreign_function(
                name.as_ptr(),
                name.len(),
                argument.as_ptr(),
                argument.len(),
                data,
                size,
            )
        })
    }

    fn header_map(map: MapType) -> HeaderMap {
        // SAFETY: both pointers are valid for writes during the call.
        let pairs = returned(|data, size| unsafe {
            abi::proxy_get_header_map_pairs(map as u32, data, size)
        });
        HeaderMap::new(pairs.unwrap_or_default())
    }

    /// A number in the headers of the answer to a call.
    fn answer_number<T: FromStr>(name: &[u8]) -> Option<T> {
        let headers = header_map(MapType::HttpCallResponseHeaders);
        std::str::from_utf8(headers.get(name)?).ok()?.parse().ok()
    }

    // SAFETY, for every block below: the pointers stand for live slices or locals of the lengths
    // given, and the host keeps none of them past the call.
    impl Host for Proxy {
        fn request_headers(&self) -> HeaderMap {
            header_map(MapType::HttpRequestHeaders)
        }

        fn response_headers(&self) -> HeaderMap {
            header_map(MapType::HttpResponseHeaders)
        }

        fn remove_request_header(&self, name: &str) {
            let map = MapType::HttpRequestHeaders as u32;
            unsafe { abi::proxy_remove_header_map_value(map, name.as_ptr(), name.len()) };
        }

        fn set_request_header(&self, name: &str, value: &[u8]) {
            unsafe {
                abi::proxy_replace_header_map_value(
                    MapType::HttpRequestHeaders as u32,
                    name.as_ptr(),
                    name.len(),
                    value.as_ptr(),
                    value.len(),
                );
            }
        }

        fn property(&self, path: &str) -> Option<Vec<u8>> {
            returned(|data, size| unsafe {
                abi::proxy_get_property(path.as_ptr(), path.len(), data, size)
            })
        }

        fn create_expression(&self, text: &str) -> Option<u32> {
            foreign("expr_create", text.as_bytes())?.try_into().ok().map(u32::from_le_bytes)
        }

        fn evaluate(&self, token: u32) -> Option<Vec<u8>> {
            foreign("expr_evaluate", &token.to_le_bytes())
        }

        fn now_ns(&self) -> u64 {
            let mut time = 0;
            unsafe { abi::proxy_get_current_time_nanoseconds(&mut time) };
            time
        }

        fn monotonic_ns(&self) -> u64 {
            let mut time = 0;
            let status = unsafe { abi::clock_time_get(MONOTONIC, 1, &mut time) };
            if status == 0 { time } else { self.now_ns() }
        }

        fn random(&self, out: &mut [u8]) -> bool {
            getrandom::fill(out).is_ok() && out.iter().any(|byte| *byte != 0)
        }

        fn set_effective_context(&self, context: u32) {
            unsafe { abi::proxy_set_effective_context(context) };
        }

        fn response_trailer(&self, name: &str) -> Option<Vec<u8>> {
            let get = |map: MapType| {
                returned(|data, size| unsafe {
                    abi::proxy_get_header_map_value(
                        map as u32,
                        name.as_ptr(),
                        name.len(),
                        data,
                        size,
                    )
                })
            };
            get(MapType::HttpResponseTrailers).or_else(|| get(MapType::HttpResponseHeaders))
        }

        fn post(&self, post: &Post<'_>) -> Option<u32> {
            let headers = serialize(&[
                (b":method", b"POST"),
                (b":path", post.path.as_bytes()),
                (b":authority", post.authority.as_bytes()),
                (b"content-type", meshchain_wire::CONTENT_TYPE.as_bytes()),
            ])
            .into_bytes();
            let trailers = serialize(&[]).into_bytes();
            let mut token = 0;
            let status = unsafe {
                abi::proxy_http_call(
                    post.cluster.as_ptr(),
                    post.cluster.len(),
                    headers.as_ptr(),
                    headers.len(),
                    post.body.as_ptr(),
                    post.body.len(),
                    trailers.as_ptr(),
                    trailers.len(),
                    timeout_ms(post.body.len()),
                    &mut token,
                )
            };
            (status == OK).then_some(token)
        }

        fn retry_after_s(&self) -> Option<u64> {
            answer_number(b"retry-after")
        }

        fn log(&self, level: Level, message: &str) {
            let level = match level {
                Level::Info => LogLevel::Info,
                Level::Warn => LogLevel::Warn,
            };
            unsafe { abi::proxy_log(level as u32, message.as_ptr(), message.len()) };
        }

        fn define_metric(&self, kind: MetricKind, name: &str) -> Option<u32> {
            let kind = match kind {
                MetricKind::Counter => MetricType::Counter,
                MetricKind::Gauge => MetricType::Gauge,
            };
            let mut id = 0;
            let status = unsafe {
                abi::proxy_define_metric(kind as u32, name.as_ptr(), name.len(), &mut id)
            };
            (status == OK).then_some(id)
        }

        fn add_to_metric(&self, id: u32, by: i64) {
            // The host refuses an increment by 0.
            if by != 0 {
                unsafe { abi::proxy_increment_metric(id, by) };
            }
        }
    }
}
