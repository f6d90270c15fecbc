//! The signatures of a commit's batches, checked together.

use meshchain_core::session::{Signed, verify_all};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

/// Whether each verifies. All at once, at half the cost of one by one; one by one only where that
/// fails, to tell which.
pub fn verify(signed: &[Signed]) -> Vec<bool> {
    if all_verify(signed) {
        return vec![true; signed.len()];
    }
    signed.iter().map(|signed| signed.verify().is_ok()).collect()
}

fn all_verify(signed: &[Signed]) -> bool {
    let mut seed = [0; 32];
    // What weighs the signatures must not be foreseen by who made them. Without randomness each is
    // checked by itself, which needs none.
    getrandom::fill(&mut seed).is_ok()
        && verify_all(signed.iter().copied(), ChaCha20Rng::from_seed(seed)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshchain_core::SessionKey;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn just_those_that_are_bad_are_told(bad in prop::collection::vec(any::<bool>(), 0..20)) {
            let signed: Vec<_> = (0..).zip(&bad).map(|(at, bad)| {
                // Some sessions have several batches here.
                let key = SessionKey::from_seed([at % 5; 32]);
                let chain = [at; 32];
                let mut signature = key.sign(&chain);
                signature[usize::from(at)] ^= u8::from(*bad);
                Signed { public_key: *key.public(), chain, signature }
            }).collect();
            let good: Vec<_> = bad.iter().map(|bad| !bad).collect();
            prop_assert_eq!(verify(&signed), good);
        }
    }
}
