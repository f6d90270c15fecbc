//! Where a stored tile or bundle differs from the tree, and what that costs.

use super::check::Fsck;
use super::findings::Damage;
use super::tiles::Column;
use meshchain_core::Hash;
use meshchain_core::tile::{TILE_WIDTH, TileKind, TileName};

impl Fsck<'_> {
    /// Tells where a stored tile or bundle differs from what it must be.
    pub(super) fn blame(
        &mut self,
        name: &TileName,
        column: Option<&Column>,
        truth: &[Option<Hash>],
        leaves: &[Option<Vec<u8>>],
    ) {
        let stored = |at: usize| column.and_then(|c| c.hashes.get(at).copied());
        let wrong = |at: &usize| stored(*at).is_none() || truth[*at] != stored(*at);
        let bad: Vec<usize> = (0..truth.len()).filter(wrong).collect();
        let shape = column.and_then(|c| c.fault.as_ref());
        let first = name.index * TILE_WIDTH;
        let (offset, fault) = match (column, bad.first(), shape) {
            (None, ..) => (None, "missing".to_owned()),
            (Some(c), Some(&at), shape) => {
                let fault = match shape.filter(|_| at >= c.parts.len()) {
                    Some((_, fault)) => fault.clone(),
                    None => what_differs(name, at, bad.len()),
                };
                (Some(c.offset(at, name.kind) as u64), fault)
            }
            (Some(_), None, Some((offset, fault))) => (Some(*offset as u64), fault.clone()),
            (Some(_), None, None) => return,
        };
        let lost: Vec<u64> = bad
            .iter()
            .filter(|at| leaves.get(**at).is_some_and(Option::is_none))
            .map(|at| first + *at as u64)
            .collect();
        let about =
            bad.first().zip(bad.last()).map(|(a, b)| (first + *a as u64, first + *b as u64));
        self.report.damage(Damage {
            file: column.map_or_else(|| name.path(), |c| c.file.clone()),
            offset,
            fault,
            cost: if bad.is_empty() { NOTHING_LOST.to_owned() } else { cost(name.kind, &lost) },
            leaves: about.filter(|_| !leaves.is_empty()),
        });
    }
}

const NOTHING_LOST: &str = "nothing is lost";

fn what_differs(name: &TileName, at: usize, count: usize) -> String {
    let first = name.index * TILE_WIDTH + at as u64;
    let more = match count {
        1 => String::new(),
        _ => format!(", and {} more", count - 1),
    };
    match name.kind {
        TileKind::Entries => format!("leaf {first} is not the one in the tree{more}"),
        TileKind::Hashes(0) => format!("the hash of leaf {first} is not the leaf's{more}"),
        TileKind::Hashes(_) => format!("hash {at} is not that of the tile below it{more}"),
    }
}

fn cost(kind: TileKind, lost: &[u64]) -> String {
    match (kind, lost) {
        (TileKind::Hashes(_), []) => {
            "proofs through it fail; nothing is lost: the leaves give it anew".to_owned()
        }
        (TileKind::Hashes(_), _) => "proofs through it fail".to_owned(),
        (TileKind::Entries, []) => {
            "readers cannot check the log through it; nothing is lost: the leaves are in pool/"
                .to_owned()
        }
        (TileKind::Entries, [leaf]) => {
            format!("leaf {leaf}: its batch cannot be proved; everything else stands")
        }
        (TileKind::Entries, [first, .., last]) => format!(
            "{} leaves from {first} to {last}: their batches cannot be proved; all else stands",
            lost.len()
        ),
    }
}
