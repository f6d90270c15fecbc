//! Canonical path and authority: what both sides of a call make of a request target, whatever each
//! one's Envoy did to it before a filter could look.
//!
//! A listener may unescape slashes, normalize and merge slashes in a path, and strip port and
//! trailing dot of an authority, each by its own mesh's setting. The rules here do all of that, so
//! for each setting N and each value v, `rule(N(v)) == rule(v)`. Written down in `docs/format.md`,
//! "Canonical path" and "Canonical authority", with the one case that no rule can absorb.

/// What a byte of a path asks for; all else is passed over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Plain,
    Slash,
    Dot,
    /// An escape, a backslash, or a byte that a path must escape.
    Special,
}

const CLASSES: [Class; 256] = {
    let mut classes = [Class::Plain; 256];
    let mut byte = 0;
    while byte < 256 {
        if must_escape(byte as u8) || byte == b'%' as usize || byte == b'\\' as usize {
            classes[byte] = Class::Special;
        }
        byte += 1;
    }
    classes[b'/' as usize] = Class::Slash;
    classes[b'.' as usize] = Class::Dot;
    classes
};

/// Bytes that Envoy's normalization escapes.
const fn must_escape(byte: u8) -> bool {
    byte <= b' '
        || byte >= 0x7f
        || matches!(byte, b'"' | b'<' | b'>' | b'`' | b'{' | b'}' | b'|' | b'^')
}

/// Bytes that never need an escape (RFC 3986, "unreserved").
const fn unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// The canonical form of a path without query and fragment: `path` itself where there is nothing
/// to do, which one pass over its bytes tells, else in `room`. What does not begin with a slash
/// (`*`) stays as it is.
pub fn canonical_path<'a>(path: &'a [u8], room: &'a mut Vec<u8>) -> &'a [u8] {
    if is_canonical(path) {
        return path;
    }
    let flat = unescape(path);
    room.clear();
    resolve(&flat, room);
    room
}

/// Whether a path has nothing to decode or escape, and neither an empty segment nor one that
/// begins with a dot.
fn is_canonical(path: &[u8]) -> bool {
    let Some((b'/', rest)) = path.split_first() else {
        return true;
    };
    let mut after_slash = true;
    for &byte in rest {
        match CLASSES[usize::from(byte)] {
            Class::Plain => after_slash = false,
            Class::Slash if after_slash => return false,
            Class::Slash => after_slash = true,
            Class::Dot if after_slash => return false,
            Class::Dot => {}
            Class::Special => return false,
        }
    }
    true
}

/// Decodes escaped slashes, backslashes and unreserved characters, turns backslashes into slashes,
/// writes the escapes that stay in upper case, and escapes what must be.
fn unescape(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len() + 16);
    let mut rest = path;
    while let Some((&byte, tail)) = rest.split_first() {
        if let Some((value, tail)) = escape(rest) {
            match value {
                b'/' | b'\\' => out.push(b'/'),
                value if unreserved(value) => push_decoded(&mut out, value, tail),
                value => push_escape(&mut out, value),
            }
            rest = tail;
            continue;
        }
        match byte {
            b'\\' => out.push(b'/'),
            byte if must_escape(byte) => push_escape(&mut out, byte),
            byte => out.push(byte),
        }
        rest = tail;
    }
    out
}

/// The value of the escape at the start of `text`, and what comes behind it.
fn escape(text: &[u8]) -> Option<(u8, &[u8])> {
    let ([b'%', high, low], tail) = text.split_first_chunk::<3>()? else {
        return None;
    };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    Some(((digit(*high)? << 4 | digit(*low)?) as u8, tail))
}

fn push_escape(out: &mut Vec<u8>, value: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.extend([b'%', DIGITS[usize::from(value >> 4)], DIGITS[usize::from(value & 15)]]);
}

