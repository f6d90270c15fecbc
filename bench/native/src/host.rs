//! Envoy as the filter's host, by the interface of native modules. It answers as a sidecar's inbound listener does.

use crate::envoy::{self, Handle, Header, Text};
use meshchain_filter::headers::{HeaderMap, serialize};
use meshchain_filter::host::{Host, Level, MetricKind, Post};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The configuration; Envoy's handle of it. There is one.
pub static CONFIGURATION: AtomicPtr<std::ffi::c_void> = AtomicPtr::new(null_mut());
/// Names of the counters, by id: they can be defined only while the configuration is made.
static COUNTERS: Mutex<Vec<(String, usize)>> = Mutex::new(Vec::new());
static EXPRESSIONS: AtomicU32 = AtomicU32::new(0);
const POST_TIMEOUT_MS: u64 = 5_000;

/// What is at hand: a stream in its request phase, a call that is logged, or neither.
pub struct Envoy {
    pub stream: Handle,
    pub call: Handle,
}

impl Envoy {
    pub const fn idle() -> Self {
        Self { stream: null_mut(), call: null_mut() }
    }

    fn headers(&self, map: u32) -> HeaderMap {
        // SAFETY: of whichever handle is at hand; Envoy is in the call that came with it.
        let all = unsafe {
            if !self.stream.is_null() {
                let fill = envoy::filter_headers;
                envoy::headers(self.stream, map, envoy::filter_headers_size, fill)
            } else if !self.call.is_null() {
                envoy::headers(self.call, map, envoy::log_headers_size, envoy::log_headers)
            } else {
                Vec::new()
            }
        };
        let pairs: Vec<_> =
            all.iter().map(|h| unsafe { (h.name.bytes(), h.value.bytes()) }).collect();
        serialize(&pairs)
    }

    /// The list that the filter's expressions ask for, of a server side.
    fn attributes(&self) -> Vec<u8> {
        let (call, number) = (self.call, |value: u64| value.to_le_bytes());
        let (mut times, mut bytes) = (envoy::Times::default(), envoy::Bytes::default());
        let mut peer = Text::NONE;
        // SAFETY: the pointers are to locals, which Envoy does not keep.
        let (flags, code, peer) = unsafe {
            envoy::times(call, &mut times);
            envoy::bytes(call, &mut bytes);
            envoy::attribute(call, envoy::PEER, &mut peer);
            (envoy::flags(call), envoy::code(call), peer.bytes())
        };
        let [start, duration, ..] = times.map(|time| number(time.max(0) as u64));
        let [_, _, response_bytes, request_bytes] = bytes.map(number);
        let text = |get| unsafe { envoy::text(call, get) };
        let items: [&[u8]; 11] = [
            &start,
            &duration,
            &number(code.into()),
            &number(flags),
            text(envoy::code_details),
            &request_bytes,
            &response_bytes,
            text(envoy::protocol),
            text(envoy::route),
            text(envoy::cluster),
            peer,
        ];
        serialize(&items.map(|item| (item, &b""[..]))).into_bytes()
    }
}

fn configuration() -> Handle {
    CONFIGURATION.load(Ordering::Relaxed)
}

impl Host for Envoy {
    fn request_headers(&self) -> HeaderMap {
        self.headers(envoy::REQUEST_HEADERS)
    }

    fn response_headers(&self) -> HeaderMap {
        self.headers(envoy::RESPONSE_HEADERS)
    }

    fn remove_request_header(&self, _name: &str) {}

    fn set_request_header(&self, name: &str, value: &[u8]) {
        let (name, value) = (Text::of(name.as_bytes()), Text::of(value));
        // SAFETY: in the request phase; Envoy copies both.
        unsafe { envoy::set_header(self.stream, envoy::REQUEST_HEADERS, name, value) };
    }

    fn property(&self, path: &str) -> Option<Vec<u8>> {
        match path {
            "xds\0listener_direction" => Some(1u64.to_le_bytes().to_vec()),
            "xds\0node\0metadata\0WORKLOAD_NAME" => Some(b"reviews-v1".to_vec()),
            // SAFETY: lean records ask for it of a call that is logged.
            "response\0flags" => Some(unsafe { envoy::flags(self.call) }.to_le_bytes().to_vec()),
            _ => None,
        }
    }

    fn create_expression(&self, _text: &str) -> Option<u32> {
        Some(EXPRESSIONS.fetch_add(1, Ordering::Relaxed))
    }

    fn evaluate(&self, _token: u32) -> Option<Vec<u8>> {
        Some(self.attributes())
    }

    fn now_ns(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
    }

    fn monotonic_ns(&self) -> u64 {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        START.elapsed().as_nanos() as u64
    }

    fn random(&self, out: &mut [u8]) -> bool {
        getrandom::fill(out).is_ok()
    }

    fn set_effective_context(&self, _context: u32) {}

    fn response_trailer(&self, _name: &str) -> Option<Vec<u8>> {
        None
    }

    fn post(&self, post: &Post<'_>) -> Option<u32> {
        let header = |name: &str, value: &str| Header {
            name: Text::of(name.as_bytes()),
            value: Text::of(value.as_bytes()),
        };
        let mut headers = [
            header(":method", "POST"),
            header(":path", post.path),
            header("host", post.authority),
            header("content-type", meshchain_wire::CONTENT_TYPE),
        ];
        let (mut id, cluster) = (0, Text::of(post.cluster.as_bytes()));
        let (at, count, body) = (headers.as_mut_ptr(), headers.len(), Text::of(post.body));
        // SAFETY: on the main thread; Envoy copies all of it.
        let failed = unsafe {
            envoy::callout(configuration(), &mut id, cluster, at, count, body, POST_TIMEOUT_MS)
        };
        (failed == 0).then_some(id as u32)
    }

    fn retry_after_s(&self) -> Option<u64> {
        None
    }

    fn log(&self, _level: Level, message: &str) {
        eprintln!("{message}");
    }

    fn define_metric(&self, kind: MetricKind, name: &str) -> Option<u32> {
        if kind == MetricKind::Gauge {
            return None;
        }
        let mut counters = COUNTERS.lock().ok()?;
        if let Some((_, id)) = counters.iter().find(|(known, _)| known == name) {
            return Some(*id as u32);
        }
        let mut id = 0;
        let text = Text::of(name.as_bytes());
        // SAFETY: Envoy copies the name.
        let failed =
            unsafe { envoy::define_counter(configuration(), text, null_mut(), 0, &mut id) };
        counters.push((name.to_owned(), id));
        (failed == 0).then_some(id as u32)
    }

    fn add_to_metric(&self, id: u32, by: i64) {
        if by > 0 {
            // SAFETY: on the main thread, a counter of this configuration.
            unsafe {
                envoy::add_to_counter(configuration(), id as usize, null_mut(), 0, by as u64)
            };
        }
    }
}
