//! Which staging bundle was committed. A commit that failed leaves its bundle beside the one that came
//! after it, for the same place of the log; only one of them is in the tree.

use crate::staging::{LeafSlices, StagingRead};
use meshchain_core::{Hash, TreeHead, merkle};

/// A bundle that may have been committed at a place.
#[derive(Debug, Clone, Default)]
pub struct Candidate {
    /// Leaf hashes of what it holds.
    pub leaves: Vec<Hash>,
    /// The hash at its end is that of its bytes.
    pub intact: bool,
}

impl Candidate {
    /// The bundle of these bytes, as it was read.
    pub fn of(bytes: &[u8], read: &StagingRead) -> Self {
        let hash = |slices: &LeafSlices| merkle::leaf_hash(&bytes[slices.leaf()]);
        Self { leaves: read.leaves.iter().map(hash).collect(), intact: read.sum_fits }
    }
}

/// What the log says of the leaves at that place.
pub enum Known<'a> {
    /// They are published: leaf hashes of the tree from the place on, each where it can be read.
    Published(&'a [Option<Hash>]),
    /// They are not published yet, and only the head speaks of them.
    Ahead {
        /// The tree that was committed.
        head: TreeHead,
        /// The tree that leaf hashes make, appended at that place.
        grown: &'a dyn Fn(&[Hash]) -> TreeHead,
    },
}

/// The one rule: **committed is the bundle whose leaves are the log's at its place**, all of them. Its
/// number among `candidates`, and whether all of its leaves are. Where none is whole, the bundle with the
/// most of them: it is damaged, or what it is compared with; `None` where no leaf agrees, or there is no
/// candidate. An intact one goes before one that is not.
pub fn committed(candidates: &[Candidate], known: &Known<'_>) -> Option<(usize, bool)> {
    let scores = candidates.iter().enumerate().map(|(at, candidate)| {
        let agreed = agreeing(&candidate.leaves, known);
        let whole = agreed > 0 && agreed == candidate.leaves.len();
        ((whole, agreed, candidate.intact), at)
    });
    // The first of equal ones.
    let best = scores.reduce(|best, next| if next.0 > best.0 { next } else { best })?;
    let ((whole, agreed, _), at) = best;
    (agreed > 0).then_some((at, whole))
}

fn agreeing(leaves: &[Hash], known: &Known<'_>) -> usize {
    match known {
        Known::Published(tree) => {
            leaves.iter().zip(*tree).filter(|(own, tree)| **tree == Some(**own)).count()
        }
        Known::Ahead { head, grown } if grown(leaves) == *head => leaves.len(),
        Known::Ahead { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Case<'a> = (&'a [Candidate], Option<(usize, bool)>);

    fn candidate(leaves: &[u8], intact: bool) -> Candidate {
        Candidate { leaves: leaves.iter().map(|&leaf| [leaf; 32]).collect(), intact }
    }

    #[test]
    fn the_committed_bundle_is_the_one_whose_leaves_are_all_in_the_tree() {
        let tree = [Some([1; 32]), Some([2; 32]), None, Some([4; 32])];
        let cases: [Case<'_>; 7] = [
            (&[candidate(&[9, 2], true), candidate(&[1, 2], true)], Some((1, true))),
            (&[candidate(&[1, 2, 3, 4], true), candidate(&[1], false)], Some((1, true))),
            (&[candidate(&[1], true), candidate(&[1, 2], true)], Some((1, true))),
            (&[candidate(&[1, 9], true), candidate(&[1, 2, 9], true)], Some((1, false))),
            (&[candidate(&[1, 2], false), candidate(&[1, 2], true)], Some((1, true))),
            (&[candidate(&[9], true), candidate(&[], true)], None),
            (&[], None),
        ];
        for (candidates, expected) in cases {
            assert_eq!(committed(candidates, &Known::Published(&tree)), expected, "{candidates:?}");
        }
    }

    #[test]
    fn what_is_not_published_is_known_by_the_head_alone() {
        let of =
            |leaves: &[Hash]| TreeHead { size: leaves.len() as u64, root: merkle::root(leaves) };
        let candidates =
            [candidate(&[1], true), candidate(&[1, 2], true), candidate(&[2, 1], true)];
        let known = Known::Ahead { head: of(&candidates[1].leaves), grown: &of };
        assert_eq!(committed(&candidates, &known), Some((1, true)));
        assert_eq!(committed(&candidates[..1], &known), None);
    }
}
