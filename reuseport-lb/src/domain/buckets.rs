//! What is written to the buckets of one group, PURE: over the structures that both sides share, wherever they are.
//! Not: which worker a bucket shall go to (`table.rs`), nor what one entry becomes (`bucket_move.rs`).

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use reuseport_lb_common::layout::{Activity, BUCKETS, Entry, Fitness, MAX_SLOTS, NO_SLOT, Table, attention};

use super::bucket_move::{Constraint, constraint, moved};

/// Where the structures of a group are.
pub trait SharedMemory {
    /// Where each bucket points to.
    fn table(&self) -> &Table;
    /// Tells the program what the worker in `slot` is fit for.
    fn set_fitness(&self, slot: u16, fitness: Fitness);
    /// Whether flows are more than one decision, as with UDP.
    fn tracks(&self) -> bool;
    /// Which flows live; `None` where they are not tracked, or cannot be looked at now. To have it may cost more than all
    /// that is done with it.
    fn activity(&self) -> Option<impl Deref<Target = Activity>>;
}

/// Flows that live in a group: as many sub-buckets as have one (see `Activity`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveFlows {
    /// Those that each slot has.
    pub by_slot: Vec<u64>,
    /// All.
    pub live: u64,
    /// Those that stay with the previous worker of a moving bucket.
    pub kept: u64,
}

/// What decides how entries of a group are marked; as long as the group.
#[derive(Default)]
pub struct Buckets {
    /// Slots that new connections shall avoid; their buckets are marked.
    unfit: BTreeMap<u16, Fitness>,
    writes: Cell<u64>,
    counted: Arc<Mutex<Option<(CountedAt, LiveFlows)>>>,
}

/// What flows were counted at: writes to their buckets, and what else changes them.
type CountedAt = (u64, (u64, u64));

/// Counts the flows of a group, in any thread, and not again where nothing has changed.
#[derive(Clone)]
pub struct FlowCounter<M> {
    memory: M,
    counted: Arc<Mutex<Option<(CountedAt, LiveFlows)>>>,
    at: CountedAt,
}

impl<M: SharedMemory> FlowCounter<M> {
    /// Flows that live. Looks at 4 MiB; takes about a millisecond.
    #[must_use]
    pub fn count(&self) -> Option<LiveFlows> {
        // Not locked while they are counted: another thread may count as well.
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
    /// Points buckets to slots; each takes effect at once, with one store. Flows that live stay with their worker,
    /// if that `keeps` its flows.
    pub fn publish(
        &self,
        memory: &impl SharedMemory,
        changes: impl IntoIterator<Item = (u16, u16)>,
        keeps: impl Fn(u16) -> bool,
    ) {
        let activity = memory.activity();
        for (bucket, slot) in changes {
            let entry = match &activity {
                None => Entry::steady(slot),
                Some(activity) => {
                    let before = memory.table().entry(bucket.into());
                    let entry = moved(before, slot, &keeps, activity.live(bucket, before.side()) != 0);
                    if entry.is_moving() && !before.is_moving() {
                        // Marks that an earlier worker left on this side are nobody's.
                        activity.forget(bucket, entry.side(), u64::MAX);
                    }
                    entry
                }
            };
            self.set(memory, bucket, entry);
        }
    }

    fn set(&self, memory: &impl SharedMemory, bucket: u16, entry: Entry) {
        let slow = is_traced(memory) || self.unfit.contains_key(&entry.slot());
        memory.table().set_entry(bucket, entry.with_care(slow));
        self.wrote();
    }

    fn wrote(&self) {
        self.writes.update(|writes| writes + 1);
    }

    /// What counts flows, anywhere; `None` where none are tracked. They are the same as long as nothing was written here,
    /// and as long as `others` is the same: how often the program decided, say.
    pub fn flow_counter<M: SharedMemory + Clone>(
        &self,
        memory: &M,
        others: (u64, u64),
    ) -> Option<FlowCounter<M>> {
        let (memory, counted, at) = (memory.clone(), self.counted.clone(), (self.writes.get(), others));
        memory.tracks().then_some(FlowCounter { memory, counted, at })
    }

    /// Takes flows from workers that do not keep theirs any more; how many, by slot. Buckets that
    /// still point to such a worker are counted, and wait for [`Buckets::publish`].
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

    /// Ends the move of each bucket whose old flows are quiet; how many those are.
    pub fn sweep(&self, memory: &impl SharedMemory) -> usize {
        if !memory.tracks() || moving(memory).next().is_none() {
            return 0;
        }
        let Some(activity) = memory.activity() else { return 0 };
        let quiet = moving(memory).filter(|(bucket, entry)| activity.live(*bucket, 1 - entry.side()) == 0);
        quiet.map(|(bucket, entry)| self.set(memory, bucket, entry.with_previous(NO_SLOT))).count()
    }

    /// Begins another epoch: forgets flows that were silent in all others.
    pub fn rotate(&self, memory: &impl SharedMemory) {
        let Some(activity) = memory.activity() else { return };
        self.wrote();
        for (bucket, entry) in entries(memory) {
            activity.renew(bucket, entry.aged());
            memory.table().set_entry(bucket, entry.aged());
        }
    }

    /// Says whether new connections shall avoid `slot`. Looks at all buckets; takes about 50 us.
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

    /// Whether every decision is written to the log ring. Marks all buckets; takes about 50 us.
    pub fn trace(&self, memory: &impl SharedMemory, on: bool) {
        if on == is_traced(memory) {
            return;
        }
        draw_attention(memory, attention::TRACE, on);
        entries(memory).for_each(|(bucket, entry)| self.set(memory, bucket, entry));
    }
}

/// Where each moving bucket can move; all others can move anywhere.
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

/// Whether any bucket points to one of `these` slots.
pub fn points_to(memory: &impl SharedMemory, these: impl Fn(u16) -> bool) -> bool {
    entries(memory).any(|(_, entry)| these(entry.slot()) || these(entry.previous()))
}

/// Says of each bucket whether it is moving.
pub fn mark_moving(memory: &impl SharedMemory, marks: &mut [bool]) {
    moving(memory).for_each(|(bucket, ..)| marks[usize::from(bucket)] = true);
}

/// Adds the flows that stay with each slot although others get the new ones of their bucket.
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

/// Counts the flows that live; `None` where none are tracked. Looks at 4 MiB; takes about a millisecond.
pub fn count(memory: &impl SharedMemory) -> Option<LiveFlows> {
    let activity = memory.activity()?;
    let mut flows = LiveFlows { by_slot: vec![0; MAX_SLOTS], live: 0, kept: 0 };
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
