//! The principal in `x-forwarded-client-cert`, as Envoy writes that header.
//!
//! ```text
//! header  = element *( "," element )          the last one was written by the collector's own sidecar
//! element = pair *( ";" pair )                begins with By= or Hash=, and has one Hash
//! pair    = ( "By=" / "URI=" / "DNS=" ) plain     a name of a certificate
//!         / "Hash=" 1*hex
//!         / ( "Cert=" / "Chain=" / "Subject=" ) quote *( any / "\" any ) quote
//! plain   = visible characters but , ; " and \
//! ```
//!
//! With `APPEND_FORWARD` what stands before the last element came from the caller, and may be anything:
//! quotes that never end, elements that look like a sidecar's. So the header is not read from its
//! start. Each comma may be the one before the last element; what follows it must be one whole element.
//! Envoy escapes quotes, backslashes and separators in a subject, so no other comma fits: none within a
//! subject, and none before, as what opens a quote there is closed by the first quote of the sidecar's,
//! behind which no pair ends. Where two fit nevertheless, nobody is named.
//!
//! Envoy does not escape the names of a certificate. So a CA whose certificates may hold URIs or DNS names
//! with separators can make anybody look like anybody; SPIFFE's CAs sign no such names.

use meshchain_core::canonical::MAX_FIELD;
use thiserror::Error;

/// Bytes of a header that is read: with a whole certificate chain of a caller it has some 20,000.
const MOST: usize = 32 << 10;

/// Why a header names nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NoPrincipal {
    /// There is none.
    #[error("there is none")]
    Missing,
    /// More bytes than are read.
    #[error("it is longer than {MOST} bytes")]
    TooLong,
    /// No end of it is an element.
    #[error("its last element is not as Envoy writes it")]
    Malformed,
    /// More than one end of it is an element.
    #[error("its last element can be read in two ways")]
    Ambiguous,
    /// The certificate has no URI.
    #[error("the sender's certificate has no URI")]
    NoUri,
    /// The certificate has more than one URI.
    #[error("the sender's certificate has several URIs")]
    SeveralUris,
    /// The URI is no SPIFFE id.
    #[error("the URI of the sender's certificate is not a SPIFFE id")]
    NotSpiffe,
}

/// The SPIFFE id that the last element of the header names. `lines` are its values in order: several
/// lines are one list (RFC 9110, section 5.3).
pub fn principal<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Result<String, NoPrincipal> {
    let lines: Vec<_> = lines.into_iter().collect();
    if lines.is_empty() {
        return Err(NoPrincipal::Missing);
    }
    if lines.iter().map(|line| line.len() + 1).sum::<usize>() > MOST {
        return Err(NoPrincipal::TooLong);
    }
    let header = lines.join(&b',');
    let commas = (0..header.len()).filter(|&at| header[at] == b',').map(|at| at + 1);
    let mut elements = [0].into_iter().chain(commas).filter_map(|start| element(&header[start..]));
    let uris = elements.next().ok_or(NoPrincipal::Malformed)?;
    if elements.next().is_some() {
        return Err(NoPrincipal::Ambiguous);
    }
    match uris[..] {
        [] | [b""] => Err(NoPrincipal::NoUri),
        [uri] => spiffe_id(uri).ok_or(NoPrincipal::NotSpiffe),
        _ => Err(NoPrincipal::SeveralUris),
    }
}

/// The URIs of one whole element.
fn element(mut rest: &[u8]) -> Option<Vec<&[u8]>> {
    if !rest.starts_with(b"By=") && !rest.starts_with(b"Hash=") {
        return None;
    }
    let (mut uris, mut hashes) = (Vec::new(), 0);
    loop {
        let equals = rest.iter().take(8).position(|&b| b == b'=')?;
        let (key, value) = (&rest[..equals], &rest[equals + 1..]);
        let end = match key {
            b"By" | b"DNS" | b"URI" | b"Hash" => {
                // Not to the next `;`: from each of many commas that would be looked for over all the rest.
                let end = value.iter().position(|b| !is_plain(b)).unwrap_or(value.len());
                let is_hash = || end > 0 && value[..end].iter().all(u8::is_ascii_hexdigit);
                (key != b"Hash" || is_hash()).then_some(end)?
            }
            b"Cert" | b"Chain" | b"Subject" => quoted(value)?,
            _ => return None,
        };
        match key {
            b"URI" => uris.push(&value[..end]),
            b"Hash" => hashes += 1,
            _ => {}
        }
        match value[end..] {
            [] => return (hashes == 1).then_some(uris),
            [b';', ref more @ ..] => rest = more,
            _ => return None,
        }
    }
}

fn is_plain(byte: &u8) -> bool {
    byte.is_ascii_graphic() && !b",;\"\\".contains(byte)
}

/// Length of a quoted value, quotes included.
fn quoted(value: &[u8]) -> Option<usize> {
    let mut bytes = value.iter().enumerate();
    bytes.next().filter(|(_, first)| **first == b'"')?;
    loop {
        match bytes.next()? {
            (at, b'"') => return Some(at + 1),
            (_, b'\\') => drop(bytes.next()?),
            _ => {}
        }
    }
}

