//! Whole reports, text and JSON, against committed files: of each evidence vector, and of evidence
//! made from scratch in which every field is set. `UPDATE_OUTPUT=1` rewrites the files.

use crate::fixture::*;
use alloy_primitives::keccak256;
use meshchain::{KnownHashes, Policy, Report, render, verify};
use meshchain_core::Evidence;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn compare(name: &str, report: &Report, seen: &mut BTreeSet<String>) {
    let json = serde_json::to_string_pretty(report).unwrap() + "\n";
    for (kind, found) in [("txt", render(report)), ("json", json)] {
        let file = format!("{name}.{kind}");
        let path = folder().join(&file);
        if std::env::var_os("UPDATE_OUTPUT").is_some() {
            std::fs::write(&path, &found).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == committed, "{file} differs; UPDATE_OUTPUT=1 rewrites it:\n{found}");
        seen.insert(file);
    }
}

/// The report on each vector that can be read, for whoever believes its key and asks for no anchor.
fn of_vectors(seen: &mut BTreeSet<String>) {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors");
    for file in std::fs::read_dir(vectors).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if !name.starts_with("evidence-") {
            continue;
        }
        let vector: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let vkey = vector["input"]["verifier_key"].as_str().unwrap();
        let log = json!({"origin": vkey.split('+').next(), "vkey": vkey, "operator": "Shop Ltd"});
        let policy =
            json!({"format": "meshchain/policy/v1", "logs": [log], "require_anchor": false});
        let policy = Policy::from_json(policy.to_string().as_bytes()).unwrap();
        let Ok(evidence) = Evidence::from_json(vector["evidence"].to_string().as_bytes()) else {
            assert_eq!(vector["valid"], false, "{name}");
            continue;
        };
        let report = verify(&evidence, Some(&policy), &KnownHashes::default());
        assert_eq!(vector["valid"], report.exit_code == 0, "{name}: {:?}", report.reasons);
        let error = vector["error"].as_str().unwrap_or_default();
        assert_eq!(error.contains("two histories"), !report.two_histories.is_empty(), "{name}");
        compare(&name, &report, seen);
    }
}

/// Reports on evidence from scratch, anchors included.
fn of_worlds(seen: &mut BTreeSet<String>) {
    let mut anchored = world();
    anchored.policy["logs"][0]["operator"] = json!("Cloud Ltd");
    compare("anchored", &anchored.verify(), seen);
    anchored.hashes.clear();
    compare("block-unknown", &anchored.verify(), seen);
    let (one, two) = (LogOf::new(ORIGIN, 1), LogOf::with(ORIGIN, 1, 500));
    let mut forked = world();
    forked.evidence.spans = vec![one.span(3, 2, 4), two.span(3, 2, 6)];
    forked.evidence.anchors =
        vec![one.anchor(4, &Event::of(&one, 4)), two.anchor(6, &Event::of(&two, 6))];
    forked.hashes = forked.evidence.anchors.iter().map(|a| keccak256(&a.header)).collect();
    compare("two-histories", &forked.verify(), seen);
    let mut untied = world();
    untied.evidence.spans[2] = one.span(1, 2, 4);
    compare("untied", &untied.verify(), seen);
    let mut disputed = world();
    disputed.evidence.spans = vec![two.span(1, 0, 7), two.span(3, 2, 7)];
    disputed.evidence.anchors = vec![two.anchor(7, &Event::of(&two, 7))];
    disputed.hashes = vec![keccak256(&disputed.evidence.anchors[0].header)];
    compare("disputed", &disputed.verify(), seen);
}

#[test]
fn whole_reports_are_those_in_the_committed_files() {
    let mut seen = BTreeSet::new();
    of_vectors(&mut seen);
    of_worlds(&mut seen);
    let there = std::fs::read_dir(folder()).unwrap();
    let there: BTreeSet<_> =
        there.map(|file| file.unwrap().file_name().to_string_lossy().into_owned()).collect();
    assert_eq!(there, seen, "files that no report is compared with");
}

#[test]
fn no_field_of_a_span_is_empty_in_the_golden_report() {
    // What is null or empty there, a mutation to nothing would not change.
    let json = std::fs::read(folder().join("anchored.json")).unwrap();
    let report: Value = serde_json::from_slice(&json).unwrap();
    let spans = report["spans"].as_array().unwrap();
    let span = &spans[1];
    let may_be_empty = ["duplicate_of", "peer_session"];
    for part in
        [span, &span["call"], &span["own"], &span["source"], &span["place"], &report["anchors"][0]]
    {
        for (key, value) in part.as_object().unwrap() {
            let empty = value.is_null() || *value == json!("") || *value == json!(0);
            assert!(!empty || may_be_empty.contains(&key.as_str()), "{key}: {value}");
        }
    }
}
