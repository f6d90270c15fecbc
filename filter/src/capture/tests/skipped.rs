//! What leaves no record.

use super::*;
use meshchain_core::hop::{Seen, split_target};

#[test]
fn only_batches_at_the_collectors_own_proxy_are_left_out() {
    let collector = || node("meshchain-collector", "meshchain");
    let config = Config::default();
    let batch = Seen { method: b"POST", target: b"/v1/batches", ..Seen::default() };
    assert!(is_skipped(Role::Server, &shown(batch), &collector(), &config));
    for (what, role, seen, node) in [
        ("on its way", Role::Client, batch, collector()),
        ("through a gateway", Role::Gateway, batch, collector()),
        ("another workload", Role::Server, batch, node("shop", "meshchain")),
        ("another namespace", Role::Server, batch, node("meshchain-collector", "shop")),
        ("no names", Role::Server, batch, node("", "")),
        ("a read", Role::Server, Seen { method: b"GET", ..batch }, collector()),
        ("another path", Role::Server, Seen { target: b"/v1/batches/", ..batch }, collector()),
        ("a query", Role::Server, Seen { target: b"/v1/batches?x", ..batch }, collector()),
        ("another case", Role::Server, Seen { method: b"post", ..batch }, collector()),
    ] {
        assert!(!is_skipped(role, &shown(seen), &node, &config), "{what}");
    }
}

#[test]
fn the_collectors_proxy_is_the_one_of_its_service() {
    let node = node("meshchain-collector", "meshchain");
    for (authority, expected) in [
        ("meshchain-collector.meshchain.svc.cluster.local:8080", true),
        ("meshchain-collector.meshchain.svc.cluster.local", true),
        ("meshchain-collector.meshchain:8080", true),
        ("meshchain-collector.meshchain", true),
        ("meshchain-collector", false),
        ("meshchain-collector:8080", false),
        ("meshchain-collector.other.svc.cluster.local:8080", false),
        ("other.meshchain.svc.cluster.local:8080", false),
        ("meshchain-collector-2.meshchain", false),
        ("meshchain.meshchain-collector", false),
        ("x.meshchain-collector.meshchain", false),
        ("", false),
    ] {
        assert_eq!(is_collector(&node, authority), expected, "{authority}");
    }
}

#[test]
fn a_path_is_left_out_where_all_proxies_read_it_as_one_that_is() {
    let config =
        Config { skip_paths: vec!["/healthz".into(), "/static/*".into()], ..Config::default() };
    for (target, expected) in [
        (&b"/healthz"[..], true),
        (b"/healthz?deep=1", true),
        (b"/static/a/b.css", true),
        (b"/static/", true),
        (b"/healthz/", false),
        (b"/static", false),
        (b"/HEALTHZ", false),
        (b"/pay?x=/healthz", false),
        (b"/static/../pay", false),
        (b"/static/%2e%2e/pay", false),
        (b"/static//../../pay", false),
        (b"/%68ealthz", false),
        (b"/pay/../healthz", false),
        (b"", false),
    ] {
        for role in [Role::Client, Role::Server, Role::Gateway] {
            let seen = Seen { method: b"GET", target, ..Seen::default() };
            let found = is_skipped(role, &shown(seen), &node("shop", "ns"), &config);
            assert_eq!(found, expected, "{role:?} {}", String::from_utf8_lossy(target));
        }
    }
}

fn shown(seen: Seen<'_>) -> Shown<'_> {
    let (target, query) = split_target(seen.target);
    Shown { seen: Seen { target, ..seen }, query, cut: None }
}

fn node(workload: &str, namespace: &str) -> Node {
    Node { workload: workload.into(), namespace: namespace.into(), ..Node::default() }
}
