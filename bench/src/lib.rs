//! What the benchmarks share.

pub mod baseline;
