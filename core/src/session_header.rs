//! `x-meshchain-session`: what a client's proxy tells the server's of itself.
//!
//! ```text
//! 000102030405060708090a0b0c0d0e0f;w3c;id=6b1d4e0f-3c5a-4f8e-9d27-1a2b3c4d5e6f
//! session id, 32 lower-case digits |    the request id, to the end of the value
//!                                  the context is the one in traceparent
//! ```
//!
//! Both parameters may be absent. The header crosses the wire, so both sides read the same.

use crate::context::without_space;
use crate::session::SessionId;

/// Name of the header.
pub const NAME: &str = "x-meshchain-session";

/// Longest request id that is sent along, in bytes.
pub const MAX_ID: usize = 256;

/// A parsed header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionHeader<'a> {
    /// The sender's session.
    pub session: SessionId,
    /// The sender's tracer writes W3C, so `traceparent` counts before B3.
    pub w3c: bool,
    /// The request id, where there is one; `x-request-id` may be lost or made up on the way.
    pub request_id: Option<&'a [u8]>,
}

impl<'a> SessionHeader<'a> {
    /// `None` for any value that [`Self::write`] does not write.
    pub fn parse(value: &'a [u8]) -> Option<Self> {
        let (digits, mut rest) = value.split_at_checked(32)?;
        let mut session = SessionId::default();
        hex::decode_to_slice(digits, &mut session).ok()?;
        let w3c = rest.strip_prefix(W3C).inspect(|tail| rest = tail).is_some();
        let request_id = rest.strip_prefix(ID).inspect(|_| rest = &[]);
        let valid = rest.is_empty()
            && session != SessionId::default()
            && !digits.iter().any(u8::is_ascii_uppercase)
            && request_id.is_none_or(|id| (1..=MAX_ID).contains(&id.len()));
        valid.then_some(Self { session, w3c, request_id })
    }

    /// The header's value. A request id without anything but white space is left out, a long one is cut to [`MAX_ID`]
    /// bytes: both sides then know it by these.
    pub fn write(&self) -> Vec<u8> {
        let mut out = hex::encode(self.session).into_bytes();
        if self.w3c {
            out.extend_from_slice(W3C);
        }
        let id = self.request_id.map(without_space);
        // A space that ends the value would be lost on the way.
        let id = id.map(|id| without_space(id.get(..MAX_ID).unwrap_or(id)));
        if let Some(id) = id.filter(|id| !id.is_empty()) {
            out.extend_from_slice(ID);
            out.extend_from_slice(id);
        }
        out
    }
}

const W3C: &[u8] = b";w3c";
const ID: &[u8] = b";id=";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_as_it_was_written() {
        let long = [b'a'; MAX_ID + 1];
        for w3c in [false, true] {
            for request_id in [None, Some(&b"a;id=b"[..]), Some(&long[1..])] {
                let header = SessionHeader { session: [7; 16], w3c, request_id };
                assert_eq!(SessionHeader::parse(&header.write()), Some(header));
            }
            let spaced = [&[b'a'; MAX_ID - 1][..], b" b"].concat();
            for (request_id, expected) in [
                (Some(&b""[..]), None),
                (Some(&b" \t"[..]), None),
                (Some(&b" a b\t"[..]), Some(&b"a b"[..])),
                (Some(&long[..]), Some(&long[..MAX_ID])),
                (Some(&spaced[..]), Some(&spaced[..MAX_ID - 1])),
            ] {
                let header = SessionHeader { session: [7; 16], w3c, request_id };
                let read = SessionHeader { request_id: expected, ..header };
                assert_eq!(SessionHeader::parse(&header.write()), Some(read));
            }
        }
    }

    #[test]
    fn other_values_say_nothing() {
        let id = "000102030405060708090a0b0c0d0e0f";
        let others = [
            String::new(),
            id[1..].to_owned(),
            format!("{id}0"),
            format!("{id};"),
            format!("{id};id="),
            format!("{id};id=1;w3c").replace(";w3c", &"x".repeat(MAX_ID)),
            format!("{id};W3C"),
            id.to_uppercase(),
            "0".repeat(32),
            format!("{id},{id}"),
        ];
        for value in others {
            assert_eq!(SessionHeader::parse(value.as_bytes()), None, "{value}");
        }
    }
}
