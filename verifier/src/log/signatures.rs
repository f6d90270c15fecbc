//! The signatures of the leaves, checked many at once, which costs a fraction of one by one.

use super::findings::{Damage, FsckReport};
use meshchain_core::session::{Signed, verify_each};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

/// Signatures that are checked at once. More cost no less, and where one is bad all are checked
/// one by one.
const MOST: usize = 512;

/// A leaf's signature, and where the leaf lies.
struct Pending {
    signed: Signed,
    leaf: u64,
    file: String,
    offset: Option<u64>,
}

/// Signatures to be checked.
#[derive(Default)]
pub(super) struct Signatures(Vec<Pending>);

impl Signatures {
    pub(super) fn push(&mut self, signed: Signed, leaf: u64, file: &str, offset: Option<u64>) {
        self.0.push(Pending { signed, leaf, file: file.to_owned(), offset });
    }

    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= MOST
    }

    /// All so far, without those that hold.
    fn take_bad(&mut self) -> Vec<Pending> {
        let all = std::mem::take(&mut self.0);
        let signed: Vec<_> = all.iter().map(|pending| pending.signed).collect();
        let mut seed = [0; 32];
        // Without randomness many at once prove nothing: one by one then.
        let rng = getrandom::fill(&mut seed).is_ok().then(|| ChaCha20Rng::from_seed(seed));
        let good = verify_each(&signed, rng);
        all.into_iter().zip(good).filter(|(_, good)| !good).map(|(pending, _)| pending).collect()
    }

    /// Checks what is pending.
    pub(super) fn check(&mut self, report: &mut FsckReport) {
        report.signatures_ok += self.0.len() as u64;
        for Pending { leaf, file, offset, .. } in self.take_bad() {
            report.signatures_ok -= 1;
            report.damage(Damage {
                file,
                offset,
                fault: format!("leaf {leaf}: its signature is not one of its session's key"),
                cost: "no proxy vouches for the batch: its calls are the collector's word alone"
                    .to_owned(),
                leaves: Some((leaf, leaf)),
            });
        }
    }
}
