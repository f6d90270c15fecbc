//! Other people's vectors and other people's code.

use base64::prelude::{BASE64_STANDARD, Engine};
use ct_merkle::mem_backed_tree::MemoryBackedTree;
use ct_merkle::{ConsistencyProof, InclusionProof, RootHash};
use meshchain_core::merkle::{self, verify_consistency, verify_inclusion};
use meshchain_core::tile::{TileKind, TileName};
use meshchain_core::tlog_checkpoint::TreeHead;
use meshchain_core::{Checkpoint, Hash, SigningKey, VerifierKey, note};
use proptest::prelude::*;
use sha2::Sha256;
use signed_note::{Note, StandardSigner, StandardVerifier, VerifierList};

fn hash(text: &str) -> Hash {
    hex::decode(text).unwrap().try_into().unwrap()
}

/// Leaves and roots: github.com/transparency-dev/merkle v0.0.2, testonly/constants.go. They are
/// the reference tree of Certificate Transparency.
const LEAVES: [&str; 8] = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
];
const ROOTS: [&str; 9] = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

fn reference() -> Vec<Hash> {
    LEAVES.iter().map(|leaf| merkle::leaf_hash(&hex::decode(leaf).unwrap())).collect()
}

#[test]
fn the_reference_tree_of_certificate_transparency_has_its_roots() {
    for (size, root) in ROOTS.iter().enumerate() {
        assert_eq!(merkle::root(&reference()[..size]), hash(root), "{size} leaves");
    }
}

