//! Sessions and their batches: what is kept, for how long, and what a collector's answers do.

use super::*;

#[test]
fn requests_that_do_not_end_take_no_memory_without_end_and_none_is_lost_unseen() {
    let (mut vm, host) = proxy(1, 1);
    let path = [b'/'; 60_000];
    host.set_headers(&[
        (b":method", b"GET"),
        (b":path", &path),
        (b"x-request-id", &[b'i'; 60_000]),
    ]);
    let mut kept = 0;
    for stream in (8..80_000).step_by(2) {
        vm.begin(stream, PLACE);
        vm.on_request(&host, stream);
        if vm.kept_bytes < MOST_KEPT {
            kept += 1;
        }
    }
    assert!(vm.kept_bytes < MOST_KEPT + (20 << 10));
    assert!(kept > 8_000, "{kept}: what is kept of one is a few kilobytes");
    for stream in (8..80_000).step_by(2) {
        vm.on_log(&host, stream);
    }
    assert_eq!(vm.kept_bytes, 0);
    vm.on_tick(&host, PLACE);
    let (seen, lost) =
        (host.metric("meshchain_digests"), host.metric("meshchain_dropped_queue_full"));
    assert_eq!(seen + lost, 39_996);
}

#[test]
fn without_randomness_nothing_is_recorded_and_that_is_told_later() {
    let (mut vm, host) = proxy(2, 1);
    host.has_no_randomness.set(true);
    call(&mut vm, &host);
    tick(&mut vm, &host);
    assert!(host.posts.borrow().is_empty());
    assert_eq!(host.metric("meshchain_dropped_no_randomness"), 1);
    assert_eq!(host.request_headers().count(), REQUEST.len(), "nothing is written");
    host.has_no_randomness.set(false);
    call(&mut vm, &host);
    let batch = posted(&mut vm, &host);
    assert_eq!(calls(&batch).len(), 1);
    assert_eq!(header(&batch).dropped, [Dropped { reason: 5, count: 1 }]);
    assert_eq!(host.metric("meshchain_dropped_no_randomness"), 1);
}

#[test]
fn a_refusal_ends_a_session_and_never_silences_a_proxy() {
    for status in [400, 409, 413, 415, 422] {
        let (mut vm, host) = proxy(1, 1);
        call(&mut vm, &host);
        let first = posted(&mut vm, &host);
        call(&mut vm, &host);
        vm.on_response(&host, 1, Some(status));
        let next = posted(&mut vm, &host);
        let (former, now) = (header(&first), header(&next));
        assert_eq!((now.seq, now.count), (0, 1));
        let previous = now.previous.as_ref().unwrap();
        assert_eq!((previous.session, previous.batches), (former.session, 1));
        assert_eq!(previous.dropped, [Dropped { reason: 2, count: 1 }]);
        assert_eq!(host.metric("meshchain_sessions_ended"), 1);
    }
}

#[test]
fn a_session_of_somebody_else_is_left_and_nothing_is_lost() {
    let (mut vm, host) = proxy(1, 1);
    call(&mut vm, &host);
    let first = posted(&mut vm, &host);
    vm.on_response(&host, 1, Some(410));
    tick(&mut vm, &host);
    assert_eq!(host.posts.borrow().len(), 1, "not at once: it may be answered so again");
    later(&host, 1);
    let next = posted(&mut vm, &host);
    assert_eq!((header(&next).seq, &next.entries), (0, &first.entries));
    assert_ne!(header(&next).session, header(&first).session);
    assert_eq!(host.metric("meshchain_dropped_refused"), 0);
}

