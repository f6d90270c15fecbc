//! Roots, inclusion and consistency proofs, tile names, entry bundles, log id.

use crate::vector::Vector;
use meshchain_core::ENTRY_LEN;
use meshchain_core::entries_page::{encode_page, split_page};
use meshchain_core::hash::log_id;
use meshchain_core::tile::{TileKind, TileName, put_entry, split_bundle};
use meshchain_core::tlog_checkpoint::TreeHead;
use meshchain_core::{Hash, merkle};
use serde_json::{Value, json};

/// Leaves of the reference tree of Certificate Transparency, as in
/// github.com/transparency-dev/merkle, testonly/constants.go.
const CT_LEAVES: [&str; 8] = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
];

pub(super) fn cases() -> Vec<Vector> {
    [roots(), inclusion(), consistency(), names(), bundles(), pages(), vec![id()]].concat()
}

/// Leaf `i` of our sample log is the decimal text of `i`.
fn sample(size: u64) -> Vec<Hash> {
    (0..size).map(|i| merkle::leaf_hash(i.to_string().as_bytes())).collect()
}

fn head(leaves: &[Hash]) -> TreeHead {
    TreeHead { size: leaves.len() as u64, root: merkle::root(leaves) }
}

fn hex_list(hashes: &[Hash]) -> Value {
    hashes.iter().map(hex::encode).collect()
}

fn roots() -> Vec<Vector> {
    let reference: Vec<Vec<u8>> = CT_LEAVES.iter().map(|l| hex::decode(l).expect("hex")).collect();
    let long: Vec<Vec<u8>> = (0..300u64).map(|i| i.to_string().into_bytes()).collect();
    let all: Vec<u64> = (0..=8).collect();
    let cases = [
        ("reference", "the reference tree of Certificate Transparency, every size", reference, all),
        (
            "300",
            "leaf i is the decimal text of i; sizes around a full tile",
            long,
            vec![0, 1, 2, 3, 255, 256, 257, 300],
        ),
    ];
    let vector = |(name, case, leaves, sizes): (&str, &str, Vec<Vec<u8>>, Vec<u64>)| {
        let hashes: Vec<_> = leaves.iter().map(|l| merkle::leaf_hash(l)).collect();
        let roots = sizes.iter().map(|&n| hex::encode(merkle::root(&hashes[..n as usize])));
        let roots: Vec<_> = roots.collect();
        let leaves: Vec<_> = leaves.iter().map(hex::encode).collect();
        Vector::valid("log", name, case, json!({"leaves": leaves, "sizes": sizes}))
            .with("digests", json!({"roots": roots}))
    };
    cases.into_iter().map(vector).collect()
}

fn inclusion() -> Vec<Vector> {
    let vector = |name: &str, case: &str, index, leaf: Hash, proof: &[Hash], head: &TreeHead| {
        let input = json!({
            "index": index, "leaf_hash": hex::encode(leaf), "proof": hex_list(proof),
            "size": head.size, "root": hex::encode(head.root),
        });
        match merkle::verify_inclusion(index, &leaf, proof, head) {
            Ok(()) => Vector::valid("inclusion", name, case, input),
            Err(error) => Vector::invalid("inclusion", name, case, error).with("input", input),
        }
    };
    let good = |index: u64, size: u64| {
        let all = sample(size);
        let proof = merkle::inclusion_path(&all, index).expect("in the tree");
        vector(
            &format!("{index}-of-{size}"),
            "leaf i is the decimal text of i",
            index,
            all[index as usize],
            &proof,
            &head(&all),
        )
    };
    let (all, other) = (sample(300), sample(299));
    let (head, leaf) = (head(&all), all[5]);
    let proof = merkle::inclusion_path(&all, 5).expect("in the tree");
    let mut altered = proof.clone();
    altered[3][31] ^= 1;
    let longer = [proof.as_slice(), &[leaf]].concat();
    let bad = [
        vector("altered", "one bit of the fourth hash", 5, leaf, &altered, &head),
        vector("other-index", "the proof of leaf 5 for leaf 4", 4, leaf, &proof, &head),
        vector("other-leaf", "the proof of leaf 5 for another hash", 5, all[4], &proof, &head),
        vector(
            "other-root",
            "the root of a smaller tree",
            5,
            leaf,
            &proof,
            &TreeHead { root: merkle::root(&other), ..head },
        ),
        vector(
            "other-size",
            "the size of a much larger tree",
            5,
            leaf,
            &proof,
            &TreeHead { size: 600, ..head },
        ),
        vector("shorter", "the last hash is missing", 5, leaf, &proof[..proof.len() - 1], &head),
        vector("longer", "a hash too many", 5, leaf, &longer, &head),
        vector("index-at-size", "an index that is not in the tree", 300, leaf, &proof, &head),
        vector(
            "empty-tree",
            "nothing is in the empty tree",
            0,
            leaf,
            &[],
            &TreeHead { size: 0, root: merkle::empty_root() },
        ),
        vector(
            "largest-tree",
            "a tree of 2^64 - 1 leaves and no proof",
            u64::MAX - 1,
            leaf,
            &[],
            &TreeHead { size: u64::MAX, ..head },
        ),
    ];
    assert!(bad.iter().all(|v| v.json["valid"] == false), "a false proof was accepted");
    let valid = [(0, 1), (0, 300), (299, 300), (256, 300), (255, 256), (127, 257), (6, 7)];
    valid.map(|(i, n)| good(i, n)).into_iter().chain(bad).collect()
}

