//! What a user's key function says of a datagram, without deciding anything: the daemon's `policy … test`.
#![no_std]
#![no_main]
// The place of a user's function is made of instructions: `own.rs`.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![expect(unsafe_code, reason = "map values are raw pointers here")]
#![expect(missing_docs, unreachable_pub, reason = "aya's macros make public items without docs")]

mod object;
mod own;

use aya_ebpf::bindings::sk_action::SK_PASS;
use aya_ebpf::macros::{map, sk_reuseport};
use aya_ebpf::maps::Array;
use aya_ebpf::programs::SkReuseportContext;
use reuseport_lb_common::program::TRIED;

/// The key of the last datagram, with [`TRIED`] beside it.
#[map]
pub static KEY: Array<u64> = Array::with_max_entries(1, 0);

#[sk_reuseport]
pub fn rlb_trial(ctx: SkReuseportContext) -> u32 {
    let key = own::rlb_key(ctx.md) & u64::from(u32::MAX);
    let _ = KEY.set(0, key | TRIED, 0);
    SK_PASS
}
