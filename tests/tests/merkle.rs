//! Trees of random sizes against the recursion of RFC 6962, and proofs out of tiles.

use meshchain_core::Hash;
use meshchain_core::merkle::{self, consistency_proof, inclusion_proof, verify_consistency};
use meshchain_core::merkle::{ProofError, verify_inclusion};
use meshchain_core::tile::{EdgeTiles, NodeInTile, TILE_WIDTH, width_at};
use meshchain_core::tlog_checkpoint::TreeHead;
use meshchain_tests::naive;
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::LazyLock;

const LARGEST: usize = 2_000;

static LEAVES: LazyLock<Vec<Hash>> =
    LazyLock::new(|| (0..LARGEST).map(|i| naive::leaf(&i.to_be_bytes())).collect());

/// Tiles as they lie on disk: the full ones, and the partial ones of one size.
struct Tiles {
    size: u64,
    edge: EdgeTiles,
    tiles: HashMap<(u8, u64), Vec<Hash>>,
}

impl Tiles {
    fn grow(leaves: &[Hash]) -> Self {
        let (mut edge, mut tiles) = (EdgeTiles::default(), HashMap::new());
        for leaf in leaves {
            edge.append(*leaf, |level, index, hashes| {
                assert!(tiles.insert((level, index), hashes.to_vec()).is_none(), "tile twice");
            });
        }
        for (level, index, hashes) in edge.partials() {
            assert!(tiles.insert((level, index), hashes.to_vec()).is_none(), "tile twice");
        }
        Self { size: leaves.len() as u64, edge, tiles }
    }

    /// A node, out of its tile at the width that the tree's size implies.
    fn node(&self, level: u32, index: u64) -> Result<Hash, String> {
        let at = NodeInTile::of(level, index);
        let tile = self.tiles.get(&(at.level, at.index)).ok_or(format!("no tile for {at:?}"))?;
        let width = width_at(self.size, at.level, at.index);
        assert_eq!(tile.len(), usize::from(width), "width of {at:?} at {}", self.size);
        at.hash(tile).ok_or(format!("{at:?} is behind the end of its tile"))
    }
}

fn head(leaves: &[Hash]) -> TreeHead {
    TreeHead { size: leaves.len() as u64, root: naive::mth(leaves) }
}

/// Sizes around which tiles and subtrees fill are as likely as all others together.
fn size() -> impl Strategy<Value = usize> {
    let edges = vec![1, 2, 3, 4, 7, 8, 9, 255, 256, 257, 511, 512, 513, 1023, 1024, 1025];
    prop_oneof![1..=LARGEST, proptest::sample::select(edges)]
}

