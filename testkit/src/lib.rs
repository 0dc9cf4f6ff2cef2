//! The test kit: a world of its own for each test, the daemon in it, clients and load.

#![expect(missing_docs, reason = "only tests use it: what a name says needs no words")]

pub mod background;
pub mod client;
pub mod config;
pub mod counters;
pub mod cpus;
pub mod daemon;
pub mod datagrams;
pub mod dns;
pub mod documents;
pub mod fault;
pub mod flood;
pub mod flows;
pub mod guests;
pub mod key_function;
pub mod limit;
pub mod load;
pub mod matrix;
pub mod network;
pub mod patience;
pub mod plain;
pub mod quic;
pub mod requests;
pub mod rights;
pub mod said;
pub mod server;
pub mod shape;
pub mod shell;
pub mod site;
pub mod statistics;
pub mod told;
pub mod traces;
pub mod tracing;
pub mod units;
pub mod world;
