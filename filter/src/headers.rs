//! A header map as the host hands it over, read in place.

/// Serialized header pairs: count (u32), then for each pair the lengths of name and value (u32
/// each), then each name and value with a 0 behind it; all little-endian. Duplicates are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderMap(Vec<u8>);

impl HeaderMap {
    /// Wraps what the host returned; nothing is checked until it is read.
    pub fn new(serialized: Vec<u8>) -> Self {
        Self(serialized)
    }

    /// The bytes, to be used again.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Bytes of memory that it takes.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }

    /// The pairs in order. Stops early where the host's serialization is broken.
    pub fn iter(&self) -> Pairs<'_> {
        let lengths_end = self.count().saturating_mul(8).saturating_add(4);
        Pairs { bytes: &self.0, lengths: 4, lengths_end, at: lengths_end }
    }

    /// Number of pairs, as the host states it.
    pub fn count(&self) -> usize {
        self.0.get(..4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes) as usize
    }

    /// First value of a header; `name` in lower case.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    /// Whether there are no headers at all, as for a request that could not be parsed.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

/// Iterator over the pairs of a [`HeaderMap`].
pub struct Pairs<'a> {
    bytes: &'a [u8],
    lengths: usize,
    lengths_end: usize,
    at: usize,
}

impl<'a> Pairs<'a> {
    fn length(&mut self) -> Option<usize> {
        let end = self.lengths.checked_add(4).filter(|&end| end <= self.lengths_end)?;
        let bytes = self.bytes.get(self.lengths..end)?.try_into().ok()?;
        self.lengths = end;
        Some(u32::from_le_bytes(bytes) as usize)
    }

    fn text(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let text = self.bytes.get(self.at..end)?;
        self.at = end.checked_add(1)?;
        Some(text)
    }
}

impl<'a> Iterator for Pairs<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, value) = (self.length()?, self.length()?);
        Some((self.text(name)?, self.text(value)?))
    }
}

/// Pairs as the host takes them.
pub fn serialize(pairs: &[(&[u8], &[u8])]) -> HeaderMap {
    let mut out = (pairs.len() as u32).to_le_bytes().to_vec();
    for (name, value) in pairs {
        out.extend_from_slice(&(name.len() as u32).to_le_bytes());
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    }
    for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
        out.extend_from_slice(text);
        out.push(0);
    }
    HeaderMap(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pairs_come_back_with_duplicates_and_bytes_that_are_not_utf8() {
        let pairs: &[(&[u8], &[u8])] = &[(b"a", b"1"), (b"a", b"\xff\xfe"), (b"b", b"")];
        let map = serialize(pairs);
        assert_eq!(map.iter().collect::<Vec<_>>(), pairs);
        assert_eq!(map.get(b"a"), Some(&b"1"[..]));
        assert!(HeaderMap::default().is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_from_the_host_are_read_without_a_panic(bytes: Vec<u8>) {
            let _ = HeaderMap::new(bytes).iter().count();
        }
    }
}
