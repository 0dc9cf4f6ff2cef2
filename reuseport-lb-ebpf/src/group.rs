//! The group as the decision sees it: maps, and the helper that selects. Which socket is not decided
//! here.

use aya_ebpf::programs::SkReuseportContext;
use reuseport_lb_common::layout::{Activity, Counters, Load, MAX_SLOTS, Table};
use reuseport_lb_common::select::Group;

use crate::{maps, waiting};

/// Nothing but the table: TCP.
pub const PLAIN: u32 = 0;
/// Flows are more than one decision, and live flows stay: UDP.
pub const TRACKS: u32 = 1;
/// New connections avoid workers that are busy: TCP with `when_busy = "next"`.
pub const AVOIDS_BUSY: u32 = 2;

/// `KIND`: what it is besides the table; one of the constants.
pub struct KernelGroup<'a, const KIND: u32> {
    pub ctx: &'a SkReuseportContext,
}

impl<const KIND: u32> Group for KernelGroup<'_, KIND> {
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
        if KIND == TRACKS { Some(&maps::ACTIVITY) } else { None }
    }

    /// Counts what it selects. The counter is read before the helper runs, so that the wait for
    /// its cache line and the helper's work overlap (5 ns of 60), and looked up after the bucket's
    /// entry was, so that the program's first instructions send for that (2 ns).
    ///
    /// Where busy workers are avoided, several may be selected one after the other, and only the last one is
    /// counted, in [`KernelGroup::selected`].
    #[inline(always)]
    fn select(&mut self, slot: u16) -> bool {
        if KIND == AVOIDS_BUSY {
            return maps::SOCKETS.select_reuseport(self.ctx, u32::from(slot)).is_ok();
        }
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

    #[inline(always)]
    fn avoids_busy(&self) -> bool {
        KIND == AVOIDS_BUSY
    }

    #[inline(always)]
    fn busy(&self) -> Option<u32> {
        let queue = waiting::queue(self.ctx.md);
        if queue == waiting::WAITS { None } else { Some(queue as u32) }
    }
}

impl<const KIND: u32> KernelGroup<'_, KIND> {
    /// Counts who was selected in the end, unless that is done already.
    #[inline(always)]
    pub fn selected(&self, slot: Option<u16>) {
        if KIND == AVOIDS_BUSY
            && let (Some(slot), Some(counters)) = (slot, counters())
        {
            counters.selected[usize::from(slot) & (MAX_SLOTS - 1)] += 1;
        }
    }
}

/// This CPU's counters, for one use at a time. A single-entry array always has its entry: `None` is
/// for the verifier.
#[inline(always)]
pub fn counters<'a>() -> Option<&'a mut Counters> {
    // SAFETY: the value lives as long as its map and belongs to this CPU, the program is never
    // interrupted by itself (softirqs are off), and no caller keeps the reference while it asks again.
    maps::COUNTERS.get_ptr_mut(0).map(|counters| unsafe { &mut *counters })
}
