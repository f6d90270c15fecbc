//! Bytes as hex in JSON: lower case, two digits a byte, so that equal bytes have one text.

use crate::hash::Hash;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};

/// Why a text is not hex.
const NOT_HEX: &str = "not lower-case hex of the right length";

/// The bytes of a text of lower-case digits; `None` where there is any other character, or half a byte.
fn decode(text: &str) -> Option<Vec<u8>> {
    let lower = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    hex::decode(text).ok().filter(|_| lower)
}

/// Writes bytes.
pub(crate) fn serialize<S: Serializer>(bytes: impl AsRef<[u8]>, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&hex::encode(bytes))
}

/// Reads a `Vec<u8>`, or an array of just its length.
pub(crate) fn deserialize<'de, D: Deserializer<'de>, T: TryFrom<Vec<u8>>>(
    d: D,
) -> Result<T, D::Error> {
    let bytes = decode(&String::deserialize(d)?);
    bytes.and_then(|bytes| T::try_from(bytes).ok()).ok_or_else(|| D::Error::custom(NOT_HEX))
}

/// A value that may be absent; `null` is no value.
pub(crate) mod optional {
    use super::{Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(v: &Option<Vec<u8>>, s: S) -> Result<S::Ok, S::Error> {
        match v {
            Some(bytes) => s.serialize_str(&hex::encode(bytes)),
            None => s.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<Vec<u8>>, D::Error> {
        super::deserialize(d).map(Some)
    }
}

/// A list of byte strings.
pub(crate) mod list {
    use super::{Deserialize, Deserializer, Error, NOT_HEX, Serializer, decode};

    pub(crate) fn serialize<S: Serializer, T: AsRef<[u8]>>(
        v: &[T],
        s: S,
    ) -> Result<S::Ok, S::Error> {
        s.collect_seq(v.iter().map(hex::encode))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Vec<u8>>, D::Error> {
        let texts = Vec::<String>::deserialize(d)?;
        texts.iter().map(|text| decode(text).ok_or_else(|| D::Error::custom(NOT_HEX))).collect()
    }
}

/// A Merkle proof of at most 128 hashes.
pub(crate) mod hash_list {
    use super::{Deserializer, Error, Hash, NOT_HEX, list};
    pub(crate) use list::serialize;

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Hash>, D::Error> {
        let found = list::deserialize(d)?;
        if found.len() > crate::tlog_proof::MAX_PATH * 2 {
            return Err(D::Error::custom("a proof of more than 128 hashes"));
        }
        let hash = |bytes: Vec<u8>| bytes.try_into().map_err(|_| D::Error::custom(NOT_HEX));
        found.into_iter().map(hash).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_bytes_have_one_text() {
        assert_eq!(decode(""), Some(vec![]));
        assert_eq!(decode("0aff"), Some(vec![10, 255]));
        for text in ["0A", "0aFF", "0", "0x0a", " 0a", "0a\n", "0g", "\u{ff10}0"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
