//! What the programs behind `make bench` share. Each program measures one thing, prints one JSON
//! object on standard output, and leaves tables and comparisons to `run.py`.

pub mod batches;
pub mod evidence;
pub mod http;
pub mod times;

/// A generator of test data (splitmix64): fast, the same in every run, and of no other use.
#[derive(Debug, Clone)]
pub struct Ids(u64);

impl Ids {
    /// A generator; each seed gives its own sequence.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next `N` bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        for part in out.chunks_mut(8) {
            part.copy_from_slice(&self.number().to_le_bytes()[..part.len()]);
        }
        out
    }
}
