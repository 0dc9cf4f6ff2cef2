//! The test kit: a world of its own for each test, the daemon in it, and clients.

pub mod client;
pub mod daemon;
pub mod statistics;
pub mod world;
