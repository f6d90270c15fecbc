//! A proxy's session: a key pair, the id that is its hash, and the signature of each batch.
//!
//! A VM draws its key at its first batch. Since the session id is a hash of the public key, nobody
//! else can open, continue or close the session; since each batch is signed over its chain value,
//! no collector can make one up.
//!
//! Signatures are Ed25519, valid by the rules of ZIP 215: these do not differ between checking one
//! and checking many at once, which those of RFC 8032 leave open.

use crate::hash::{BATCH_DOMAIN, HANDOVER_DOMAIN, Hash, SESSION_DOMAIN, tagged};
use ed25519_zebra::{
    Signature as Ed25519, SigningKey, VerificationKey, VerificationKeyBytes, batch,
};
use rand_core::CryptoRng;
use thiserror::Error;

/// Length of a session's public key in bytes.
pub const KEY_LEN: usize = 32;
/// Length of a batch's signature in bytes.
pub const SIGNATURE_LEN: usize = 64;

/// A signature of a session's key, 64 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; SIGNATURE_LEN]);

impl Default for Signature {
    fn default() -> Self {
        Self([0; SIGNATURE_LEN])
    }
}

/// Id of a session: the first 16 bytes of a hash of its public key.
pub type SessionId = [u8; 16];

/// A batch's signature does not verify, or its key is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the signature is not one of the session's key over the chain value")]
pub struct BadSignature;

/// The session that a public key speaks for.
pub fn session_id(public_key: &[u8; KEY_LEN]) -> SessionId {
    let mut id = SessionId::default();
    id.copy_from_slice(&tagged(SESSION_DOMAIN, &[public_key])[..16]);
    id
}

/// What is signed for a batch: the domain, then its chain value.
fn message(chain: &Hash) -> [u8; BATCH_DOMAIN.len() + 32] {
    let mut out = [0; BATCH_DOMAIN.len() + 32];
    let (domain, rest) = out.split_at_mut(BATCH_DOMAIN.len());
    domain.copy_from_slice(BATCH_DOMAIN);
    rest.copy_from_slice(chain);
    out
}

/// The secret half of a session; wiped when it is dropped.
pub struct SessionKey {
    key: SigningKey,
    public: [u8; KEY_LEN],
}

impl std::fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SessionKey({})", hex::encode(self.id()))
    }
}

impl SessionKey {
    /// The key of a seed of 32 random bytes.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let key = SigningKey::from(seed);
        let public = VerificationKeyBytes::from(&key).into();
        Self { key, public }
    }

    /// The public key.
    pub fn public(&self) -> &[u8; KEY_LEN] {
        &self.public
    }

    /// The session's id.
    pub fn id(&self) -> SessionId {
        session_id(&self.public)
    }

    /// Signs that another session follows this one.
    pub fn hand_over(&self, to: &SessionId) -> [u8; SIGNATURE_LEN] {
        self.key.sign(&[HANDOVER_DOMAIN, to].concat()).to_bytes()
    }

    /// Signs a batch by its chain value.
    pub fn sign(&self, chain: &Hash) -> [u8; SIGNATURE_LEN] {
        self.key.sign(&message(chain)).to_bytes()
    }
}

/// A signed chain value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signed {
    /// Public key of the session.
    pub public_key: [u8; KEY_LEN],
    /// Chain value of the batch.
    pub chain: Hash,
    /// Signature over the chain value.
    pub signature: [u8; SIGNATURE_LEN],
}

impl Signed {
    /// Checks the signature.
    pub fn verify(&self) -> Result<(), BadSignature> {
        let key = VerificationKey::try_from(self.public_key).map_err(|_| BadSignature)?;
        let signature = Ed25519::from(self.signature);
        key.verify(&signature, &message(&self.chain)).map_err(|_| BadSignature)
    }
}

