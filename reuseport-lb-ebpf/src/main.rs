//! The SK_REUSEPORT programs: packet, key, decision. Glue only: the key is made in
//! `reuseport_lb_common::steer`, the decision in `reuseport_lb_common::select`.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "map values and helpers are raw pointers here")]
#![expect(missing_docs, unreachable_pub, reason = "aya's macros make public items without docs")]

mod group;
mod maps;
mod packet;
mod waiting;

use aya_ebpf::macros::sk_reuseport;
use aya_ebpf::programs::SkReuseportContext;
use reuseport_lb_common::counters::Counter;
use reuseport_lb_common::select::decide;
use reuseport_lb_common::steer::{
    Cpu, Flow, Hint, Packet as _, Random, SourceAny, SourceV4, SourceV6, Steer,
};

use crate::group::{KernelGroup, Kind, Plain, PreferWaiting, Tracked, add};
use crate::packet::KernelPacket;

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// A program for each kind of group and way to make keys, so that none asks which it is.
macro_rules! define {
    ($($name:ident: $kind:ident, $steering:ident;)*) => {
        $(
            // The loader takes functions of one address for the same one, in whichever section they are: so only `detour` may
            // be in that of cold code.
            #[sk_reuseport(migrate)]
            #[inline(always)]
            pub fn $name(ctx: SkReuseportContext) -> u32 {
                pick::<$kind, $steering>(&ctx)
            }
        )*
    };
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
    waiting::waits_at(unsafe { *ctx })
}

/// The id of the program of the SO_REUSEPORT group of the socket at the descriptor that is the first argument; see
/// [`waiting::attached_at`]. Run by the daemon, as [`rlb_waits`].
///
/// # Safety
/// `ctx` is the context of a raw tracepoint.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp")]
pub unsafe fn rlb_attached(ctx: *const u64) -> u32 {
    // SAFETY: the context of a raw tracepoint begins with its first argument.
    waiting::attached_at(unsafe { *ctx })
}

/// Picks the socket for a datagram, or for a connection: when it begins, or when its listener is
/// closing.
#[inline(always)]
fn pick<K: Kind, S: Steer>(ctx: &SkReuseportContext) -> u32 {
    let packet = KernelPacket(ctx);
    let hint = S::hint(&packet).unwrap_or_else(|| {
        add(Counter::KeyFallback);
        Hint::Key(packet.hash())
    });
    decide(hint, KernelGroup::<K>::new(ctx))
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
