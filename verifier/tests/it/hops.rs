//! Verdicts on hops: a file per row of the table in docs/trust.md, and what holds for all hops.
//!
//! ```text
//! case     what is particular
//! sides    the entries: side, what it saw (`call`, as far as not the default), its own part, what is
//!          shown of both, and whose it is; a session is a number
//! verdict  as `verify --json` gives it
//! ```

use meshchain::hops::{HopAgreement, HopSide, HopVerdict, SessionNamed, judge};
use meshchain_core::hop::{Room, Seen, cut};
use meshchain_core::{
    Canonical, ContextSource, Entry, HopPart, OwnPart, SessionKey, Side, SpanId, TraceId, own,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hops")
}

fn text<'a>(value: &'a Value, default: &'a str) -> &'a str {
    value.as_str().unwrap_or(default)
}

fn number(value: &Value, default: u64) -> u64 {
    value.as_u64().unwrap_or(default)
}

fn session(value: &Value) -> [u8; 16] {
    SessionKey::from_seed([number(value, 0) as u8; 32]).id()
}

/// The encoded parts of a side, as its proxy makes them.
fn parts(side: &Value, salt: u8) -> (Vec<u8>, Vec<u8>) {
    let (call, own) = (&side["call"], &side["own"]);
    let authority = text(&call["authority"], "shop.example");
    let target = text(&call["path"], "/cart");
    let seen = Seen {
        request_id: text(&call["request_id"], "request-1").as_bytes(),
        method: text(&call["method"], "GET").as_bytes(),
        authority: authority.as_bytes(),
        target: target.as_bytes(),
    };
    let (trace, span) = (TraceId::new([7; 16]), SpanId::new([7; 8]));
    let mut room = Room::default();
    let hop = HopPart::capture(trace, span, &seen, number(&call["status"], 200) as u32, &mut room);
    let raw = |canonical: &[u8], seen: &'static str| -> &'static [u8] {
        if canonical == cut(seen.as_bytes()) { b"" } else { cut(seen.as_bytes()) }
    };
    let leaked = |text: &str| -> &'static str { text.to_owned().leak() };
    let own = OwnPart {
        side: side_named(text(&side["side"], "client")),
        context: match own["context"].as_str() {
            Some("generated") => ContextSource::Generated,
            _ => ContextSource::Received,
        },
        code_details: text(&own["code_details"], "via_upstream").as_bytes(),
        peer_principal: text(&own["peer_principal"], "spiffe://peer.example/x").as_bytes(),
        cluster: text(&own["cluster"], "").as_bytes(),
        attempts: number(&own["attempts"], 0) as u32,
        peer_session: own.get("peer_session").map(session),
        raw_path: raw(hop.path, leaked(target)),
        raw_authority: raw(hop.authority, leaked(authority)),
        salt: [salt + 1; 16],
        ..Default::default()
    };
    (hop.encode(), own.encode())
}

fn side_named(name: &str) -> Side {
    let all = [Side::Client, Side::Server, Side::GatewayOut, Side::GatewayIn];
    all.into_iter().find(|side| side.name() == name).unwrap_or_else(|| panic!("no side {name}"))
}

fn verdict(sides: &Value) -> HopVerdict {
    let list = sides.as_array().expect("a list");
    let parts: Vec<_> = (0..)
        .zip(list)
        .map(|(at, side)| {
            let same = side["same_as"].as_u64();
            parts(same.map_or(side, |at| &list[at as usize]), same.map_or(at, |at| at as u8))
        })
        .collect();
    let made = list.iter().zip(&parts).map(|(side, (hop_bytes, own_bytes))| {
        let (hop, own) = (HopPart::decode(hop_bytes).unwrap(), OwnPart::decode(own_bytes).unwrap());
        let digest = own::span_digest(&hop.digest(), own_bytes);
        let shows = text(&side["shows"], "hop own");
        HopSide {
            entry: Entry::new(own.side, hop.trace_id, hop.span_id, hop.digest(), digest),
            hop: shows.contains("hop").then_some(hop),
            own: shows.contains("own").then_some(own),
            session: session(&side["session"]),
            follows: side.get("follows").map(session),
            principal: text(&side["principal"], "").as_bytes(),
            log: text(&side["log"], ""),
            operator: side["operator"].as_str(),
        }
    });
    let made: Vec<_> = made.collect();
    let verdict = judge(&made, &mut 1_000_000);
    // The order of the entries decides nothing.
    let reversed: Vec<_> = made.into_iter().rev().collect();
    let other = judge(&reversed, &mut 1_000_000);
    assert_eq!((verdict.agreement, verdict.pairs), (other.agreement, other.pairs), "{sides:#}");
    verdict
}

