//! The daemon's sockets for others: requests in, answers out. Not: what is done about a request, for which a handle
//! (`handle/`) is asked.

pub mod connection_limit;
pub mod control;
pub mod join;
mod json;
