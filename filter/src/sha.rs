//! SHA-256 (FIPS 180-4) of four messages at a time.
//!
//! A call's digests are of a few blocks each, and nobody waits for them: four messages in the lanes of
//! one register take little longer than one (docs/performance.md).

use crate::lanes::Lanes;
use meshchain_core::Hash;

/// Bytes of a block.
pub const BLOCK: usize = 64;

const START: [u32; 8] = [
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
];

#[rustfmt::skip]
const ROUNDS: [[u32; 16]; 4] = [
    [
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    ],
    [
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    ],
    [
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    ],
    [
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
    ],
];

/// Pads the message that begins at `start` and ends with `out`, to whole blocks.
pub fn pad(out: &mut Vec<u8>, start: usize) {
    let length = out.len().saturating_sub(start);
    let padded = (length + 9).next_multiple_of(BLOCK);
    out.push(0x80);
    out.resize(start + padded - 8, 0);
    out.extend_from_slice(&(length as u64 * 8).to_be_bytes());
}

/// Digests of four padded messages of any lengths.
///
/// What ends first idles until the longest ends, so messages of about one length go together.
pub fn digest_four(messages: [&[u8]; 4]) -> [Hash; 4] {
    let blocks = messages.map(|message| message.as_chunks::<BLOCK>().0);
    let mut state = START.map(Lanes::splat);
    let mut digests = [[0; 32]; 4];
    let most = blocks.iter().map(|blocks| blocks.len()).max().unwrap_or(0);
    for at in 0..most {
        state = compress(state, blocks.map(|blocks| blocks.get(at).unwrap_or(&[0; BLOCK])));
        if blocks.iter().any(|blocks| blocks.len() == at + 1) {
            let words = state.map(Lanes::words);
            for (lane, (digest, blocks)) in digests.iter_mut().zip(blocks).enumerate() {
                if blocks.len() == at + 1 {
                    for (out, words) in digest.as_chunks_mut::<4>().0.iter_mut().zip(words) {
                        *out = words.get(lane).copied().unwrap_or(0).to_be_bytes();
                    }
                }
            }
        }
    }
    digests
}

fn quarter(blocks: [&[u8; BLOCK]; 4], at: usize) -> [Lanes; 4] {
    Lanes::load(blocks.map(|block| block.as_chunks::<16>().0.get(at).unwrap_or(&[0; 16])))
}

fn compress(state: [Lanes; 8], blocks: [&[u8; BLOCK]; 4]) -> [Lanes; 8] {
    let [mut w0, mut w1, mut w2, mut w3] = quarter(blocks, 0);
    let [mut w4, mut w5, mut w6, mut w7] = quarter(blocks, 1);
    let [mut w8, mut w9, mut w10, mut w11] = quarter(blocks, 2);
    let [mut w12, mut w13, mut w14, mut w15] = quarter(blocks, 3);
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = state;
    for (at, constants) in ROUNDS.iter().enumerate() {
        if at > 0 {
            // In place: each word from those 16, 15, 7 and 2 places before it.
            w0 = next(w0, w1, w9, w14);
            w1 = next(w1, w2, w10, w15);
            w2 = next(w2, w3, w11, w0);
            w3 = next(w3, w4, w12, w1);
            w4 = next(w4, w5, w13, w2);
            w5 = next(w5, w6, w14, w3);
            w6 = next(w6, w7, w15, w4);
            w7 = next(w7, w8, w0, w5);
            w8 = next(w8, w9, w1, w6);
            w9 = next(w9, w10, w2, w7);
            w10 = next(w10, w11, w3, w8);
            w11 = next(w11, w12, w4, w9);
            w12 = next(w12, w13, w5, w10);
            w13 = next(w13, w14, w6, w11);
            w14 = next(w14, w15, w7, w12);
            w15 = next(w15, w0, w8, w13);
        }
        let words = [w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13, w14, w15];
        for (word, constant) in words.into_iter().zip(constants) {
            let first = h
                .add(e.rotate::<6>().xor(e.rotate::<11>()).xor(e.rotate::<25>()))
                .add(e.choose(f, g))
                .add(word.add(Lanes::splat(*constant)));
            let second = a
                .rotate::<2>()
                .xor(a.rotate::<13>())
                .xor(a.rotate::<22>())
                .add(a.xor(b).choose(c, a)); // the majority of a, b, c
            (h, g, f, e) = (g, f, e, d.add(first));
            (d, c, b, a) = (c, b, a, first.add(second));
        }
    }
    let [s0, s1, s2, s3, s4, s5, s6, s7] = state;
    [s0.add(a), s1.add(b), s2.add(c), s3.add(d), s4.add(e), s5.add(f), s6.add(g), s7.add(h)]
}

/// A word of the message schedule.
#[inline(always)]
fn next(w16: Lanes, w15: Lanes, w7: Lanes, w2: Lanes) -> Lanes {
    let small = w15.rotate::<7>().xor(w15.rotate::<18>()).xor(w15.shift::<3>());
    let large = w2.rotate::<17>().xor(w2.rotate::<19>()).xor(w2.shift::<10>());
    w16.add(small).add(w7).add(large)
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshchain_core::hash::tagged;
    use proptest::prelude::*;

    fn padded(message: &[u8]) -> Vec<u8> {
        let mut out = message.to_vec();
        pad(&mut out, 0);
        out
    }

    fn check(messages: [&[u8]; 4]) {
        let padded = messages.map(padded);
        let digests = digest_four(padded.each_ref().map(Vec::as_slice));
        assert_eq!(digests, messages.map(|message| tagged(&[], &[message])));
    }

    #[test]
    fn digests_are_those_of_sha2_around_every_block_boundary() {
        let bytes: Vec<u8> = (0..=255).cycle().take(300).collect();
        let at = |length| bytes.get(..length).unwrap_or_default();
        for lengths in
            [[0, 55, 56, 63], [64, 119, 120, 247], [248, 0, 300, 1], [183, 184, 191, 192]]
        {
            check(lengths.map(at));
        }
    }

    #[test]
    fn a_message_is_padded_behind_what_stands_before_it() {
        let mut out = vec![1; 7];
        out.extend_from_slice(b"abc");
        pad(&mut out, 7);
        assert_eq!((out.len(), out.get(7..)), (71, Some(padded(b"abc").as_slice())));
    }

    proptest! {
        #[test]
        fn digests_are_those_of_sha2_for_any_four_messages(
            a in prop::collection::vec(any::<u8>(), 0..300),
            b in prop::collection::vec(any::<u8>(), 0..300),
            c in prop::collection::vec(any::<u8>(), 0..300),
            d in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            check([&a, &b, &c, &d]);
        }
    }
}
