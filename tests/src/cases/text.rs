//! Signed notes, checkpoints, tlog-proofs, evidence files.

use super::batch::{entries, header, leaf_bytes};
use super::record::{hop, own};
use crate::receipt;
use crate::vector::Vector;
use base64::prelude::{BASE64_STANDARD, Engine};
use meshchain_core::evidence::{
    Disclosed, EvidenceError, EvmAnchor, EvmTag, FORMAT, InBatch, SpanEvidence,
};
use meshchain_core::leaf::{CHAIN_START, entry_hashes};
use meshchain_core::tlog_checkpoint::TreeHead;
use meshchain_core::{
    BatchLeaf, Canonical, Checkpoint, Evidence, OwnPart, Side, SigningKey, TlogProof, VerifierKey,
    merkle, note,
};
use serde_json::{Value, json};

const ORIGIN: &str = "log.shop.example/2026";

/// The example of golang.org/x/mod/sumdb/note, example_test.go.
const NEUMANN_KEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
const NEUMANN_TEXT: &str = "If you think cryptography is the answer to your problem,\n\
    then you don't know what your problem is.\n";
const NEUMANN_SIGNATURE: &str = "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

pub(super) fn cases() -> Vec<Vector> {
    [notes(), checkpoints(), proofs(), evidences()].concat()
}

fn key() -> SigningKey {
    SigningKey::from_seed(ORIGIN, &[1; 32]).expect("a valid name")
}

fn notes() -> Vec<Vector> {
    let neumann = format!("{NEUMANN_TEXT}\n{NEUMANN_SIGNATURE}");
    let (ours, key) = (key().sign("one\n\ntwo\n"), key());
    let vkey = key.verifier().to_string();
    let witness = format!("— witness.example/w {}\n", BASE64_STANDARD.encode([0xa5; 76]));
    let short = format!("— w {}\n", BASE64_STANDARD.encode([0xa5; 5]));
    let same_name = format!("— {ORIGIN} {}\n", BASE64_STANDARD.encode([0; 68]));
    let sixteen = witness.repeat(15);
    let signature = ours.rsplit_once("\n\n").expect("a note").1;
    let cases = [
        ("neumann", "the example of golang.org/x/mod/sumdb/note", NEUMANN_KEY, neumann.clone()),
        ("blank-line-in-text", "the last blank line ends the text", &vkey, ours.clone()),
        (
            "unknown-signature",
            "a signature of a key that we do not know",
            &vkey,
            format!("{ours}{witness}"),
        ),
        ("same-name-other-key", "our name, another key id", &vkey, format!("{ours}{same_name}")),
        ("16-signatures", "as many as everybody must accept", &vkey, format!("{ours}{sixteen}")),
        ("128-signatures", "as many as are read", &vkey, format!("{ours}{}", short.repeat(127))),
        ("129-signatures", "one more than are read", &vkey, format!("{ours}{}", short.repeat(128))),
        ("altered-text", "one letter of the text", &vkey, ours.replacen("one", "onE", 1)),
        ("altered-signature", "one letter of the signature", &vkey, alter_signature(&ours)),
        ("other-key", "signed, but not by the key asked for", NEUMANN_KEY, ours.clone()),
        (
            "unknown-signature-only",
            "no signature of the key asked for",
            &vkey,
            format!("one\n\n{witness}"),
        ),
        (
            "good-and-bad",
            "a good and a false signature of the same key",
            &vkey,
            format!("{}{}", alter_signature(&ours), signature),
        ),
        ("no-signature", "a text and nothing else", &vkey, "one\n\n".to_owned()),
        (
            "no-blank-line",
            "no line between text and signatures",
            &vkey,
            format!("one\n{signature}"),
        ),
        ("unfinished", "no newline at the end", &vkey, ours.trim_end().to_owned()),
        ("hyphen", "a hyphen for the dash", &vkey, ours.replacen('—', "-", 1)),
        ("control-character", "a tab in the text", &vkey, key.sign("one\ttwo\n")),
        ("carriage-return", "lines that end in CR LF", &vkey, ours.replace('\n', "\r\n")),
        (
            "bad-base64",
            "a signature that is not base64",
            &vkey,
            format!("one\n\n— {ORIGIN} !!!!\n"),
        ),
        (
            "short-signature",
            "a key id and nothing behind it",
            &vkey,
            format!("one\n\n— {ORIGIN} AAAAAA==\n"),
        ),
        ("empty", "nothing", &vkey, String::new()),
    ];
    cases.map(|(name, case, vkey, note)| note_vector(name, case, vkey, &note)).to_vec()
}

