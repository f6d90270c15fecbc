//! Nothing that anybody may send makes a decoder panic, and what is printed is read back.

use meshchain_core::context::{TraceHeaders, b3_single, traceparent};
use meshchain_core::evidence::{Disclosed, EvmAnchor, EvmTag, FORMAT, InBatch, SpanEvidence};
use meshchain_core::hop::{Room, Seen};
use meshchain_core::merkle::{verify_consistency, verify_inclusion};
use meshchain_core::session::Signed;
use meshchain_core::session_header::SessionHeader;
use meshchain_core::tile::{
    NodeInTile, TileKind, TileName, parse_tile, put_entry, split_bundle, width_at,
};
use meshchain_core::tlog_checkpoint::TreeHead;
use meshchain_core::{
    BatchHeader, BatchLeaf, Canonical, Checkpoint, Entry, Evidence, HopPart, OwnPart, SigningKey,
    SpanRecord, TlogProof, VerifierKey, hop, note,
};
use meshchain_wire::Batch;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;

fn key() -> SigningKey {
    SigningKey::from_seed("log.example", &[1; 32]).unwrap()
}

fn read_bytes(bytes: &[u8]) {
    let _ = HopPart::decode(bytes);
    let _ = OwnPart::decode(bytes);
    let _ = SpanRecord::decode(bytes).map(|record| Entry::parse(bytes).map(|e| record.check(&e)));
    let _ = BatchHeader::decode(bytes);
    let _ = BatchLeaf::decode(bytes).map(|leaf| leaf.holds(bytes));
    let _ = Batch::decode(bytes);
    let _ = Entry::parse(bytes);
    let _ = Evidence::from_json(bytes);
    let _ = split_bundle(bytes);
    let _ = parse_tile(bytes, bytes.len() as u16 / 32);
    let _ = b3_single(bytes);
    let _ = traceparent(bytes);
    let _ = hop::split_target(bytes);
    let some = Some(bytes);
    let headers = TraceHeaders {
        b3_trace_id: some,
        b3_span_id: some,
        b3_parent_span_id: some,
        b3_sampled: some,
        b3_flags: some,
        b3: some,
        traceparent: some,
        session: some,
    };
    let _ = headers.context();
    let _ = SessionHeader::parse(bytes).map(|header| header.write());
    let mut room = Room::default();
    let seen = Seen { request_id: bytes, method: bytes, authority: bytes, target: bytes };
    let _ = HopPart::capture(None, None, &seen, 200, &mut room);
    let mut signed = Signed { public_key: [0; 32], chain: [0; 32], signature: [0; 64] };
    let key = bytes.len().min(32);
    signed.public_key[..key].copy_from_slice(&bytes[..key]);
    signed.signature[..key].copy_from_slice(&bytes[..key]);
    let _ = signed.verify();
}

fn read_text(text: &str) {
    let _ = TileName::parse(text);
    let _ = TlogProof::parse(text);
    let _ = VerifierKey::parse(text);
    let _ = note::split(text);
    let _ = note::open(text, key().verifier());
    let _ = Checkpoint::open(text, key().verifier());
    let _ = Checkpoint::parse_unverified(text);
}

/// What the formats are made of, so that random texts come further than the first check.
fn fragments() -> impl Strategy<Value = String> {
    let parts = vec![
        "\n",
        "\n\n",
        "— ",
        "log.example",
        " ",
        "AAAA",
        "c2sp.org/tlog-proof@v1",
        "extra ",
        "index ",
        "0",
        "1",
        "-",
        "18446744073709551616",
        "tile/",
        "entries/",
        "x001/",
        "005",
        ".p/",
        "+",
        "{",
        "}",
        "[",
        "]",
        "\"spans\":",
        "\"format\":",
        "\"meshchain/evidence/v1\"",
        ",",
        "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=",
        "é",
        "\0",
        "\u{feff}",
        "00-",
    ];
    vec(proptest::sample::select(parts), 0..24).prop_map(|parts| parts.concat())
}

fn hex_bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..100)
}

fn hashes() -> impl Strategy<Value = Vec<[u8; 32]>> {
    vec(any::<[u8; 32]>(), 0..5)
}

