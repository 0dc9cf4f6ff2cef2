//! The contract between the kernel program and the daemon, and the decision itself.
//!
//! What both sides read and write, one structure per file: [`entry`] and [`table`], [`activity`], [`load`],
//! [`connections`], [`directed`], [`counters`]. What is decided: [`steer`] makes a key of a packet, and [`select`] a slot of the key.
//! [`program`] lists the kernel programs. [`trace_word`] is a decision as it is logged.
//!
//! Nothing here knows of sockets, processes or system calls, so all of it runs on the host under
//! `cargo test` just as it runs in the kernel.
#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod activity;
pub mod connections;
pub mod counters;
pub mod directed;
pub mod entry;
pub mod load;
pub mod offsets;
pub mod program;
pub mod quic;
pub mod select;
pub mod shared;
pub mod slots;
pub mod steer;
pub mod table;
pub mod trace_word;

/// Version of what one daemon takes over from another, [`activity::Activity`] and [`counters::Counters`];
/// changes whenever a size, an offset or a meaning does. ([`load::Load`] is made anew, and [`table::Table`]
/// stays as it is for ever.)
pub const LAYOUT_VERSION: u32 = 2;

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "aya reads map values as plain old data")]
mod pod {
    // SAFETY: repr(C) of u64 only: every bit pattern is valid, and there is no padding.
    unsafe impl aya::Pod for super::counters::Counters {}

    // SAFETY: repr(C) of u32 only: every bit pattern is valid, and there is no padding.
    unsafe impl aya::Pod for super::offsets::Offsets {}

    // SAFETY: as above.
    unsafe impl aya::Pod for super::connections::Tag {}

    // SAFETY: as above.
    unsafe impl aya::Pod for super::steer::Bytes {}

    // SAFETY: as above.
    unsafe impl aya::Pod for super::quic::Format {}
}
