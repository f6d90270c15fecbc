//! The decisions of this module as tables, each against what is written out here; and what comes of them all.

mod ended;
mod hops;
mod skipped;

use super::*;
use crate::test_host::TestHost;
use meshchain_core::{Canonical, Entry, SpanRecord};
use meshchain_wire::Batch;
use prost::Message;

fn via(code_details: &'static [u8], code: u32, flags: u64) -> Attributes<'static> {
    Attributes { code_details, code, flags, ..Attributes::default() }
}

/// Sides, statuses and numbers of attempts that the records of one call show.
fn recorded(role: Role, details: &[u8], attempts: u64) -> Vec<(Side, u32, u32)> {
    let host = TestHost::with_headers(&[(b":method", b"GET"), (b":path", b"/a")]);
    host.set_number("request\0time", 1);
    host.set_number("response\0code", 200);
    host.set_text("response\0code_details", details);
    host.set_number("upstream\0request_attempt_count", attempts);
    let config = Config { side: Some(role), ..Config::default() };
    let mut queue =
        Queue::new(meshchain_core::session::SessionKey::from_seed([1; 32]), Node::default());
    let ending = Ending {
        config: &config,
        expressions: &mut Expressions::create(&host),
        tracer: &mut Tracer::default(),
        queue: &mut queue,
        room: &mut Room::default(),
        salts: [[1; 16], [2; 16]],
        records: true,
        in_full: false,
        queue_bytes: config.queue_bytes,
        twin_start_ns: None,
    };
    assert_eq!(ending.log(&host, None), Outcome::Call(1));
    queue.seal(1, &[]);
    let batch = Batch::decode(queue.front().unwrap()).unwrap();
    let entries = batch.entries.chunks_exact(90).map(|bytes| Entry::parse(bytes).unwrap());
    let records = entries.zip(&batch.records).map(|(entry, record)| {
        let record = SpanRecord::decode(record).unwrap();
        assert_eq!(record.check(&entry), Ok(()));
        let own = OwnPart::decode(record.own).unwrap();
        (entry.side, HopPart::decode(record.hop).unwrap().status, own.attempts)
    });
    records.collect()
}

#[test]
fn a_call_leaves_one_record_for_each_hop_that_its_proxy_saw() {
    use Side::*;
    for (role, details, attempts, expected) in [
        (Role::Client, VIA_UPSTREAM, 2, &[(Client, 200, 2)][..]),
        (Role::Client, b"direct_response", 0, &[(Client, 0, 0)]),
        (Role::Server, VIA_UPSTREAM, 1, &[(Server, 200, 0)]),
        (Role::Server, b"direct_response", 0, &[(Server, 200, 0)]),
        (Role::Gateway, VIA_UPSTREAM, 3, &[(GatewayIn, 200, 0), (GatewayOut, 200, 3)]),
        (Role::Gateway, b"direct_response", 0, &[(GatewayIn, 200, 0)]),
        (Role::Gateway, b"direct_response", 1, &[(GatewayIn, 200, 0), (GatewayOut, 0, 1)]),
        (Role::Gateway, REDIRECTED, 1, &[(GatewayIn, 0, 0), (GatewayOut, 200, 1)]),
    ] {
        let what = format!("{role:?} {attempts} {}", String::from_utf8_lossy(details));
        assert_eq!(recorded(role, details, attempts), expected, "{what}");
    }
}