fn flip(proof: &[Hash], at: usize, bit: usize) -> Vec<Hash> {
    let mut altered = proof.to_vec();
    altered[at][bit / 8 % 32] ^= 1 << (bit % 8);
    altered
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn roots_out_of_memory_and_out_of_tiles_are_those_of_the_rfc(size in size()) {
        let leaves = &LEAVES[..size];
        let root = naive::mth(leaves);
        prop_assert_eq!(merkle::root(leaves), root);
        let tiles = Tiles::grow(leaves);
        prop_assert_eq!(tiles.edge.root(), root);
        let reloaded = EdgeTiles::load(tiles.size, |level, index, width| {
            tiles.tiles.get(&(level, index)).filter(|t| t.len() == usize::from(width)).cloned().ok_or(())
        });
        prop_assert_eq!(reloaded, Ok(Some(tiles.edge.clone())));
        let full = tiles.tiles.values().filter(|t| t.len() as u64 == TILE_WIDTH).count();
        prop_assert_eq!(full, size / 256 + size / 65_536);
    }

    #[test]
    fn inclusion_proofs_are_those_of_the_rfc_and_no_other_holds(
        size in size(), index: prop::sample::Index, bit: usize, other: prop::sample::Index,
    ) {
        let (leaves, at) = (&LEAVES[..size], index.index(size));
        let (head, leaf) = (head(leaves), LEAVES[at]);
        let tiles = Tiles::grow(leaves);
        let proof = inclusion_proof(at as u64, head.size, |l, i| tiles.node(l, i)).unwrap();
        prop_assert_eq!(&proof, &naive::path(at, leaves));
        prop_assert_eq!(Some(proof.clone()), merkle::inclusion_path(leaves, at as u64));
        let check = |index: usize, leaf: &Hash, proof: &[Hash], head: &TreeHead| {
            verify_inclusion(index as u64, leaf, proof, head)
        };
        prop_assert_eq!(check(at, &leaf, &proof, &head), Ok(()));
        let elsewhere = other.index(size);
        if elsewhere != at {
            prop_assert!(check(elsewhere, &leaf, &proof, &head).is_err());
            prop_assert!(check(at, &LEAVES[elsewhere], &proof, &head).is_err());
        }
        prop_assert!(check(size, &leaf, &proof, &head).is_err());
        let longer = [proof.as_slice(), &[leaf]].concat();
        prop_assert_eq!(check(at, &leaf, &longer, &head), Err(ProofError::Length(longer.len())));
        if !proof.is_empty() {
            let shorter = &proof[1..];
            prop_assert_eq!(check(at, &leaf, shorter, &head), Err(ProofError::Length(shorter.len())));
            prop_assert!(check(at, &leaf, &proof[..proof.len() - 1], &head).is_err());
            let altered = flip(&proof, other.index(proof.len()), bit);
            prop_assert_eq!(check(at, &leaf, &altered, &head), Err(ProofError::Root));
        }
    }

    #[test]
    fn consistency_proofs_are_those_of_the_rfc_and_no_other_holds(
        new in size(), old: prop::sample::Index, bit: usize, other: prop::sample::Index,
    ) {
        let old = old.index(new) + 1;
        let (before, after) = (head(&LEAVES[..old]), head(&LEAVES[..new]));
        let tiles = Tiles::grow(&LEAVES[..new]);
        let proof = consistency_proof(old as u64, new as u64, |l, i| tiles.node(l, i)).unwrap();
        prop_assert_eq!(&proof, &naive::proof(old, &LEAVES[..new]));
        prop_assert_eq!(verify_consistency(&before, &after, &proof), Ok(()));
        for bad in [TreeHead { root: flip(&[before.root], 0, bit)[0], ..before }, head(&LEAVES[1..=old.min(LARGEST - 1)])] {
            if bad != before {
                prop_assert!(verify_consistency(&bad, &after, &proof).is_err());
            }
        }
        let bad = TreeHead { root: flip(&[after.root], 0, bit)[0], ..after };
        prop_assert!(verify_consistency(&before, &bad, &proof).is_err());
        let longer = [proof.as_slice(), &[before.root]].concat();
        prop_assert!(verify_consistency(&before, &after, &longer).is_err());
        if !proof.is_empty() {
            prop_assert!(verify_consistency(&after, &before, &proof).is_err());
            prop_assert!(verify_consistency(&before, &after, &proof[1..]).is_err());
            prop_assert!(verify_consistency(&before, &after, &proof[..proof.len() - 1]).is_err());
            let altered = flip(&proof, other.index(proof.len()), bit);
            prop_assert!(verify_consistency(&before, &after, &altered).is_err());
        }
    }

    #[test]
    fn proofs_in_trees_of_any_size_have_the_length_of_the_rfc(index: u64, size: u64) {
        let size = size.max(1);
        let index = index % size;
        let zero = |_, _| Ok::<Hash, ()>([0; 32]);
        let proof = inclusion_proof(index, size, zero).unwrap();
        // RFC 9162 section 2.1.3.2: one hash per level on which the path has a sibling.
        let inner = u64::BITS - (index ^ (size - 1)).leading_zeros();
        let border = index.checked_shr(inner).unwrap_or(0).count_ones();
        prop_assert_eq!(proof.len() as u32, inner + border);
        let head = TreeHead { size, root: [0; 32] };
        let verdict = verify_inclusion(index, &[0; 32], &proof, &head);
        let right = if proof.is_empty() { Ok(()) } else { Err(ProofError::Root) };
        prop_assert_eq!(verdict, right, "the length at least is right");
        let proof = consistency_proof(index, size, zero).unwrap();
        prop_assert!(proof.len() <= 65);
        let old = TreeHead { size: index, root: [0; 32] };
        let verdict = verify_consistency(&old, &head, &proof);
        prop_assert!(matches!(verdict, Err(ProofError::Root)), "{index} to {size}: {verdict:?}");
    }
}

#[test]
fn all_proofs_of_small_trees_are_those_of_the_rfc() {
    for new in 1..=70usize {
        let leaves = &LEAVES[..new];
        let tiles = Tiles::grow(leaves);
        for old in 0..new {
            let path = inclusion_proof(old as u64, new as u64, |l, i| tiles.node(l, i)).unwrap();
            assert_eq!(path, naive::path(old, leaves), "{old} in {new}");
            if old > 0 {
                let proof =
                    consistency_proof(old as u64, new as u64, |l, i| tiles.node(l, i)).unwrap();
                assert_eq!(proof, naive::proof(old, leaves), "{old} to {new}");
            }
        }
    }
}