fn alter_signature(note: &str) -> String {
    let at = note.trim_end().len() - 8;
    let other = if note.as_bytes()[at] == b'A' { "B" } else { "A" };
    format!("{}{other}{}", &note[..at], &note[at + 1..])
}

fn note_vector(name: &str, case: &str, vkey: &str, note: &str) -> Vector {
    let key = VerifierKey::parse(vkey).expect("a valid key");
    let input = json!({"verifier_key": vkey});
    match note::open(note, &key) {
        Ok(text) => Vector::valid("note", name, case, input).with("opened", text),
        Err(error) => Vector::invalid("note", name, case, error).with("input", input),
    }
    .with("text", note)
}

fn checkpoints() -> Vec<Vector> {
    let key = key();
    let root = BASE64_STANDARD.encode([9; 32]);
    let body = |size: &str| key.sign(&format!("{ORIGIN}\n{size}\n{root}\n"));
    let head = |size| Checkpoint::sign(&TreeHead { size, root: [9; 32] }, &key);
    let empty = Checkpoint::sign(&TreeHead { size: 0, root: merkle::empty_root() }, &key);
    let cases = [
        ("signed", "what our log signs", head(42)),
        ("largest", "the largest tree", head(u64::MAX)),
        ("empty-tree", "the empty tree", empty),
        ("extension", "an extension line", key.sign(&format!("{ORIGIN}\n42\n{root}\nmore\n"))),
        (
            "other-origin",
            "signed by our key, of another log",
            key.sign(&format!("gol.example\n42\n{root}\n")),
        ),
        ("leading-zero", "a size with a leading zero", body("042")),
        ("sign", "a size with a sign", body("+42")),
        ("hex-size", "a size in hex", body("0x2a")),
        ("wide-size", "2^64", body("18446744073709551616")),
        ("no-size", "an empty line for the size", body("")),
        ("two-lines", "no root", key.sign(&format!("{ORIGIN}\n42\n"))),
        (
            "short-root",
            "a root of 31 bytes",
            key.sign(&format!("{ORIGIN}\n42\n{}\n", BASE64_STANDARD.encode([9; 31]))),
        ),
        (
            "unpadded-root",
            "base64 without its padding",
            key.sign(&format!("{ORIGIN}\n42\n{}\n", root.trim_end_matches('='))),
        ),
        (
            "altered",
            "another size under the same signature",
            head(42).replacen("\n42\n", "\n43\n", 1),
        ),
    ];
    let vkey = key.verifier();
    let vector = |(name, case, text): (&str, &str, String)| {
        let input = json!({"verifier_key": vkey.to_string()});
        match Checkpoint::open(&text, vkey) {
            Ok(c) => Vector::valid("checkpoint", name, case, input).with(
                "checkpoint",
                json!({"origin": c.origin, "size": c.head.size, "root": hex::encode(c.head.root)}),
            ),
            Err(error) => Vector::invalid("checkpoint", name, case, error).with("input", input),
        }
        .with("text", text)
    };
    cases.map(vector).to_vec()
}