/// Proofs: the same module, proof/verify_test.go; leaf numbers there count from 1.
#[test]
fn the_reference_proofs_of_certificate_transparency_are_made_and_hold() {
    const A: &str = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7";
    const B: &str = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e";
    const C: &str = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4";
    const D: &str = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b";
    const E: &str = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0";
    const F: &str = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a";
    const G: &str = "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f";
    let head = |size: usize| TreeHead { size: size as u64, root: hash(ROOTS[size]) };
    let inclusion: [(u64, usize, &[&str]); 5] = [
        (1, 1, &[]),
        (1, 8, &[A, B, C]),
        (6, 8, &[D, E, ROOTS[4]]),
        (3, 3, &[ROOTS[2]]),
        (2, 5, &[ROOTS[1], B, D]),
    ];
    for (leaf, size, proof) in inclusion {
        let proof: Vec<_> = proof.iter().map(|h| hash(h)).collect();
        let (index, leaves) = (leaf - 1, reference());
        assert_eq!(merkle::inclusion_path(&leaves[..size], index), Some(proof.clone()));
        assert_eq!(verify_inclusion(index, &leaves[index as usize], &proof, &head(size)), Ok(()));
    }
    let consistency: [(usize, usize, &[&str]); 5] = [
        (1, 1, &[]),
        (1, 8, &[A, B, C]),
        (6, 8, &[F, E, ROOTS[4]]),
        (2, 5, &[B, D]),
        (6, 7, &[F, G, ROOTS[4]]),
    ];
    for (old, new, proof) in consistency {
        let proof: Vec<_> = proof.iter().map(|h| hash(h)).collect();
        assert_eq!(verify_consistency(&head(old), &head(new), &proof), Ok(()), "{old} to {new}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Against the ct-merkle crate.
    #[test]
    fn ct_merkle_makes_and_accepts_the_same_proofs(
        size in 1..300usize, index: prop::sample::Index, old: prop::sample::Index,
    ) {
        let mut theirs = MemoryBackedTree::<Sha256, Vec<u8>>::new();
        let data: Vec<_> = (0..size).map(|i| i.to_string().into_bytes()).collect();
        data.iter().for_each(|leaf| theirs.push(leaf.clone()));
        let leaves: Vec<_> = data.iter().map(|leaf| merkle::leaf_hash(leaf)).collect();
        let head = TreeHead { size: size as u64, root: merkle::root(&leaves) };
        prop_assert_eq!(theirs.root().as_bytes().to_vec(), head.root.to_vec());

        let index = index.index(size);
        let ours = merkle::inclusion_path(&leaves, index as u64).unwrap();
        let proof = theirs.prove_inclusion(index);
        prop_assert_eq!(proof.as_bytes(), ours.concat());
        let proof = InclusionProof::<Sha256>::from_bytes(ours.concat());
        prop_assert!(theirs.root().verify_inclusion(&data[index], index as u64, &proof).is_ok());

        let old = old.index(size) + 1;
        let proof = theirs.prove_consistency(size - old);
        let (hashes, rest) = proof.as_bytes().as_chunks::<32>();
        prop_assert!(rest.is_empty());
        let before = TreeHead { size: old as u64, root: merkle::root(&leaves[..old]) };
        prop_assert_eq!(verify_consistency(&before, &head, hashes), Ok(()));
        let node = |level: u32, index: u64| {
            let start = (index << level) as usize;
            Ok::<_, ()>(merkle::root(&leaves[start..start + (1 << level)]))
        };
        let ours = merkle::consistency_proof(old as u64, size as u64, node).unwrap();
        let proof = ConsistencyProof::<Sha256>::try_from_bytes(ours.concat()).unwrap();
        let root = RootHash::<Sha256>::new(before.root.into(), before.size);
        prop_assert!(theirs.root().verify_consistency(&root, &proof).is_ok());
    }

    /// Against the signed_note and tlog_tiles crates.
    #[test]
    fn others_open_our_checkpoints_and_we_open_theirs(
        size in 1..=u64::MAX, root: [u8; 32], seed: [u8; 32], origin in "[a-z]{1,9}\\.example/[a-z0-9]{0,9}",
    ) {
        let key = SigningKey::from_seed(&origin, &seed).unwrap();
        let vkey = key.verifier().to_string();
        let known = || VerifierList::new(vec![Box::new(StandardVerifier::new(&vkey).unwrap())]);
        let ours = Checkpoint::sign(&TreeHead { size, root }, &key);
        let theirs = Note::from_bytes(ours.as_bytes()).unwrap();
        prop_assert_eq!(theirs.verify(&known()).unwrap().0.len(), 1);
        let text = tlog_tiles::Checkpoint::from_bytes(theirs.text()).unwrap();
        prop_assert_eq!((text.origin(), text.size(), text.hash().0), (origin.as_str(), size, root));

        // PRIVATE+KEY+name+hash+base64(0x01 ‖ seed) is the Go module's form of a signing key.
        let id = vkey.strip_prefix(&origin).unwrap().split('+').nth(1).unwrap();
        let secret = BASE64_STANDARD.encode([&[1], seed.as_slice()].concat());
        let signer = StandardSigner::new(&format!("PRIVATE+KEY+{origin}+{id}+{secret}")).unwrap();
        let text = tlog_tiles::Checkpoint::new(&origin, size, tlog_tiles::Hash(root), "").unwrap();
        let mut note = Note::new(&text.to_bytes(), &[]).unwrap();
        note.add_sigs(&[&signer]).unwrap();
        let theirs = String::from_utf8(note.to_bytes()).unwrap();
        prop_assert_eq!(&theirs, &ours, "Ed25519 is deterministic");
        prop_assert_eq!(Checkpoint::open(&theirs, key.verifier()).unwrap().head, TreeHead { size, root });
    }

    /// Against the tlog_tiles crate, which writes the tile height and "data" as the Go module does.
    #[test]
    fn others_spell_tile_names_alike(level in 0..64u8, index: u64, width in 1..=256u16, entries: bool) {
        let kind = if entries { TileKind::Entries } else { TileKind::Hashes(level) };
        let level = if entries { 0 } else { level };
        let theirs = tlog_tiles::Tile::new(8, level, index, width.into(), entries).path();
        let theirs = theirs.replace("tile/8/", "tile/").replace("tile/data/", "tile/entries/");
        prop_assert_eq!(TileName { kind, index, width }.path(), theirs);
    }
}

/// The example of golang.org/x/mod v0.21.0, sumdb/note/example_test.go: key of a zero seed.
#[test]
fn the_key_of_enoch_root_signs_as_in_the_go_module() {
    let text = "If you think cryptography is the answer to your problem,\n\
        then you don't know what your problem is.\n";
    let signature = "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n";
    let key = SigningKey::from_seed("EnochRoot", &[0; 32]).unwrap();
    assert_eq!(key.sign(text), format!("{text}\n{signature}"));
    let neumann = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    let neumann = VerifierKey::parse(neumann).unwrap();
    let first = "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
    let both = format!("{text}\n{first}{signature}");
    assert_eq!(note::open(&both, &neumann), Ok(text));
    assert_eq!(note::open(&both, key.verifier()), Ok(text));
}
