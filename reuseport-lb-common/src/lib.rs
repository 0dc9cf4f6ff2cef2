//! The contract between the kernel program and the daemon: what both sides read and write
//! ([`layout`]), how a key is made ([`key`]), the decision itself ([`select`]) and what is
//! counted ([`counters`]).
//!
//! Nothing here knows of sockets, processes or system calls, so all of it runs on the host under
//! `cargo test` just as it runs in the kernel.
#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod counters;
pub mod key;
pub mod layout;
pub mod offsets;
pub mod select;
pub mod shared;
