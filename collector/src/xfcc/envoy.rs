//! Envoy's own writing of `x-forwarded-client-cert`, as a model that the reader is held against.
//!
//! After `ConnectionManagerUtility::mutateXfccRequestHeader` (source/common/http/conn_manager_utility.cc):
//! every URI of the proxy's own certificate, the digest, then certificate, chain, subject, URIs and DNS
//! names, each where it is asked for; joined by `;`, behind what the caller sent by `,`. The subject is
//! what BoringSSL's `X509_NAME_print_ex` makes of it with `XN_FLAG_RFC2253`, in quotes.

use super::{NoPrincipal, principal};
use proptest::prelude::*;
use proptest::sample::select;

const SHOP: &str = "spiffe://d/ns/shop/sa/web";

/// What certificates Envoy has, and what of the peer's it is configured to tell.
#[derive(Debug, Clone)]
struct Told {
    by: Vec<&'static str>,
    cert: Option<String>,
    chain: Option<String>,
    subject: Option<Vec<Name>>,
    uris: Vec<&'static str>,
    dns: Vec<&'static str>,
}

/// A relative distinguished name: attributes, each by its key.
type Name = Vec<(&'static str, String)>;

impl Told {
    fn element(&self) -> String {
        let mut details: Vec<String> = self.by.iter().map(|uri| format!("By={uri}")).collect();
        details.push(format!("Hash={}", "0a".repeat(32)));
        let quoted = [("Cert", &self.cert), ("Chain", &self.chain)];
        for (key, pem) in quoted {
            details.extend(pem.as_ref().map(|pem| format!("{key}=\"{}\"", url_encoded(pem))));
        }
        details.extend(self.subject.as_ref().map(|s| format!("Subject=\"{}\"", printed(s))));
        match self.uris[..] {
            [] => details.push("URI=".to_owned()),
            _ => details.extend(self.uris.iter().map(|uri| format!("URI={uri}"))),
        }
        details.extend(self.dns.iter().map(|dns| format!("DNS={dns}")));
        details.join(";")
    }

    /// `APPEND_FORWARD`: several lines of one header are one list to Envoy, and nothing is put before the
    /// first one's text.
    fn appended(&self, received: &[Vec<u8>]) -> Vec<u8> {
        let mut header = received.join(&b',');
        if !header.is_empty() {
            header.push(b',');
        }
        header.extend(self.element().bytes());
        header
    }

    fn sender(&self) -> Result<String, NoPrincipal> {
        match self.uris[..] {
            [] | [""] => Err(NoPrincipal::NoUri),
            [uri] if uri.starts_with("spiffe://d/ns/") && !uri.contains("//sa") => {
                (!uri.ends_with('/')).then(|| uri.to_owned()).ok_or(NoPrincipal::NotSpiffe)
            }
            [_] => Err(NoPrincipal::NotSpiffe),
            _ => Err(NoPrincipal::SeveralUris),
        }
    }
}

/// Each name behind its follower, as RFC 2253 lists them.
fn printed(subject: &[Name]) -> String {
    let attribute =
        |(key, value): &(&str, String)| match key.starts_with(|c: char| c.is_ascii_digit()) {
            true => format!("{key}=#0C{:02X}{}", value.len() & 0x7f, hex::encode_upper(value)),
            false => format!("{key}={}", escaped(value)),
        };
    let name = |name: &Name| name.iter().map(attribute).collect::<Vec<_>>().join("+");
    subject.iter().rev().map(name).collect::<Vec<_>>().join(",")
}

/// A value as BoringSSL prints it for RFC 2253: all but visible ASCII in hexadecimal.
fn escaped(value: &str) -> String {
    let mut out = String::new();
    for (at, byte) in value.bytes().enumerate() {
        let edge = at == 0 || at + 1 == value.len();
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                out.extend(['\\', char::from(byte)]);
            }
            b' ' if edge => out.push_str("\\ "),
            b'#' if at == 0 => out.push_str("\\#"),
            0x20..0x7f => out.push(char::from(byte)),
            _ => out.push_str(&format!("\\{byte:02X}")),
        }
    }
    out
}

