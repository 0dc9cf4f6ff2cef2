//! The daemon's sockets for other processes: requests in, answers out. Not: carrying requests out (`handle/`).

pub mod agent;
pub mod connection_limit;
pub mod control;
mod exchange;
pub mod http;
pub mod join;
mod json;
