//! Whether a call went on, and whether its response crossed the wire: by details, flags and status.

use super::*;

const SIDES: [Side; 4] = [Side::Client, Side::Server, Side::GatewayOut, Side::GatewayIn];

/// Envoy's response flags in the order of their bits (envoy/stream_info/stream_info.h).
const FLAGS: [&str; 30] = [
    "LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", "UAEX", "RLSE", "DC",
    "URX", "SI", "IH", "DPE", "UMSDR", "RFCF", "NFCF", "DT", "UPE", "NC", "OM", "DF", "DO", "DR",
    "UDO",
];

#[test]
fn the_senders_side_took_the_upstreams_response_and_the_receivers_side_gave_any() {
    let (sends, receives, both, none) =
        ((true, false), (false, true), (true, true), (false, false));
    for (details, expected) in [
        (&b"via_upstream"[..], both),
        (b"internal_redirect", sends),
        (b"", receives),
        (b"direct_response", receives),
        (b"route_not_found", receives),
        (b"via_upstream_", receives),
        (b"upstream_reset_before_response_started{connection_termination}", receives),
        (b"upstream_response_timeout", receives),
        (b"rbac_access_denied_matched_policy[none]", receives),
        (b"upstream_reset_after_response_started", none),
        (b"upstream_reset_after_response_started{connection_termination}", none),
    ] {
        let found = SIDES.map(|side| response_crossed(side, &via(details, 200, 0)));
        let (out, incoming) = expected;
        assert_eq!(found, [out, incoming, out, incoming], "{}", String::from_utf8_lossy(details));
    }
}

#[test]
fn no_response_crossed_where_the_caller_left_or_the_time_was_up_in_the_middle_of_it() {
    let caller_left = ["DC", "DR"];
    let out_of_time = ["UT", "SI", "UMSDR", "DT"];
    for code in [0, 200, 407, 408, 409, 499, 500, 503, 504, 505] {
        for (bit, flag) in FLAGS.iter().enumerate() {
            let timeout = code == 408 || code == 504;
            let expected = !caller_left.contains(flag) && (timeout || !out_of_time.contains(flag));
            for more in [0, 1 << FLAGS.iter().position(|flag| *flag == "URX").unwrap()] {
                let call = via(VIA_UPSTREAM, code, 1 << bit | more);
                let found = SIDES.map(|side| response_crossed(side, &call));
                assert_eq!(found, [expected; 4], "{code} {flag} {more}");
            }
        }
    }
    let left_in_time = via(VIA_UPSTREAM, 504, 1 << 2 | 1 << 14);
    assert_eq!(SIDES.map(|side| response_crossed(side, &left_in_time)), [false; 4]);
}

#[test]
fn a_call_was_sent_on_where_there_was_an_attempt_or_an_upstreams_response() {
    for (attempts, details, expected) in [
        (0, &b""[..], false),
        (0, b"direct_response", false),
        (0, b"via_upstream", true),
        (0, b"internal_redirect", true),
        (0, b"upstream_reset_before_response_started{connection_termination}", false),
        (1, b"", true),
        (1, b"direct_response", true),
        (3, b"upstream_response_timeout", true),
    ] {
        let call = Attributes { attempts, code_details: details, ..Attributes::default() };
        assert_eq!(was_sent_on(&call), expected, "{attempts} {}", String::from_utf8_lossy(details));
    }
}
