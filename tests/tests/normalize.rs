//! What an Envoy may do to a path or an authority before any filter sees it changes nothing of the
//! canonical form: against a model of Envoy's steps, in Envoy's order, each on or off.
//!
//! Sources: `ConnectionManagerUtility::maybeNormalizePath` and `maybeNormalizeHost`, `PathUtil` and
//! `HeaderUtility` of Envoy 1.40, and the path canonicalization of googleurl, which Envoy calls.

use meshchain_core::target::{canonical_authority, canonical_path};
use proptest::prelude::*;

fn rule(path: &[u8]) -> Vec<u8> {
    canonical_path(path, &mut Vec::new()).to_vec()
}

/// A listener's settings about paths.
#[derive(Debug, Clone, Copy)]
struct Setting {
    /// `path_with_escaped_slashes_action`: UNESCAPE_AND_FORWARD, else KEEP_UNCHANGED.
    unescape: bool,
    /// `normalize_path`
    normalize: bool,
    /// `merge_slashes`
    merge: bool,
}

impl Setting {
    fn all() -> impl Iterator<Item = Self> {
        (0..8).map(|bits| Self {
            unescape: bits & 1 != 0,
            normalize: bits & 2 != 0,
            merge: bits & 4 != 0,
        })
    }

    /// The path as this listener hands it on; `None` where it refuses the request.
    fn apply(self, path: &[u8]) -> Option<Vec<u8>> {
        let mut path = path.to_vec();
        if self.unescape {
            for (escape, byte) in [("%2F", b'/'), ("%2f", b'/'), ("%5C", b'\\'), ("%5c", b'\\')] {
                path = replaced(&path, escape.as_bytes(), byte);
            }
        }
        if self.normalize {
            path = Googleurl { input: &without_dot_parameters(&path) }.canonicalize()?;
        }
        if self.merge && path.windows(2).any(|two| two == b"//") {
            path = merged(&path);
        }
        Some(path)
    }
}

fn replaced(text: &[u8], from: &[u8], to: u8) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), text);
    while let Some((&byte, tail)) = rest.split_first() {
        match rest.strip_prefix(from) {
            Some(behind) => (out.push(to), rest = behind),
            None => (out.push(byte), rest = tail),
        };
    }
    out
}

/// A segment of dots and parameters is one of dots, where neither is escaped.
fn without_dot_parameters(path: &[u8]) -> Vec<u8> {
    let bare = |segment: &[u8]| -> Vec<u8> {
        match segment.split(|b| *b == b';').next() {
            Some(dots @ (b"." | b"..")) => dots.to_vec(),
            _ => segment.to_vec(),
        }
    };
    path.split(|b| *b == b'/').map(bare).collect::<Vec<_>>().join(&b'/')
}

/// As `PathUtil::mergeSlashes` does it, which leaves two slashes of a path of slashes alone.
fn merged(path: &[u8]) -> Vec<u8> {
    let segments: Vec<_> = path.split(|b| *b == b'/').filter(|s| !s.is_empty()).collect();
    let end: &[u8] = if path.ends_with(b"/") { b"/" } else { b"" };
    [b"/", segments.join(&b'/').as_slice(), end].concat()
}

/// `url::CanonicalizePath`.
struct Googleurl<'a> {
    input: &'a [u8],
}

enum AfterDot {
    Name,
    Current(usize),
    Up(usize),
}

impl Googleurl<'_> {
    fn canonicalize(&self) -> Option<Vec<u8>> {
        let (mut out, mut at, mut stray) = (Vec::new(), 0, None::<usize>);
        while let Some(&byte) = self.input.get(at) {
            let dot = self.dot(at);
            if dot > 0 {
                let after = match out.last() {
                    Some(b'/') => self.after_dot(at + dot),
                    _ => AfterDot::Name,
                };
                at += dot;
                match after {
                    AfterDot::Name => out.push(b'.'),
                    AfterDot::Current(more) => at += more,
                    AfterDot::Up(more) => {
                        back_up(&mut out);
                        stray = stray.filter(|&s| s < out.len());
                        at += more;
                    }
                }
                continue;
            }
            at += 1;
            match byte {
                b'\\' => out.push(b'/'),
                b'%' => match escape(&self.input[at - 1..]) {
                    None => {
                        stray = Some(out.len());
                        out.push(b'%');
                    }
                    Some(0) => return None,
                    Some(value) => {
                        at += 2;
                        if value.is_ascii_alphanumeric() || b"-._~".contains(&value) {
                            out.push(value);
                            if let Some(stray) = stray {
                                unnest(&mut out, stray, self.input.get(at));
                            }
                        } else {
                            out.extend_from_slice(&self.input[at - 3..at]);
                        }
                    }
                },
                0 => return None,
                b'\x01'..=b' ' | b'\x7f'.. => out.extend(format!("%{byte:02X}").bytes()),
                byte if b"\"<>`{}|^".contains(&byte) => out.extend(format!("%{byte:02X}").bytes()),
                byte => out.push(byte),
            }
        }
        Some(out)
    }

    /// Length of the dot at this place, 0 where there is none.
    fn dot(&self, at: usize) -> usize {
        match self.input.get(at..).unwrap_or_default() {
            [b'.', ..] => 1,
            [b'%', b'2', b'e' | b'E', ..] => 3,
            _ => 0,
        }
    }

    fn after_dot(&self, at: usize) -> AfterDot {
        if let Some(more) = self.segment_end(at) {
            return AfterDot::Current(more);
        }
        let dot = self.dot(at);
        match self.segment_end(at + dot) {
            Some(more) if dot > 0 => AfterDot::Up(dot + more),
            _ => AfterDot::Name,
        }
    }

    /// Whether the segment ends here: 1 with its slash, 0 at the end of the path.
    fn segment_end(&self, at: usize) -> Option<usize> {
        match self.input.get(at) {
            None => Some(0),
            Some(b'/' | b'\\') => Some(1),
            Some(_) => None,
        }
    }
}