/// Checks that the holder of a session's key named the session that follows it.
pub fn verify_handover(
    public_key: &[u8; KEY_LEN],
    to: &SessionId,
    signature: &[u8; SIGNATURE_LEN],
) -> Result<(), BadSignature> {
    let key = VerificationKey::try_from(*public_key).map_err(|_| BadSignature)?;
    let message = [HANDOVER_DOMAIN, to].concat();
    key.verify(&Ed25519::from(*signature), &message).map_err(|_| BadSignature)
}

/// Checks many signatures at once, at a fraction of the cost of one by one; fails where any does
/// not verify, without telling which. `rng` must not be foreseeable by who signed.
fn verify_all(
    signed: impl IntoIterator<Item = Signed>,
    rng: impl CryptoRng,
) -> Result<(), BadSignature> {
    let mut all = batch::Verifier::new();
    for Signed { public_key, chain, signature } in signed {
        let key = VerificationKeyBytes::from(public_key);
        all.queue((key, Ed25519::from(signature), &message(&chain)));
    }
    all.verify(rng).map_err(|_| BadSignature)
}

/// Whether each signature verifies: all at once, and one by one only where that fails, to tell which. Without
/// an `rng`, which must not be foreseeable by who signed, one by one in any case.
pub fn verify_each(signed: &[Signed], rng: Option<impl CryptoRng>) -> Vec<bool> {
    match rng.map(|rng| verify_all(signed.iter().copied(), rng)) {
        Some(Ok(())) => vec![true; signed.len()],
        Some(Err(BadSignature)) | None => signed.iter().map(|s| s.verify().is_ok()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    fn signed(seed: u8, chain: u8) -> Signed {
        let key = SessionKey::from_seed([seed; 32]);
        let chain = [chain; 32];
        Signed { public_key: *key.public(), chain, signature: key.sign(&chain) }
    }

    #[test]
    fn a_signature_holds_for_its_key_and_chain_alone() {
        let good = signed(1, 2);
        assert_eq!(good.verify(), Ok(()));
        let other_key = Signed { public_key: signed(9, 2).public_key, ..good };
        let other_chain = Signed { chain: [3; 32], ..good };
        let no_key = Signed { public_key: [0xff; 32], ..good };
        let mut flipped = good;
        flipped.signature[63] ^= 1;
        for bad in [other_key, other_chain, no_key, flipped] {
            assert_eq!(bad.verify(), Err(BadSignature));
            let rng = || ChaCha8Rng::from_seed([7; 32]);
            assert_eq!(verify_all([good, signed(4, 4), bad], rng()), Err(BadSignature));
            assert_eq!(verify_all([good, signed(4, 4)], rng()), Ok(()));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn just_those_that_are_bad_are_told(
            bad in prop::collection::vec(any::<bool>(), 0..20),
            seed in proptest::option::of(any::<[u8; 32]>()),
        ) {
            let all: Vec<_> = (0..).zip(&bad).map(|(at, bad)| {
                // Some sessions have several batches here.
                let mut signed = signed(at % 5, at);
                signed.signature[usize::from(at)] ^= u8::from(*bad);
                signed
            }).collect();
            let good: Vec<_> = bad.iter().map(|bad| !bad).collect();
            prop_assert_eq!(verify_each(&all, seed.map(ChaCha8Rng::from_seed)), good);
        }
    }

    #[test]
    fn a_session_is_handed_over_by_its_key_alone() {
        let (old, new) = (SessionKey::from_seed([1; 32]), SessionKey::from_seed([2; 32]));
        let signature = old.hand_over(&new.id());
        assert_eq!(verify_handover(old.public(), &new.id(), &signature), Ok(()));
        assert_eq!(verify_handover(old.public(), &old.id(), &signature), Err(BadSignature));
        assert_eq!(verify_handover(new.public(), &new.id(), &signature), Err(BadSignature));
    }

    #[test]
    fn a_session_id_is_a_hash_of_the_key() {
        let key = SessionKey::from_seed([1; 32]);
        let hash = tagged(b"meshchain/session/v1\0", &[key.public()]);
        assert_eq!(key.id(), hash[..16]);
        assert!(!format!("{key:?}").contains(&hex::encode([1; 32])));
    }
}