/// `spiffe://DOMAIN/SEGMENT/...` with nothing empty and no dot segments (SPIFFE-ID, section 2).
fn spiffe_id(uri: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(uri).ok().filter(|text| text.len() <= MAX_FIELD)?;
    let (domain, path) = text.strip_prefix("spiffe://")?.split_once('/')?;
    let named = |part: &str| {
        let known = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        !part.is_empty() && part.bytes().all(known)
    };
    let is_segment = |part: &str| named(part) && part != "." && part != "..";
    (named(domain) && path.split('/').all(is_segment)).then(|| text.to_owned())
}

#[cfg(test)]
mod envoy;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(header: &str) -> Result<String, NoPrincipal> {
        principal([header.as_bytes()])
    }

    const OURS: &str = "By=spiffe://a/ns/x/sa/y;Hash=ab;Subject=\"\";URI=spiffe://b/ns/n/sa/s";

    #[test]
    fn the_last_element_names_the_sender_whatever_stands_before() {
        let before = [
            "By=spiffe://a/ns/x/sa/y;Hash=00;URI=spiffe://evil/ns/n/sa/s",
            "Hash=00;Subject=\"",
            "Hash=00;Subject=\"\\",
            "Hash=00;URI=",
            "\"",
            "\\",
            ",,;;==",
            "\u{fc}",
            "",
        ];
        assert_eq!(read(OURS).as_deref(), Ok("spiffe://b/ns/n/sa/s"));
        for before in before {
            let one = read(&format!("{before},{OURS}"));
            assert_eq!(one.as_deref(), Ok("spiffe://b/ns/n/sa/s"), "{before}");
            let lines = principal([before.as_bytes(), OURS.as_bytes()]);
            assert_eq!(lines.as_deref(), Ok("spiffe://b/ns/n/sa/s"), "{before}");
        }
    }

    /// Bytes that are looked at, told by time: each shape at its longest, beside plain text of that length.
    #[test]
    fn no_header_takes_more_than_one_pass_or_so() {
        let shapes = [
            ",By=",
            ",Hash=",
            ",Hash=a;By=",
            ",Hash=a;Subject=\"",
            ",Hash=a;Subject=\"\\",
            ",Hash=a;Subject=\";Subject=\"",
            ",Hash=a;Subject=\"x\";DNS=",
            ",By=a;By=a;By=a;By=",
        ];
        let time = |header: &str| {
            let since = std::time::Instant::now();
            let _ = read(header);
            since.elapsed()
        };
        for shape in shapes {
            let fill = |len: usize| shape.repeat(len / shape.len());
            let least = |len| (0..5).map(|_| time(&fill(len))).min().unwrap_or_default();
            let (short, long) = (least(MOST / 16), least(MOST - 1));
            assert!(
                long < short * 100 + std::time::Duration::from_micros(50),
                "{shape}: {short:?} and {long:?}"
            );
        }
        assert_eq!(read(&",".repeat(MOST)), Err(NoPrincipal::TooLong));
    }

    #[test]
    fn what_names_nobody_is_refused_with_the_reason() {
        use NoPrincipal::*;
        assert_eq!(principal([]), Err(Missing));
        let long = format!("Hash=ab;URI=spiffe://d/{}", "x".repeat(MAX_FIELD));
        let cases = [
            ("", Malformed),
            ("URI=spiffe://a/ns/n/sa/s", Malformed),
            ("Hash=;URI=spiffe://a/ns/n/sa/s", Malformed),
            ("Hash=zz;URI=spiffe://a/ns/n/sa/s", Malformed),
            ("Hash=00;Hash=00;URI=spiffe://a/ns/n/sa/s", Malformed),
            ("By=x;URI=spiffe://a/ns/n/sa/s", Malformed),
            ("Hash=00;Role=admin;URI=spiffe://a/ns/n/sa/s", Malformed),
            ("Hash=00;Subject=CN;URI=spiffe://a/ns/n/sa/s", Malformed),
            ("Hash=00;Subject=\"CN;URI=spiffe://a/ns/n/sa/s", Malformed),
            ("Hash=00;Subject=\"a\"b;URI=spiffe://a/ns/n/sa/s", Malformed),
            ("Hash=00;URI=spiffe://a/ns/n/sa/s;", Malformed),
            ("Hash=00;URI=spiffe://a/ns/n/sa/s,", Malformed),
            ("Hash=00;URI=spiffe://a/ns/n/sa/\"s", Malformed),
            ("Hash=00;Subject=\"CN=a\"", NoUri),
            ("Hash=00;URI=", NoUri),
            ("Hash=00;URI=spiffe://a/ns/n/sa/s;URI=spiffe://a/ns/m/sa/s", SeveralUris),
            ("Hash=00;URI=;URI=spiffe://a/ns/n/sa/s", SeveralUris),
            ("Hash=00;URI=https://a/ns/n/sa/s", NotSpiffe),
            ("Hash=00;URI=spiffe:///ns/n/sa/s", NotSpiffe),
            ("Hash=00;URI=spiffe://a/ns//sa/s", NotSpiffe),
            ("Hash=00;URI=spiffe://a/ns/n/sa/", NotSpiffe),
            ("Hash=00;URI=spiffe://a/ns/n/../sa/s", NotSpiffe),
            ("Hash=00;URI=spiffe://a/ns/n%2f/sa/s", NotSpiffe),
            ("Hash=00;URI=spiffe://a", NotSpiffe),
            (&long, NotSpiffe),
        ];
        for (header, why) in cases {
            assert_eq!(read(header), Err(why), "{header}");
        }
    }
}
