//! The request phase of one call: what the filter reads, writes and keeps of it.

use crate::answer::integer;
use crate::config::{Config, Detail, Role};
use crate::context::{Forms, Left, Plan, Tracer, child_of, write};
use crate::headers::HeaderMap;
use crate::host::Host;
use crate::request::{KeptRequest, Request, included, principal_of};
use meshchain_core::session_header::{NAME, SessionHeader};
use meshchain_core::{SessionId, SpanId, TraceContext};

/// Fresh bytes for one request phase.
pub type Random = [u8; 48];

/// What the request phase saw and did.
#[derive(Debug, PartialEq, Eq)]
pub struct RequestPhase {
    /// On which sides of the call the proxy is.
    pub role: Role,
    /// Context as received.
    pub received: Option<TraceContext>,
    /// Headers as received.
    pub request: KeptRequest,
    /// What was left on the request; `None` on the server side, which sends nothing on.
    pub left: Option<Left>,
    /// Context that was left on the request.
    pub sent: Option<TraceContext>,
    /// In the middle, where no context came: the span of the hop that was received.
    pub edge: Option<SpanId>,
    /// When it was, unix nanoseconds; not with `detail: full`.
    pub start_ns: u64,
}

/// On which sides of a call this proxy is: by its node where that stands in the middle, since Istio's
/// configuration for clients reaches gateways too and that for servers waypoints; else by configuration,
/// else Envoy is asked. What stands in a request says nothing of it, as anybody can write that.
pub fn role_of(host: &impl Host, config: &Config, middle: bool) -> Role {
    match config.side {
        _ if middle => Role::Gateway,
        Some(side) => side,
        None => match host.property("xds\0listener_direction").map(|bytes| integer(&bytes)) {
            Some(1) => Role::Server,
            Some(2) => Role::Client,
            _ => Role::Gateway,
        },
    }
}

/// Where and as whom a request is met.
#[derive(Debug, Clone, Copy)]
pub struct Setting<'a> {
    /// Configuration of the place.
    pub config: &'a Config,
    /// On which sides of the call the proxy is.
    pub role: Role,
    /// What is known of a tracer.
    pub tracer: Tracer,
    /// The session that is named to the other side.
    pub session: SessionId,
}

impl RequestPhase {
    /// Keeps what is needed of the request, which was read out of `headers`, and on its way out gives it a child
    /// span where no tracer does.
    pub fn run(
        host: &impl Host,
        setting: Setting<'_>,
        headers: &HeaderMap,
        request: &Request<'_>,
        random: impl FnOnce() -> Random,
    ) -> Self {
        let Setting { config, role, .. } = setting;
        let included = included(headers, &config.include_headers);
        let told = config.principal_from_xfcc && role != Role::Client;
        let principal = if told { principal_of(request.client_cert) } else { &[] };
        let received = request.trace.context();
        let mut phase = Self {
            role,
            received,
            request: KeptRequest::new(request, &included, principal),
            left: None,
            sent: received,
            edge: None,
            start_ns: if config.detail == Detail::Full { 0 } else { host.now_ns() },
        };
        if role != Role::Server {
            phase.send_on(host, setting, request, random());
        }
        phase
    }

