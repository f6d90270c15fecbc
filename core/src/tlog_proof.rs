//! Inclusion proofs in the text form of C2SP tlog-proof (<https://c2sp.org/tlog-proof>).

use crate::hash::Hash;
use crate::tlog_checkpoint::{parse_decimal, parse_hash};
use base64::prelude::{BASE64_STANDARD, Engine};
use thiserror::Error;

const HEADER: &str = "c2sp.org/tlog-proof@v1";
/// Longest path in a tree of 2^64 leaves.
pub const MAX_PATH: usize = 64;

/// Why a text is not a tlog-proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a tlog-proof: {0}")]
pub struct TlogProofError(&'static str);

/// A leaf's place in a log: index, inclusion proof, and the checkpoint as it was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlogProof {
    /// Leaf index, from 0.
    pub index: u64,
    /// Inclusion proof, from the leaf's sibling up.
    pub path: Vec<Hash>,
    /// The signed checkpoint, verbatim, with any cosignatures.
    pub checkpoint: String,
}

impl TlogProof {
    /// Parses the text; an `extra` line is passed over, for nothing authenticates it.
    pub fn parse(text: &str) -> Result<Self, TlogProofError> {
        let err = TlogProofError;
        let (proof, checkpoint) =
            text.split_once("\n\n").ok_or(err("no blank line before the checkpoint"))?;
        let mut lines = proof.split('\n').peekable();
        if lines.next() != Some(HEADER) {
            return Err(err("the first line is not c2sp.org/tlog-proof@v1"));
        }
        if let Some(extra) = lines.next_if(|line| line.starts_with("extra ")) {
            BASE64_STANDARD.decode(&extra[6..]).map_err(|_| err("extra is not base64"))?;
        }
        let index = lines.next().and_then(|line| parse_decimal(line.strip_prefix("index ")?));
        let index = index.ok_or(err("no index line"))?;
        let mut path = Vec::new();
        for line in lines {
            if path.len() == MAX_PATH {
                return Err(err("more than 64 hashes"));
            }
            path.push(parse_hash(line).ok_or(err("a line that is not a hash"))?);
        }
        Ok(Self { index, path, checkpoint: checkpoint.to_owned() })
    }
}

impl std::fmt::Display for TlogProof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{HEADER}\nindex {}", self.index)?;
        for hash in &self.path {
            writeln!(f, "{}", BASE64_STANDARD.encode(hash))?;
        }
        write!(f, "\n{}", self.checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_of_print_is_the_proof() {
        for path in [vec![], vec![[1; 32], [2; 32]]] {
            let proof =
                TlogProof { index: 7, path, checkpoint: "o\n8\nroot\n\n— o AAAA\n".into() };
            assert_eq!(TlogProof::parse(&proof.to_string()), Ok(proof));
        }
    }

    #[test]
    fn malformed_texts_are_refused_and_extra_is_passed_over() {
        let good = "c2sp.org/tlog-proof@v1\nextra QQ==\nindex 0\n\no\n1\nr\n";
        assert_eq!(TlogProof::parse(good).unwrap().index, 0);
        let long = format!(
            "{HEADER}\nindex 0\n{}\n\nx",
            vec![BASE64_STANDARD.encode([0; 32]); 65].join("\n")
        );
        for text in [
            "",
            HEADER,
            "c2sp.org/tlog-proof@v2\nindex 0\n\nx",
            "c2sp.org/tlog-proof@v1\nindex 00\n\nx",
            "c2sp.org/tlog-proof@v1\nindex 0\nAA==\n\nx",
            &long,
        ] {
            assert!(TlogProof::parse(text).is_err(), "{text:?}");
        }
    }
}
