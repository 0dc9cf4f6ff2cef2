//! What the benchmarks share.

pub mod baseline;
pub mod run_time;