    fn send_on(
        &mut self,
        host: &impl Host,
        setting: Setting<'_>,
        request: &Request<'_>,
        random: Random,
    ) {
        let Setting { config, tracer, session, .. } = setting;
        let (ids, rest) = random.split_first_chunk::<24>().unwrap_or((&[0; 24], &[]));
        let (edge, id) = rest.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
        if self.role == Role::Gateway && self.received.is_none() {
            self.edge = SpanId::new(*edge);
        }
        let plan = match tracer.plan(request) {
            _ if !config.child_spans => Plan::Nothing,
            // Nobody would tell the other side that `traceparent` counts, and stale B3 would.
            Plan::W3c if !config.session_header && request.trace.b3().is_some() => Plan::Ours,
            plan => plan,
        };
        let mut left = Left {
            plan,
            forms: Forms::of(&request.trace),
            traced: request.is_traced(),
            unreadable: request.trace.has_unreadable_b3() || request.trace.has_unreadable_w3c(),
        };
        let names_session = config.session_header && plan != Plan::Nothing;
        if !names_session && request.trace.session.is_some() {
            // Another proxy's, which this one was told or an application handed on: it did not send this.
            host.remove_request_header(NAME);
        }
        if plan == Plan::Nothing {
            self.left = Some(left);
            return;
        }
        let mut begun = false;
        if plan == Plan::Ours && !(self.received.is_none() && request.trace.has_unreadable_b3()) {
            let parent = self.received.or_else(|| self.edge_context(ids));
            if let Some(child) = child_of(parent.as_ref(), ids) {
                left.forms = write(host, &request.trace, &child, tracer);
                self.sent = Some(child);
                begun = true;
            }
        }
        if names_session {
            let mut room = [0; UUID];
            let made_up = id.first_chunk().map(|id| uuid(id, &mut room));
            let request_id = if request.id.is_empty() { made_up } else { Some(request.id) };
            let child = self.sent.filter(|_| begun);
            let w3c = tracer.w3c_counts(&left.forms, child.as_ref());
            host.set_request_header(NAME, &SessionHeader { session, w3c, request_id }.write());
        }
        self.left = Some(left);
    }

    /// The trace that begins with the hop that was received.
    fn edge_context(&self, ids: &[u8; 24]) -> Option<TraceContext> {
        let span_id = self.edge?;
        child_of(None, ids).map(|trace| TraceContext { span_id, ..trace })
    }
}

/// Characters of a UUID.
const UUID: usize = 36;

