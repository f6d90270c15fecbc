//! Any bytes as a header map: what is read of it is in it, and what is kept reads the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use meshchain_filter::headers::{HeaderMap, serialize};
use meshchain_filter::request::{KeptRequest, Request, included};

fuzz_target!(|bytes: &[u8]| {
    let map = HeaderMap::new(bytes.to_vec());
    let pairs: Vec<_> = map.iter().collect();
    assert!(
        pairs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() <= bytes.len()
    );
    let again = serialize(&pairs);
    assert!(again.iter().eq(pairs.iter().copied()));

    let request = Request::read(&map);
    assert_eq!(request.readable, !pairs.is_empty());
    if let Some(context) = request.trace.context() {
        assert_ne!(context.trace_id.0, [0; 16]);
        assert_ne!(context.span_id.0, [0; 8]);
    }
    let names = ["a".to_owned(), ":path".to_owned()];
    let fields = included(&map, &names);
    let kept = KeptRequest::new(&request, &fields);
    assert_eq!(kept.included(), fields);
    let kept = kept.request();
    assert_eq!((kept.id, kept.method, kept.target), (request.id, request.method, request.target));
});
