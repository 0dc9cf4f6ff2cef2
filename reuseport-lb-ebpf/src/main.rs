//! The SK_REUSEPORT programs: packet, key, decision. Glue only: the key is made in
//! `reuseport_lb_common::steer`, the decision in `reuseport_lb_common::select`.
#![no_std]
#![no_main]
// The place of a user's function is made of instructions: `own.rs`.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![expect(unsafe_code, reason = "map values and helpers are raw pointers here")]
#![expect(missing_docs, unreachable_pub, reason = "aya's macros make public items without docs")]

mod asked;
mod group;
mod maps;
mod object;
mod own;
mod packet;
mod pick;
mod quic;
mod waiting;

use aya_ebpf::programs::SkReuseportContext;
use reuseport_lb_common::select::policy::{FirstFit, PreferWaiting as Waiting};
use reuseport_lb_common::steer::{Cpu, Flow, Own, Payload, Random, SourceAny, SourceV4, SourceV6};

use crate::group::Kind;
use crate::pick::define;

pub struct Plain;
pub struct PreferWaiting;
pub struct Tracked;
pub struct Quic;

impl Kind for Plain {
    type Policy = FirstFit;
}

impl Kind for PreferWaiting {
    type Policy = Waiting;
}

impl Kind for Tracked {
    type Policy = FirstFit;
    const TRACKS: bool = true;
}

impl Kind for Quic {
    type Policy = FirstFit;
    const TRACKS: bool = true;

    #[inline(always)]
    fn routes(ctx: &SkReuseportContext) -> bool {
        quic::routes::<Self>(ctx)
    }
}

reuseport_lb_common::programs!(define);

/// Whether any thread waits for work on the socket at the descriptor that is the first argument. Attached to
/// no tracepoint: the daemon runs it. (aya's macro would drop the answer.)
///
/// # Safety
/// `ctx` is the context of a raw tracepoint.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp")]
pub unsafe fn rlb_waits(ctx: *const u64) -> u32 {
    // SAFETY: the context of a raw tracepoint begins with its first argument.
    asked::waits_at(unsafe { *ctx })
}

/// The id of the program of the SO_REUSEPORT group of the socket at the descriptor that is the first argument; see
/// [`asked::attached_at`]. Run by the daemon, as [`rlb_waits`].
///
/// # Safety
/// `ctx` is the context of a raw tracepoint.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp")]
pub unsafe fn rlb_attached(ctx: *const u64) -> u32 {
    // SAFETY: the context of a raw tracepoint begins with its first argument.
    asked::attached_at(unsafe { *ctx })
}
