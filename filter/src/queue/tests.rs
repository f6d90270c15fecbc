use super::*;
use crate::config::Config;
use meshchain_core::Side;
use meshchain_core::chain_hash;
use meshchain_core::own::span_digest;
use meshchain_core::session::{Signed, session_id};
use meshchain_wire::Batch;
use prost::Message;

fn key(seed: u8) -> SessionKey {
    SessionKey::from_seed([seed; 32])
}

fn queue() -> Queue {
    Queue::new(key(1), Node { namespace: "ns".into(), ..Node::default() })
}

fn own(start_ns: u64) -> OwnPart<'static> {
    OwnPart { side: Side::Server, start_ns, salt: [9; 16], ..OwnPart::default() }
}

fn push(queue: &mut Queue, start_ns: u64, config: &Config) {
    let hop = HopPart { path: b"/a", ..HopPart::default() };
    queue.push(&hop, &own(start_ns), config.path_privacy, config.records, config.queue_bytes);
}

fn front(queue: &Queue) -> Batch {
    let batch = Batch::decode(queue.front().unwrap()).unwrap();
    assert_eq!(batch.encoded_len(), queue.front().unwrap().len(), "each field once");
    let chain: Hash = batch.chain.as_slice().try_into().unwrap();
    let prev: Hash = batch.prev.as_slice().try_into().unwrap();
    assert_eq!(chain, chain_hash(&prev, &batch.header, &batch.entries));
    let public_key = batch.public_key.as_slice().try_into().unwrap();
    let signature = batch.signature.as_slice().try_into().unwrap();
    assert_eq!(Signed { public_key, chain, signature }.verify(), Ok(()));
    let header = BatchHeader::decode(&batch.header).unwrap();
    assert_eq!(header.session, session_id(&public_key));
    batch
}

#[test]
fn batches_form_a_chain_and_carry_their_calls() {
    let mut queue = queue();
    push(&mut queue, 20, &Config::default());
    push(&mut queue, 10, &Config::default());
    queue.seal(99, &["shown with calls".into()]);
    queue.seal(99, &["shown".into()]);
    let first = front(&queue);
    let header = BatchHeader::decode(&first.header).unwrap();
    assert_eq!((header.seq, header.count, header.first_ns, header.last_ns), (0, 2, 10, 20));
    assert_eq!(header.notices, ["shown with calls"]);
    assert_eq!(header.source.namespace, "ns");
    let starts = first.records.iter().map(|record| {
        let record = SpanRecord::decode(record).unwrap();
        OwnPart::decode(record.own).unwrap().start_ns
    });
    assert_eq!(starts.collect::<Vec<_>>(), [20, 10]);
    queue.acknowledge();
    let second = front(&queue);
    let header = BatchHeader::decode(&second.header).unwrap();
    assert_eq!((header.seq, header.kind, header.last_ns), (1, BatchKind::Heartbeat, 99));
    assert_eq!(header.notices, ["shown"]);
    assert_eq!(second.prev, first.chain);
    queue.acknowledge();
    assert_eq!((queue.bytes(), queue.counts().acked), (0, 2));
}

#[test]
fn every_entry_has_its_digests_however_many_calls_a_batch_has() {
    for records in [true, false] {
        let config = Config { records, ..Config::default() };
        let mut queue = queue();
        for calls in [1, AT_ONCE, AT_ONCE + 1, 3 * AT_ONCE - 1] {
            (0..calls).for_each(|start_ns| push(&mut queue, start_ns as u64, &config));
            queue.seal(0, &[]);
            let batch = front(&queue);
            assert_eq!(batch.records.len(), if records { calls } else { 0 });
            let entries = batch.entries.chunks_exact(ENTRY_LEN).map(Entry::parse);
            let hop = HopPart { path: b"/a", ..HopPart::default() }.digest();
            for (start_ns, entry) in (0..calls as u64).zip(entries) {
                let span_digest = span_digest(&hop, &own(start_ns).encode());
                let entry = entry.unwrap();
                assert_eq!((entry.hop_digest, entry.span_digest), (hop, span_digest));
            }
            let counts = queue.counts();
            assert_eq!(counts.records, if records { counts.digests } else { 0 });
            queue.acknowledge();
        }
    }
}

