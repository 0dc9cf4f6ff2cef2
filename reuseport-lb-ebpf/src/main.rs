//! The SK_REUSEPORT program: gather → decide → count → trace. Glue only: the decision is
//! `reuseport_lb_common::select`.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "map values and helpers are raw pointers here")]
#![expect(missing_docs, unreachable_pub, reason = "aya's macros make public items without docs")]

mod gather;
mod group;
mod maps;
mod waiting;

use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::bindings::sk_reuseport_md;
use aya_ebpf::macros::sk_reuseport;
use aya_ebpf::programs::SkReuseportContext;
use aya_log_ebpf::info;
use reuseport_lb_common::counters::Counter;
use reuseport_lb_common::layout::affinity::{FLOW, SOURCE_V4, SOURCE_V6};
use reuseport_lb_common::layout::{EVENTS, Entry, NO_SLOT, attention};
use reuseport_lb_common::select::{self, Decision};

use crate::group::{AVOIDS_BUSY, KernelGroup, PLAIN, TRACKS, counters};

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// A program for each kind of group and affinity, so that none asks which it is. The kernel cuts names
/// after 15 characters.
macro_rules! programs {
    ($($name:ident: $kind:ident, $affinity:ident;)*) => {
        $(
            #[sk_reuseport(migrate)]
            pub fn $name(ctx: SkReuseportContext) -> u32 {
                pick::<{ $kind }, { $affinity }>(&ctx)
            }
        )*
    };
}

programs! {
    rlb_tcp_flow: PLAIN, FLOW;
    rlb_tcp_source4: PLAIN, SOURCE_V4;
    rlb_tcp_source6: PLAIN, SOURCE_V6;
    rlb_idle_flow: AVOIDS_BUSY, FLOW;
    rlb_idle_src4: AVOIDS_BUSY, SOURCE_V4;
    rlb_idle_src6: AVOIDS_BUSY, SOURCE_V6;
    rlb_udp_flow: TRACKS, FLOW;
    rlb_udp_source4: TRACKS, SOURCE_V4;
    rlb_udp_source6: TRACKS, SOURCE_V6;
}

/// Whether anybody waits for work on the socket at the descriptor that is the first argument. Attached to
/// no tracepoint: the daemon runs it. (aya's macro would drop the answer.)
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp")]
pub fn rlb_waits(ctx: *const u64) -> u32 {
    // SAFETY: the context of a raw tracepoint begins with its first argument.
    waiting::waits_at(unsafe { *ctx })
}

/// Picks the socket for a datagram, or for a connection: when it begins, or when its listener is
/// closing.
#[inline(always)]
fn pick<const KIND: u32, const AFFINITY: u32>(ctx: &SkReuseportContext) -> u32 {
    let migrating = gather::migrating(ctx);
    let key = gather::key::<AFFINITY>(ctx, migrating).unwrap_or_else(|| {
        add(Counter::KeyFallback);
        ctx.hash()
    });
    let entry = if migrating || KIND == AVOIDS_BUSY {
        maps::TABLE.entry(key).with_care(true)
    } else {
        match select::owner(key, &mut KernelGroup::<KIND> { ctx }) {
            // That a packet came and its owner was taken is not counted but follows from the rest.
            Ok(_) => return SK_PASS,
            Err(entry) if KIND == TRACKS && entry.is_moving() => return moving(ctx.md, key, entry),
            Err(entry) => entry,
        }
    };
    detour::<KIND>(ctx.md, key, entry)
}

/// In a bucket that is moving; a function of its own, so that its registers are its own as well. `cold`
/// only puts it behind the fast path, whose instructions then follow each other.
#[cold]
#[inline(never)]
fn moving(md: *mut sk_reuseport_md, key: u32, entry: Entry) -> u32 {
    let ctx = SkReuseportContext::new(md);
    match select::moving(key, entry, &mut KernelGroup::<TRACKS> { ctx: &ctx }) {
        Some((_, owner)) => {
            if owner == Counter::OwnerKept {
                add(owner);
            }
            SK_PASS
        }
        None => detour::<TRACKS>(md, key, entry),
    }
}

/// Off the fast path; a function of its own as well.
#[cold]
#[inline(never)]
fn detour<const KIND: u32>(md: *mut sk_reuseport_md, key: u32, entry: Entry) -> u32 {
    let ctx = SkReuseportContext::new(md);
    let migrating = gather::migrating(&ctx);
    let mut group = KernelGroup::<KIND> { ctx: &ctx };
    let decision = select::detour(key, entry, &mut group);
    group.selected(decision.slot);
    if let Some(counters) = counters() {
        let mut add = |counter: Counter, by| counters.events[counter.index() & (EVENTS - 1)] += by;
        if migrating {
            add(Counter::Migration, 1);
        }
        if decision.owner != Counter::OwnerTaken {
            add(decision.owner, 1);
        }
        if let Some(detour) = decision.detour {
            add(detour, 1);
        }
        add(Counter::SelectFailed, u64::from(decision.failed));
        if decision.slot.is_none() {
            add(Counter::Refused, 1);
        }
    }
    if maps::TABLE.attention.get() & attention::TRACE != 0 {
        trace(&ctx, migrating, key, &decision);
    }
    if decision.slot.is_some() { SK_PASS } else { SK_DROP }
}

#[inline(always)]
fn add(counter: Counter) {
    if let Some(counters) = counters() {
        counters.events[counter.index() & (EVENTS - 1)] += 1;
    }
}

/// Numbers only: names of counters and workers are the reader's to add (the daemon's trace.rs).
#[inline(never)]
fn trace(ctx: &SkReuseportContext, migrating: bool, key: u32, decision: &Decision) {
    let arrival = if migrating { Counter::Migration } else { Counter::Packet };
    let detour = match decision.detour {
        Some(detour) => detour as u32,
        None => EVENTS as u32,
    };
    let slot = u32::from(decision.slot.unwrap_or(NO_SLOT));
    info!(ctx, "{} {} {} {} {}", arrival as u32, key, decision.owner as u32, detour, slot);
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