/// Behind the slash before the last segment.
fn back_up(out: &mut Vec<u8>) {
    if out.len() > 1 {
        out.pop();
        while out.last() != Some(&b'/') {
            out.pop();
        }
    }
}

fn escape(text: &[u8]) -> Option<u8> {
    let digits = text.strip_prefix(b"%")?.get(..2)?;
    let digit = |byte: u8| char::from(byte).to_digit(16);
    Some((digit(digits[0])? * 16 + digit(digits[1])?) as u8)
}

/// `CheckForNestedEscapes`: the character just decoded must not make an escape of a stray `%`.
fn unnest(out: &mut Vec<u8>, stray: usize, next: Option<&u8>) {
    let mut looked_at = out[stray..].to_vec();
    match looked_at.len() {
        2 => match next {
            Some(next) => looked_at.push(*next),
            None => return,
        },
        3 => {}
        _ => return,
    }
    if escape(&looked_at).is_some() {
        out.splice(stray + 1..stray + 1, *b"25");
    }
}

/// The one kind that no rule absorbs: a `..` eats what listeners take for different things, so that
/// they forward requests of two resources. That is an empty segment, one with an escaped slash, or a
/// dot segment with parameters which Envoy takes for a name; or the parameters of a dot segment, which
/// it drops, hold a slash of another spelling.
fn dots_eat_what_listeners_differ_about(path: &[u8]) -> bool {
    let unescape = Setting { unescape: true, normalize: false, merge: false };
    let unescaped = unescape.apply(path).expect("nothing is refused");
    [false, true].into_iter().any(|rule| eats(path, rule) || eats(&unescaped, rule))
}

/// In Envoy's view of which segments are dots, or in the rule's.
fn eats(path: &[u8], rule: bool) -> bool {
    let holds_slash = |segment: &[u8]| {
        (0..segment.len()).any(|at| matches!(escape(&segment[at..]), Some(b'/' | b'\\')))
    };
    let mut kept: Vec<&[u8]> = Vec::new();
    for whole in path.split(|b| *b == b'/').skip(1) {
        let raw_dots = without_dot_parameters(whole) != whole;
        if raw_dots && (whole.contains(&b'\\') || holds_slash(whole)) {
            return true;
        }
        for segment in whole.split(|b| *b == b'\\') {
            let dots = replaced(&replaced(segment, b"%2e", b'.'), b"%2E", b'.');
            let bare = without_dot_parameters(&dots);
            let taken = rule || raw_dots || dots == bare;
            match bare.as_slice() {
                b"." if taken => {}
                b".." if taken => match kept.pop() {
                    Some(eaten) if eaten.is_empty() || holds_slash(eaten) || is_dots(eaten) => {
                        return true;
                    }
                    _ => {}
                },
                _ => kept.push(segment),
            }
        }
    }
    false
}

/// Whether the rule takes a segment that Envoy keeps for one of dots.
fn is_dots(segment: &[u8]) -> bool {
    let dots = replaced(&replaced(segment, b"%2e", b'.'), b"%2E", b'.');
    matches!(without_dot_parameters(&dots).as_slice(), b"." | b"..")
}

