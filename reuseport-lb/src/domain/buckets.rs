//! Writing and reading the buckets of one group, PURE: over structures shared with the kernel program, wherever they
//! are. Not: which worker a bucket goes to (`table/`), nor the entry of a bucket that moves (`bucket_move.rs`).

#[cfg(test)]
mod tests;

use std::cell::{Cell, LazyCell};
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use reuseport_lb_common::activity::Activity;
use reuseport_lb_common::directed::DirectedPorts;
use reuseport_lb_common::entry::Entry;
use reuseport_lb_common::load::Fitness;
use reuseport_lb_common::slots::{MAX_SLOTS, NO_SLOT};
use reuseport_lb_common::table::{BUCKETS, Table, attention};

use super::bucket_move::{Constraint, constraint, moved};

/// Access to the structures of a group that are shared with the kernel program.
pub trait SharedMemory {
    /// The entry of each bucket.
    fn table(&self) -> &Table;
    /// Tells the program the fitness of the worker in `slot`.
    fn set_fitness(&self, slot: u16, fitness: Fitness);
    /// The ports of connections of the daemon's own.
    fn directed(&self) -> &DirectedPorts;
    /// Whether the group tracks flows (UDP); of a TCP connection only the first packet is decided about.
    fn tracks(&self) -> bool;
    /// The marks of live flows; `None` if the group does not track flows, or they cannot be mapped now. Mapping may
    /// take longer than reading.
    fn activity(&self) -> Option<impl Deref<Target = Activity>>;
}

/// Numbers of live flows in a group: sub-buckets that have at least one flow (see `Activity`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveFlows {
    /// Flows of each slot.
    pub by_slot: Vec<u64>,
    /// Flows of all slots.
    pub live: u64,
    /// Flows that stay with the previous worker of a moving bucket.
    pub kept: u64,
}

impl LiveFlows {
    fn none() -> Self {
        Self { by_slot: vec![0; MAX_SLOTS], live: 0, kept: 0 }
    }
}

/// The daemon's part of a group's state: which slots new connections avoid, and the last count of flows.
#[derive(Default)]
pub struct Buckets {
    /// Slots that new connections avoid; their buckets are marked for the slow path.
    unfit: BTreeMap<u16, Fitness>,
    /// Ports of connections of the daemon's own, and the bucket that each comes to; `None`: any. These are marked as well.
    directed: BTreeMap<u16, Option<u16>>,
    writes: Cell<u64>,
    counted: Arc<Mutex<Option<(CountedAt, LiveFlows)>>>,
}

/// The state at which flows were counted: number of writes to buckets, and two further counters that change with flows.
type CountedAt = (u64, (u64, u64));

/// Counts the flows of a group, in any thread; answers with the last count if nothing has changed since.
#[derive(Clone)]
pub struct FlowCounter<M> {
    memory: M,
    counted: Arc<Mutex<Option<(CountedAt, LiveFlows)>>>,
    at: CountedAt,
}

impl<M: SharedMemory> FlowCounter<M> {
    /// Counts the live flows. Reads 4 MiB, which takes about a millisecond.
    #[must_use]
    pub fn count(&self) -> Option<LiveFlows> {
        if self.at.1 == (0, 0) {
            // Nothing was decided yet, and no flows of another program were taken over.
            return Some(LiveFlows::none());
        }
        // Not locked during the count: another thread need not wait for it.
        let counted = || self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, flows)) = &*counted()
            && *at == self.at
        {
            return Some(flows.clone());
        }
        let flows = count(&self.memory)?;
        *counted() = Some((self.at, flows.clone()));
        Some(flows)
    }
}

impl Buckets {
    /// Points buckets to slots; each takes effect at once, with one store. Live flows stay with a worker that `keeps`
    /// its flows.
    pub fn publish(
        &self,
        memory: &impl SharedMemory,
        changes: impl IntoIterator<Item = (u16, u16)>,
        keeps: impl Fn(u16) -> bool,
    ) {
        // A new group's buckets, which had no worker, need none of the 4 MiB.
        let activity = LazyCell::new(|| memory.activity());
        for (bucket, slot) in changes {
            let before = memory.table().entry(bucket.into());
            let begun = || activity.as_ref().is_some_and(|it| it.live(bucket, before.side()) != 0);
            let mut entry = Entry::steady(slot);
            if memory.tracks() {
                entry = moved(before, slot, &keeps, begun);
            }
            if entry.is_moving() && !before.is_moving() {
                match &*activity {
                    // Marks on this side are from an earlier worker, and no flow's any more.
                    Some(activity) => activity.forget(bucket, entry.side(), u64::MAX),
                    None => entry = Entry::steady(slot),
                }
            }
            self.set(memory, bucket, entry);
        }
    }