fn proofs() -> Vec<Vector> {
    let checkpoint = Checkpoint::sign(&TreeHead { size: 8, root: [9; 32] }, &key());
    let hash = BASE64_STANDARD.encode([3; 32]);
    let printed =
        |index, path| TlogProof { index, path, checkpoint: checkpoint.clone() }.to_string();
    let body = |head: &str| format!("{head}\n\n{checkpoint}");
    let many = vec![hash.as_str(); 65].join("\n");
    let cases = [
        ("three-hashes", "a proof in a tree of 8", printed(5, vec![[1; 32], [2; 32], [3; 32]])),
        ("no-hashes", "a proof in a tree of one", printed(0, vec![])),
        ("64-hashes", "the longest path", printed(u64::MAX - 1, vec![[1; 32]; 64])),
        (
            "extra",
            "an extra line, which is passed over",
            body("c2sp.org/tlog-proof@v1\nextra QUJD\nindex 5"),
        ),
        ("version-2", "a later version", body("c2sp.org/tlog-proof@v2\nindex 5")),
        ("no-index", "no index line", body(&format!("c2sp.org/tlog-proof@v1\n{hash}"))),
        ("leading-zero", "an index with a leading zero", body("c2sp.org/tlog-proof@v1\nindex 05")),
        ("negative-index", "an index below zero", body("c2sp.org/tlog-proof@v1\nindex -1")),
        (
            "extra-behind-index",
            "an extra line in the wrong place",
            body("c2sp.org/tlog-proof@v1\nindex 5\nextra QUJD"),
        ),
        (
            "two-extras",
            "two extra lines",
            body("c2sp.org/tlog-proof@v1\nextra QUJD\nextra QUJD\nindex 5"),
        ),
        (
            "short-hash",
            "a hash of 31 bytes",
            body(&format!("c2sp.org/tlog-proof@v1\nindex 5\n{}", BASE64_STANDARD.encode([3; 31]))),
        ),
        (
            "65-hashes",
            "a path too long for any tree",
            body(&format!("c2sp.org/tlog-proof@v1\nindex 5\n{many}")),
        ),
        (
            "carriage-return",
            "lines that end in CR LF",
            printed(5, vec![[1; 32]]).replace('\n', "\r\n"),
        ),
        (
            "no-checkpoint",
            "nothing behind the path",
            format!("c2sp.org/tlog-proof@v1\nindex 5\n{hash}\n"),
        ),
        ("empty", "nothing", String::new()),
    ];
    let vector = |(name, case, text): (&str, &str, String)| {
        match TlogProof::parse(&text) {
            Ok(proof) => {
                let path: Vec<_> = proof.path.iter().map(hex::encode).collect();
                let input =
                    json!({"index": proof.index, "path": path, "checkpoint": proof.checkpoint});
                Vector::valid("tlog-proof", name, case, input)
            }
            Err(error) => Vector::invalid("tlog-proof", name, case, error),
        }
        .with("text", text)
    };
    cases.map(vector).to_vec()
}

/// Two receipts of one call, in the third of five leaves.
fn evidence() -> Evidence {
    let (leaf, _) = leaf_bytes(&header(), CHAIN_START, &entries());
    evidence_of(&leaf)
}

fn evidence_of(leaf: &[u8]) -> Evidence {
    evidence_in(leaf, &[b"3", b"4"])
}

/// As [`evidence`], in a log that goes on with the leaves `after`.
fn evidence_in(leaf: &[u8], after: &[&[u8]]) -> Evidence {
    let key = key();
    let all = entries();
    let data = [&[&b"0"[..], b"1", leaf], after].concat();
    let leaves: Vec<_> = data.iter().map(|leaf| merkle::leaf_hash(leaf)).collect();
    let head = TreeHead { size: leaves.len() as u64, root: merkle::root(&leaves) };
    let proof = TlogProof {
        index: 2,
        path: merkle::inclusion_path(&leaves, 2).expect("in the tree"),
        checkpoint: Checkpoint::sign(&head, &key),
    };
    let span = |(index, side)| SpanEvidence {
        record: Disclosed {
            hop: Some(hop().encode()),
            own: Some(OwnPart { side, ..own() }.encode()),
        },
        entry: all[90 * index as usize..][..90].to_vec(),
        batch: InBatch {
            index,
            path: merkle::inclusion_path(&entry_hashes(&all), index).expect("in the batch"),
        },
        leaf: leaf.to_vec(),
        tlog_proof: proof.to_string(),
    };
    Evidence {
        format: FORMAT.into(),
        trace_id: super::record::TRACE,
        spans: [(0, Side::Client), (1, Side::Server)].map(span).into(),
        anchors: vec![],
    }
}

