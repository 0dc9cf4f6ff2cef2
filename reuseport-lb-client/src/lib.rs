//! Library for other programs: [`control`] sends requests to a daemon, [`worker`] makes this process a worker of it.
//! Calls block, and need no async runtime.

pub mod api;
pub mod control;
mod http;
pub mod join;
mod stream;
pub mod worker;