    fn set(&self, memory: &impl SharedMemory, bucket: u16, entry: Entry) {
        let directed = || self.directed.values().any(|at| at.is_none_or(|at| at == bucket));
        let slow = is_traced(memory) || self.unfit.contains_key(&entry.slot()) || directed();
        memory.table().set_entry(bucket, entry.with_slow(slow));
        self.wrote();
    }

    fn wrote(&self) {
        self.writes.update(|writes| writes + 1);
    }

    /// A counter of the group's flows; `None` if the group does not track flows. It counts again only if buckets were
    /// written since, or `others` differs: numbers that change when flows do, like the program's decisions, and are all
    /// 0 while there was no flow yet.
    pub fn flow_counter<M: SharedMemory + Clone>(
        &self,
        memory: &M,
        others: (u64, u64),
    ) -> Option<FlowCounter<M>> {
        let (memory, counted, at) = (memory.clone(), self.counted.clone(), (self.writes.get(), others));
        memory.tracks().then_some(FlowCounter { memory, counted, at })
    }

    /// Takes flows from workers that do not keep theirs any more; returns how many, by slot. The flows of buckets that
    /// still point to such a worker are counted, and stay until [`Buckets::publish`].
    pub fn cut(&self, memory: &impl SharedMemory, keeps: impl Fn(u16) -> bool) -> BTreeMap<u16, u64> {
        let mut cut = BTreeMap::new();
        if !memory.tracks() {
            return cut;
        }
        let loses = |slot: u16| slot != NO_SLOT && !keeps(slot);
        let mut losing =
            entries(memory).filter(|(_, entry)| loses(entry.slot()) || loses(entry.previous())).peekable();
        if losing.peek().is_none() {
            return cut;
        }
        let Some(activity) = memory.activity() else { return cut };
        for (bucket, entry) in losing {
            let (current, previous) = (entry.slot(), entry.previous());
            if loses(current) {
                let flows = activity.live(bucket, entry.side());
                *cut.entry(current).or_default() += u64::from(flows.count_ones());
            }
            if loses(previous) {
                let flows = activity.live(bucket, 1 - entry.side());
                *cut.entry(previous).or_default() += u64::from(flows.count_ones());
                self.set(memory, bucket, entry.with_previous(NO_SLOT));
                activity.forget(bucket, 1 - entry.side(), u64::MAX);
            }
        }
        cut
    }

    /// Ends the move of each bucket whose previous worker has no live flow; returns how many moves ended.
    pub fn sweep(&self, memory: &impl SharedMemory) -> usize {
        if !memory.tracks() || moving(memory).next().is_none() {
            return 0;
        }
        let Some(activity) = memory.activity() else { return 0 };
        let quiet = moving(memory).filter(|(bucket, entry)| activity.live(*bucket, 1 - entry.side()) == 0);
        quiet.map(|(bucket, entry)| self.set(memory, bucket, entry.with_previous(NO_SLOT))).count()
    }

    /// Begins another epoch: forgets flows that had no packet in all the others.
    pub fn rotate(&self, memory: &impl SharedMemory) {
        let Some(activity) = memory.activity() else { return };
        self.wrote();
        for (bucket, entry) in entries(memory) {
            activity.renew(bucket, entry.aged());
            memory.table().set_entry(bucket, entry.aged());
        }
    }

    /// Tells the program whether new connections avoid `slot`. Walks over all buckets, which takes about 50 us.
    pub fn set_fitness(&mut self, memory: &impl SharedMemory, slot: u16, fitness: Fitness) {
        let before = match fitness {
            Fitness::Fit => self.unfit.remove(&slot),
            unfit => self.unfit.insert(slot, unfit),
        };
        if before.unwrap_or(Fitness::Fit) == fitness {
            return;
        }
        memory.set_fitness(slot, fitness);
        draw_attention(memory, attention::AVOID, !self.unfit.is_empty());
        entries(memory)
            .filter(|(_, entry)| entry.slot() == slot)
            .for_each(|(bucket, entry)| self.set(memory, bucket, entry));
    }

    /// Slots that new connections avoid.
    #[must_use]
    pub fn unfit(&self) -> Vec<(u16, Fitness)> {
        self.unfit.iter().map(|(slot, fitness)| (*slot, *fitness)).collect()
    }

    /// Switches writing of every decision to the log ring on or off. Marks all buckets, which takes about 50 us.
    pub fn trace(&self, memory: &impl SharedMemory, on: bool) {
        if on == is_traced(memory) {
            return;
        }
        draw_attention(memory, attention::TRACE, on);
        self.mark(memory, None);
    }

    /// Has what comes from `port` of the loopback address go to `slot`, until [`Buckets::undirect`]. It comes to `bucket`; if
    /// that is not known, all are marked, which takes about 50 us. False if there is no room for the port.
    pub fn direct(&mut self, memory: &impl SharedMemory, port: u16, slot: u16, bucket: Option<u16>) -> bool {
        if !memory.directed().set(port, slot) {
            return false;
        }
        self.directed.insert(port, bucket);
        draw_attention(memory, attention::DIRECT, true);
        self.mark(memory, bucket);
        true
    }

