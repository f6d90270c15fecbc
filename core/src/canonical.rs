//! Canonical protobuf: the one encoding of a message that MeshChain hashes.
//!
//! It is plain protobuf (any protobuf library reads it) with every freedom taken away: fields in
//! ascending order, defaults omitted, shortest varints, no unknown fields, no groups, no 32-bit
//! fields. [`Canonical::decode`] refuses all else, so equal messages have equal bytes and a digest
//! over the bytes is a digest over the message.

use thiserror::Error;

/// Longest byte string that one field of a record may carry, in bytes.
///
/// Headers can be 60 KiB and more; a receipt must stay small. What is longer is cut by the format
/// itself ([`crate::HopPart::capture`]), not by configuration.
pub const MAX_FIELD: usize = 1024;

/// Why bytes are not the canonical encoding of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The input ends within a field.
    #[error("{message}: truncated at byte {offset}")]
    Truncated {
        /// Message type.
        message: &'static str,
        /// Offset from the start of the message.
        offset: usize,
    },
    /// A varint longer than its value needs, or over 64 bits.
    #[error("{message}: varint at byte {offset} is not the shortest one")]
    Varint {
        /// Message type.
        message: &'static str,
        /// Offset from the start of the message.
        offset: usize,
    },
    /// A field out of order, given twice, unknown, or of the wrong wire type.
    #[error("{message}: field {tag} is unknown, misplaced or of the wrong type")]
    Field {
        /// Message type.
        message: &'static str,
        /// Field number as found.
        tag: u64,
    },
    /// A field whose value the format does not allow.
    #[error("{message}: field {tag}: {reason}")]
    Value {
        /// Message type.
        message: &'static str,
        /// Field number.
        tag: u32,
        /// What is wrong with the value.
        reason: &'static str,
    },
    /// The message encodes to other bytes than those given.
    #[error("{message}: not the canonical encoding")]
    NotCanonical {
        /// Message type.
        message: &'static str,
    },
}

/// One decoded field value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 2.
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    /// The integer, or `None` where the field has another wire type.
    pub fn varint(self) -> Option<u64> {
        match self {
            Value::Varint(v) => Some(v),
            Value::Bytes(_) => None,
        }
    }

    /// The bytes, or `None` where the field has another wire type.
    pub fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Value::Bytes(b) => Some(b),
            Value::Varint(_) => None,
        }
    }
}

/// A message with exactly one valid encoding.
pub trait Canonical<'a>: Sized + Default {
    /// Name used in errors.
    const NAME: &'static str;

    /// Appends the canonical encoding to `out`.
    fn encode_into(&self, out: &mut Vec<u8>);

    /// Takes in one field. `Ok(false)` where the field is unknown or of the wrong type.
    fn field(&mut self, tag: u32, value: Value<'a>) -> Result<bool, &'static str>;

    /// Checks what spans several fields, and that required fields are there.
    fn validate(&self) -> Result<(), (u32, &'static str)>;

    /// Field numbers that may repeat.
    const REPEATED: &'static [u32] = &[];

    /// The canonical encoding.
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        self.encode_into(&mut out);
        out
    }

    /// Parses `bytes`, which must be the canonical encoding and nothing else.
    fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let message = Self::NAME;
        let mut out = Self::default();
        let mut reader = Reader { message, bytes, at: 0 };
        let mut last = 0;
        while let Some((tag, value)) = reader.next()? {
            let again = tag == last && Self::REPEATED.contains(&tag);
            if tag <= last && !again {
                return Err(DecodeError::Field { message, tag: tag.into() });
            }
            last = tag;
            match out.field(tag, value) {
                Ok(true) => {}
                Ok(false) => return Err(DecodeError::Field { message, tag: tag.into() }),
                Err(reason) => return Err(DecodeError::Value { message, tag, reason }),
            }
        }
        out.validate().map_err(|(tag, reason)| DecodeError::Value { message, tag, reason })?;
        let mut again = Vec::with_capacity(bytes.len());
        out.encode_into(&mut again);
        if again != bytes {
            return Err(DecodeError::NotCanonical { message });
        }
        Ok(out)
    }
}

