//! Vector files: one JSON object per case, in `tests/vectors`.
//!
//! ```text
//! format    what it is a case of: path, authority, context, session-header, hop, own, record,
//!           entry, header, chain, session, leaf, batch, log, log-id, inclusion, consistency,
//!           tile-name, bundle, note, checkpoint, tlog-proof, evidence, staging-bundle, sealed,
//!           session-table, audit-line, entries-page
//! case      what is particular about it
//! valid     whether it must be accepted
//! input     what it is made from; protobuf fields go by their names in meshchain.proto
//! encoded   the bytes, hex
//! text      the text, for formats that are text
//! digests   what hashes out of it, hex
//! error     why it must be refused, as meshchain-core words it
//! ```
//!
//! A byte string in `input` is hex where it starts with `0x`, else the UTF-8 bytes of the text.

use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// One vector file.
#[derive(Debug, Clone, PartialEq)]
pub struct Vector {
    /// File name without `.json`.
    pub name: String,
    /// What the file holds.
    pub json: Value,
}

impl Vector {
    /// A case that must be accepted.
    pub fn valid(format: &str, name: &str, case: &str, input: Value) -> Self {
        let json = json!({"format": format, "case": case, "valid": true, "input": input});
        Self { name: format!("{format}-{name}"), json }
    }

    /// A case that must be refused for `error`.
    pub fn invalid(format: &str, name: &str, case: &str, error: impl std::fmt::Display) -> Self {
        let error = error.to_string();
        let json = json!({"format": format, "case": case, "valid": false, "error": error});
        Self { name: format!("{format}-{name}"), json }
    }

    /// With one more key.
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.json[key] = value.into();
        self
    }

    /// With the encoded bytes.
    pub fn encoded(self, bytes: &[u8]) -> Self {
        self.with("encoded", hex::encode(bytes))
    }

    /// The file's text: keys in a fixed order, indented by two, a newline at the end.
    pub fn print(&self) -> String {
        const ORDER: [&str; 8] =
            ["format", "case", "valid", "error", "input", "encoded", "text", "digests"];
        let Value::Object(map) = &self.json else { panic!("{}: not an object", self.name) };
        let known = ORDER.into_iter().filter(|key| map.contains_key(*key));
        let other = map.keys().map(String::as_str).filter(|key| !ORDER.contains(key));
        let lines: Vec<_> = known
            .chain(other)
            .map(|key| {
                let value = serde_json::to_string_pretty(&sorted(&map[key])).expect("JSON prints");
                format!("  \"{key}\": {}", value.replace('\n', "\n  "))
            })
            .collect();
        format!("{{\n{}\n}}\n", lines.join(",\n"))
    }
}

/// Keys sorted, whatever features serde_json was built with.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<_> = map.keys().collect();
            keys.sort();
            Value::Object(
                keys.into_iter().map(|k| (k.clone(), sorted(&map[k]))).collect::<Map<_, _>>(),
            )
        }
        Value::Array(list) => list.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

/// Where the vector files lie.
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

/// Every vector file, by name.
pub fn load() -> Vec<Vector> {
    let mut all: Vec<_> = std::fs::read_dir(folder())
        .expect("tests/vectors is readable")
        .map(|file| {
            let path = file.expect("readable").path();
            let text = std::fs::read_to_string(&path).expect("readable");
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            let json = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
            let name = name.strip_suffix(".json").unwrap_or_else(|| panic!("{name}: not a vector"));
            Vector { name: name.to_owned(), json }
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// Bytes as `input` writes them: the text where it is one, else `0x` and hex.
pub fn show(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.starts_with("0x") && !text.contains(|c: char| c.is_control()) => {
            text.into()
        }
        _ => show_hex(bytes),
    }
}

/// Bytes as `0x` and hex; the empty text for none.
pub fn show_hex(bytes: &[u8]) -> String {
    if bytes.is_empty() { String::new() } else { format!("0x{}", hex::encode(bytes)) }
}

/// Bytes of a value that [`show`] or [`show_hex`] wrote; none for a missing one.
pub fn bytes(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap_or_default();
    match text.strip_prefix("0x") {
        Some(digits) => hex::decode(digits).expect("hex behind 0x"),
        None => text.as_bytes().to_vec(),
    }
}

/// Bytes of a value that is plain hex.
pub fn plain_hex(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().expect("a text")).expect("hex")
}

/// A hash of a value that is plain hex.
pub fn hash(value: &Value) -> [u8; 32] {
    plain_hex(value).try_into().expect("32 bytes")
}

/// Hashes of an array of plain hex.
pub fn hashes(value: &Value) -> Vec<[u8; 32]> {
    value.as_array().expect("an array").iter().map(hash).collect()
}
