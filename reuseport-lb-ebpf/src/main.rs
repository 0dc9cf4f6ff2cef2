//! The SK_REUSEPORT program: gather → decide → count → trace. Glue only: the decision is
//! `reuseport_lb_common::select`.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "map values and helpers are raw pointers here")]
#![expect(missing_docs, unreachable_pub, reason = "aya's macros make public items without docs")]

mod gather;
mod maps;

use aya_ebpf::Global;
use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::bindings::sk_reuseport_md;
use aya_ebpf::macros::sk_reuseport;
use aya_ebpf::programs::SkReuseportContext;
use aya_log_ebpf::info;
use reuseport_lb_common::counters::Counter;
use reuseport_lb_common::layout::affinity::{FLOW, SOURCE_V4, SOURCE_V6};
use reuseport_lb_common::layout::{
    Activity, Counters, EVENTS, Entry, Load, MAX_SLOTS, NO_SLOT, Table, attention,
};
use reuseport_lb_common::select::{self, Decision, Group};

/// See `reuseport_lb_common::layout::constant`.
#[unsafe(no_mangle)]
static HOLD: Global<u32> = Global::new(0);

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// `TRACKED`: whether flows are more than one decision (UDP).
struct KernelGroup<'a, const TRACKED: bool> {
    ctx: &'a SkReuseportContext,
}

impl<const TRACKED: bool> Group for KernelGroup<'_, TRACKED> {
    #[inline(always)]
    fn table(&self) -> &Table {
        &maps::TABLE
    }

    #[inline(always)]
    fn load(&self) -> Option<&Load> {
        // SAFETY: the value lives as long as the map, and all its fields are `Shared`.
        maps::LOAD.get_ptr(0).map(|load| unsafe { &*load })
    }

    #[inline(always)]
    fn activity(&self) -> Option<&Activity> {
        if TRACKED { Some(&maps::ACTIVITY) } else { None }
    }

    /// Counts what it selects. The counter is read before the helper runs, so that the wait for
    /// its cache line and the helper's work overlap (5 ns of 60), and looked up after the bucket's
    /// entry was, so that the program's first instructions send for that (2 ns).
    #[inline(always)]
    fn select(&mut self, slot: u16) -> bool {
        let Some(counters) = counters() else { return false };
        let counter = &raw mut counters.selected[usize::from(slot) & (MAX_SLOTS - 1)];
        // SAFETY: a reference's address; volatile only to keep the read where it is.
        let selected = unsafe { counter.read_volatile() };
        if maps::SOCKETS.select_reuseport(self.ctx, u32::from(slot)).is_err() {
            return false;
        }
        // SAFETY: as above. Nobody else writes on this CPU.
        unsafe { counter.write(selected + 1) };
        true
    }
}

/// A program for each protocol and affinity, so that none asks which it is. The kernel cuts names
/// after 15 characters.
macro_rules! programs {
    ($($name:ident: $tracked:literal, $affinity:ident;)*) => {
        $(
            #[sk_reuseport(migrate)]
            pub fn $name(ctx: SkReuseportContext) -> u32 {
                pick::<$tracked, { $affinity }>(&ctx)
            }
        )*
    };
}

programs! {
    rlb_tcp_flow: false, FLOW;
    rlb_tcp_source4: false, SOURCE_V4;
    rlb_tcp_source6: false, SOURCE_V6;
    rlb_udp_flow: true, FLOW;
    rlb_udp_source4: true, SOURCE_V4;
    rlb_udp_source6: true, SOURCE_V6;
}

/// Picks the socket for a datagram, or for a connection: when it begins, or when its listener is
/// closing.
#[inline(always)]
fn pick<const TRACKED: bool, const AFFINITY: u32>(ctx: &SkReuseportContext) -> u32 {
    let migrating = gather::migrating(ctx);
    let key = gather::key::<AFFINITY>(ctx, migrating).unwrap_or_else(|| {
        add(Counter::KeyFallback);
        ctx.hash()
    });
    let entry = if migrating {
        maps::TABLE.entry(key).with_care(true)
    } else {
        match select::owner(key, &mut KernelGroup::<TRACKED> { ctx }) {
            // That a packet came and its owner was taken is not counted but follows from the rest.
            Ok(_) => return SK_PASS,
            Err(entry) if TRACKED && entry.is_moving() => return moving(ctx.md, key, entry),
            Err(entry) => entry,
        }
    };
    detour::<TRACKED>(ctx.md, key, entry)
}

/// In a bucket that is moving; a function of its own, so that its registers are its own as well. `cold`
/// only puts it behind the fast path, whose instructions then follow each other.
#[cold]
#[inline(never)]
fn moving(md: *mut sk_reuseport_md, key: u32, entry: Entry) -> u32 {
    let ctx = SkReuseportContext::new(md);
    match select::moving(key, entry, &mut KernelGroup::<true> { ctx: &ctx }) {
        Some((_, owner)) => {
            if owner == Counter::OwnerKept {
                add(owner);
            }
            SK_PASS
        }
        None => detour::<true>(md, key, entry),
    }
}

/// Off the fast path; a function of its own as well.
#[cold]
#[inline(never)]
fn detour<const TRACKED: bool>(md: *mut sk_reuseport_md, key: u32, entry: Entry) -> u32 {
    let ctx = SkReuseportContext::new(md);
    let migrating = gather::migrating(&ctx);
    let mut group = KernelGroup::<TRACKED> { ctx: &ctx };
    let decision = select::detour(key, entry, HOLD.load() != 0, &mut group);
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

/// This CPU's counters, for one use at a time. A single-entry array always has its entry: `None` is
/// for the verifier.
#[inline(always)]
fn counters<'a>() -> Option<&'a mut Counters> {
    // SAFETY: the value lives as long as its map and belongs to this CPU, the program is never
    // interrupted by itself (softirqs are off), and no caller keeps the reference while it asks again.
    maps::COUNTERS.get_ptr_mut(0).map(|counters| unsafe { &mut *counters })
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
