//! A filter in more than one place of a proxy, or of a chain: each call is recorded once, and no place spoils another.

use super::*;

#[test]
fn with_its_last_place_the_session_ends_and_another_begins_after_it() {
    let (mut vm, host) = proxy(1, 1);
    vm.configure(&host, 2, b"");
    call(&mut vm, &host);
    let first = posted(&mut vm, &host);
    call(&mut vm, &host);
    vm.done(&host, PLACE);
    assert_eq!(host.posts.borrow().len(), 1, "there is another place");
    vm.done(&host, 2);
    let last = Batch::decode(host.posts.borrow().last().unwrap().as_slice()).unwrap();
    let end = header(&last);
    assert_eq!((end.kind, end.count, end.seq), (BatchKind::Close, 1, 1));
    assert_eq!(last.prev, first.chain);
    assert_eq!(host.posts.borrow().len(), 3, "what was in flight is sent again");
    assert_eq!(host.metric("meshchain_queue_bytes"), 0);
    vm.done(&host, 2);
    assert_eq!(host.posts.borrow().len(), 3, "closed once");

    vm.configure(&host, 3, b"");
    call_in(&mut vm, &host, 3);
    let next = posted(&mut vm, &host);
    assert_eq!(header(&next).seq, 0);
    assert_ne!(header(&next).session, header(&first).session);
}

