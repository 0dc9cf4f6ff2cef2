//! Packet, key, decision: what all programs do.

use aya_ebpf::bindings::sk_action::SK_PASS;
use aya_ebpf::programs::SkReuseportContext;
use reuseport_lb_common::counters::Counter;
use reuseport_lb_common::select::decide;
use reuseport_lb_common::steer::{Hint, Packet as _, Steer};

use crate::group::{KernelGroup, Kind, add};
use crate::packet::KernelPacket;

/// Defines a program for each kind of group and way to make keys, so that none asks which it is.
macro_rules! define {
    ($($name:ident: $kind:ident, $steering:ident;)*) => {
        $(
            // The loader takes functions of one address for the same one, in whichever section they are: so only `detour`,
            // and what is as rare, may be in that of cold code.
            #[aya_ebpf::macros::sk_reuseport(migrate)]
            #[inline(always)]
            pub fn $name(ctx: aya_ebpf::programs::SkReuseportContext) -> u32 {
                $crate::pick::pick::<$kind, $steering>(&ctx)
            }
        )*
    };
}
pub(crate) use define;

/// Picks the socket for a datagram, or for a connection: when it begins, or when its listener is
/// closing.
#[inline(always)]
pub fn pick<K: Kind, S: Steer>(ctx: &SkReuseportContext) -> u32 {
    if K::routes(ctx) {
        return SK_PASS;
    }
    let packet = KernelPacket(ctx);
    let hint = S::hint(&packet).unwrap_or_else(|| {
        add(Counter::KeyFallback);
        Hint::Key(packet.hash())
    });
    decide(hint, KernelGroup::<K>::new(ctx))
}
