//! Tests across the crates: second implementations of what `meshchain-core` does, and the vectors
//! that freeze its formats.
//!
//! `meshchain-core` reads and writes; [`proto`], [`naive`] and `check_vectors.py` do the same over
//! again by other means, so that a fault in one of them shows as a difference.

pub mod cases;
pub mod naive;
pub mod proto;
pub mod receipt;
pub mod vector;