#[test]
fn one_place_says_nothing_about_another() {
    let (mut vm, host) = proxy(1, 1);
    vm.configure(&host, 2, b"[]");
    vm.configure(&host, 3, br#"{"path_privacy": "hash", "include_headers": ["cookie"]}"#);
    for place in [PLACE, 2, 3] {
        call_in(&mut vm, &host, place);
    }
    let batch = posted(&mut vm, &host);
    let shown = calls_of_paths(&batch);
    assert_eq!(shown, [b"/reviews/0".to_vec(), vec![]]);
    assert_eq!(header(&batch).dropped, [Dropped { reason: 4, count: 1 }]);
    assert_eq!(header(&batch).notices.len(), 1, "{:?}", header(&batch).notices);
    vm.done(&host, 3);
    let again = posted(&mut vm, &host);
    assert_eq!(again, batch, "the first goes on sending, what was in flight too");
    let (mut vm, host) = proxy(1, 1);
    vm.configure(&host, 2, br#"{"payload": "digest"}"#);
    call(&mut vm, &host);
    let batch = posted(&mut vm, &host);
    assert!(batch.records.is_empty(), "what one holds back stays");
    assert_eq!(header(&batch).notices, [HELD_BACK]);
}

fn calls_of_paths(batch: &Batch) -> Vec<Vec<u8>> {
    let path = |record: &Vec<u8>| {
        HopPart::decode(SpanRecord::decode(record).unwrap().hop).unwrap().path.to_vec()
    };
    batch.records.iter().map(path).collect()
}

#[test]
fn however_often_in_a_chain_it_records_once() {
    for direction in [1, 2] {
        for times in 2..=5 {
            let (mut vm, host) = proxy(direction, 1);
            for stream in 8..8 + times {
                vm.begin(stream, PLACE);
                vm.on_request(&host, stream);
            }
            for stream in 8..8 + times {
                vm.on_log(&host, stream);
                vm.done(&host, stream);
            }
            // Answered by an earlier filter.
            host.set_number("request\0time", 77);
            for stream in 20..20 + times {
                vm.begin(stream, PLACE);
                vm.on_log(&host, stream);
            }
            let batch = posted(&mut vm, &host);
            assert_eq!(calls(&batch).len(), 2, "{times} times");
            assert_eq!(host.metric("meshchain_duplicates"), 2 * u64::from(times - 1));
        }
    }
}

#[test]
fn a_call_that_one_place_of_its_chain_records_is_not_lost_in_another() {
    for order in [[8, 9], [9, 8]] {
        let (mut vm, host) = proxy(1, 1);
        vm.configure(&host, 2, b"not JSON");
        for (stream, place) in [(8, PLACE), (9, 2), (20, 2)] {
            vm.begin(stream, place);
            vm.on_request(&host, stream);
        }
        order.iter().for_each(|stream| vm.on_log(&host, *stream));
        assert_eq!(dropped(&mut vm, &host), 0, "{order:?}");
        vm.on_log(&host, 20);
        assert_eq!(dropped(&mut vm, &host), 1, "that one nobody recorded");
    }
}

fn dropped(vm: &mut Vm, host: &TestHost) -> u64 {
    vm.on_tick(host, PLACE);
    host.metric("meshchain_dropped_unconfigured")
}

#[test]
fn twice_in_a_chain_records_once_and_tells() {
    for direction in [1, 2] {
        let (mut vm, host) = proxy(direction, 1);
        // What an application copied: the first of the two replaces it.
        let stale = [b"01".repeat(16).as_slice(), b";id=stale"].concat();
        host.set_request_header("x-meshchain-session", &stale);
        vm.configure(&host, 2, b"");
        for (stream, place) in [(8, PLACE), (9, 2)] {
            vm.begin(stream, place);
            vm.on_request(&host, stream);
        }
        for stream in [8, 9] {
            vm.on_log(&host, stream);
            vm.done(&host, stream);
        }
        // Answered by an earlier filter: neither has a request phase.
        host.set_number("request\0time", 77);
        for (stream, place) in [(11, 2), (10, PLACE)] {
            vm.begin(stream, place);
            vm.on_log(&host, stream);
        }
        let batch = posted(&mut vm, &host);
        assert_eq!(calls(&batch).len(), 2);
        assert_eq!(header(&batch).notices, [TWICE]);
        assert_eq!(host.metric("meshchain_duplicates"), 2);
        // Neighbours that began at other times are two calls, whatever they carry.
        vm.on_response(&host, 1, Some(200));
        host.set_number("request\0time@20", 20);
        for stream in [20, 21] {
            vm.begin(stream, PLACE);
            vm.on_request(&host, stream);
        }
        [20, 21].iter().for_each(|stream| vm.on_log(&host, *stream));
        assert_eq!(calls(&posted(&mut vm, &host)).len(), 2);
    }
}

#[test]
fn batches_are_skipped_at_the_collectors_own_proxy_and_nowhere_else() {
    let skipped = |direction, workload: &[u8], namespace: &[u8]| {
        let (mut vm, host) = proxy(direction, 1);
        host.set_text("xds\0node\0metadata\0WORKLOAD_NAME", workload);
        host.set_text("xds\0node\0metadata\0NAMESPACE", namespace);
        host.set_headers(&[
            (b":method", b"POST"),
            (b":authority", b"meshchain-collector.meshchain.svc.cluster.local:8080"),
            (b":path", b"/v1/batches"),
        ]);
        call(&mut vm, &host);
        tick(&mut vm, &host);
        host.metric("meshchain_skipped")
    };
    assert_eq!(skipped(1, b"meshchain-collector", b"meshchain"), 1);
    assert_eq!(skipped(2, b"meshchain-collector", b"meshchain"), 0, "a call of its own");
    assert_eq!(skipped(1, b"reviews", b"meshchain"), 0, "whatever a caller names");
    assert_eq!(skipped(1, b"meshchain-collector", b"shop"), 0);
}

#[test]
fn a_bad_configuration_turns_the_filter_off_and_the_next_batch_tells() {
    let (mut vm, host) = proxy(1, 1);
    vm.configure(&host, PLACE, b"[]");
    call(&mut vm, &host);
    tick(&mut vm, &host);
    assert_eq!((host.metric("meshchain_digests"), host.metric("meshchain_config_errors")), (0, 1));
    assert_eq!(host.metric("meshchain_dropped_unconfigured"), 1);
    vm.configure(&host, PLACE, b"");
    let batch = posted(&mut vm, &host);
    let lost = Dropped { reason: DropReason::Unconfigured as u32, count: 1 };
    assert_eq!(header(&batch).dropped, [lost], "the next batch tells of it");
}