/// A random UUID (RFC 9562, version 4) in text.
fn uuid<'a>(random: &[u8; 16], room: &'a mut [u8; UUID]) -> &'a [u8] {
    let mut bytes = *random;
    let [.., version, _, variant, _, _, _, _, _, _, _] = &mut bytes;
    *version = *version & 0x0f | 0x40;
    *variant = *variant & 0x3f | 0x80;
    let digits = hex::encode(bytes);
    let mut digits = digits.bytes();
    for (at, character) in room.iter_mut().enumerate() {
        let dash = matches!(at, 8 | 13 | 18 | 23);
        *character = if dash { b'-' } else { digits.next().unwrap_or(b'0') };
    }
    room
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::test_host::TestHost;
    use meshchain_core::context::TraceHeaders;

    fn run(host: &TestHost, role: Role, json: &str, tracer: Tracer) -> RequestPhase {
        let config = crate::config::parse(json.as_bytes()).config.unwrap();
        let mut random = [0; 48];
        (1..).zip(&mut random).for_each(|(value, byte)| *byte = value);
        let setting = Setting { config: &config, role, tracer, session: [7; 16] };
        let headers = host.request_headers();
        RequestPhase::run(host, setting, &headers, &Request::read(&headers), || random)
    }

    #[test]
    fn a_uuid_is_of_version_4() {
        let text = String::from_utf8(uuid(&[0xff; 16], &mut [0; UUID]).to_vec()).unwrap();
        assert_eq!(text, "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }

    #[test]
    fn the_side_is_the_configurations_else_the_nodes_else_envoys() {
        let sides =
            [("server", Role::Server), ("client", Role::Client), ("gateway", Role::Gateway)];
        for (number, (_, expected)) in [1, 2, 0].into_iter().zip(sides) {
            let host = TestHost::default();
            host.set_number("xds\0listener_direction", number);
            let asked = |json: &str, middle| {
                role_of(&host, &crate::config::parse(json.as_bytes()).config.unwrap(), middle)
            };
            assert_eq!(asked("", false), expected);
            assert_eq!(asked("", true), Role::Gateway);
            for (name, given) in sides {
                let json = format!("{{\"side\": \"{name}\"}}");
                assert_eq!(asked(&json, false), given);
                assert_eq!(asked(&json, true), Role::Gateway, "whose configuration it has");
            }
        }
    }

    #[test]
    fn a_client_names_its_session_and_a_request_id_and_a_server_nothing() {
        let id = b"6b1d4e0f-3c5a-4f8e-9d27-1a2b3c4d5e6f";
        for (tracer, json, expected) in [
            (Tracer::default(), "", Some(true)),
            (Tracer::Absent, "", Some(false)),
            (Tracer::B3, "", Some(false)),
            (Tracer::W3c, "", Some(true)),
            (Tracer::W3c, r#"{"context": "never"}"#, None),
            (Tracer::default(), r#"{"context": "never"}"#, None),
            (Tracer::default(), r#"{"session_header": false}"#, None),
        ] {
            for request_id in [&id[..], b""] {
                let host = TestHost::with_headers(&[(b"x-request-id", request_id)]);
                run(&host, Role::Client, json, tracer);
                let map = host.request_headers();
                let sent = Request::read(&map);
                let header = sent.trace.session_header();
                assert_eq!(header.map(|header| header.w3c), expected);
                let header = header.inspect(|header| {
                    assert_eq!(header.session, [7; 16]);
                    let id = header.request_id.unwrap();
                    assert!(request_id.is_empty() && id.len() == UUID || id == request_id);
                });
                let named = header.and_then(|header| header.request_id);
                assert_eq!(sent.seen().request_id, named.unwrap_or(request_id));
            }
        }
        let host = TestHost::with_headers(&[(b"x-request-id", id)]);
        run(&host, Role::Server, "", Tracer::default());
        assert_eq!(host.request_headers().count(), 1);
    }

    #[test]
    fn a_span_that_was_begun_is_the_context_that_leaves_whatever_came() {
        let (one, other) = ("0000000000000001", "0000000000000002");
        let span = "00000000000000b1";
        let session = "07".repeat(16);
        let multi = [[None, None], [Some(one), Some(span)], [Some("what"), Some(span)]];
        let single =
            [None, Some("0".to_owned()), Some(format!("{other}-{span}-1")), Some("?".into())];
        let w3c = [one, other].map(|trace| format!("00-0000000000000000{trace}-{span}-01"));
        let w3c = [None, Some(w3c[0].clone()), Some(w3c[1].clone())];
        let named = [None, Some(session.clone()), Some(format!("{session};w3c")), Some("?".into())];
        let tracers = [Tracer::default(), Tracer::Absent, Tracer::Suspected(SpanId([9; 8]))];
        for [trace, span] in multi {
            for (single, w3c, named) in single
                .iter()
                .flat_map(|single| w3c.iter().map(move |w3c| (single, w3c)))
                .flat_map(|(single, w3c)| named.iter().map(move |named| (single, w3c, named)))
            {
                let all = [
                    ("x-b3-traceid", trace),
                    ("x-b3-spanid", span),
                    ("b3", single.as_deref()),
                    ("traceparent", w3c.as_deref()),
                    (NAME, named.as_deref()),
                ];
                let headers: Vec<(&[u8], &[u8])> = all
                    .iter()
                    .filter_map(|(name, value)| Some((name.as_bytes(), (*value)?.as_bytes())))
                    .collect();
                for (tracer, role) in
                    tracers.iter().flat_map(|t| [(*t, Role::Client), (*t, Role::Gateway)])
                {
                    let host = TestHost::with_headers(&headers);
                    let phase = run(&host, role, "", tracer);
                    let map = host.request_headers();
                    let ids = |c: TraceContext| (c.trace_id, c.span_id);
                    let leaves = Request::read(&map).trace.context().map(ids);
                    assert_eq!(leaves, phase.sent.map(ids), "{all:?} {tracer:?}");
                }
            }
        }
    }

    #[test]
    fn beside_a_tracer_of_w3c_a_span_is_begun_only_where_stale_b3_would_count() {
        for (header, b3, begun) in
            [(true, true, false), (true, false, false), (false, true, true), (false, false, false)]
        {
            let mut headers: Vec<(&[u8], &[u8])> = vec![(b"x-request-id", b"1")];
            if b3 {
                headers.push((b"x-b3-traceid", b"0000000000000001"));
                headers.push((b"x-b3-spanid", b"0000000000000002"));
            }
            let host = TestHost::with_headers(&headers);
            let json = format!(r#"{{"session_header": {header}}}"#);
            let phase = run(&host, Role::Client, &json, Tracer::W3c);
            assert_eq!(phase.left.unwrap().plan == Plan::Ours, begun, "{header} {b3}");
            assert_eq!(phase.sent != phase.received, begun);
        }
    }

    #[test]
    fn ids_that_a_tracer_cannot_read_show_nothing_of_one() {
        let ids = "00-00000000000000000000000000000001-00000000000000b1";
        let cases = [
            ("traceparent", "x".to_owned(), true),
            ("traceparent", format!("{ids}-x"), true),
            ("traceparent", format!("ff{}-01", &ids[2..]), true),
            ("traceparent", format!("{ids}-01"), false),
            ("traceparent", format!(" {ids}-01\t"), false),
            ("b3", "what".to_owned(), true),
            ("b3", "0".to_owned(), false),
            ("x-b3-traceid", "1".to_owned(), true),
            ("x-other", "x".to_owned(), false),
        ];
        for (name, value, expected) in cases {
            let host = TestHost::with_headers(&[(name.as_bytes(), value.as_bytes())]);
            let left = run(&host, Role::Client, "", Tracer::W3c).left.unwrap();
            assert_eq!(left.unreadable, expected, "{name}: {value}");
        }
    }

    #[test]
    fn a_stale_session_header_of_the_application_is_replaced() {
        let stale = [b"01".repeat(16).as_slice(), b";id=stale"].concat();
        let headers: &[(&[u8], &[u8])] =
            &[(b"x-request-id", b"fresh"), (b"x-meshchain-session", &stale)];
        let host = TestHost::with_headers(headers);
        run(&host, Role::Client, "", Tracer::default());
        let map = host.request_headers();
        let sent = Request::read(&map);
        assert_eq!(sent.seen().request_id, b"fresh");
        assert_eq!(sent.trace.session_header().unwrap().session, [7; 16]);
    }

    #[test]
    fn where_no_session_is_named_none_leaves() {
        let stale = b"01".repeat(16);
        for (json, tracer, leaves) in [
            (r#"{"session_header": false}"#, Tracer::default(), false),
            (r#"{"context": "never"}"#, Tracer::default(), false),
            ("", Tracer::default(), true),
        ] {
            for role in [Role::Client, Role::Gateway] {
                let headers: &[(&[u8], &[u8])] = &[(b"x-meshchain-session", &stale)];
                let host = TestHost::with_headers(headers);
                let phase = run(&host, role, json, tracer);
                let map = host.request_headers();
                assert_eq!(map.get(NAME.as_bytes()).is_some(), leaves, "{json}");
                assert_eq!(phase.request.peer_session, Some([1; 16]), "what was received");
            }
        }
    }

    #[test]
    fn in_the_middle_a_call_without_a_context_gets_a_span_for_each_hop() {
        let host = TestHost::with_headers(&[(b":path", b"/")]);
        let phase = run(&host, Role::Gateway, "", Tracer::default());
        let map = host.request_headers();
        let sent = Request::read(&map).trace.context().unwrap();
        assert_eq!((sent.parent_span_id, phase.received), (phase.edge, None));
        assert_ne!(phase.edge, None);
        assert_ne!(phase.edge, Some(sent.span_id));
        let host = TestHost::with_headers(&[
            (b"x-b3-traceid", b"0000000000000001"),
            (b"x-b3-spanid", b"0000000000000002"),
        ]);
        let phase = run(&host, Role::Gateway, "", Tracer::default());
        assert_eq!((phase.edge, phase.received.unwrap().span_id.0[7]), (None, 2));
        assert_eq!(phase.sent.unwrap().parent_span_id, Some(phase.received.unwrap().span_id));
    }

    #[test]
    fn beside_a_trace_that_cannot_be_read_nothing_is_begun() {
        let host = TestHost::with_headers(&[(b"x-b3-traceid", b"what"), (b"x-request-id", b"1")]);
        let phase = run(&host, Role::Client, "", Tracer::Absent);
        assert_eq!((phase.received, phase.sent), (None, None));
        let map = host.request_headers();
        let sent: TraceHeaders<'_> = Request::read(&map).trace;
        assert_eq!((sent.b3_trace_id, sent.b3_span_id), (Some(&b"what"[..]), None));
        assert!(sent.session_header().is_some());
    }
}
