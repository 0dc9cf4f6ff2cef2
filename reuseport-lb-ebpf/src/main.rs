//! The SK_REUSEPORT program: gather → decide → count → trace, one exit. Glue only: the decision is
//! `reuseport_lb_common::select`.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "map values and helpers are raw pointers here")]
#![expect(missing_docs, unreachable_pub, reason = "aya's macros make public items without docs")]

mod gather;
mod maps;

use aya_ebpf::Global;
use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::macros::sk_reuseport;
use aya_ebpf::programs::SkReuseportContext;
use aya_log_ebpf::info;
use reuseport_lb_common::counters::Counter;
use reuseport_lb_common::layout::{Counters, EVENTS, Load, MAX_SLOTS, Table, attention};
use reuseport_lb_common::select::{Decision, Group, decide};

/// See `reuseport_lb_common::layout::constant`.
#[unsafe(no_mangle)]
static AFFINITY: Global<u32> = Global::new(0);
/// See `reuseport_lb_common::layout::constant`.
#[unsafe(no_mangle)]
static HOLD: Global<u32> = Global::new(0);

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

struct KernelGroup<'a> {
    ctx: &'a SkReuseportContext,
    table: &'a Table,
}

impl Group for KernelGroup<'_> {
    #[inline(always)]
    fn table(&self) -> &Table {
        self.table
    }

    #[inline(always)]
    fn load(&self) -> Option<&Load> {
        // SAFETY: the value lives as long as the map, and all its fields are `Shared`.
        maps::LOAD.get_ptr(0).map(|load| unsafe { &*load })
    }

    #[inline(always)]
    fn select(&mut self, slot: u16) -> bool {
        maps::SOCKETS.select_reuseport(self.ctx, u32::from(slot)).is_ok()
    }
}

/// Picks the socket for a packet, or for a connection whose listener is closing.
#[sk_reuseport(migrate)]
pub fn reuseport_lb(ctx: SkReuseportContext) -> u32 {
    // A single-entry array always has its entry; the branch is for the verifier.
    let (Some(table), Some(counters)) = (maps::TABLE.get_ptr(0), maps::COUNTERS.get_ptr_mut(0)) else {
        return SK_DROP;
    };
    // SAFETY: both values live as long as their maps. The table's fields are `Shared`; the counters
    // belong to this CPU, and the program is never interrupted by itself (softirqs are off).
    let (table, counters) = unsafe { (&*table, &mut *counters) };

    let migrating = gather::migrating(&ctx);
    let gathered = gather::key(&ctx, AFFINITY.load(), migrating);
    let key = gathered.unwrap_or_else(|| ctx.hash());
    let decision = decide(key, HOLD.load() != 0, &mut KernelGroup { ctx: &ctx, table });

    if gathered.is_none() {
        add(counters, Counter::KeyFallback, 1);
    }
    count(counters, migrating, &decision);
    if table.attention.get() & attention::TRACE != 0 {
        trace(&ctx, migrating, key, &decision);
    }
    if decision.slot.is_some() { SK_PASS } else { SK_DROP }
}

#[inline(always)]
fn count(counters: &mut Counters, migrating: bool, decision: &Decision) {
    add(counters, if migrating { Counter::Migration } else { Counter::Packet }, 1);
    add(counters, decision.owner, 1);
    match decision.slot {
        Some(slot) => counters.selected[usize::from(slot) & (MAX_SLOTS - 1)] += 1,
        None => add(counters, Counter::Refused, 1),
    }
    if let Some(detour) = decision.detour {
        add(counters, detour, 1);
        add(counters, Counter::SelectFailed, u64::from(decision.failed));
    }
}

#[inline(always)]
fn add(counters: &mut Counters, counter: Counter, by: u64) {
    counters.events[counter.index() & (EVENTS - 1)] += by;
}

/// Numbers only: names of counters and workers are the reader's to add (see the daemon's trace).
#[inline(never)]
fn trace(ctx: &SkReuseportContext, migrating: bool, key: u32, decision: &Decision) {
    let kind = if migrating { Counter::Migration } else { Counter::Packet } as u32;
    let detour = match decision.detour {
        Some(detour) => detour as u32,
        None => EVENTS as u32,
    };
    let slot = u32::from(decision.slot.unwrap_or(u16::MAX));
    info!(ctx, "{} {} {} {} {}", kind, key, decision.owner as u32, detour, slot);
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
