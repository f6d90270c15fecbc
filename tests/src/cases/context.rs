//! Trace contexts: what a proxy reads out of request headers.

use crate::vector::Vector;
use meshchain_core::context::TraceHeaders;
use serde_json::{Value, json};

const TRACE: &str = "80f198ee56343ba864fe8b2a57d3eff7";
const SPAN: &str = "e457b5a2e4d86bd1";

const SESSION: &str = "000102030405060708090a0b0c0d0e0f";
const W3C_FIRST: &str = "000102030405060708090a0b0c0d0e0f;w3c";
const W3C_FIRST_WITH_ID: &str = "000102030405060708090a0b0c0d0e0f;w3c;id=1";

type Headers = Vec<(&'static str, &'static str)>;

pub(super) fn cases() -> Vec<Vector> {
    let multi = |trace, span| vec![("x-b3-traceid", trace), ("x-b3-spanid", span)];
    let b3 = |value| vec![("b3", value)];
    let w3c = |value| vec![("traceparent", value)];
    let plus = |mut a: Vec<_>, b: Vec<_>| {
        a.extend(b);
        a
    };
    let all_forms = plus(
        multi(TRACE, SPAN),
        vec![
            ("b3", "463ac35c9f6413ad-463ac35c9f6413ad"),
            ("traceparent", "00-00000000000000000000000000000009-0000000000000009-01"),
        ],
    );
    let cases: Vec<(&str, &str, Headers)> = vec![
        (
            "b3-multi",
            "B3 multi, sampled, with a parent",
            plus(
                multi(TRACE, SPAN),
                vec![("x-b3-parentspanid", "05e3ac9a4f6e3b90"), ("x-b3-sampled", "1")],
            ),
        ),
        (
            "b3-multi-64-bit",
            "a 64-bit trace id is widened with leading zeros",
            multi("463ac35c9f6413ad", SPAN),
        ),
        (
            "b3-multi-upper-case",
            "upper-case hex digits mean the same",
            multi("80F198EE56343BA864FE8B2A57D3EFF7", SPAN),
        ),
        (
            "b3-multi-debug",
            "x-b3-flags: 1 outranks x-b3-sampled",
            plus(multi(TRACE, SPAN), vec![("x-b3-sampled", "0"), ("x-b3-flags", "1")]),
        ),
        (
            "b3-multi-denied-by-word",
            "x-b3-sampled: false, as old libraries write it",
            plus(multi(TRACE, SPAN), vec![("x-b3-sampled", "false")]),
        ),
        (
            "b3-multi-unknown-sampling",
            "a sampling state that does not exist counts as none",
            plus(multi(TRACE, SPAN), vec![("x-b3-sampled", "yes")]),
        ),
        (
            "b3-multi-bad-parent",
            "a parent that is no span id is left out",
            plus(multi(TRACE, SPAN), vec![("x-b3-parentspanid", "zz")]),
        ),
        (
            "b3-multi-first-counts",
            "of two x-b3-traceid the first counts",
            plus(multi(TRACE, SPAN), vec![("x-b3-traceid", "00000000000000000000000000000001")]),
        ),
        (
            "b3-single",
            "B3 single with all four parts",
            b3("80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90"),
        ),
        (
            "b3-single-debug",
            "B3 single, debug",
            b3("80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-d"),
        ),
        (
            "b3-single-deferred",
            "B3 single, ids only, 64 bits",
            b3("463ac35c9f6413ad-e457b5a2e4d86bd1"),
        ),
        ("w3c", "W3C, sampled", w3c("00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01")),
        (
            "w3c-denied",
            "W3C, not sampled",
            w3c("00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-00"),
        ),
        (
            "w3c-other-flags",
            "only bit 0 of the flags is the sampling decision",
            w3c("00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-fe"),
        ),
        (
            "w3c-later-version",
            "a later version may append fields",
            w3c("01-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01-what-comes"),
        ),
        ("b3-multi-short", "ids without their leading zeros", multi("63ac35c9f6413ad", "b1")),
        ("b3-multi-one-digit", "ids of one digit", multi("1", "2")),
        (
            "b3-multi-short-parent",
            "a parent without its leading zeros",
            plus(multi(TRACE, SPAN), vec![("x-b3-parentspanid", "5e3")]),
        ),
        ("single-before-multi", "B3 single outranks B3 multi and W3C", all_forms.clone()),
        (
            "multi-before-w3c",
            "B3 multi outranks W3C, and a lone sampling state is no context",
            plus(all_forms[..2].to_vec(), vec![("b3", "1"), all_forms[3]]),
        ),
        (
            "w3c-first",
            "the sender's proxy says that W3C counts",
            plus(all_forms.clone(), vec![("x-meshchain-session", W3C_FIRST)]),
        ),
        (
            "w3c-first-with-id",
            "with a request id behind it",
            plus(all_forms.clone(), vec![("x-meshchain-session", W3C_FIRST_WITH_ID)]),
        ),
        (
            "w3c-first-but-absent",
            "the sender's proxy says that W3C counts, and there is none",
            plus(all_forms[..3].to_vec(), vec![("x-meshchain-session", W3C_FIRST)]),
        ),
        (
            "session-without-w3c",
            "a session header that does not say so",
            plus(all_forms.clone(), vec![("x-meshchain-session", SESSION)]),
        ),
        (
            "session-unreadable",
            "a session header that cannot be read says nothing",
            plus(all_forms.clone(), vec![("x-meshchain-session", ";w3c")]),
        ),
        (
            "session-first-counts",
            "of two session headers the first counts",
            plus(
                all_forms.clone(),
                vec![("x-meshchain-session", SESSION), ("x-meshchain-session", W3C_FIRST)],
            ),
        ),
        (
            "fall-through",
            "an invalid form gives way to the next",
            plus(
                multi("not hex", SPAN),
                vec![
                    ("b3", "0"),
                    ("traceparent", "00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01"),
                ],
            ),
        ),
        ("none", "no trace header at all", vec![("x-request-id", "1")]),
        ("b3-multi-no-span", "a trace id without a span id", vec![("x-b3-traceid", TRACE)]),
        (
            "b3-multi-zero-trace",
            "the all-zero trace id",
            multi("00000000000000000000000000000000", SPAN),
        ),
        ("b3-multi-zero-span", "the all-zero span id", multi(TRACE, "0000000000000000")),
        ("b3-multi-odd-length", "31 digits", multi("0f198ee56343ba864fe8b2a57d3eff7", SPAN)),
        ("b3-multi-17-digits", "17 digits", multi("00000000000000001", SPAN)),
        ("b3-multi-long-span", "a span id of 17 digits", multi(TRACE, "0e457b5a2e4d86bd1")),
        ("b3-multi-empty", "an empty trace id", multi("", SPAN)),
        ("b3-multi-zero-digit", "a trace id of one zero", multi("0", SPAN)),
        ("b3-multi-joined", "two trace ids joined by a comma", multi("1,1", SPAN)),
        (
            "b3-single-short",
            "B3 single has no ids without leading zeros",
            b3("63ac35c9f6413ad-b1-1"),
        ),
        (
            "b3-multi-space",
            "a space inside the digits",
            multi("80f198ee56343ba8 4fe8b2a57d3eff7", SPAN),
        ),
        ("b3-single-sampling-only", "a lone sampling state is no context", b3("0")),
        ("b3-single-empty", "an empty value", b3("")),
        (
            "b3-single-five-parts",
            "a fifth part",
            b3("463ac35c9f6413ad-e457b5a2e4d86bd1-1-e457b5a2e4d86bd1-1"),
        ),
        (
            "b3-single-unknown-sampling",
            "a sampling state that does not exist",
            b3("463ac35c9f6413ad-e457b5a2e4d86bd1-x"),
        ),
        (
            "b3-single-bad-parent",
            "a parent that is no span id",
            b3("463ac35c9f6413ad-e457b5a2e4d86bd1-1-0000000000000000"),
        ),
        (
            "w3c-upper-case",
            "W3C demands lower case",
            w3c("00-80F198EE56343BA864FE8B2A57D3EFF7-e457b5a2e4d86bd1-01"),
        ),
        (
            "w3c-version-ff",
            "version ff is invalid",
            w3c("ff-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01"),
        ),
        (
            "w3c-version-0-longer",
            "version 00 has no fifth field",
            w3c("00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01-x"),
        ),
        (
            "w3c-later-version-no-dash",
            "what a later version appends begins with a dash",
            w3c("01-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01x"),
        ),
        ("w3c-truncated", "no flags", w3c("00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1")),
        (
            "w3c-underscores",
            "other separators",
            w3c("00_80f198ee56343ba864fe8b2a57d3eff7_e457b5a2e4d86bd1_01"),
        ),
        (
            "w3c-zero-trace",
            "the all-zero trace id",
            w3c("00-00000000000000000000000000000000-e457b5a2e4d86bd1-01"),
        ),
        (
            "w3c-multibyte",
            "characters of more than one byte at the cuts",
            w3c("00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-é"),
        ),
    ];
    cases.into_iter().map(|(name, case, headers)| vector(name, case, &headers)).collect()
}

fn vector(name: &str, case: &str, list: &[(&str, &str)]) -> Vector {
    let mut headers = TraceHeaders::default();
    for (name, value) in list {
        headers.take(name.as_bytes(), value.as_bytes());
    }
    let list: Vec<Value> = list.iter().map(|(n, v)| json!([n, v])).collect();
    let input = json!({"headers": list});
    match headers.context() {
        Some(context) => Vector::valid("context", name, case, input).with(
            "context",
            json!({
                "trace_id": hex::encode(context.trace_id.0),
                "span_id": hex::encode(context.span_id.0),
                "parent_span_id": context.parent_span_id.map(|id| hex::encode(id.0)),
                "sampling": context.sampling as u8,
            }),
        ),
        None => Vector::invalid("context", name, case, "no context").with("input", input),
    }
}
