//! What other programs need of reuseport-lb: [`control`] asks a daemon for something, [`worker`] makes this process
//! one of its workers. Blocks, needs no runtime, and is nothing of the daemon itself.

pub mod api;
pub mod control;
mod http;
pub mod join;
mod stream;
pub mod worker;
