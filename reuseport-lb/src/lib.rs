//! reuseport-lb: every worker of a server gets its own SO_REUSEPORT socket, and an eBPF program in
//! the kernel picks the socket by consistent hashing. docs/ARCHITECTURE.md explains the parts.

pub mod btf;
pub mod cli;
pub mod cmd;
pub mod config;
pub mod control;
pub mod crowd;
pub mod daemon;
pub mod doctor;
pub mod embedded;
pub mod executable;
pub mod flows;
pub mod health;
pub mod join;
pub mod kernel;
pub mod listener;
pub mod logging;
pub mod member;
pub mod moves;
pub mod notify;
pub mod offload;
pub mod printable;
pub mod registry;
pub mod service;
pub mod slots;
pub mod sparing;
pub mod startable;
pub mod state;
pub mod status;
pub mod supervisor;
pub mod table;
pub mod trace;
pub mod worker;