#[test]
fn a_full_queue_keeps_the_oldest_and_the_next_header_tells_what_was_lost() {
    let mut queue = queue();
    push(&mut queue, 1, &Config::default());
    let queue_bytes = 2 * queue.bytes() + queue.overhead;
    let config = Config { queue_bytes, ..Config::default() };
    (0..4).for_each(|_| push(&mut queue, 1, &config));
    queue.seal(1, &[]);
    assert_eq!(front(&queue).records.len(), 2);
    assert!(queue.bytes() <= queue_bytes);
    let drops = |counts: &[(DropReason, u64)]| -> Vec<Dropped> {
        let dropped = |&(reason, count)| Dropped { reason: reason as u32, count };
        counts.iter().map(dropped).collect()
    };
    let batch = front(&queue);
    let header = BatchHeader::decode(&batch.header).unwrap();
    assert_eq!(header.dropped, drops(&[(DropReason::QueueFull, 3)]));
    let session = header.session;
    queue.refuse(key(2));
    queue.seal(1, &[]);
    let batch = front(&queue);
    let header = BatchHeader::decode(&batch.header).unwrap();
    assert_eq!((header.seq, &header.dropped), (0, &vec![]), "another session");
    let previous = header.previous.unwrap();
    assert_eq!((previous.session, previous.batches), (session, 1));
    assert_eq!(previous.verify(&header.session), Ok(()), "its key says so");
    let lost = drops(&[(DropReason::QueueFull, 3), (DropReason::Refused, 2)]);
    assert_eq!(previous.dropped, lost);
}

#[test]
fn what_waits_when_a_session_ends_goes_on_in_the_next_one() {
    let mut queue = queue();
    for start_ns in 1..=3 {
        push(&mut queue, start_ns, &Config::default());
        queue.seal(start_ns, &[]);
    }
    let first = queue.session();
    queue.acknowledge();
    queue.refuse(key(2));
    let batch = front(&queue);
    let header = BatchHeader::decode(&batch.header).unwrap();
    assert_eq!((header.seq, header.count, header.first_ns), (0, 1, 3));
    assert_eq!(header.previous.as_ref().unwrap().session, first);
    assert_eq!(batch.records.len(), 1);
    // Refused again, and again before anything of the new session was taken.
    queue.refuse(key(3));
    push(&mut queue, 9, &Config::default());
    queue.renew(key(4));
    queue.seal(9, &[]);
    let batch = front(&queue);
    let header = BatchHeader::decode(&batch.header).unwrap();
    let previous = header.previous.unwrap();
    assert_eq!((previous.session, previous.batches), (first, 3), "the last that is known");
    assert_eq!(previous.dropped, [Dropped { reason: DropReason::Refused as u32, count: 2 }]);
    assert_eq!((header.session, header.count), (key(4).id(), 1));
    queue.acknowledge();
    assert_eq!((queue.bytes(), queue.counts().ended), (0, 3));
}

#[test]
fn a_batch_is_sealed_before_a_collector_would_refuse_it() {
    let value = [b'x'; 1024];
    let headers = vec![meshchain_core::own::HeaderField { name: b"n", value: &value }; 32];
    let mut queue = queue();
    for _ in 0..600 {
        let own = OwnPart { headers: headers.clone(), ..own(1) };
        let privacy = PathPrivacy::default();
        queue.push(&HopPart::default(), &own, privacy, true, 64 << 20);
    }
    assert!(queue.front().unwrap().len() > MAX_BATCH_BYTES);
    assert!(queue.front().unwrap().len() < meshchain_wire::MAX_BODY);
    assert!(queue.open_calls() > 0);
    let mut queue = Queue::new(key(1), Node::default());
    (0..=MAX_ENTRIES).for_each(|_| {
        queue.push(&HopPart::default(), &own(1), PathPrivacy::default(), false, 64 << 20);
    });
    assert_eq!(front(&queue).entries.len(), MAX_ENTRIES as usize * ENTRY_LEN);
    assert_eq!(queue.open_calls(), 1);
}

#[test]
fn all_calls_of_a_batch_have_records_or_none() {
    let mut queue = queue();
    for records in [true, false, false, true] {
        push(&mut queue, 1, &Config { records, ..Config::default() });
    }
    queue.seal(1, &[]);
    let mut shapes = Vec::new();
    while queue.front().is_some() {
        let batch = front(&queue);
        shapes.push((batch.entries.len() / ENTRY_LEN, batch.records.len()));
        queue.acknowledge();
    }
    assert_eq!(shapes, [(1, 1), (2, 0), (1, 1)]);
}