#[test]
fn while_a_batch_waits_the_open_one_grows_and_goes_out_with_the_answer() {
    let (mut vm, host) = proxy(1, 1);
    vm.configure(&host, PLACE, br#"{"batch_spans": 4}"#);
    (0..3).for_each(|_| call(&mut vm, &host));
    tick(&mut vm, &host);
    (0..50).for_each(|_| call(&mut vm, &host));
    tick(&mut vm, &host);
    assert_eq!(host.posts.borrow().len(), 1, "one in flight");
    vm.on_response(&host, 1, Some(200));
    let next = Batch::decode(host.posts.borrow().last().unwrap().as_slice()).unwrap();
    assert_eq!((header(&next).seq, header(&next).count), (1, 50));
    (0..3).for_each(|_| call(&mut vm, &host));
    vm.on_response(&host, 2, Some(200));
    assert_eq!(host.posts.borrow().len(), 2, "too few: they wait for the tick");
    call(&mut vm, &host);
    call(&mut vm, &host);
    assert_eq!(header(&posted(&mut vm, &host)).count, 4, "full, and nothing waited");
}

#[test]
fn a_clock_that_steps_stops_nothing() {
    for step in [-600_000_000_000_i64, 600_000_000_000] {
        let (mut vm, host) = proxy(1, 1);
        call(&mut vm, &host);
        posted(&mut vm, &host);
        vm.on_response(&host, 1, Some(503));
        host.now_ns.set(host.now_ns.get().wrapping_add_signed(step));
        later(&host, 1);
        tick(&mut vm, &host);
        assert_eq!(host.posts.borrow().len(), 2, "sent again");
        vm.on_response(&host, 2, Some(200));
        tick(&mut vm, &host);
        assert_eq!(host.posts.borrow().len(), 2);
        later(&host, 30);
        assert_eq!(header(&posted(&mut vm, &host)).kind, BatchKind::Heartbeat);
    }
}

#[test]
fn streams_end_in_any_order_and_leave_nothing_behind() {
    let (mut vm, host) = proxy(1, 1);
    for stream in [8, 9, 10] {
        vm.begin(stream, PLACE);
        let id = format!("request-{stream}");
        host.set_request_header("x-request-id", id.as_bytes());
        vm.on_request(&host, stream);
    }
    host.set_request_header("x-request-id", b"at the end");
    vm.begin(77, PLACE);
    for stream in [9, 8, 77] {
        vm.on_log(&host, stream);
        vm.done(&host, stream);
    }
    vm.done(&host, 10);
    assert!(vm.streams.is_empty());
    let batch = posted(&mut vm, &host);
    let ids = batch.records.iter().map(|record| {
        let record = SpanRecord::decode(record).unwrap();
        HopPart::decode(record.hop).unwrap().request_id.to_vec()
    });
    let ids: Vec<_> = ids.collect();
    assert_eq!(ids, [&b"request-9"[..], b"request-8", b"at the end"], "one had no request phase");
}

#[test]
fn a_batch_is_kept_until_it_is_acknowledged_and_silence_makes_heartbeats() {
    let (mut vm, host) = proxy(1, 1);
    host.cluster_missing.set(true);
    call(&mut vm, &host);
    tick(&mut vm, &host);
    assert!(host.posts.borrow().is_empty());
    host.cluster_missing.set(false);
    later(&host, 60);
    let first = posted(&mut vm, &host);
    vm.on_response(&host, 1, None);
    later(&host, 60);
    assert_eq!(posted(&mut vm, &host), first);
    vm.on_response(&host, 2, Some(200));
    tick(&mut vm, &host);
    tick(&mut vm, &host);
    let beat = BatchHeader::decode(&posted(&mut vm, &host).header).unwrap().seq;
    assert_eq!((beat, host.posts.borrow().len()), (1, 3), "one heartbeat for one silence");
    assert_eq!(host.metric("meshchain_acked"), 1);
    assert_eq!(host.metric("meshchain_retried"), 2);
}

#[test]
fn a_batch_is_sent_again_when_the_collector_asked_for_it_and_not_before() {
    let posts_after = |status, seconds: u64| {
        let (mut vm, host) = proxy(1, 1);
        call(&mut vm, &host);
        posted(&mut vm, &host);
        host.retry_after_s.set(Some(5));
        vm.on_response(&host, 1, status);
        later(&host, seconds);
        tick(&mut vm, &host);
        host.posts.borrow().len()
    };
    assert_eq!((posts_after(Some(503), 5), posts_after(Some(503), 6)), (1, 2));
    assert_eq!(posts_after(None, 1), 2, "a reset asks for nothing");
}
