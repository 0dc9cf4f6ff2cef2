//! What a group's program has counted, of all CPUs together.

use std::cell::Cell;

use anyhow::{Context, Result};
use aya::maps::{MapData, PerCpuArray};
use reuseport_lb_common::counters::{Counter, Counters, EVENTS, complete};
use reuseport_lb_common::slots::MAX_SLOTS;

/// The counters of all CPUs added up.
#[derive(Clone)]
pub struct Totals {
    /// Indexed by `reuseport_lb_common::counters::Counter`.
    pub events: [u64; EVENTS],
    /// Indexed by slot.
    pub selected: Box<[u64]>,
}

/// The map `COUNTERS` of a group.
pub(super) struct GroupCounters {
    map: PerCpuArray<MapData, Counters>,
    /// [`DERIVED`], as they were read last.
    derived: Cell<[u64; DERIVED.len()]>,
}

/// Counters that follow from others. Those are read one after the other while the program counts, so these may be too
/// large for a moment; they do not go back for that.
const DERIVED: [Counter; 2] = [Counter::Packet, Counter::OwnerTaken];

impl GroupCounters {
    pub(super) fn new(map: PerCpuArray<MapData, Counters>) -> Self {
        Self { map, derived: Cell::default() }
    }

    /// What has been counted since the group was made.
    pub(super) fn totals(&self) -> Result<Totals> {
        let mut totals = Totals { events: [0; EVENTS], selected: vec![0; MAX_SLOTS].into() };
        for cpu in self.map.get(&0, 0).context("cannot read the counters")?.iter() {
            totals.events.iter_mut().zip(cpu.events).for_each(|(sum, n)| *sum += n);
            totals.selected.iter_mut().zip(cpu.selected).for_each(|(sum, n)| *sum += n);
        }
        complete(&mut totals.events, totals.selected.iter().sum());
        let mut derived = self.derived.get();
        for (before, counter) in derived.iter_mut().zip(DERIVED) {
            let now = &mut totals.events[counter.index()];
            *now = (*now).max(*before);
            *before = *now;
        }
        self.derived.set(derived);
        Ok(totals)
    }
}