    /// Whether something has come from `port` that was directed. If it will always come to the `same` bucket, only that one
    /// stays marked, and is returned.
    pub fn directed(&mut self, memory: &impl SharedMemory, port: u16, same: bool) -> Option<Option<u16>> {
        let before = self.directed.get(&port)?;
        let bucket = memory.directed().met(port)? as u16;
        if !same || before.is_some() {
            return Some(*before);
        }
        self.directed.insert(port, Some(bucket));
        self.mark(memory, None);
        Some(Some(bucket))
    }

    /// Ends [`Buckets::direct`].
    pub fn undirect(&mut self, memory: &impl SharedMemory, port: u16) {
        let Some(bucket) = self.directed.remove(&port) else { return };
        memory.directed().clear(port);
        draw_attention(memory, attention::DIRECT, !self.directed.is_empty());
        self.mark(memory, bucket);
    }

    /// Marks a bucket, or each, for the slow path as it has to be now.
    fn mark(&self, memory: &impl SharedMemory, bucket: Option<u16>) {
        match bucket {
            Some(bucket) => self.set(memory, bucket, memory.table().entry(bucket.into())),
            None => entries(memory).for_each(|(bucket, entry)| self.set(memory, bucket, entry)),
        }
    }
}

/// The constraint of each moving bucket; all other buckets can move anywhere.
pub fn constraints(memory: &impl SharedMemory, keeps: impl Fn(u16) -> bool) -> Vec<(u16, Constraint)> {
    let mut moving = moving(memory).peekable();
    if !memory.tracks() || moving.peek().is_none() {
        return Vec::new();
    }
    let Some(activity) = memory.activity() else { return Vec::new() };
    let free = |(bucket, entry): (u16, Entry)| {
        (bucket, constraint(entry, &keeps, activity.live(bucket, entry.side()) != 0))
    };
    moving.map(free).collect()
}

/// Whether a bucket points to one of `these` slots, or has it as its previous one.
pub fn points_to(memory: &impl SharedMemory, these: impl Fn(u16) -> bool) -> bool {
    entries(memory).any(|(_, entry)| these(entry.slot()) || these(entry.previous()))
}

/// Sets `marks` of each bucket that is moving.
pub fn mark_moving(memory: &impl SharedMemory, marks: &mut [bool]) {
    moving(memory).for_each(|(bucket, ..)| marks[usize::from(bucket)] = true);
}

/// Adds to `flows`, by slot, the live flows of moving buckets that stay with the previous slot.
pub fn add_staying(memory: &impl SharedMemory, flows: &mut [u64]) {
    if !memory.tracks() || moving(memory).next().is_none() {
        return;
    }
    let Some(activity) = memory.activity() else { return };
    for (bucket, entry) in moving(memory) {
        if let Some(flows) = flows.get_mut(usize::from(entry.previous())) {
            *flows += u64::from(activity.live(bucket, 1 - entry.side()).count_ones());
        }
    }
}

/// Counts the live flows; `None` if the group does not track flows. Reads 4 MiB, which takes about a millisecond.
pub fn count(memory: &impl SharedMemory) -> Option<LiveFlows> {
    let activity = memory.activity()?;
    let mut flows = LiveFlows::none();
    for (bucket, entry) in entries(memory) {
        let kept = match entry.previous() {
            NO_SLOT => 0,
            _ => u64::from(activity.live(bucket, 1 - entry.side()).count_ones()),
        };
        let begun = u64::from(activity.live(bucket, entry.side()).count_ones());
        flows.live += begun + kept;
        flows.kept += kept;
        for (slot, count) in [(entry.slot(), begun), (entry.previous(), kept)] {
            if let Some(flows) = flows.by_slot.get_mut(usize::from(slot)) {
                *flows += count;
            }
        }
    }
    Some(flows)
}

fn entries(memory: &impl SharedMemory) -> impl Iterator<Item = (u16, Entry)> {
    let table = memory.table();
    (0..=u16::MAX).take(BUCKETS).map(|bucket| (bucket, table.entry(bucket.into())))
}

/// Buckets with a previous worker.
fn moving(memory: &impl SharedMemory) -> impl Iterator<Item = (u16, Entry)> {
    entries(memory).filter(|(_, entry)| entry.is_moving())
}

fn is_traced(memory: &impl SharedMemory) -> bool {
    memory.table().attention.get() & attention::TRACE != 0
}

fn draw_attention(memory: &impl SharedMemory, flag: u32, on: bool) {
    let attention = &memory.table().attention;
    let others = attention.get() & !flag;
    attention.set(if on { others | flag } else { others });
}
