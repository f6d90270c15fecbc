//! Values that are well-formed in every field and yet contradict themselves: each is refused.

use base64::prelude::{BASE64_STANDARD, Engine};
use meshchain_core::hop::{Room, Seen};
use meshchain_core::merkle::{self, verify_consistency};
use meshchain_core::tile::EdgeTiles;
use meshchain_core::tlog_checkpoint::TreeHead;
use meshchain_core::{
    BatchLeaf, Canonical, Checkpoint, HopPart, OwnPart, SessionKey, SigningKey, SpanRecord,
    TlogProof, note,
};
use meshchain_tests::{naive, proto};
use prost::Message;

fn own() -> Vec<u8> {
    proto::OwnPart { side: 1, salt: vec![1; 16], ..Default::default() }.encode_to_vec()
}

fn key() -> SessionKey {
    SessionKey::from_seed([1; 32])
}

fn heartbeat(seq: u64) -> Vec<u8> {
    let session = key().id().to_vec();
    proto::BatchHeader { version: 1, kind: 2, session, seq, ..Default::default() }.encode_to_vec()
}

fn leaf(seq: u64, prev: [u8; 32], entries_root: [u8; 32]) -> Vec<u8> {
    let header = heartbeat(seq);
    let chain = meshchain_core::leaf::chain_hash(&prev, &header, &[]);
    proto::BatchLeaf {
        version: 1,
        header,
        prev: prev.to_vec(),
        chain: chain.to_vec(),
        entries_root: entries_root.to_vec(),
        public_key: key().public().to_vec(),
        signature: key().sign(&chain).to_vec(),
        ..Default::default()
    }
    .encode_to_vec()
}

fn capture<'a>(texts: [&'a [u8]; 4], room: &'a mut Room) -> HopPart<'a> {
    let [request_id, method, authority, target] = texts;
    HopPart::capture(None, None, &Seen { request_id, method, authority, target }, 200, room)
}

#[test]
fn the_edge_of_a_tree_of_2_to_the_56_leaves_has_its_partial_tiles() {
    let edge =
        EdgeTiles::load(1 << 56, |_, _, width| Ok::<_, ()>(vec![[1; 32]; usize::from(width)]));
    let partials: Vec<_> =
        edge.unwrap().unwrap().partials().map(|(l, i, h)| (l, i, h.len())).collect();
    assert_eq!(partials, [(7, 0, 1)]);
}

#[test]
fn two_empty_trees_with_other_roots_are_not_consistent() {
    let empty = TreeHead { size: 0, root: merkle::empty_root() };
    let other = TreeHead { size: 0, root: [9; 32] };
    assert!(verify_consistency(&empty, &other, &[]).is_err());
}

#[test]
fn an_empty_tree_has_one_root_only() {
    let key = SigningKey::from_seed("o", &[1; 32]).unwrap();
    let note = Checkpoint::sign(&TreeHead { size: 0, root: [9; 32] }, &key);
    assert!(Checkpoint::open(&note, key.verifier()).is_err());
}

#[test]
fn a_checkpoint_has_no_empty_extension_line() {
    let key = SigningKey::from_seed("o", &[1; 32]).unwrap();
    let root = BASE64_STANDARD.encode([9; 32]);
    let note = key.sign(&format!("o\n1\n{root}\n\nmore\n"));
    assert!(Checkpoint::open(&note, key.verifier()).is_err());
}

#[test]
fn a_note_with_sixteen_post_quantum_signatures_opens() {
    let key = SigningKey::from_seed("o", &[1; 32]).unwrap();
    let line = format!("— witness.example {}\n", BASE64_STANDARD.encode(vec![7; 5000]));
    let note = key.sign("o\n") + &line.repeat(15);
    assert_eq!(note::open(&note, key.verifier()), Ok("o\n"));
}

#[test]
fn an_extra_line_is_base64() {
    let text = "c2sp.org/tlog-proof@v1\nextra !!!\nindex 0\n\no\n";
    assert!(TlogProof::parse(text).is_err());
}

#[test]
fn a_long_path_can_be_withheld() {
    let long = vec![b'a'; 5000];
    let mut room = Room::default();
    let hop = capture([b"1", b"GET", b"h", &long], &mut room);
    let bare = HopPart { path: b"", ..hop }.encode();
    let record =
        proto::SpanRecord { hop: bare, own: own(), path_dropped: true, ..Default::default() };
    assert!(SpanRecord::decode(&record.encode_to_vec()).is_ok());
}

#[test]
fn overflow_is_refused_where_it_is_the_hash_of_the_texts_as_shown() {
    let path = [b"/".as_slice(), &[b'a'; 1023]].concat();
    let texts: [&[u8]; 4] = [b"1", b"GET", b"h", &path];
    let framed = texts.map(|t| [&(t.len() as u32).to_be_bytes(), t].concat()).concat();
    let overflow = Some(naive::sha256(&[b"meshchain/overflow/v1\0", &framed]));
    let mut room = Room::default();
    let whole = capture(texts, &mut room);
    assert_eq!(whole.overflow, None);
    assert!(HopPart::decode(&HopPart { overflow, ..whole }.encode()).is_err());
}

#[test]
fn a_hop_has_both_ids_or_none() {
    let hop = proto::HopPart { trace_id: vec![1; 16], ..Default::default() }.encode_to_vec();
    assert!(HopPart::decode(&hop).is_err());
    let hop = proto::HopPart { span_id: vec![1; 8], ..Default::default() }.encode_to_vec();
    assert!(HopPart::decode(&hop).is_err());
}

#[test]
fn a_salt_is_not_all_zero() {
    let own = proto::OwnPart { side: 1, salt: vec![0; 16], ..Default::default() }.encode_to_vec();
    assert!(OwnPart::decode(&own).is_err());
}

#[test]
fn the_first_leaf_of_a_session_has_no_leaf_before_it() {
    let root = merkle::empty_root();
    assert!(BatchLeaf::decode(&leaf(0, [0; 32], root)).is_ok());
    assert!(BatchLeaf::decode(&leaf(0, [7; 32], root)).is_err());
}

#[test]
fn a_leaf_without_entries_has_the_root_of_the_empty_tree() {
    assert!(BatchLeaf::decode(&leaf(1, [7; 32], [9; 32])).is_err());
}
