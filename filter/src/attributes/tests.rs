use super::*;
use crate::answer::{Answer, UPSTREAM_TIME};
use crate::config::Detail;
use crate::test_host::TestHost;

const CLUSTER: &str = "xds\0cluster_name";

/// What is asked, and where the peer that it has stands.
fn questions() -> impl Iterator<Item = (Ask, Vec<&'static str>)> {
    asks().map(|ask| {
        let peers = match ask.side {
            As::Client => vec![UPSTREAM_PEER],
            As::Server => vec![DOWNSTREAM_PEER],
            As::Told => vec![],
            As::Middle => vec![UPSTREAM_PEER, DOWNSTREAM_PEER],
        };
        (ask, peers)
    })
}

fn host() -> TestHost {
    let host = TestHost::default();
    host.has_expressions.set(true);
    host.set_number("request\0time", 5);
    host.set_number("response\0code", 503);
    host.set_number("response\0flags", 0);
    host.set_text("response\0code_details", b"via_upstream");
    host.set_text("xds\0route_name", b"default");
    host.set_text(CLUSTER, b"inbound|9080||");
    host.set_text("request\0protocol", b"HTTP/2");
    host.set_number(ATTEMPTS, 1);
    host.set_number(GRPC_STATUS, 7);
    host.set_text(UPSTREAM_PEER, b"spiffe://up");
    host.set_text(DOWNSTREAM_PEER, b"spiffe://down");
    host
}

#[test]
fn a_list_and_single_attributes_tell_the_same() {
    for (ask, peers) in questions() {
        let host = host();
        host.set_text("xds\0route_name", b""); // there, and without a name
        let mut expressions = Expressions::create(&host);
        // Which lists are asked for, and with which the next call begins.
        let mut asked = |missing: &[&str], lists: &[Kind], next: Kind| {
            let take =
                |path: &&str| Some((path.to_string(), host.properties.borrow_mut().remove(*path)?));
            let left: Vec<_> = missing.iter().filter_map(take).collect();
            host.evaluated.borrow_mut().clear();
            let answer = Answer::read(&host, &mut expressions, ask);
            assert!(matches!(answer, Answer::List(_)));
            let singles = Answer::read(&host, &mut Expressions::default(), ask);
            assert!(matches!(singles, Answer::Singles(_)));
            let call = answer.attributes(ask);
            assert_eq!(call, singles.attributes(ask));
            assert_eq!((call.start_ns, call.code, call.route), (5, 503, &b""[..]));
            for (path, peer, value) in [
                (UPSTREAM_PEER, call.upstream_peer, &b"spiffe://up"[..]),
                (DOWNSTREAM_PEER, call.peer, b"spiffe://down"),
            ] {
                let there = peers.contains(&path) && !missing.contains(&path);
                assert_eq!(peer, if there { value } else { b"" });
            }
            assert_eq!(call.protocol.is_empty(), missing.contains(&"request\0protocol"));
            assert_eq!(call.cluster.is_empty(), missing.contains(&CLUSTER));
            assert_eq!(call.attempts, u32::from(peers.contains(&UPSTREAM_PEER)));
            assert_eq!(call.grpc_status, ask.grpc.then_some(7));
            let tokens = lists.iter().map(|&kind| 3 * ask.number() as u32 + kind as u32);
            assert_eq!(*host.evaluated.borrow(), tokens.collect::<Vec<_>>());
            assert_eq!(expressions.usual.get(ask.number()), Some(&next));
            host.properties.borrow_mut().extend(left);
        };
        asked(&[], &[Kind::Quick], Kind::Quick);
        asked(&["request\0protocol"], &[Kind::Quick, Kind::Sure], Kind::Sure);
        asked(&[], &[Kind::Sure], Kind::Quick);
        asked(&[CLUSTER], &[Kind::Quick, Kind::Sure], Kind::Sure);
        asked(&[], &[Kind::Sure], Kind::Quick);
        for &path in &peers {
            asked(&[CLUSTER, path], &[Kind::Quick, Kind::Sure], Kind::Sure);
            asked(&[path], &[Kind::Sure], Kind::Plain);
            asked(&[path], &[Kind::Plain], Kind::Plain);
            asked(&[CLUSTER, path], &[Kind::Plain, Kind::Sure], Kind::Sure);
            asked(&[], &[Kind::Sure], Kind::Quick);
            asked(&[path], &[Kind::Quick, Kind::Sure], Kind::Plain);
            let again = [Kind::Plain, Kind::Sure];
            let whole = ask.side != As::Server;
            asked(&[], if whole { &again[..1] } else { &again }, Kind::Quick);
        }
        asked(&[], &[Kind::Quick], Kind::Quick);
    }
}

#[test]
fn expressions_are_those_that_follow_each_other() {
    let host = host();
    let from = |first| Expressions { first, ..Expressions::default() };
    let number = (3 * asks().count()) as u32;
    assert_eq!(Expressions::create(&host), from(Some(0)));
    assert_eq!(Expressions::create(&host), from(Some(number)));
    host.has_expressions.set(false);
    assert_eq!(Expressions::create(&host), from(None));
}

#[test]
fn a_brief_answer_has_what_is_cheap_and_all_is_asked_for_where_a_call_is_not_ordinary() {
    let host = host();
    let mut expressions = Expressions::create(&host);
    let respond = |pairs: &[(&[u8], &[u8])]| {
        *host.response.borrow_mut() = pairs.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
    };
    let mut brief = |side, detail| {
        let ask = Ask { side, grpc: false };
        let answer = Answer::read_brief(&host, &mut expressions, ask, detail);
        let call = answer.attributes(ask);
        let peers = [call.peer, call.upstream_peer].map(<[u8]>::len);
        (matches!(answer, Answer::Brief(_)), call.code, peers)
    };
    let (up, down) = (b"spiffe://up".len(), b"spiffe://down".len());
    respond(&[(b":status", b"204"), (UPSTREAM_TIME, b"3")]);
    for side in SIDES {
        assert_eq!(brief(side, Detail::Lean), (true, 204, [0, 0]));
        let peers = match side {
            As::Client => [0, up],
            As::Server => [down, 0],
            As::Told => [0, 0],
            As::Middle => [down, up],
        };
        assert_eq!(brief(side, Detail::Auto), (true, 204, peers));
    }
    respond(&[(b":status", b"404"), (UPSTREAM_TIME, b"3")]);
    assert!(brief(As::Server, Detail::Lean).0);
    assert!(!brief(As::Server, Detail::Auto).0, "an error");
    respond(&[(b":status", b"200")]);
    assert!(brief(As::Server, Detail::Auto).0);
    assert!(!brief(As::Client, Detail::Lean).0, "it answered itself");
    respond(&[(b":status", b"200"), (UPSTREAM_TIME, b"3")]);
    host.set_number(ATTEMPTS, 2);
    assert!(!brief(As::Client, Detail::Auto).0, "it was retried");
    assert!(brief(As::Server, Detail::Auto).0);
    host.set_number(ATTEMPTS, 1);
    host.set_number("response\0flags", 2);
    assert!(!brief(As::Server, Detail::Lean).0, "it has flags");
    host.set_number("response\0flags", 0);
    respond(&[]);
    assert!(!brief(As::Server, Detail::Lean).0, "no response");
}
