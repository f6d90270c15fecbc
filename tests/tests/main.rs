//! Tests across the crates, one binary.

mod arbitrary;
mod canonical;
mod document;
mod hostile;
mod merkle;
mod normalize;
mod published;
mod strict;
mod vectors;