/// Appends a decoded character. A stray `%` before it must not become an escape by that, so it is
/// written as `%25` then.
fn push_decoded(out: &mut Vec<u8>, value: u8, tail: &[u8]) {
    if value.is_ascii_hexdigit() {
        match out.as_slice() {
            [.., b'%'] if tail.first().is_some_and(u8::is_ascii_hexdigit) => out.extend(b"25"),
            [.., b'%', digit] if digit.is_ascii_hexdigit() => {
                let digit = *digit;
                out.pop();
                out.extend([b'2', b'5', digit]);
            }
            _ => {}
        }
    }
    out.push(value);
}

/// Takes dot segments out of a path of slashes (RFC 3986 section 5.2.4, also where parameters
/// follow the dots), then empty segments but a last one.
fn resolve(flat: &[u8], out: &mut Vec<u8>) {
    let mut segments: Vec<&[u8]> = Vec::new();
    let mut parts = flat.split(|&byte| byte == b'/').skip(1).peekable();
    while let Some(segment) = parts.next() {
        let name = segment.split(|&byte| byte == b';').next().unwrap_or_default();
        match name {
            b"." => {}
            b".." => {
                segments.pop();
            }
            _ => {
                segments.push(segment);
                continue;
            }
        }
        if parts.peek().is_none() {
            segments.push(b"");
        }
    }
    let last = segments.pop().unwrap_or_default();
    for segment in segments.into_iter().filter(|segment| !segment.is_empty()) {
        out.push(b'/');
        out.extend_from_slice(segment);
    }
    out.push(b'/');
    out.extend_from_slice(last);
}

/// The canonical form of an authority: lower case, without port and trailing dots. `authority`
/// itself or a part of it where no byte changes, else in `room`.
pub fn canonical_authority<'a>(authority: &'a [u8], room: &'a mut Vec<u8>) -> &'a [u8] {
    let host = without_end(authority);
    if dot_before_colon(host).is_none() && !host.iter().any(u8::is_ascii_uppercase) {
        return host;
    }
    room.clear();
    // From the end: each dot that is the last one and stands before a colon goes, until one does not.
    let mut goes = true;
    for byte in host.iter().rev() {
        if *byte == b'.' && goes {
            goes = room.last() == Some(&b':');
            if goes {
                continue;
            }
        }
        room.push(byte.to_ascii_lowercase());
    }
    room.reverse();
    let length = without_end(room).len();
    room.truncate(length);
    room
}

/// Without trailing dots and ports, in whatever order they stand.
fn without_end(mut host: &[u8]) -> &[u8] {
    loop {
        let shorter = without_port(host.strip_suffix(b".").unwrap_or(host));
        if shorter.len() == host.len() {
            return host;
        }
        host = shorter;
    }
}

/// Without `:`, a plus sign if any, and digits at the end; the colons of an IPv6 address stand in
/// brackets. That is what Envoy takes for a port.
fn without_port(host: &[u8]) -> &[u8] {
    let end = host.iter().rposition(|byte| !byte.is_ascii_digit());
    match end.and_then(|end| host.split_at_checked(end)) {
        Some((name, [b':', _, ..])) => name,
        Some(([name @ .., b':'], [b'+', _, ..])) => name,
        _ => host,
    }
}

