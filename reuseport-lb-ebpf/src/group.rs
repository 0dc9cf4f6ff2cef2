//! The group as the decision sees it: maps, the helper that selects, counters and log. Which socket is not
//! decided here.

use core::marker::PhantomData;

use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::bindings::sk_reuseport_md;
use aya_ebpf::programs::SkReuseportContext;
use aya_log_ebpf::info;
use reuseport_lb_common::activity::Activity;
use reuseport_lb_common::counters::{Counter, Counters, EVENTS};
use reuseport_lb_common::load::{Load, LoadLine};
use reuseport_lb_common::select::{Decision, Group, SelectPolicy};
use reuseport_lb_common::slots::{MAX_SLOTS, NO_SLOT};
use reuseport_lb_common::table::Table;
use reuseport_lb_common::trace_word::{LINE, TraceLine, TraceWord};

use crate::packet::KernelPacket;
use crate::{maps, waiting};

/// What a group is besides its table; see `reuseport_lb_common::program::Kind`.
pub trait Kind {
    type Policy: SelectPolicy;
    const TRACKS: bool = false;

    /// Selects the worker that the packet names, if it names one that is there.
    #[inline(always)]
    fn routes(_ctx: &SkReuseportContext) -> bool {
        false
    }

    /// Of the worker with this line, whose socket was just selected: its connections, and those that are being opened.
    #[inline(always)]
    fn connections(_md: *mut sk_reuseport_md, _line: &LoadLine) -> u32 {
        0
    }

    /// Live connections of the service.
    #[inline(always)]
    fn all_connections(_load: &Load) -> u32 {
        0
    }

    /// Counts a queued connection, whose listener closes, with the worker in `slot` from now on.
    #[inline(always)]
    fn moves(_md: *mut sk_reuseport_md, _slot: u16) {}
}

/// In one register, so that functions that are not inlined have no pointer to the stack.
pub struct KernelGroup<K> {
    md: *mut sk_reuseport_md,
    kind: PhantomData<K>,
}

impl<K> KernelGroup<K> {
    #[inline(always)]
    pub fn new(ctx: &SkReuseportContext) -> Self {
        Self { md: ctx.md, kind: PhantomData }
    }
}

impl<K: Kind> Group for KernelGroup<K> {
    type Policy = K::Policy;
    type Verdict = u32;

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
        if K::TRACKS { Some(&maps::ACTIVITY) } else { None }
    }

    #[inline(always)]
    fn select(&mut self, slot: u16) -> bool {
        maps::SOCKETS.select_reuseport(&SkReuseportContext::new(self.md), u32::from(slot)).is_ok()
    }

    /// The counter is read before the helper runs, so that the wait for its cache line and the helper's work
    /// overlap (5 ns of 60), and looked up after the bucket's entry was, so that the program's first instructions
    /// send for that (2 ns).
    #[inline(always)]
    fn take(&mut self, slot: u16) -> bool {
        let Some(counters) = counters() else { return false };
        let counter = &raw mut counters.selected[usize::from(slot) & (MAX_SLOTS - 1)];
        // SAFETY: a reference's address; volatile only to keep the read where it is.
        let selected = unsafe { counter.read_volatile() };
        if !self.select(slot) {
            return false;
        }
        // SAFETY: as above. Nothing else writes on this CPU.
        unsafe { counter.write(selected + 1) };
        true
    }

    #[inline(always)]
    fn busy(&self) -> Option<u32> {
        let queue = waiting::queue(self.md);
        if queue == waiting::WAITS { None } else { Some(queue as u32) }
    }

    #[inline(always)]
    fn connections(&self, slot: u16) -> u32 {
        self.load().map_or(0, |load| K::connections(self.md, load.line(slot)))
    }

    #[inline(always)]
    fn all_connections(&self) -> u32 {
        self.load().map_or(0, K::all_connections)
    }

    #[inline(always)]
    fn loopback_port(&self) -> u16 {
        KernelPacket(&SkReuseportContext::new(self.md)).loopback_port()
    }

    #[inline(always)]
    fn is_migrating(&self) -> bool {
        SkReuseportContext::new(self.md).migrating_sk().is_some()
    }

    #[inline(always)]
    fn count_kept(&mut self) {
        add(Counter::OwnerKept);
    }

    #[inline(always)]
    fn count(&mut self, decision: Decision) {
        let Some(counters) = counters() else { return };
        let migrating = self.is_migrating();
        decision.count(migrating, |counter, by| counters.events[counter & (EVENTS - 1)] += by);
        if let Some(slot) = decision.slot() {
            counters.selected[usize::from(slot) & (MAX_SLOTS - 1)] += 1;
            if migrating {
                K::moves(self.md, slot);
            }
        }
    }

    #[inline(always)]
    fn trace(&mut self, key: u32, decision: Decision) {
        let why = if self.is_migrating() { Counter::Migration } else { Counter::Packet };
        let counters = [why as u32, decision.owner_index(), decision.detour_index()];
        let slot = decision.slot().unwrap_or(NO_SLOT);
        trace(self.md, TraceWord { key, slot, counters }.pack());
    }

    #[inline(always)]
    fn verdict(self, decision: Decision) -> u32 {
        if decision.refuses() { SK_DROP } else { SK_PASS }
    }
}

/// Numbers only: names of counters and workers are the reader's to add (the daemon's trace.rs).
#[inline(never)]
fn trace(md: *mut sk_reuseport_md, word: u64) {
    let mut line = TraceLine { word, ..TraceLine::default() };
    KernelPacket(&SkReuseportContext::new(md)).note_client(&mut line);
    // SAFETY: the line is plain numbers without padding.
    let [word, first, second, third] = unsafe { core::mem::transmute::<TraceLine, [u64; 4]>(line) };
    write(word, first, second, third);
}

/// Writes the four words of a [`TraceLine`]: in registers, so that the verifier goes once through this, however they came
/// about.
#[inline(never)]
fn write(word: u64, first: u64, second: u64, third: u64) {
    let words = [word, first, second, third];
    // SAFETY: numbers, which live as long as the reference.
    let bytes = unsafe { &*(&raw const words).cast::<[u8; LINE]>() };
    info!((), target: "", "{:x}", bytes.as_slice());
}

/// Counts one event.
#[inline(always)]
pub fn add(counter: Counter) {
    if let Some(counters) = counters() {
        counters.events[counter.index() & (EVENTS - 1)] += 1;
    }
}

/// This CPU's counters, for one use at a time. A single-entry array always has its entry: `None` is
/// for the verifier.
#[inline(always)]
fn counters<'a>() -> Option<&'a mut Counters> {
    // SAFETY: the value lives as long as its map and belongs to this CPU, the program is never
    // interrupted by itself (softirqs are off), and no caller keeps the reference while it asks again.
    maps::COUNTERS.get_ptr_mut(0).map(|counters| unsafe { &mut *counters })
}
