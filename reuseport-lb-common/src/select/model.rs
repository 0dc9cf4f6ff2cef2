//! A group in memory, which decides as the kernel program does: for unit tests, and for the privileged tests
//! that ask kernel and model the same questions.

extern crate std;

use core::marker::PhantomData;
use std::boxed::Box;
use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

use super::{Decision, Group, SelectPolicy, decide};
use crate::activity::Activity;
use crate::counters::{Counter, EVENTS, complete};
use crate::entry::Entry;
use crate::load::{Fitness, Load};
use crate::shared::Zeroable as _;
use crate::slots::{MAX_SLOTS, NO_SLOT};
use crate::steer::Hint;
use crate::table::{Table, attention};

/// Maps, sockets and workers of a group.
pub struct Model<P> {
    /// Map `TABLE`.
    pub table: Box<Table>,
    /// Map `LOAD`.
    pub load: Box<Load>,
    /// Map `ACTIVITY`, where flows are tracked.
    pub activity: Option<Box<Activity>>,
    /// Slots that have a socket.
    pub sockets: BTreeSet<u16>,
    /// Slots of workers that are busy, and the lengths of their queues.
    pub busy: BTreeMap<u16, u32>,
    /// Connections of each slot's worker, where they are counted.
    pub connections: BTreeMap<u16, u32>,
    /// The port of the loopback address that is sent from; 0: another address.
    pub loopback_port: u16,
    /// Slots that the last decision tried to select, in order.
    pub tried: Vec<u16>,
    /// Keys of the decisions that were traced.
    pub traced: Vec<u32>,
    migrating: bool,
    events: [u64; EVENTS],
    selected: Box<[u64]>,
    policy: PhantomData<P>,
}

impl<P: SelectPolicy> Model<P> {
    /// Every bucket belongs to one of `slots` in turn, all of which have sockets and are ready.
    #[must_use]
    pub fn new(slots: &[u16]) -> Self {
        let model = Self {
            table: Table::boxed(),
            load: Load::boxed(),
            activity: None,
            sockets: slots.iter().copied().collect(),
            busy: BTreeMap::new(),
            connections: BTreeMap::new(),
            loopback_port: 0,
            tried: Vec::new(),
            traced: Vec::new(),
            migrating: false,
            events: [0; EVENTS],
            selected: std::vec![0; MAX_SLOTS].into(),
            policy: PhantomData,
        };
        for bucket in 0..=u16::MAX {
            let slot = slots.get(usize::from(bucket) % slots.len().max(1)).copied();
            model.table.set_entry(bucket, Entry::steady(slot.unwrap_or(NO_SLOT)));
        }
        model.load.ready.set(slots);
        model
    }

    /// Tracks flows, none of which is there yet.
    #[must_use]
    pub fn tracking(self) -> Self {
        Self { activity: Some(Activity::boxed()), ..self }
    }

    /// Says how fit the worker in `slot` is, as the daemon does.
    pub fn set_fitness(&self, slot: u16, fitness: Fitness) {
        self.load.line(slot).set_fitness(fitness);
        self.table.attention.set(self.table.attention.get() | attention::AVOID);
        for bucket in 0..=u16::MAX {
            let entry = self.table.entry(bucket.into());
            if entry.slot() == slot {
                self.table.set_entry(bucket, entry.with_slow(fitness != Fitness::Fit));
            }
        }
    }

    /// Decides about a connection that begins, or a datagram.
    pub fn arrive(&mut self, hint: impl Into<Hint>) -> Decision {
        self.decide(hint.into(), false)
    }

    /// Decides about a connection whose listener closes.
    pub fn migrate(&mut self, hint: impl Into<Hint>) -> Decision {
        self.decide(hint.into(), true)
    }

    fn decide(&mut self, hint: Hint, migrating: bool) -> Decision {
        self.tried.clear();
        self.migrating = migrating;
        let decision = decide(hint, &mut *self);
        if let Some(slot) = decision.slot() {
            self.selected[usize::from(slot)] += 1;
        }
        decision
    }

    /// All that was counted so far, as the daemon tells it.
    #[must_use]
    pub fn counted(&self) -> [u64; EVENTS] {
        let mut events = self.events;
        complete(&mut events, self.selected.iter().sum());
        events
    }

    /// Decisions for each slot.
    #[must_use]
    pub fn selected(&self) -> &[u64] {
        &self.selected
    }
}

impl<P: SelectPolicy> Group for &mut Model<P> {
    type Policy = P;
    type Verdict = Decision;

    fn table(&self) -> &Table {
        &self.table
    }

    fn load(&self) -> Option<&Load> {
        Some(&self.load)
    }

    fn activity(&self) -> Option<&Activity> {
        self.activity.as_deref()
    }

    fn select(&mut self, slot: u16) -> bool {
        self.tried.push(slot);
        self.sockets.contains(&slot)
    }

    /// Every decision is counted in `Model::decide`.
    fn take(&mut self, slot: u16) -> bool {
        self.select(slot)
    }

    fn busy(&self) -> Option<u32> {
        self.busy.get(self.tried.last()?).copied()
    }

    fn connections(&self, slot: u16) -> u32 {
        self.connections.get(&slot).copied().unwrap_or_default()
    }

    fn all_connections(&self) -> u32 {
        self.connections.values().sum()
    }

    fn loopback_port(&self) -> u16 {
        self.loopback_port
    }

    fn is_migrating(&self) -> bool {
        self.migrating
    }

    fn count_kept(&mut self) {
        self.events[Counter::OwnerKept.index()] += 1;
    }

    fn count(&mut self, decision: Decision) {
        decision.count(self.migrating, |counter, by| self.events[counter] += by);
    }

    fn trace(&mut self, key: u32, _decision: Decision) {
        self.traced.push(key);
    }

    fn verdict(self, decision: Decision) -> Decision {
        decision
    }
}