fn evidences() -> Vec<Vector> {
    let good = evidence();
    let anchor = EvmAnchor {
        kind: EvmTag::Evm,
        chain_id: 1337,
        size: 5,
        consistency: vec![],
        header: vec![0xc0],
        transaction_index: 0,
        receipt_proof: vec![vec![0xc0]],
        log_index: 0,
    };
    let plain = |change: fn(&mut Evidence)| {
        let mut evidence = evidence();
        change(&mut evidence);
        serde_json::to_value(evidence).expect("JSON")
    };
    let anchored =
        serde_json::to_value(Evidence { anchors: vec![anchor], ..good.clone() }).expect("JSON");
    let set = |pointer: &str, value: Value| {
        let mut json = anchored.clone();
        *json.pointer_mut(pointer).expect("is there") = value;
        json
    };
    let (leaf, _) = leaf_bytes(&header(), CHAIN_START, &entries());
    // Received a second later: the same batch in another history of the log.
    let again = BatchLeaf { received_ns: 1, ..BatchLeaf::decode(&leaf).expect("a leaf") }.encode();
    let beside = |other: Evidence| {
        let spans = vec![good.spans[0].clone(), other.spans[1].clone()];
        serde_json::to_value(Evidence { spans, ..good.clone() }).expect("JSON")
    };
    let upper = |pointer: &str| {
        let text = anchored.pointer(pointer).and_then(Value::as_str).expect("a text");
        set(pointer, text.to_uppercase().into())
    };
    let mut unsaid = anchored.clone();
    unsaid["anchors"][0].as_object_mut().expect("an object").remove("consistency");
    let mut null = anchored.clone();
    null["spans"][0]["record"]["own"] = Value::Null;
    let mut anchorless = anchored.clone();
    anchorless.as_object_mut().expect("an object").remove("anchors");
    let (mut unsigned, _) = leaf_bytes(&header(), CHAIN_START, &entries());
    *unsigned.last_mut().expect("the signature") ^= 1;
    let mut unknown = anchored.clone();
    unknown["spans"][0]["colour"] = "red".into();
    let mut spanless = anchored.clone();
    spanless.as_object_mut().expect("an object").remove("spans");
    let cases = [
        ("both-sides", "client and server of one call, all disclosed", plain(|_| ())),
        (
            "nothing-disclosed",
            "entries without records",
            plain(|e| e.spans.iter_mut().for_each(|s| s.record = Disclosed::default())),
        ),
        ("hop-disclosed", "the hop part alone", plain(|e| e.spans[0].record.own = None)),
        ("own-disclosed", "the own part alone", plain(|e| e.spans[0].record.hop = None)),
        ("anchored", "with an anchor, whose contents are not looked at here", anchored.clone()),
        ("no-consistency", "an anchor without the key `consistency`: an empty proof", unsaid),
        ("no-anchor-list", "the list of anchors is missing: there are none", anchorless),
        ("null-part", "a part that is null, not absent", null),
        ("upper-case-entry", "an entry in capitals", upper("/spans/0/entry")),
        ("upper-case-part", "a part in capitals", upper("/spans/0/record/hop")),
        ("upper-case-path", "a hash in capitals", upper("/spans/0/batch/path/0")),
        ("upper-case-header", "a block header in capitals", upper("/anchors/0/header")),
        (
            "upper-case-node",
            "a node of the receipt trie in capitals",
            upper("/anchors/0/receipt_proof/0"),
        ),
        (
            "two-leaves-at-one-index",
            "two trees of the log, each with another leaf at index 2",
            beside(evidence_in(&again, &[b"3", b"4", b"5"])),
        ),
        (
            "two-roots-for-one-size",
            "two trees of the log of one size, which differ behind the leaf",
            beside(evidence_in(&leaf, &[b"3", b"other"])),
        ),
        (
            "untied-checkpoints",
            "two trees of the log, one of them perhaps the other's beginning",
            beside(evidence_in(&leaf, &[b"3", b"4", b"5"])),
        ),
        ("no-spans", "no receipt at all", plain(|e| e.spans.clear())),
        (
            "altered-hop",
            "a byte of the hop part",
            plain(|e| e.spans[0].record.hop.as_mut().expect("set")[5] ^= 1),
        ),
        (
            "altered-own",
            "a byte of the own part",
            plain(|e| e.spans[1].record.own.as_mut().expect("set")[1] ^= 1),
        ),
        (
            "altered-entry",
            "a byte of the span digest",
            plain(|e| {
                e.spans[0].record = Disclosed::default();
                e.spans[0].entry[89] ^= 1
            }),
        ),
        ("other-trace", "receipts of another trace", plain(|e| e.trace_id[0] ^= 1)),
        (
            "exchanged",
            "each entry in the other's place",
            plain(|e| {
                e.spans[0].batch.index = 1;
                e.spans[1].batch.index = 0
            }),
        ),
        (
            "index-at-count",
            "an entry behind the last of the batch",
            plain(|e| e.spans[0].batch.index = 2),
        ),
        (
            "altered-signature",
            "a log that holds a leaf with a false signature",
            serde_json::to_value(evidence_of(&unsigned)).expect("JSON"),
        ),
        (
            "altered-leaf",
            "the time of receipt, backdated",
            plain(|e| {
                let at = e.spans[0].leaf.len() - 1;
                e.spans[0].leaf[at] ^= 1
            }),
        ),
        (
            "other-place",
            "another index in the log",
            plain(|e| {
                e.spans[0].tlog_proof = e.spans[0].tlog_proof.replacen("index 2", "index 3", 1)
            }),
        ),
        (
            "other-size",
            "another size in the checkpoint",
            plain(|e| e.spans[0].tlog_proof = e.spans[0].tlog_proof.replacen("\n5\n", "\n6\n", 1)),
        ),
        ("version-2", "a later version", set("/format", "meshchain/evidence/v2".into())),
        ("unknown-field", "a field that version 1 does not have", unknown),
        ("no-span-list", "the list of spans is missing", spanless),
        ("short-trace-id", "a trace id of 15 bytes", set("/trace_id", "00".repeat(15).into())),
        ("odd-hex", "an odd number of digits", set("/spans/0/entry", "012".into())),
        (
            "fabric-anchor",
            "a kind of anchor that version 1 does not have",
            set("/anchors/0/type", "fabric".into()),
        ),
        ("negative-index", "an index below zero", set("/spans/0/batch/index", (-1).into())),
        (
            "fractional-index",
            "an index that is not an integer",
            set("/spans/0/batch/index", json!(0.5)),
        ),
        (
            "129-hashes",
            "a consistency proof too long for any tree",
            set("/anchors/0/consistency", vec!["00".repeat(32); 129].into()),
        ),
    ];
    let vector = |(name, case, evidence): (&str, &str, Value)| {
        let text = serde_json::to_vec(&evidence).expect("JSON");
        let key = key().verifier().clone();
        let verdict = Evidence::from_json(&text)
            .map_err(|e| match e {
                // serde_json's own words name a column, which depends on the order of keys.
                EvidenceError::Json(_) => "not an evidence file".to_owned(),
                other => other.to_string(),
            })
            .and_then(|e| receipt::check(&e, &key));
        let input = json!({"verifier_key": key.to_string()});
        match verdict {
            Ok(()) => Vector::valid("evidence", name, case, input),
            Err(error) => Vector::invalid("evidence", name, case, error).with("input", input),
        }
        .with("evidence", evidence)
    };
    cases.map(vector).to_vec()
}