/// Paths made of what the steps are about.
fn path() -> impl Strategy<Value = Vec<u8>> {
    const PARTS: [&str; 50] = [
        "/", "/", "/", "/", "a", "b", ".", "..", "..", "/..", "/../", "/./", "%2e", "%2E", "%2f",
        "%2F", "%5c", "%5C", "\\", "%41", "%62", "%7e", "~", "%20", "%25", "%252f", ";x=1", ";",
        "%c3%a9", "%C3", "+", "%", "%", "%z", "2", "f", ":", "|", "\"", "<", " ", "\u{e9}", "%2",
        "%00", "..;", "/..;x", "%2e;", "/.;", "%3b", "\\..",
    ];
    proptest::collection::vec(proptest::sample::select(&PARTS[..]), 0..9)
        .prop_map(|parts| format!("/{}", parts.concat()).into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn no_setting_of_a_listener_changes_the_canonical_path(path in path()) {
        let canonical = rule(&path);
        let true_dispute = dots_eat_what_listeners_differ_about(&path);
        for setting in Setting::all() {
            let Some(shown) = setting.apply(&path) else { continue };
            prop_assert!(
                rule(&shown) == canonical || true_dispute,
                "{:?} makes {} of {}, which is {} and not {}", setting, shown.escape_ascii(),
                path.escape_ascii(), rule(&shown).escape_ascii(), canonical.escape_ascii(),
            );
        }
    }
}

#[test]
fn the_kind_that_no_rule_absorbs_is_recognised_and_nothing_else_is() {
    let differs = |path: &str| {
        let shown = Setting::all().filter_map(|setting| setting.apply(path.as_bytes()));
        let mut forms: Vec<_> = shown.map(|path| rule(&path)).collect();
        forms.sort();
        forms.dedup();
        forms.len() > 1
    };
    for path in [
        "/a%2fb/..",
        "/a//..",
        "/x/a%2f../..",
        "/a%5cb/../c",
        "/a//%2e%2e/b",
        "/a/%2F../b",
        "/a/%2e%2e;x/..",
        "/a\\..;x/..",
        "/a/..;x\\y/z",
        "/a/..;%2fy/z",
    ] {
        assert!(dots_eat_what_listeners_differ_about(path.as_bytes()), "{path}");
        assert!(differs(path), "{path}");
    }
    for path in [
        "/a%2fb/c/..",
        "/a//b/..",
        "/..",
        "//a/../b",
        "/a%2f..",
        "/a/..;x",
        "/%2f/a/../b",
        "/a\\b/..",
    ] {
        assert!(!dots_eat_what_listeners_differ_about(path.as_bytes()), "{path}");
        assert!(!differs(path), "{path}");
    }
}

#[test]
fn the_model_does_what_envoy_was_seen_to_do() {
    let all = Setting { unescape: true, normalize: true, merge: true };
    let normalize = Setting { unescape: false, merge: false, ..all };
    for (setting, given, expected) in [
        (normalize, "/a/../b", "/b"),
        (normalize, "/a%2fb/..", "/"),
        (normalize, "/%%41b", "/%25Ab"),
        (normalize, "/%2%66", "/%252f"),
        (normalize, "/%c3%a9 ", "/%c3%a9%20"),
        (normalize, "/a//..", "/a/"),
        (all, "/a%2fb/..", "/a/"),
        (all, "/a%5cb//c", "/a/b/c"),
    ] {
        let shown = setting.apply(given.as_bytes()).expect("not refused");
        assert_eq!(shown.escape_ascii().to_string(), expected, "{given}");
    }
}

mod host {
    //! `maybeNormalizeHost`: the trailing dot first, then the port.

    /// `HeaderUtility::stripTrailingHostDot`.
    pub(super) fn without_dot(host: &str) -> String {
        let Some(dot) = host.rfind('.') else { return host.to_owned() };
        match &host[dot + 1..] {
            "" => host[..dot].to_owned(),
            behind if behind.starts_with(':') => format!("{}{behind}", &host[..dot]),
            _ => host.to_owned(),
        }
    }

    /// `HeaderUtility::stripPortFromHost`, any port or one only.
    pub(super) fn without_port(host: &str, only: Option<u32>) -> String {
        let Some(colon) = host.rfind(':') else { return host.to_owned() };
        let in_brackets = host.rfind(']').is_some_and(|bracket| bracket > colon);
        match host[colon + 1..].parse::<u32>() {
            Ok(port) if !in_brackets && only.is_none_or(|only| only == port) => {
                host[..colon].to_owned()
            }
            _ => host.to_owned(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn no_setting_of_a_listener_changes_the_canonical_authority(
        // Authorities as RFC 3986 writes them, and others that Envoy takes.
        host in prop_oneof![
            "[a-cA-C.-]{0,8}",
            "\\[[0-9a-fA-F:]{2,9}\\]",
            "[0-9.]{1,9}",
            "[a-bA.:+0-9\\[\\]-]{0,9}",
        ],
        port in prop_oneof![Just(String::new()), ":[0-9]{1,6}", ":80", ":\\+80", "\\.:80", ":80\\."],
        upper: bool,
    ) {
        let given = format!("{host}{port}");
        let given = if upper { given.to_ascii_uppercase() } else { given };
        let rule = |host: &str| canonical_authority(host.as_bytes(), &mut Vec::new()).to_vec();
        for dot in [false, true] {
            for port in [None, Some(None), Some(Some(80)), Some(Some(8080))] {
                for port_first in [false, true] {
                    let strip = |host: String| match port {
                        Some(only) => host::without_port(&host, only),
                        None => host,
                    };
                    let mut shown = if port_first { strip(given.clone()) } else { given.clone() };
                    shown = if dot { host::without_dot(&shown) } else { shown };
                    shown = if port_first { shown } else { strip(shown) };
                    prop_assert_eq!(rule(&shown), rule(&given), "{} of {}", shown, given);
                    prop_assert_eq!(rule(&shown.to_lowercase()), rule(&given), "{} of {}", shown, given);
                }
            }
        }
    }
}