fn consistency() -> Vec<Vector> {
    let vector = |name: &str, case: &str, old: &TreeHead, new: &TreeHead, proof: &[Hash]| {
        let input = json!({
            "old_size": old.size, "old_root": hex::encode(old.root),
            "new_size": new.size, "new_root": hex::encode(new.root), "proof": hex_list(proof),
        });
        match merkle::verify_consistency(old, new, proof) {
            Ok(()) => Vector::valid("consistency", name, case, input),
            Err(error) => Vector::invalid("consistency", name, case, error).with("input", input),
        }
    };
    let all = sample(300);
    let at = |size: u64| head(&all[..size as usize]);
    let prove = |old: u64, new: u64| {
        let node = |level: u32, index: u64| {
            let start = (index << level) as usize;
            Ok::<_, std::convert::Infallible>(merkle::root(&all[start..start + (1 << level)]))
        };
        merkle::consistency_proof(old, new, node).unwrap_or_default()
    };
    let valid =
        [(0, 0), (0, 300), (1, 300), (255, 256), (256, 300), (257, 300), (6, 7), (300, 300)];
    let valid = valid.map(|(old, new)| {
        let case = "leaf i is the decimal text of i";
        vector(&format!("{old}-to-{new}"), case, &at(old), &at(new), &prove(old, new))
    });
    let (old, new, proof) = (at(100), at(300), prove(100, 300));
    let mut altered = proof.clone();
    altered[0][0] ^= 0x80;
    let longer = [proof.as_slice(), &[[0; 32]]].concat();
    let forged = |head: &TreeHead| TreeHead { root: [9; 32], ..*head };
    let bad = [
        vector("altered", "one bit of the first hash", &old, &new, &altered),
        vector("shorter", "the last hash is missing", &old, &new, &proof[..proof.len() - 1]),
        vector("longer", "a hash too many", &old, &new, &longer),
        vector("empty-proof", "no hash at all", &old, &new, &[]),
        vector("old-root", "another old root", &forged(&old), &new, &proof),
        vector("new-root", "another new root", &old, &forged(&new), &proof),
        vector("shrunk", "the new tree is smaller", &new, &old, &proof),
        vector("same-size", "two trees of one size", &forged(&new), &new, &[]),
        vector("same-size-proof", "a proof where none is due", &new, &new, &proof),
        vector(
            "from-empty-root",
            "an empty tree with a root that is not its root",
            &forged(&at(0)),
            &new,
            &[],
        ),
        vector(
            "largest-tree",
            "a tree of 2^64 - 1 leaves and no proof",
            &old,
            &TreeHead { size: u64::MAX, ..new },
            &[],
        ),
    ];
    assert!(bad.iter().all(|v| v.json["valid"] == false), "a false proof was accepted");
    valid.into_iter().chain(bad).collect()
}

