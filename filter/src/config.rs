//! The filter's configuration: the JSON of `pluginConfig`.
//!
//! A filter must never block a pod, so parsing never fails the VM: a value of the wrong kind turns
//! the filter off, an unknown key is ignored, and either is logged and reported in heartbeats.

use serde_json::{Map, Value};

/// Which sides of a call a place of the configuration is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The callee's.
    Server,
    /// The caller's.
    Client,
    /// Both: it receives a call and sends it on.
    Gateway,
}

/// What a record shows of the path; what is hashed never changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PathPrivacy {
    /// The path, without its query.
    #[default]
    StripQuery,
    /// Path and query.
    Keep,
    /// SHA-256 of the path.
    Hash,
    /// Nothing.
    Drop,
}

/// How much of a call's own part is asked for; what is dear to ask for is left out in the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Detail {
    /// All of it.
    #[default]
    Full,
    /// Status, flags, times and principal of ordinary calls; all of it for the others: errors, calls with
    /// response flags, slow ones, retried ones, and one in [`Config::full_one_in`].
    Auto,
    /// Status, flags and times; all of it for calls without a response, or with response flags.
    Lean,
}

/// A valid configuration. Each field is the key of the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Envoy cluster of the collector. Default: Istio's name for port 8080 of the Service
    /// `meshchain-collector` in the namespace `meshchain`.
    pub collector_cluster: String,
    /// `:authority` of the POSTs. Default: host and port as the cluster's name states them.
    pub collector_authority: String,
    /// `:path` of the POSTs. Default `/v1/batches`.
    pub collector_path: String,
    /// `payload`: `record` (default) sends span records with the digests, `digest` only digests.
    pub records: bool,
    /// `side`: `server`, `client` or `gateway`, which this place of the configuration is on. Default: Envoy
    /// is asked at each call, and gateways and waypoints are known by their node's id.
    pub side: Option<Role>,
    /// `context`: `auto` (default) starts a child span where no tracer does, `never` leaves all headers
    /// alone.
    pub child_spans: bool,
    /// `session_header`: whether `context: auto` also names the session, and the request id, to the
    /// other side in `x-meshchain-session`. Default true; with false the header is taken out.
    pub session_header: bool,
    /// `detail`: `full` (default), `auto` or `lean`. What is not asked for of ordinary calls are protocol, sizes,
    /// cluster, route and attempts, with `lean` the peer's principal too, unless a header tells it; start and
    /// duration are then the filter's own clock's, from the request's headers to the end. The hop part is the
    /// same in all.
    pub detail: Detail,
    /// Milliseconds from which a call is slow, for `detail: auto`. Default 1000, 1 to 3600000.
    pub slow_ms: u64,
    /// One in how many ordinary calls is recorded in full, for `detail: auto`. Default 100, 1 to 1000000.
    pub full_one_in: u32,
    /// `principal_from_xfcc`: take the peer's principal out of the last element of
    /// `x-forwarded-client-cert`, which is cheaper than to ask Envoy; only where this proxy writes that
    /// element itself, as Istio's sidecars do on the server side. Default false.
    pub principal_from_xfcc: bool,
    /// What records show of the path. Default `strip-query`.
    pub path_privacy: PathPrivacy,
    /// `include_headers`: names of request headers that records show, at most 32. Default none. Those that
    /// carry secrets are left out with a notice, unless `include_secret_headers` is true.
    pub include_headers: Vec<String>,
    /// `skip_paths`: calls of these paths are not recorded, only counted; a `*` at the end stands for
    /// any rest. At most 32. Default none.
    pub skip_paths: Vec<String>,
    /// Milliseconds between looks at the queue. Default 250, 10 to 60000.
    pub tick_ms: u64,
    /// Calls that fill a batch before its tick, where none waits. Default 512, 1 to 32768.
    pub batch_spans: u32,
    /// Bytes that wait for the collector at most, per VM. Default 32 MiB, 64 KiB to 256 MiB.
    pub queue_bytes: usize,
    /// Seconds of silence before a heartbeat. Default 30, 1 to 3600.
    pub heartbeat_s: u64,
}

impl Config {
    /// Whether calls of a path, which has no query, are left out.
    pub fn skips(&self, path: &[u8]) -> bool {
        self.skip_paths.iter().any(|rule| match rule.strip_suffix('*') {
            Some(prefix) => path.starts_with(prefix.as_bytes()),
            None => path == rule.as_bytes(),
        })
    }
}