struct Reader<'a> {
    message: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, DecodeError> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let message = self.message;
        let key = self.varint()?;
        let tag = key >> 3;
        let bad = DecodeError::Field { message, tag };
        let small = u32::try_from(tag).ok().filter(|&t| t > 0 && t < 1 << 29).ok_or(bad)?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| bad)?;
                let end = self.at.checked_add(len).filter(|&end| end <= self.bytes.len());
                let end = end.ok_or(DecodeError::Truncated { message, offset: self.at })?;
                let bytes = &self.bytes[self.at..end];
                self.at = end;
                Value::Bytes(bytes)
            }
            _ => return Err(bad),
        };
        Ok(Some((small, value)))
    }

    fn varint(&mut self) -> Result<u64, DecodeError> {
        let (message, offset) = (self.message, self.at);
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let &byte = self
                .bytes
                .get(self.at)
                .ok_or(DecodeError::Truncated { message, offset: self.at })?;
            self.at += 1;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                let longer_than_needed = byte == 0 && shift > 0;
                return if longer_than_needed {
                    Err(DecodeError::Varint { message, offset })
                } else {
                    Ok(value)
                };
            }
        }
        Err(DecodeError::Varint { message, offset })
    }
}

/// Appends a varint.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends an integer field; nothing for the default 0.
pub fn put_uint(out: &mut Vec<u8>, tag: u32, value: u64) {
    if value != 0 {
        put_varint(out, u64::from(tag) << 3);
        put_varint(out, value);
    }
}

/// Appends a bytes, string or message field; nothing for the empty default.
pub fn put_bytes(out: &mut Vec<u8>, tag: u32, value: &[u8]) {
    if !value.is_empty() {
        put_varint(out, u64::from(tag) << 3 | 2);
        put_varint(out, value.len() as u64);
        out.extend_from_slice(value);
    }
}

/// A bytes field of exactly `N` bytes.
pub(crate) fn exact<const N: usize>(bytes: &[u8]) -> Result<[u8; N], &'static str> {
    bytes.try_into().map_err(|_| "wrong length")
}

/// A byte string of at most [`MAX_FIELD`] bytes.
pub(crate) fn short(bytes: &[u8]) -> Result<&[u8], &'static str> {
    if bytes.len() > MAX_FIELD { Err("longer than 1024 bytes") } else { Ok(bytes) }
}

/// An integer that must fit 32 bits.
pub(crate) fn small(value: u64) -> Result<u32, &'static str> {
    u32::try_from(value).map_err(|_| "over 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq)]
    struct Sample<'a> {
        number: u64,
        text: &'a [u8],
    }

    impl<'a> Canonical<'a> for Sample<'a> {
        const NAME: &'static str = "Sample";
        fn encode_into(&self, out: &mut Vec<u8>) {
            put_uint(out, 1, self.number);
            put_bytes(out, 2, self.text);
        }
        fn field(&mut self, tag: u32, value: Value<'a>) -> Result<bool, &'static str> {
            match (tag, value) {
                (1, Value::Varint(v)) => self.number = v,
                (2, Value::Bytes(b)) => self.text = b,
                _ => return Ok(false),
            }
            Ok(true)
        }
        fn validate(&self) -> Result<(), (u32, &'static str)> {
            Ok(())
        }
    }

    #[test]
    fn decode_of_encode_is_the_message() {
        for number in [0, 1, 127, 128, u64::from(u32::MAX), u64::MAX] {
            let message = Sample { number, text: b"x" };
            assert_eq!(Sample::decode(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn every_freedom_of_protobuf_is_refused() {
        let cases: [(&str, &[u8]); 10] = [
            ("explicit default number", &[0x08, 0x00]),
            ("explicit empty bytes", &[0x12, 0x00]),
            ("fields out of order", &[0x12, 0x01, b'x', 0x08, 0x01]),
            ("field given twice", &[0x08, 0x01, 0x08, 0x02]),
            ("overlong varint", &[0x08, 0x81, 0x00]),
            ("varint over 64 bits", &[0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2]),
            ("unknown field", &[0x18, 0x01]),
            ("wrong wire type", &[0x0d, 0, 0, 0, 0]),
            ("truncated bytes", &[0x12, 0x05, b'x']),
            ("field number 0", &[0x00, 0x01]),
        ];
        for (name, bytes) in cases {
            assert!(Sample::decode(bytes).is_err(), "{name} was accepted");
        }
    }
}