#[test]
fn each_row_of_the_table_has_its_verdict() {
    let mut seen = Vec::new();
    for file in std::fs::read_dir(folder()).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let mut vector: Value =
            serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        let verdict = verdict(&vector["sides"]);
        assert!(
            name.starts_with(&verdict.agreement.name().replace('_', "-")),
            "{name}: {verdict:?}"
        );
        seen.push(verdict.agreement);
        let verdict = serde_json::to_value(verdict).unwrap();
        if std::env::var_os("UPDATE_OUTPUT").is_some() {
            vector["verdict"] = verdict.clone();
            std::fs::write(&path, serde_json::to_string_pretty(&vector).unwrap() + "\n").unwrap();
        }
        assert_eq!(vector["verdict"], verdict, "{name}");
    }
    for agreement in HopAgreement::ALL {
        assert!(seen.contains(&agreement), "no vector of {agreement:?}");
    }
}

#[test]
fn the_table_of_trust_md_has_a_row_per_verdict() {
    let trust = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/trust.md");
    let trust = std::fs::read_to_string(trust).unwrap();
    for agreement in HopAgreement::ALL {
        let row = format!("\n| `{}` |", agreement.name());
        assert_eq!(trust.matches(&row).count(), 1, "{row}");
    }
}

#[test]
fn a_dispute_costs_no_more_than_its_budget() {
    let side = |name: &str, path: &str, shows: &str, session: u64| json!({"side": name, "call": {"path": path}, "shows": shows, "session": session});
    let parts = [parts(&side("client", "/a", "hop", 1), 1), parts(&side("server", "/b", "", 2), 2)];
    let sides: Vec<_> = parts
        .iter()
        .zip([1u8, 2])
        .map(|((hop, own), seed)| {
            let (hop, own) = (HopPart::decode(hop).unwrap(), OwnPart::decode(own).unwrap());
            HopSide {
                entry: Entry::new(own.side, hop.trace_id, hop.span_id, hop.digest(), [seed; 32]),
                hop: own.side.sends().then_some(hop),
                own: None,
                session: [seed; 16],
                follows: None,
                principal: b"",
                log: "",
                operator: None,
            }
        })
        .collect();
    for budget in [0, 1, 700, 100_000] {
        let mut left = budget;
        let verdict = judge(&sides, &mut left);
        assert_eq!(verdict.agreement, HopAgreement::Dispute);
        assert!(left <= budget);
        assert!(budget > 700 || left == 0, "{left} of {budget}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    /// Whatever entries there are: an agreement pairs each of them with one of another proxy.
    #[test]
    fn nothing_hides_beside_an_agreement(
        given in prop::collection::vec((any::<bool>(), 0..3u8, 0..4u8), 1..7), named: bool,
    ) {
        let entries: Vec<_> = (0..).zip(&given).map(|(at, (sends, digest, who))| HopSide {
            entry: Entry {
                side: if *sends { Side::Client } else { Side::Server },
                trace_id: [1; 16],
                span_id: [1; 8],
                hop_digest: [*digest; 32],
                span_digest: [at; 32],
            },
            hop: None,
            own: None,
            session: [1 + *who; 16],
            follows: None,
            principal: if named { [b"a", b"b", b"b", b"c"][usize::from(*who)] } else { b"" },
            log: "log.example",
            operator: None,
        }).collect();
        let verdict = judge(&entries, &mut 0);
        prop_assert_eq!(verdict.session, SessionNamed::NotShown);
        let proxy = |who: u8| if named && who == 2 { 1 } else { who };
        let count = |sends: bool, digest: u8| {
            given.iter().filter(|(s, d, _)| (*s, *d) == (sends, digest)).count()
        };
        // As many pairs as there can be: all, but that no proxy is paired with itself.
        let pairs: usize = (0..3).map(|digest| {
            let of = |who: u8| given.iter().filter(|(_, d, w)| (*d, proxy(*w)) == (digest, who)).count();
            let all = count(true, digest) + count(false, digest);
            let apart = (0..4).map(|who| all - of(who)).min().unwrap_or_default();
            apart.min(count(true, digest)).min(count(false, digest))
        }).sum();
        prop_assert_eq!(verdict.pairs, pairs);
        if verdict.agrees() {
            prop_assert_eq!(pairs * 2, given.len());
        }
        let (sent, received) = (0..3).fold((0, 0), |(s, r), d| (s + count(true, d), r + count(false, d)));
        let left = (sent > pairs, received > pairs);
        let expected: &[HopAgreement] = match left {
            (false, false) => &[HopAgreement::Agree],
            (true, true) => &[HopAgreement::Dispute, HopAgreement::OneProxy],
            (false, true) if pairs > 0 => &[HopAgreement::ExtraServerEntry],
            _ => &[HopAgreement::OneSided],
        };
        prop_assert!(expected.contains(&verdict.agreement), "{:?}", verdict);
    }
}
