//! A host for native tests: attributes and headers in memory.

use crate::attributes;
use crate::headers::{HeaderMap, serialize};
use crate::host::{Host, Level, MetricKind, Post};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

#[derive(Default)]
pub(crate) struct TestHost {
    pub(crate) headers: RefCell<Vec<(Vec<u8>, Vec<u8>)>>,
    pub(crate) response: RefCell<Vec<(Vec<u8>, Vec<u8>)>>,
    pub(crate) properties: RefCell<BTreeMap<String, Vec<u8>>>,
    pub(crate) now_ns: Cell<u64>,
    pub(crate) monotonic_ns: Cell<u64>,
    pub(crate) has_no_randomness: Cell<bool>,
    drawn: Cell<u8>,
    context: Cell<u32>,
    pub(crate) posts: RefCell<Vec<Vec<u8>>>,
    pub(crate) cluster_missing: Cell<bool>,
    pub(crate) retry_after_s: Cell<Option<u64>>,
    pub(crate) has_expressions: Cell<bool>,
    expressions: RefCell<Vec<String>>,
    pub(crate) evaluated: RefCell<Vec<u32>>,
    pub(crate) log: RefCell<Vec<String>>,
    pub(crate) metrics: RefCell<Vec<(String, u64)>>,
}

impl TestHost {
    pub(crate) fn with_headers(pairs: &[(&[u8], &[u8])]) -> Self {
        let host = Self::default();
        host.set_headers(pairs);
        host
    }

    pub(crate) fn set_headers(&self, pairs: &[(&[u8], &[u8])]) {
        *self.headers.borrow_mut() = pairs.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
    }

    pub(crate) fn set_number(&self, path: &str, value: u64) {
        self.set_text(path, &value.to_le_bytes());
    }

    pub(crate) fn set_text(&self, path: &str, value: &[u8]) {
        self.properties.borrow_mut().insert(path.to_owned(), value.to_vec());
    }

    pub(crate) fn metric(&self, name: &str) -> u64 {
        self.metrics.borrow().iter().find(|(n, _)| n == name).map_or(0, |(_, value)| *value)
    }
}

impl Host for TestHost {
    fn request_headers(&self) -> HeaderMap {
        let headers = self.headers.borrow();
        serialize(&headers.iter().map(|(n, v)| (n.as_slice(), v.as_slice())).collect::<Vec<_>>())
    }

    fn response_headers(&self) -> HeaderMap {
        let headers = self.response.borrow();
        serialize(&headers.iter().map(|(n, v)| (n.as_slice(), v.as_slice())).collect::<Vec<_>>())
    }

    fn remove_request_header(&self, name: &str) {
        self.headers.borrow_mut().retain(|(n, _)| n != name.as_bytes());
    }

    fn set_request_header(&self, name: &str, value: &[u8]) {
        let mut headers = self.headers.borrow_mut();
        headers.retain(|(n, _)| n != name.as_bytes());
        headers.push((name.as_bytes().to_vec(), value.to_vec()));
    }

    fn property(&self, path: &str) -> Option<Vec<u8>> {
        let properties = self.properties.borrow();
        let of_context = properties.get(&format!("{path}@{}", self.context.get()));
        of_context.or_else(|| properties.get(path)).cloned()
    }

    fn create_expression(&self, text: &str) -> Option<u32> {
        let mut expressions = self.expressions.borrow_mut();
        expressions.push(text.to_owned());
        self.has_expressions.get().then_some(expressions.len() as u32 - 1)
    }

    fn evaluate(&self, token: u32) -> Option<Vec<u8>> {
        self.evaluated.borrow_mut().push(token);
        let expressions = self.expressions.borrow();
        let text = expressions.get(token as usize)?;
        attributes::evaluate(text, |path| self.property(path))
    }

    fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    fn monotonic_ns(&self) -> u64 {
        self.monotonic_ns.get()
    }

    fn random(&self, out: &mut [u8]) -> bool {
        self.drawn.set(self.drawn.get() + 1);
        out.fill(self.drawn.get());
        !self.has_no_randomness.get()
    }

    fn set_effective_context(&self, context: u32) {
        self.context.set(context);
    }

    fn response_trailer(&self, name: &str) -> Option<Vec<u8>> {
        self.response_headers().get(name.as_bytes()).map(<[u8]>::to_vec)
    }

    fn post(&self, post: &Post<'_>) -> Option<u32> {
        if self.cluster_missing.get() {
            return None;
        }
        self.posts.borrow_mut().push(post.body.to_vec());
        Some(self.posts.borrow().len() as u32)
    }

    fn retry_after_s(&self) -> Option<u64> {
        self.retry_after_s.get()
    }

    fn log(&self, _: Level, message: &str) {
        self.log.borrow_mut().push(message.to_owned());
    }

    fn define_metric(&self, _: MetricKind, name: &str) -> Option<u32> {
        self.metrics.borrow_mut().push((name.to_owned(), 0));
        Some(self.metrics.borrow().len() as u32)
    }

    fn add_to_metric(&self, id: u32, by: i64) {
        if let Some((_, value)) = self.metrics.borrow_mut().get_mut(id as usize - 1) {
            *value = value.wrapping_add_signed(by);
        }
    }
}