fn names() -> Vec<Vector> {
    let name = |kind, index, width| TileName { kind, index, width };
    let hashes = TileKind::Hashes;
    let valid = [
        ("first", "the first tile", name(hashes(0), 0, 256)),
        ("partial", "the narrowest partial tile", name(hashes(0), 0, 1)),
        ("widest-partial", "the widest partial tile", name(hashes(1), 999, 255)),
        ("grouped", "the example of the specification", name(hashes(0), 1_234_067, 256)),
        ("entries", "an entry bundle", name(TileKind::Entries, 1000, 17)),
        ("largest", "the largest index and level", name(hashes(63), u64::MAX, 256)),
    ];
    let valid = valid.map(|(name, case, tile)| {
        let level: Value = match tile.kind {
            TileKind::Hashes(level) => level.into(),
            TileKind::Entries => "entries".into(),
        };
        let input = json!({"level": level, "index": tile.index, "width": tile.width});
        Vector::valid("tile-name", name, case, input).with("text", tile.path())
    });
    let bad = [
        ("no-padding", "an element of one digit", "tile/0/5"),
        ("four-digits", "an element of four digits", "tile/0/1000"),
        ("level-64", "a level over 63", "tile/64/005"),
        ("level-zero-padded", "a level with a leading zero", "tile/00/005"),
        ("level-sign", "a level with a sign", "tile/+1/005"),
        ("width-0", "width 0", "tile/0/005.p/0"),
        ("width-256", "a full tile spelt as a partial one", "tile/0/005.p/256"),
        ("width-zero-padded", "a width with a leading zero", "tile/0/005.p/01"),
        ("width-65537", "a width that is 1 modulo 2^16", "tile/0/005.p/65537"),
        ("x-last", "an x before the last element", "tile/0/x005"),
        ("no-x", "no x before the first of two", "tile/0/001/005"),
        ("needless-zeros", "a first element of 000", "tile/0/x000/005"),
        ("overflow", "2^64", "tile/0/x018/x446/x744/x073/x709/x551/616"),
        ("empty-element", "an element of nothing", "tile/0/x001//005"),
        ("dots", "a way out of the folder", "tile/0/../../005"),
        ("leading-slash", "an absolute path", "/tile/0/005"),
        ("other-digits", "digits of another script", "tile/0/٠٠٥"),
        ("empty", "nothing", ""),
    ];
    let bad = bad.map(|(name, case, path)| {
        assert_eq!(TileName::parse(path), None, "tile-name-{name} was accepted");
        Vector::invalid("tile-name", name, case, "not a tile name").with("text", path)
    });
    valid.into_iter().chain(bad).collect()
}

fn pages() -> Vec<Vector> {
    let leaves = [1, 0, 2].map(|count| vec![0xab; count * ENTRY_LEN]);
    let page = encode_page(&leaves);
    let input = json!({"leaves": leaves.each_ref().map(|leaf| format!("0x{}", hex::encode(leaf)))});
    let case = "three leaves, of one, no and two entries";
    let valid = Vector::valid("entries-page", "three", case, input).encoded(&page);
    let bad = [
        ("empty", "a page without a leaf", Vec::new()),
        ("torn-length", "the page ends within a length", page[..page.len() - 182].to_vec()),
        ("torn-entries", "the page ends within an entry", page[..page.len() - 1].to_vec()),
        ("odd", "entries of 89 bytes", encode_page(&[[0xab; 89]])),
        ("many", "257 leaves", encode_page(&[[0_u8; 0]; 257])),
    ];
    let bad = bad.map(|(name, case, bytes)| {
        let error = split_page(&bytes).expect_err(name);
        Vector::invalid("entries-page", name, case, error).encoded(&bytes)
    });
    std::iter::once(valid).chain(bad).collect()
}

fn bundles() -> Vec<Vector> {
    let mut bundle = Vec::new();
    let entries: [&[u8]; 3] = [b"first", b"", b"third"];
    assert!(entries.iter().all(|entry| put_entry(&mut bundle, entry)));
    let input = json!({"entries": entries.map(|e| String::from_utf8_lossy(e).into_owned())});
    let valid = Vector::valid("bundle", "three", "three entries, one of them empty", input)
        .encoded(&bundle);
    let bad = [
        ("torn-length", "the bundle ends within a length", &bundle[..bundle.len() - 6]),
        ("torn-entry", "the bundle ends within an entry", &bundle[..bundle.len() - 1]),
    ];
    let bad = bad.map(|(name, case, bytes)| {
        assert_eq!(split_bundle(bytes), None, "bundle-{name} was accepted");
        Vector::invalid("bundle", name, case, "not an entry bundle").encoded(bytes)
    });
    std::iter::once(valid).chain(bad).collect()
}

fn id() -> Vector {
    let origin = "log.shop.example/2026";
    Vector::valid(
        "log-id",
        "shop",
        "what the anchor contract knows a log by",
        json!({"origin": origin}),
    )
    .with("digests", json!({"log_id": hex::encode(log_id(origin))}))
}
