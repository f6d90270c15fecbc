//! A proxy that answers any bytes to anything, and a collector that answers any status: the filter never
//! panics, and what it posts is a batch that a collector takes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use meshchain_core::{BatchHeader, Canonical, Entry, SpanRecord};
use meshchain_filter::headers::HeaderMap;
use meshchain_filter::host::{Host, Level, MetricKind, Post};
use meshchain_filter::vm::Vm;
use meshchain_wire::Batch;
use prost::Message;
use std::cell::{Cell, RefCell};

/// What the fuzzer gives, taken from the front.
struct Noise<'a> {
    rest: Cell<&'a [u8]>,
    posts: Cell<u32>,
    posted: RefCell<Option<Batch>>,
}

impl Noise<'_> {
    fn byte(&self) -> Option<u8> {
        let (byte, rest) = self.rest.get().split_first()?;
        self.rest.set(rest);
        Some(*byte)
    }

    fn bytes(&self) -> Option<Vec<u8>> {
        let length = usize::from(self.byte()?.checked_sub(1)?);
        let (bytes, rest) = self.rest.get().split_at_checked(length)?;
        self.rest.set(rest);
        Some(bytes.to_vec())
    }
}

impl Host for Noise<'_> {
    fn request_headers(&self) -> HeaderMap {
        HeaderMap::new(self.bytes().unwrap_or_default())
    }

    fn response_headers(&self) -> HeaderMap {
        HeaderMap::new(self.bytes().unwrap_or_default())
    }

    fn remove_request_header(&self, _: &str) {}

    fn set_request_header(&self, _: &str, _: &[u8]) {}

    fn property(&self, _: &str) -> Option<Vec<u8>> {
        self.bytes()
    }

    fn create_expression(&self, _: &str) -> Option<u32> {
        self.byte().map(u32::from)
    }

    fn evaluate(&self, _: u32) -> Option<Vec<u8>> {
        self.bytes()
    }

    fn now_ns(&self) -> u64 {
        self.byte().map_or(u64::MAX, |byte| u64::from(byte) << 56)
    }

    fn monotonic_ns(&self) -> u64 {
        self.now_ns()
    }

    fn random(&self, out: &mut [u8]) -> bool {
        out.fill(1);
        self.byte() != Some(0)
    }

    fn set_effective_context(&self, _: u32) {}

    fn response_trailer(&self, _: &str) -> Option<Vec<u8>> {
        self.bytes()
    }

    fn post(&self, post: &Post<'_>) -> Option<u32> {
        *self.posted.borrow_mut() = Some(Batch::decode(post.body).expect("a batch"));
        self.posts.set(self.posts.get() + 1);
        self.byte().map(|_| self.posts.get())
    }

    fn retry_after_s(&self) -> Option<u64> {
        self.byte().map(|byte| u64::from(byte) << 56)
    }

    fn log(&self, _: Level, _: &str) {}

    fn define_metric(&self, _: MetricKind, _: &str) -> Option<u32> {
        self.byte().map(u32::from)
    }

    fn add_to_metric(&self, _: u32, _: i64) {}
}

fn check(batch: &Batch) {
    let header = BatchHeader::decode(&batch.header).expect("a header");
    assert_eq!(header.count as usize * meshchain_core::ENTRY_LEN, batch.entries.len());
    let entries = batch.entries.chunks(meshchain_core::ENTRY_LEN);
    for (entry, record) in entries.zip(&batch.records) {
        let entry = Entry::parse(entry).expect("an entry");
        let record = SpanRecord::decode(record).expect("a record");
        assert_eq!(record.check(&entry), Ok(()));
    }
}

fuzz_target!(|bytes: &[u8]| {
    let host = Noise { rest: Cell::new(bytes), posts: Cell::new(0), posted: RefCell::new(None) };
    let mut vm = Vm::default();
    let configuration = host.bytes().unwrap_or_default();
    vm.configure(&host, 1, &configuration);
    while let Some(what) = host.byte() {
        // A few places and streams, so that some are there and some are not.
        let (place, stream) = (u32::from(what >> 3) % 3, 8 + u32::from(what >> 5));
        match what % 8 {
            0 => vm.on_tick(&host, place),
            1 => {
                let status = host.byte().map(|byte| u16::from(byte) * 3);
                vm.on_response(&host, host.posts.get(), status);
            }
            2 => vm.begin(stream, place),
            3 => vm.on_request(&host, stream),
            4 => vm.on_log(&host, stream),
            5 => vm.done(&host, stream),
            6 => vm.done(&host, place),
            _ => {
                let configuration = host.bytes().unwrap_or_default();
                vm.configure(&host, place, &configuration);
            }
        }
        if let Some(batch) = host.posted.borrow_mut().take() {
            check(&batch);
        }
    }
});