impl Default for Config {
    fn default() -> Self {
        let service = "meshchain-collector.meshchain.svc.cluster.local";
        Self {
            collector_cluster: format!("outbound|8080||{service}"),
            collector_authority: format!("{service}:8080"),
            collector_path: "/v1/batches".to_owned(),
            records: true,
            side: None,
            child_spans: true,
            session_header: true,
            detail: Detail::default(),
            slow_ms: 1_000,
            full_one_in: 100,
            principal_from_xfcc: false,
            path_privacy: PathPrivacy::default(),
            include_headers: Vec::new(),
            skip_paths: Vec::new(),
            tick_ms: 250,
            batch_spans: 512,
            queue_bytes: 32 << 20,
            heartbeat_s: 30,
        }
    }
}

/// Result of parsing: the configuration, or why the filter is off; and what was ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// The configuration, or the fault that turns the filter off.
    pub config: Result<Config, String>,
    /// Faults that do not: unknown keys.
    pub notices: Vec<String>,
}

/// Longest notice in bytes, and most notices, so that a header keeps its bounds.
const MAX_NOTICE: usize = 120;
const MAX_NOTICES: usize = 8;

/// Parses `pluginConfig`; an empty one is all defaults.
pub fn parse(bytes: &[u8]) -> Parsed {
    let mut notices = Vec::new();
    let config = read(bytes, &mut notices);
    notices.truncate(MAX_NOTICES);
    Parsed { config, notices }
}

fn read(bytes: &[u8], notices: &mut Vec<String>) -> Result<Config, String> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Config::default());
    }
    let value: Value = serde_json::from_slice(bytes).map_err(|e| format!("not JSON: {e}"))?;
    let Value::Object(map) = value else {
        return Err("not a JSON object".to_owned());
    };
    let mut config = Config::default();
    if let Some(cluster) = text(&map, "collector_cluster")? {
        config.collector_authority = authority_of(&cluster);
        config.collector_cluster = cluster;
    }
    if let Some(authority) = text(&map, "collector_authority")? {
        config.collector_authority = authority;
    }
    if let Some(path) = text(&map, "collector_path")? {
        config.collector_path = path;
    }
    let payload = choice(&map, "payload", &[("record", true), ("digest", false)])?;
    config.records = payload.unwrap_or(config.records);
    let context = choice(&map, "context", &[("auto", true), ("never", false)])?;
    config.child_spans = context.unwrap_or(config.child_spans);
    let sides = [("server", Role::Server), ("client", Role::Client), ("gateway", Role::Gateway)];
    config.side = choice(&map, "side", &sides)?;
    config.session_header = truth(&map, "session_header")?.unwrap_or(config.session_header);
    let details = [("full", Detail::Full), ("auto", Detail::Auto), ("lean", Detail::Lean)];
    config.detail = choice(&map, "detail", &details)?.unwrap_or_default();
    config.slow_ms = number(&map, "slow_ms", 1, 3_600_000)?.unwrap_or(config.slow_ms);
    let one_in = number(&map, "full_one_in", 1, 1_000_000)?;
    config.full_one_in = one_in.map_or(config.full_one_in, |n| n as u32);
    config.principal_from_xfcc = truth(&map, "principal_from_xfcc")?.unwrap_or_default();
    let privacy = [
        ("strip-query", PathPrivacy::StripQuery),
        ("keep", PathPrivacy::Keep),
        ("hash", PathPrivacy::Hash),
        ("drop", PathPrivacy::Drop),
    ];
    config.path_privacy = choice(&map, "path_privacy", &privacy)?.unwrap_or_default();
    let mut names = texts(&map, "include_headers")?;
    names.iter_mut().for_each(|name| name.make_ascii_lowercase());
    if !truth(&map, "include_secret_headers")?.unwrap_or_default() {
        names.retain(|name| {
            let secret = is_secret(name);
            if secret {
                notices.push(short(format!(
                    "include_headers: {name:?} is left out, it carries secrets"
                )));
            }
            !secret
        });
    }
    names.retain(|name| {
        let possible = is_header_name(name);
        if !possible {
            notices.push(short(format!("include_headers: {name:?} is the name of no header")));
        }
        possible
    });
    config.include_headers = names;
    config.skip_paths = texts(&map, "skip_paths")?;
    for rule in config.skip_paths.iter().filter(|rule| !can_match(rule)) {
        let text = "matches no path: they begin with / and have no query; * stands at the end";
        notices.push(short(format!("skip_paths: {rule:?} {text}")));
    }
    config.tick_ms = number(&map, "tick_ms", 10, 60_000)?.unwrap_or(config.tick_ms);
    let spans = number(&map, "batch_spans", 1, meshchain_core::header::MAX_ENTRIES.into())?;
    config.batch_spans = spans.map_or(config.batch_spans, |n| n as u32);
    let queue = number(&map, "queue_bytes", 64 << 10, 256 << 20)?;
    config.queue_bytes = queue.map_or(config.queue_bytes, |n| n as usize);
    config.heartbeat_s = number(&map, "heartbeat_s", 1, 3600)?.unwrap_or(config.heartbeat_s);
    let unknown = map.keys().filter(|key| !KEYS.contains(&key.as_str()));
    notices.extend(unknown.map(|key| short(format!("unknown key {key:?} is ignored"))));
    Ok(config)
}

