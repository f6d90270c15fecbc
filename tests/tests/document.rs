//! docs/format.md says what the code does: its examples are vectors, its tables are the .proto file.

use meshchain_core::target::canonical_path;
use meshchain_core::{
    canonical, entry, evidence, header, note, own, session_header, tile, tlog_proof,
};
use meshchain_tests::vector;
use std::collections::BTreeSet;
use std::path::Path;

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/format.md");
    std::fs::read_to_string(path).expect("docs/format.md is readable")
}

/// `<!-- vector: name pointer -->` stands before a fenced block that holds that value.
#[test]
fn the_examples_are_the_vectors() {
    let document = document();
    let vectors = vector::load();
    let mut found = 0;
    for part in document.split("<!-- vector: ").skip(1) {
        let (marker, rest) = part.split_once(" -->").expect("a marker ends");
        let (name, pointer) = marker.split_once(' ').expect("name and pointer");
        let block = rest.split("```").nth(1).expect("a fenced block");
        let (_, block) = block.split_once('\n').expect("a first line");
        let vector = vectors.iter().find(|v| v.name == name).unwrap_or_else(|| panic!("no {name}"));
        let value =
            vector.json.pointer(pointer).unwrap_or_else(|| panic!("{name} has no {pointer}"));
        let value = value.as_str().expect("a text");
        if value.contains('\n') {
            assert_eq!(block, value, "{marker}");
        } else {
            let bytes: String = block
                .lines()
                .map(|line| line.split("  ").next().unwrap_or_default())
                .flat_map(str::split_whitespace)
                .collect();
            assert_eq!(bytes, value.trim_start_matches("0x"), "{marker}");
        }
        found += 1;
    }
    assert!(found >= 8, "only {found} examples");
}

/// The table of the canonical path has a row per step, and each row is what the rule makes.
#[test]
fn the_examples_of_canonical_paths_are_what_the_rule_makes() {
    let document = document();
    let section = document.split("\n## ").find(|s| s.starts_with("Canonical path\n"));
    let rows = section.expect("a section").lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `/")?.split(" | ").map(|cell| cell.trim_matches('`'));
        Some((format!("/{}", cells.next()?.trim_end_matches('`')), cells.next()?.to_owned()))
    });
    let rows: Vec<_> = rows.collect();
    assert!(rows.len() > 5, "only {} rows", rows.len());
    for (given, canonical) in rows {
        let made = canonical_path(given.as_bytes(), &mut Vec::new()).to_vec();
        assert_eq!(String::from_utf8(made).unwrap(), canonical, "{given}");
    }
}

/// Every field of meshchain.proto has its row `| tag | name | type |` under its message's heading.
#[test]
fn the_tables_are_the_proto_file() {
    let document = document();
    let proto = include_str!("../meshchain.proto");
    for message in proto.split("\nmessage ").skip(1) {
        let (name, body) = message.split_once(" {").expect("a message");
        let body = body.split_once('}').expect("an end").0;
        let heading = format!("`{name}`\n");
        let section = document
            .split("\n#")
            .find(|s| s.lines().next().is_some_and(|line| format!("{line}\n").ends_with(&heading)));
        let section = section.unwrap_or_else(|| panic!("no heading ends in {heading}"));
        let rows: BTreeSet<[String; 3]> = section
            .lines()
            .filter_map(|line| {
                let mut cells = line.strip_prefix("| ")?.split(" | ").map(|c| c.replace('`', ""));
                let row = [cells.next()?, cells.next()?, cells.next()?];
                row[0].parse::<u32>().is_ok().then_some(row)
            })
            .collect();
        let fields: BTreeSet<[String; 3]> = body
            .lines()
            .filter_map(|line| {
                let (left, tag) = line.trim().strip_suffix(';')?.split_once(" = ")?;
                let (kind, name) = left.rsplit_once(' ')?;
                Some([tag.to_owned(), name.to_owned(), kind.to_owned()])
            })
            .collect();
        assert!(!fields.is_empty(), "{name} has no fields");
        assert_eq!(rows, fields, "{name}");
    }
}

#[test]
fn the_limits_are_the_constants() {
    let document = document();
    let limits = [
        ("text of a record", canonical::MAX_FIELD, "bytes"),
        ("headers of a record", own::MAX_HEADERS, ""),
        ("name of a source, notice", header::MAX_NAME, "bytes"),
        ("entries of a batch", header::MAX_ENTRIES as usize, ""),
        ("drop counters, and notices, of a header", header::MAX_REPEATED, ""),
        ("request id in a session header", session_header::MAX_ID, "bytes"),
        ("entry", entry::ENTRY_LEN, "bytes"),
        ("leaf", tile::MAX_ENTRY_LEN, "bytes"),
        ("signed note", note::MAX_NOTE, "bytes"),
        ("signatures of a note", note::MAX_SIGNATURES, ""),
        ("path of a tlog-proof", tlog_proof::MAX_PATH, "hashes"),
        ("evidence file", evidence::MAX_LEN, "bytes"),
        ("spans, and anchors, of an evidence file", evidence::MAX_ITEMS, ""),
    ];
    for (what, limit, unit) in limits {
        let row = format!("| {what} | {limit}{}{unit} |", if unit.is_empty() { "" } else { " " });
        assert!(document.contains(&row), "no row: {row}");
    }
}

#[test]
fn media_type_and_contract_are_those_of_the_code() {
    let document = document();
    assert!(document.contains(&format!("`Content-Type: {}`", meshchain_wire::CONTENT_TYPE)));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contracts/MeshChainAnchor.sol");
    let source = std::fs::read_to_string(source).expect("the contract is readable");
    let plain = |text: &str| text.split_whitespace().collect::<String>();
    let (source, block) =
        (plain(&source), document.split("```solidity\n").nth(1).expect("a block"));
    for line in block.split("```").next().expect("an end").lines().filter(|l| !l.is_empty()) {
        let line = plain(line);
        assert!(source.contains(line.trim_end_matches(';')), "the contract has no {line}");
    }
}