/// A PEM text as Envoy encodes it.
fn url_encoded(pem: &str) -> String {
    [("\n", "%0A"), (" ", "%20"), ("+", "%2B"), ("/", "%2F"), ("=", "%3D")]
        .iter()
        .fold(pem.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// Text made of what a forger needs, and of anything.
fn hostile() -> impl Strategy<Value = String> {
    let forged = select(vec![
        "\"",
        "\\",
        ",",
        ";",
        "=",
        "+",
        "\\\"",
        "\",",
        "\";",
        "By=spiffe://d/ns/a/sa/b",
        "Hash=00",
        "Subject=\"",
        "Subject=\"\"",
        "URI=spiffe://d/ns/victim/sa/v",
        "URI=",
        "DNS=",
        "Cert=\"",
        "Chain=\"",
        "CN=x",
        " ",
        "#",
        "\u{fc}",
        "\n",
        "\0",
    ]);
    let piece =
        prop_oneof![5 => forged.prop_map(str::to_owned), 1 => any::<char>().prop_map(String::from)];
    prop::collection::vec(piece, 0..16).prop_map(|pieces| pieces.concat())
}

fn subject() -> impl Strategy<Value = Vec<Name>> {
    let key = select(vec!["CN", "O", "OU", "DC", "emailAddress", "1.3.6.1.4.1.1"]);
    let name = prop::collection::vec((key, hostile()), 1..3);
    prop::collection::vec(name, 0..4)
}

fn pem() -> impl Strategy<Value = String> {
    let base64 = "[A-Za-z0-9+/]{0,64}={0,2}";
    base64.prop_map(|body| {
        format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    })
}

prop_compose! {
    fn told()(
        by in select(vec![vec![], vec!["spiffe://d/ns/m/sa/c"], vec!["spiffe://d/ns/m/sa/c", "x"]]),
        cert in prop::option::of(pem()),
        chain in prop::option::of(pem()),
        subject in prop::option::of(subject()),
        uris in select(vec![
            vec![SHOP],
            vec![SHOP],
            vec!["spiffe://d/ns/a-b/sa/c.d_e"],
            vec![],
            vec![SHOP, "spiffe://d/ns/victim/sa/v"],
            vec!["https://shop.example/?a=b"],
            vec!["spiffe://d/ns//sa/web"],
            vec!["spiffe://d/ns/shop/sa/"],
        ]),
        dns in select(vec![vec![], vec!["*.shop.example"], vec!["a.example", "b.example"]]),
    ) -> Told {
        Told { by, cert, chain, subject, uris, dns }
    }
}

/// A header line of the caller's: an honest proxy's, or any bytes.
fn line() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        told().prop_map(|told| told.element().into_bytes()),
        hostile().prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..12),
        (told(), hostile(), any::<prop::sample::Index>()).prop_map(|(told, text, at)| {
            let mut cut = told.element().into_bytes();
            cut.truncate(at.index(cut.len()));
            [cut, text.into_bytes()].concat()
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_in_a_subject_hides_or_changes_the_sender(told in told()) {
        let header = told.element();
        prop_assert_eq!(principal([header.as_bytes()]), told.sender(), "{}", header);
    }

    #[test]
    fn nothing_that_a_caller_sends_hides_or_changes_the_sender(
        told in told(),
        received in prop::collection::vec(line(), 0..4),
    ) {
        let header = told.appended(&received);
        let shown = String::from_utf8_lossy(&header);
        prop_assert_eq!(principal([header.as_slice()]), told.sender(), "{}", shown);
        let element = told.element();
        let lines = received.iter().map(Vec::as_slice).chain([element.as_bytes()]);
        prop_assert_eq!(principal(lines), told.sender(), "in lines: {}", shown);
    }

    /// Whatever header there is, whoever it names is a SPIFFE id that stands in it.
    #[test]
    fn who_is_named_stands_in_the_header(lines in prop::collection::vec(line(), 0..4)) {
        if let Ok(named) = principal(lines.iter().map(Vec::as_slice)) {
            let text = String::from_utf8_lossy(&lines.join(&b',')).into_owned();
            prop_assert!(text.contains(&format!("URI={named}")), "{}", text);
        }
    }

    /// A header that was cut anywhere names the same sender or nobody, unless the cut is in the name.
    #[test]
    fn a_cut_element_never_names_another_sender(told in told(), at in any::<prop::sample::Index>()) {
        let whole = told.element();
        let cut = &whole.as_bytes()[..at.index(whole.len())];
        if let Ok(named) = principal([cut]) {
            prop_assert!(told.uris[0].starts_with(&named), "{}", whole);
        }
    }
}
