//! Four 32-bit words side by side: one v128 in wasm with simd128, plain words elsewhere.

/// Four words, one of each of four messages.
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
pub use simd::Lanes;

#[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
pub use plain::Lanes;

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod simd {
    use std::arch::wasm32::*;

    /// Four words, one of each of four messages.
    #[derive(Clone, Copy)]
    pub struct Lanes(v128);

    impl Lanes {
        /// The same word four times.
        #[inline(always)]
        pub fn splat(word: u32) -> Self {
            Self(u32x4_splat(word))
        }

        /// Four words of each message, big-endian: the first of all, the second of all, and so on.
        #[inline(always)]
        pub fn load(quarters: [&[u8; 16]; 4]) -> [Self; 4] {
            let [a, b, c, d] = quarters.map(|quarter| {
                // SAFETY: 16 bytes are there, and the load needs no alignment.
                let bytes = unsafe { v128_load(quarter.as_ptr().cast()) };
                u8x16_shuffle::<3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12>(bytes, bytes)
            });
            let (ab, cd) = (u32x4_shuffle::<0, 4, 1, 5>(a, b), u32x4_shuffle::<0, 4, 1, 5>(c, d));
            let (ef, gh) = (u32x4_shuffle::<2, 6, 3, 7>(a, b), u32x4_shuffle::<2, 6, 3, 7>(c, d));
            [
                Self(u64x2_shuffle::<0, 2>(ab, cd)),
                Self(u64x2_shuffle::<1, 3>(ab, cd)),
                Self(u64x2_shuffle::<0, 2>(ef, gh)),
                Self(u64x2_shuffle::<1, 3>(ef, gh)),
            ]
        }

        /// The four words.
        #[inline(always)]
        pub fn words(self) -> [u32; 4] {
            let v = self.0;
            [
                u32x4_extract_lane::<0>(v),
                u32x4_extract_lane::<1>(v),
                u32x4_extract_lane::<2>(v),
                u32x4_extract_lane::<3>(v),
            ]
        }

        /// Sum, modulo 2^32.
        #[inline(always)]
        pub fn add(self, other: Self) -> Self {
            Self(u32x4_add(self.0, other.0))
        }

        /// Bitwise exclusive or.
        #[inline(always)]
        pub fn xor(self, other: Self) -> Self {
            Self(v128_xor(self.0, other.0))
        }

        /// Bits of `one` where this has ones, of `zero` elsewhere.
        #[inline(always)]
        pub fn choose(self, one: Self, zero: Self) -> Self {
            Self(v128_bitselect(one.0, zero.0, self.0))
        }

        /// Shift to the right.
        #[inline(always)]
        pub fn shift<const BITS: u32>(self) -> Self {
            Self(u32x4_shr(self.0, BITS))
        }

        /// Rotation to the right.
        #[inline(always)]
        pub fn rotate<const BITS: u32>(self) -> Self {
            Self(v128_or(u32x4_shr(self.0, BITS), u32x4_shl(self.0, 32 - BITS)))
        }
    }
}

#[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
mod plain {
    /// Four words, one of each of four messages.
    #[derive(Clone, Copy)]
    pub struct Lanes([u32; 4]);

    impl Lanes {
        fn zip(self, other: Self, f: impl Fn(u32, u32) -> u32) -> Self {
            let ([a, b, c, d], [e, g, h, i]) = (self.0, other.0);
            Self([f(a, e), f(b, g), f(c, h), f(d, i)])
        }

        /// The same word four times.
        pub fn splat(word: u32) -> Self {
            Self([word; 4])
        }

        /// Four words of each message, big-endian: the first of all, the second of all, and so on.
        pub fn load(quarters: [&[u8; 16]; 4]) -> [Self; 4] {
            let words = quarters.map(|quarter| u128::from_be_bytes(*quarter));
            [96, 64, 32, 0].map(|shift| Self(words.map(|word| (word >> shift) as u32)))
        }

        /// The four words.
        pub fn words(self) -> [u32; 4] {
            self.0
        }

        /// Sum, modulo 2^32.
        pub fn add(self, other: Self) -> Self {
            self.zip(other, u32::wrapping_add)
        }

        /// Bitwise exclusive or.
        pub fn xor(self, other: Self) -> Self {
            self.zip(other, |a, b| a ^ b)
        }

        /// Bits of `one` where this has ones, of `zero` elsewhere.
        pub fn choose(self, one: Self, zero: Self) -> Self {
            zero.xor(self.zip(one.xor(zero), |a, b| a & b))
        }

        /// Shift to the right.
        pub fn shift<const BITS: u32>(self) -> Self {
            Self(self.0.map(|word| word >> BITS))
        }

        /// Rotation to the right.
        pub fn rotate<const BITS: u32>(self) -> Self {
            Self(self.0.map(|word| word.rotate_right(BITS)))
        }
    }
}