/// A notice, cut to what a header can hold.
fn short(notice: String) -> String {
    let ends = (0..=MAX_NOTICE.min(notice.len())).rev();
    ends.filter_map(|end| notice.get(..end)).next().unwrap_or_default().to_owned()
}

/// Headers that a record must not show unasked: credentials, and those of HTTP itself, `:path` with its query.
fn is_secret(name: &str) -> bool {
    const SECRETS: [&str; 5] =
        ["authorization", "cookie", "proxy-authorization", "set-cookie", "x-forwarded-client-cert"];
    name.starts_with(':') || SECRETS.contains(&name)
}

/// Longest name of a header that is included.
const MAX_NAME: usize = 256;

/// A header's name (RFC 9110, section 5.1), or a pseudo-header's.
fn is_header_name(name: &str) -> bool {
    let token = name.strip_prefix(':').unwrap_or(name);
    let part = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !token.is_empty() && token.len() <= MAX_NAME && token.bytes().all(part)
}

/// Whether a path can be left out by this rule.
fn can_match(rule: &str) -> bool {
    let path = rule.strip_suffix('*').unwrap_or(rule);
    let begins = path.starts_with('/') || path.is_empty() && rule == "*";
    begins && !path.contains(['?', '#', '*'])
}

const KEYS: [&str; 19] = [
    "side",
    "session_header",
    "slow_ms",
    "full_one_in",
    "principal_from_xfcc",
    "include_secret_headers",
    "collector_cluster",
    "collector_authority",
    "collector_path",
    "payload",
    "context",
    "detail",
    "path_privacy",
    "include_headers",
    "skip_paths",
    "tick_ms",
    "batch_spans",
    "queue_bytes",
    "heartbeat_s",
];

fn text(map: &Map<String, Value>, key: &str) -> Result<Option<String>, String> {
    match map.get(key) {
        None => Ok(None),
        Some(Value::String(text)) if !text.is_empty() => Ok(Some(text.clone())),
        Some(other) => Err(format!("{key} must be a text, not {other}")),
    }
}

/// Most texts in a list.
const MAX_TEXTS: usize = meshchain_core::own::MAX_HEADERS;

fn texts(map: &Map<String, Value>, key: &str) -> Result<Vec<String>, String> {
    let Some(given) = map.get(key) else {
        return Ok(Vec::new());
    };
    let text = |value: &Value| value.as_str().filter(|t| !t.is_empty()).map(str::to_owned);
    let list = given.as_array().and_then(|list| list.iter().map(text).collect::<Option<Vec<_>>>());
    let list = list.filter(|list| list.len() <= MAX_TEXTS);
    list.ok_or_else(|| {
        format!("{key} must be a list of at most {MAX_TEXTS} texts, none of them empty")
    })
}

fn truth(map: &Map<String, Value>, key: &str) -> Result<Option<bool>, String> {
    let given = map.get(key).map(|value| value.as_bool().ok_or(value)).transpose();
    given.map_err(|other| format!("{key} must be true or false, not {other}"))
}

fn choice<T: Copy>(
    map: &Map<String, Value>,
    key: &str,
    choices: &[(&str, T)],
) -> Result<Option<T>, String> {
    let Some(given) = map.get(key) else {
        return Ok(None);
    };
    let found = choices.iter().find(|(name, _)| given.as_str() == Some(name));
    let names = || choices.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    found
        .map(|(_, value)| Some(*value))
        .ok_or_else(|| format!("{key} is {given}, which is none of {}", names()))
}

/// A whole number within bounds; istiod may print it with a fraction of 0.
fn number(
    map: &Map<String, Value>,
    key: &str,
    least: u64,
    most: u64,
) -> Result<Option<u64>, String> {
    let Some(given) = map.get(key) else {
        return Ok(None);
    };
    let whole = given.as_f64().filter(|n| n.fract() == 0.0 && *n >= 0.0).map(|n| n as u64);
    let within = whole.filter(|n| (least..=most).contains(n));
    within.map(Some).ok_or_else(|| format!("{key} must be a whole number from {least} to {most}"))
}

