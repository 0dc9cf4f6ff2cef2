//! Packet, key, decision: what all programs do.

use aya_ebpf::programs::SkReuseportContext;
use reuseport_lb_common::counters::Counter;
use reuseport_lb_common::select::decide;
use reuseport_lb_common::steer::{Hint, Packet as _, Steer};

use crate::group::{KernelGroup, Kind, add};
use crate::packet::KernelPacket;

/// Picks the socket for a datagram, or for a connection: when it begins, or when its listener is
/// closing.
#[inline(always)]
pub fn pick<K: Kind, S: Steer>(ctx: &SkReuseportContext) -> u32 {
    let packet = KernelPacket(ctx);
    let hint = S::hint(&packet).unwrap_or_else(|| {
        add(Counter::KeyFallback);
        Hint::Key(packet.hash())
    });
    decide(hint, KernelGroup::<K>::new(ctx))
}
