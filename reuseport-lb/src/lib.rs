//! reuseport-lb: every worker of a server gets its own SO_REUSEPORT socket, and an eBPF program in
//! the kernel picks the socket by consistent hashing. docs/ARCHITECTURE.md explains the parts.

pub mod api;
pub mod cli;
pub mod cmd;
pub mod config;
pub mod daemon;
pub mod doctor;
pub mod domain;
pub mod embedded;
pub mod handle;
pub mod kernel;
pub mod logging;
pub mod offload;
pub mod placeholders;
pub mod printable;
pub mod service;
