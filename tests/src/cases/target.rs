//! Canonical paths and authorities: what both sides make of a request target.

use crate::vector::{Vector, show};
use meshchain_core::target::{canonical_authority, canonical_path};
use serde_json::json;

pub(super) fn cases() -> Vec<Vector> {
    [paths(), authorities()].concat()
}

/// A file per step of the rule, each with several values.
fn table(
    format: &'static str,
    rule: impl Fn(&[u8]) -> Vec<u8>,
) -> impl Fn((&str, &str, Vec<Vec<u8>>)) -> Vector {
    move |(name, case, given)| {
        let canonical: Vec<_> = given.iter().map(|value| show(&rule(value))).collect();
        let given: Vec<_> = given.iter().map(|value| show(value)).collect();
        Vector::valid(format, name, case, json!({"given": given})).with("canonical", canonical)
    }
}

fn texts(list: &[&str]) -> Vec<Vec<u8>> {
    list.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn paths() -> Vec<Vector> {
    let long = |middle: &str, times: usize| format!("/{}", middle.repeat(times)).into_bytes();
    let cases = vec![
        (
            "unchanged",
            "nothing to do",
            texts(&[
                "/",
                "/a/b.c/d",
                "/a/.b/...",
                "/a;b=c/d",
                "/a/b/",
                "/%20%3F%C3%A9",
                "/A~_-.!$&'()*+,:=@[]",
            ]),
        ),
        (
            "no-slash",
            "what does not begin with a slash stays as it is",
            texts(&["", "*", "a//b", "%2fa", "\\a"]),
        ),
        (
            "escaped-slashes",
            "escaped slashes, backslashes, escaped backslashes",
            texts(&["/a%2fb", "/a%2Fb", "/a\\b", "/a%5cb", "/a%5Cb", "/%2f", "/a%5c%2fb"]),
        ),
        (
            "unreserved",
            "escapes of unreserved characters are decoded",
            texts(&["/%41%5a%61%7A%30%39", "/%2d%2e%5f%7e", "/a%2Eb", "/%4"]),
        ),
        (
            "upper-case",
            "escapes that stay are in upper case",
            texts(&["/%c3%a9", "/%3f%23", "/%25", "/%00%0a%7f"]),
        ),
        (
            "must-escape",
            "bytes that a path must escape",
            [texts(&["/a b", "/\"<>`{}|^", "/\u{e9}", "/\u{7f}"]), vec![b"/\xff\x00\x1f".to_vec()]]
                .concat(),
        ),
        (
            "dot-segments",
            "dot segments",
            texts(&[
                "/a/./b",
                "/a/../b",
                "/a/b/../../c",
                "/a/.",
                "/a/..",
                "/.",
                "/..",
                "/../..",
                "/a/./..",
                "/a/b/..",
            ]),
        ),
        (
            "escaped-dots",
            "dot segments in escapes, also behind escaped slashes",
            texts(&[
                "/a/%2e/b",
                "/a/%2E%2e/b",
                "/a/.%2e/b",
                "/a%2f..%2fb",
                "/a\\..\\b",
                "/a/%252e%252e/b",
            ]),
        ),
        (
            "dots-with-parameters",
            "dot segments with parameters",
            texts(&[
                "/a/..;x=1/b",
                "/a/.;/b",
                "/a/..;",
                "/a/.;x",
                "/a/%2e%2e;v=1.2/b",
                "/a/..%3bx/b",
                "/a/...;x",
            ]),
        ),
        (
            "empty-segments",
            "empty segments go, after dot segments",
            texts(&["//", "/a//b", "///a///", "/a//../b", "/a//..", "/a/..//b", "/a%2f%2fb"]),
        ),
        (
            "double-escapes",
            "one round of decoding, not two",
            texts(&["/%252f", "/%2541", "/%25%32%66", "/%%32%66"]),
        ),
        (
            "stray-percent",
            "a stray percent sign that a decoded character would make an escape of",
            texts(&[
                "/%", "/%zz", "/%4", "/%%41", "/%%41b", "/%%41%42", "/%2%66", "/%2%6", "/%%%41b",
                "/%a%2f", "/%%2fa",
            ]),
        ),
        (
            "long",
            "no length is too long",
            vec![long("ab/", 1000), long("a/../", 500), long("%41", 1500), long("/", 3000)],
        ),
    ];
    let rule = |path: &[u8]| canonical_path(path, &mut Vec::new()).to_vec();
    cases.into_iter().map(table("path", rule)).collect()
}

fn authorities() -> Vec<Vector> {
    let cases = vec![
        (
            "unchanged",
            "a host in lower case",
            texts(&["", "shop", "shop.example", "10.0.0.1", "[::1]", "shop_1-a~"]),
        ),
        (
            "case",
            "lower case, ASCII only",
            [
                texts(&["Shop.Example", "SHOP", "[2001:DB8::1]", "\u{c9}t\u{e9}"]),
                vec![b"A\xffB".to_vec()],
            ]
            .concat(),
        ),
        (
            "port",
            "without a port of any length",
            texts(&[
                "shop:80",
                "shop:8080",
                "shop:0",
                "shop:00443",
                "[::1]:80",
                "10.0.0.1:9080",
                "shop:99999999999",
                "shop:+80",
            ]),
        ),
        (
            "no-port",
            "what is not digits behind the colon is no port",
            texts(&["shop:", "shop:http", "shop:80a", "[::1]", "[::1", "a:b:c"]),
        ),
        (
            "dot",
            "without trailing dots, before or behind a port",
            texts(&[
                "shop.example.",
                "shop.example.:80",
                "shop.example:80.",
                "shop..",
                ".",
                "shop.:80.",
            ]),
        ),
        (
            "repeated",
            "until nothing is left to strip",
            texts(&["shop:80:81", "Shop.Example.:80.:443.", ":80", "80", ":"]),
        ),
        ("long", "no length is too long", vec![[vec![b'H'; 1500], b":80".to_vec()].concat()]),
    ];
    let rule = |authority: &[u8]| canonical_authority(authority, &mut Vec::new()).to_vec();
    cases.into_iter().map(table("authority", rule)).collect()
}