fn evidence() -> impl Strategy<Value = Evidence> {
    let disclosed = (proptest::option::of(hex_bytes()), proptest::option::of(hex_bytes()));
    let span = (disclosed, hex_bytes(), any::<u64>(), hashes(), hex_bytes(), "\\PC{0,80}");
    let span = span.prop_map(|((hop, own), entry, index, path, leaf, tlog_proof)| SpanEvidence {
        record: Disclosed { hop, own },
        entry,
        batch: InBatch { index, path },
        leaf,
        tlog_proof: tlog_proof + "\n\n\"\\\u{1}",
    });
    let anchor = (any::<[u64; 4]>(), hashes(), hex_bytes(), vec(hex_bytes(), 0..4));
    let anchor = anchor.prop_map(|(numbers, consistency, header, receipt_proof)| EvmAnchor {
        kind: EvmTag::Evm,
        chain_id: numbers[0],
        size: numbers[1],
        consistency,
        header,
        transaction_index: numbers[2],
        receipt_proof,
        log_index: numbers[3],
    });
    let trace = any::<[u8; 16]>().prop_filter("zero", |t| *t != [0; 16]);
    (trace, vec(span, 0..3), vec(anchor, 0..3)).prop_map(|(trace_id, spans, anchors)| Evidence {
        format: FORMAT.into(),
        trace_id,
        spans,
        anchors,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in vec(any::<u8>(), 0..200)) {
        read_bytes(&bytes);
        read_text(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn no_text_makes_a_decoder_panic(text in prop_oneof![fragments(), "\\PC*"]) {
        read_text(&text);
        read_bytes(text.as_bytes());
    }

    #[test]
    fn a_context_of_any_form_has_ids_that_are_not_zero(
        trace: [u8; 16], span: [u8; 8], flags: u8, version: u8, cut in 0..70usize,
    ) {
        let (trace, span) = (hex::encode(trace), hex::encode(span));
        let w3c = format!("{version:02x}-{trace}-{span}-{flags:02x}");
        let single = format!("{trace}-{span}-{}", flags % 3);
        for text in [&w3c[..cut.min(w3c.len())], &single[..cut.min(single.len())], &w3c, &single] {
            for context in [traceparent(text.as_bytes()), b3_single(text.as_bytes())].into_iter().flatten() {
                prop_assert_ne!(context.trace_id.0, [0; 16]);
                prop_assert_ne!(context.span_id.0, [0; 8]);
                prop_assert_eq!(hex::encode(context.trace_id.0), trace.as_str());
            }
        }
    }

    #[test]
    fn a_tile_name_is_what_its_path_says(
        kind in prop_oneof![Just(TileKind::Entries), (0..64u8).prop_map(TileKind::Hashes)],
        index in prop_oneof![any::<u64>(), 0..2_000_000u64], width in 1..=256u16,
    ) {
        let name = TileName { kind, index, width };
        prop_assert_eq!(TileName::parse(&name.path()), Some(name));
    }

    #[test]
    fn a_path_that_parses_is_the_only_path_of_its_tile(path in "tile/[0-9x/.p+]{1,20}") {
        if let Some(name) = TileName::parse(&path) {
            prop_assert_eq!(name.path(), path);
        }
    }

    #[test]
    fn a_bundle_is_its_entries(entries in vec(vec(any::<u8>(), 0..300), 0..6), cut: usize) {
        let mut bundle = Vec::new();
        for entry in &entries {
            prop_assert!(put_entry(&mut bundle, entry));
        }
        let slices: Vec<&[u8]> = entries.iter().map(Vec::as_slice).collect();
        prop_assert_eq!(split_bundle(&bundle), Some(slices));
        if let Some(again) = split_bundle(&bundle[..cut % (bundle.len() + 1)]) {
            let mut other = Vec::new();
            prop_assert!(again.iter().all(|entry| put_entry(&mut other, entry)));
            prop_assert!(bundle.starts_with(&other));
        }
    }

    #[test]
    fn a_checkpoint_and_a_proof_are_what_their_texts_say(
        index: u64, size in 1..=u64::MAX, root: [u8; 32], path in vec(any::<[u8; 32]>(), 0..=64), seed: [u8; 32],
    ) {
        let key = SigningKey::from_seed("log.example/1", &seed).unwrap();
        prop_assert_eq!(&VerifierKey::parse(&key.verifier().to_string()).unwrap(), key.verifier());
        let head = TreeHead { size, root };
        let checkpoint = Checkpoint::sign(&head, &key);
        prop_assert_eq!(Checkpoint::open(&checkpoint, key.verifier()).unwrap().head, head);
        let proof = TlogProof { index, path, checkpoint };
        prop_assert_eq!(TlogProof::parse(&proof.to_string()), Ok(proof));
    }

    #[test]
    fn a_note_with_any_byte_changed_does_not_open_as_another(at: usize, to in 32..127u8) {
        let note = key().sign("log.example\n42\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n");
        let mut bytes = note.clone().into_bytes();
        let at = at % bytes.len();
        bytes[at] = to;
        if let Ok(changed) = String::from_utf8(bytes) {
            prop_assert!(changed == note || note::open(&changed, key().verifier()).is_err());
        }
    }

    #[test]
    fn evidence_is_what_its_json_says(evidence in evidence()) {
        let text = evidence.to_json().unwrap();
        prop_assert_eq!(Evidence::from_json(text.as_bytes()).unwrap(), evidence);
    }

    #[test]
    fn no_numbers_make_proofs_or_tiles_panic(
        a in prop_oneof![any::<u64>(), Just(u64::MAX), 0..3u64],
        b in prop_oneof![any::<u64>(), Just(u64::MAX), 0..3u64],
        level: u8, proof in vec(any::<[u8; 32]>(), 0..70),
    ) {
        let (old, new) = (TreeHead { size: a, root: [1; 32] }, TreeHead { size: b, root: [2; 32] });
        let _ = verify_inclusion(a, &[0; 32], &proof, &new);
        let _ = verify_consistency(&old, &new, &proof);
        prop_assert!(width_at(a, level, b) <= 256);
        let node = NodeInTile::of(u32::from(level), b);
        prop_assert!(node.start + node.count <= 256);
        let _ = node.hash(&proof);
    }
}
