//! The signatures of a commit's batches, checked together.

use meshchain_core::session::{Signed, verify_each};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

/// Whether each verifies. What weighs the signatures must not be foreseen by who made them; without
/// randomness each is checked by itself, which needs none.
pub fn verify(signed: &[Signed]) -> Vec<bool> {
    let mut seed = [0; 32];
    let rng = getrandom::fill(&mut seed).is_ok().then(|| ChaCha20Rng::from_seed(seed));
    verify_each(signed, rng)
}
