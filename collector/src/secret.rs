//! Keys where they do not belong: a key that stands in the place of its file's name is the commonest mistake, and what is
//! printed ends in logs that many read.

use std::path::Path;

/// A private key has 64 hex digits; somebody may have lost some of them on the way.
const DIGITS: usize = 56;

/// Whether what is to be the name of a file is a key itself.
pub fn looks_like_a_key(path: &Path) -> bool {
    let text = path.to_string_lossy();
    hidden(&text) != text && !path.exists()
}

/// The text without any run of hex digits that may be a key.
pub fn hidden(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(begin) = rest.find(|c: char| c.is_ascii_hexdigit()) {
        let (before, run) = rest.split_at(begin);
        let end = run.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(run.len());
        out.push_str(before);
        out.push_str(if end >= DIGITS { "..." } else { &run[..end] });
        rest = &run[end..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_seen_however_it_was_pasted_and_a_file_of_such_a_name_is_none() {
        let key = "0123456789abcdefABCDEF".repeat(3)[..64].to_owned();
        let pasted = |key: &str| {
            let upper = key.to_uppercase();
            let ways = [" ", "\n", "\nlog.example", "\"", "'", ",", " 0x", "0X", "key=", "/run/"];
            let ways = ways.iter().flat_map(|way| [format!("{way}{key}"), format!("{key}{way}")]);
            ways.chain([key.to_owned(), format!("0x{upper}"), format!("0X{key}\n")])
                .collect::<Vec<_>>()
        };
        for text in pasted(&key) {
            assert!(looks_like_a_key(Path::new(&text)), "{text:?}");
            assert!(!hidden(&text).contains(&key[8..40]), "{text:?}");
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(&key);
        assert!(looks_like_a_key(&file));
        std::fs::write(&file, "").unwrap();
        assert!(!looks_like_a_key(&file), "it is a file");
        for text in
            ["key", "/etc/meshchain/anchor.key", "0x00000000000000000000000000000000000000aa"]
        {
            assert!(!looks_like_a_key(Path::new(text)), "{text}");
            assert_eq!(hidden(text), text);
        }
        assert_eq!(hidden(&format!("é {key} ü {key}")), "é ... ü ...");
    }
}