/// Where the last dot stands, if a colon follows it: Envoy takes the dot of such a host away, whether a port
/// follows or not.
fn dot_before_colon(host: &[u8]) -> Option<usize> {
    let at = host.iter().rposition(|byte| *byte == b'.')?;
    (host.get(at + 1) == Some(&b':')).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> String {
        String::from_utf8(canonical_path(text.as_bytes(), &mut Vec::new()).to_vec()).unwrap()
    }

    fn authority(text: &str) -> String {
        String::from_utf8(canonical_authority(text.as_bytes(), &mut Vec::new()).to_vec()).unwrap()
    }

    #[test]
    fn each_step_of_the_rule_shows() {
        for (given, expected) in [
            ("", ""),
            ("*", "*"),
            ("a//b", "a//b"),
            ("/", "/"),
            ("/a/b.c/d", "/a/b.c/d"),
            ("//", "/"),
            ("/a//b/", "/a/b/"),
            ("/a%2fb%5Cc\\d", "/a/b/c/d"),
            ("/%41%7e%2e%2E/x", "/A~../x"),
            ("/a/./b/../c", "/a/c"),
            ("/a/%2e%2e/b", "/b"),
            ("/a/..;x=1/b;y", "/b;y"),
            ("/a/.", "/a/"),
            ("/a/..", "/"),
            ("/../..", "/"),
            ("/...", "/..."),
            ("/a/.b", "/a/.b"),
            ("/%c3%a9%20", "/%C3%A9%20"),
            ("/\u{e9} |\"", "/%C3%A9%20%7C%22"),
            ("/%", "/%"),
            ("/%zz%4", "/%zz%4"),
            ("/%%41", "/%A"),
            ("/%%41b", "/%25Ab"),
            ("/%2%66", "/%252f"),
            ("/%252f", "/%252f"),
        ] {
            assert_eq!(path(given), expected, "{given}");
        }
    }

    #[test]
    fn an_authority_is_a_host_in_lower_case() {
        for (given, expected) in [
            ("", ""),
            ("shop", "shop"),
            ("Shop.Example:8080", "shop.example"),
            ("shop.example.:80", "shop.example"),
            ("shop.example:80.", "shop.example"),
            ("shop:80:81", "shop"),
            ("shop:", "shop:"),
            ("shop:+80", "shop"),
            ("shop:+", "shop:+"),
            ("shop.:http", "shop:http"),
            ("shop..:http", "shop:http"),
            ("[.:]", "[:]"),
            ("a.:1.:x", "a:1:x"),
            ("shop:http", "shop:http"),
            ("[::1]:80", "[::1]"),
            ("[2001:DB8::1]", "[2001:db8::1]"),
            ("10.0.0.1:9080", "10.0.0.1"),
        ] {
            assert_eq!(authority(given), expected, "{given}");
        }
    }

    /// The rule as it is written down, step by step.
    fn authority_by_steps(text: &[u8]) -> Vec<u8> {
        let mut host = without_end(text).to_ascii_lowercase();
        while let Some(at) = dot_before_colon(&host) {
            host.remove(at);
            host = without_end(&host).to_vec();
        }
        host
    }

    #[test]
    fn what_a_caller_can_make_long_takes_one_pass() {
        const LENGTH: usize = 4 << 20; // a pass for each byte would take hours
        let shapes: [&[u8]; 14] = [
            b".", b":", b".:", b":1", b"/", b"/..", b"/.", b"//", b"%", b"%2e", b"%%41", b"/a;",
            b"/%2e%2e", b"\\",
        ];
        let ends: [&[u8]; 5] = [b"", b":a", b":80", b".", b"/../x"];
        for (shape, end) in shapes.iter().flat_map(|shape| ends.map(|end| (shape, end))) {
            for begin in [&b""[..], b"/a", b"A"] {
                let text = [begin, &shape.repeat(LENGTH / shape.len()), end].concat();
                canonical_authority(&text, &mut Vec::new());
                canonical_path(&text, &mut Vec::new());
            }
        }
        let dots = [&b".".repeat(LENGTH)[..], b":", &b"a".repeat(LENGTH)].concat();
        assert_eq!(canonical_authority(&dots, &mut Vec::new()).len(), LENGTH + 1);
    }

    proptest! {
        #[test]
        fn a_canonical_value_is_its_own_canonical_form(text in "[/.%;:+A-c0-9 \\\\|é]{0,40}") {
            prop_assert_eq!(path(&path(&text)), path(&text));
            prop_assert_eq!(authority(&authority(&text)), authority(&text));
        }

        #[test]
        fn an_authority_in_one_pass_is_that_of_the_steps(text in "[.:+A1a]{0,24}") {
            prop_assert_eq!(authority(&text).into_bytes(), authority_by_steps(text.as_bytes()));
        }

        #[test]
        fn any_bytes_are_taken(bytes: Vec<u8>) {
            let mut room = Vec::new();
            let once = canonical_path(&bytes, &mut room).to_vec();
            prop_assert!(bytes.first() != Some(&b'/') || once.first() == Some(&b'/'));
            canonical_authority(&bytes, &mut room);
        }
    }
}