/// `host:port` out of Istio's `outbound|port|subset|host`; other names stand for themselves.
fn authority_of(cluster: &str) -> String {
    let parts: Vec<&str> = cluster.split('|').collect();
    match parts.as_slice() {
        ["outbound", port, _, host] => format!("{host}:{port}"),
        _ => cluster.to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_configuration_is_the_defaults() {
        for empty in ["", " \n", "{}"] {
            assert_eq!(parse(empty.as_bytes()).config, Ok(Config::default()), "{empty:?}");
        }
    }

    #[test]
    fn the_manifest_for_admins_is_a_valid_configuration() {
        let manifest = include_str!("../../envoyfilter/envoyfilter.yaml");
        let blocks: Vec<_> = manifest.split("value: |\n").skip(1).collect();
        let expected = [
            Config { side: Some(Role::Server), principal_from_xfcc: true, ..Config::default() },
            Config { side: Some(Role::Client), ..Config::default() },
        ];
        assert_eq!(blocks.len(), expected.len());
        for (block, expected) in blocks.iter().zip(expected) {
            let (json, _) = block.split_once("\n                  }\n").unwrap();
            let parsed = parse(format!("{json}}}").as_bytes());
            assert_eq!(parsed, Parsed { config: Ok(expected), notices: vec![] });
        }
    }

    #[test]
    fn every_key_is_read() {
        let parsed = parse(
            br#"{"collector_cluster": "outbound|9000||c.ns.svc", "collector_path": "/x",
                 "include_headers": ["User-Agent"], "skip_paths": ["/healthz"],
                 "payload": "digest", "context": "never", "detail": "lean", "path_privacy": "hash",
                 "side": "client", "session_header": false, "slow_ms": 5, "full_one_in": 9,
                 "principal_from_xfcc": true, "include_secret_headers": false,
                 "tick_ms": 100.0, "batch_spans": 7, "queue_bytes": 65536, "heartbeat_s": 2}"#,
        );
        let config = parsed.config.unwrap();
        assert_eq!(config.collector_authority, "c.ns.svc:9000");
        assert_eq!((config.records, config.child_spans), (false, false));
        assert_eq!((config.detail, config.side), (Detail::Lean, Some(Role::Client)));
        assert_eq!((config.slow_ms, config.full_one_in), (5, 9));
        assert_eq!((config.session_header, config.principal_from_xfcc), (false, true));
        assert_eq!(config.path_privacy, PathPrivacy::Hash);
        assert_eq!(config.include_headers, ["user-agent"]);
        assert!(config.skips(b"/healthz") && !config.skips(b"/healthz/deep"));
        assert_eq!((config.tick_ms, config.batch_spans), (100, 7));
        assert_eq!((config.queue_bytes, config.heartbeat_s), (65536, 2));
        assert!(parsed.notices.is_empty());
    }

    #[test]
    fn headers_that_carry_secrets_are_shown_only_where_it_is_said_in_so_many_words() {
        let names = r#""include_headers": ["Cookie", ":path", "x-user", "Authorization"]"#;
        let parsed = parse(format!("{{{names}}}").as_bytes());
        assert_eq!(parsed.config.unwrap().include_headers, ["x-user"]);
        assert_eq!(parsed.notices.len(), 3);
        let parsed = parse(format!(r#"{{{names}, "include_secret_headers": true}}"#).as_bytes());
        assert_eq!(parsed.config.unwrap().include_headers.len(), 4);
        assert!(parsed.notices.is_empty());
    }

    #[test]
    fn an_unknown_key_is_noted_and_a_bad_value_turns_the_filter_off() {
        let parsed = parse(br#"{"tik_ms": 1}"#);
        assert!(parsed.config.is_ok());
        assert_eq!(parsed.notices, [r#"unknown key "tik_ms" is ignored"#]);
        for bad in [
            "[]",
            "{",
            r#"{"tick_ms": "1"}"#,
            r#"{"tick_ms": 1}"#,
            r#"{"tick_ms": 10.5}"#,
            r#"{"payload": "all"}"#,
            r#"{"detail": "most"}"#,
            r#"{"side": "both"}"#,
            r#"{"session_header": "no"}"#,
            r#"{"full_one_in": 0}"#,
            r#"{"collector_cluster": 5}"#,
            r#"{"collector_path": ""}"#,
            r#"{"skip_paths": "/healthz"}"#,
            r#"{"include_headers": ["a", 1]}"#,
        ] {
            assert!(parse(bad.as_bytes()).config.is_err(), "{bad} was accepted");
        }
    }
}
