//! The values of the maps that the kernel program and the daemon share. Not: who decides what.
//!
//! Every field that one side writes while the other reads is a [`Shared`], so a reader sees either
//! the old or the new value. All memory is valid when zeroed.

use crate::shared::Shared;

/// Version of everything in this file but [`Table`]; changes whenever a size, an offset or a meaning does.
pub const LAYOUT_VERSION: u32 = 2;

/// Buckets of a table. 2^16, so that a mask finds the bucket and a `u16` counts within a group.
pub const BUCKETS: usize = 1 << 16;

/// Slots of a service's socket array: 1,024 workers, and as many that are leaving. A power of two
/// (the program masks with it); beyond it the per-CPU [`Counters`] would pass the kernel's 32 KiB
/// limit on one per-CPU value (`PCPU_MIN_UNIT_SIZE`, include/linux/percpu.h).
pub const MAX_SLOTS: usize = 2048;

/// The "slot" of a bucket that belongs to nobody.
pub const NO_SLOT: u16 = u16::MAX;

/// What a bucket points to, in one word:
///
/// ```text
///  31        16   15      14    13        0
/// ┌────────────┬─────────┬──────┬──────────┐
/// │ previous   │ careful │ side │ current  │    a slot of 12 bits each; 0xfff: none
/// └────────────┴─────────┴──────┴──────────┘
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Entry(u32);

impl Entry {
    const SLOT: u32 = 0xfff;
    const SIDE: u32 = 1 << 14;
    const CAREFUL: u32 = 1 << 15;
    const PREVIOUS: u32 = 16;

    /// A bucket of `slot`, or of nobody, whose flows are marked on side 0.
    #[must_use]
    pub const fn steady(slot: u16) -> Self {
        let nobody = Self(Self::SLOT | Self::SLOT << Self::PREVIOUS | Self::CAREFUL);
        if slot == NO_SLOT { nobody } else { Self(nobody.0 & !Self::SLOT & !Self::CAREFUL | slot as u32) }
    }

    /// The slot that gets new flows, or [`NO_SLOT`].
    #[inline(always)]
    #[must_use]
    pub const fn slot(self) -> u16 {
        Self::or_none(self.0 & Self::SLOT)
    }

    /// The same for an entry that is not careful, which has one.
    #[inline(always)]
    #[must_use]
    pub const fn plain_slot(self) -> u16 {
        (self.0 & Self::SLOT) as u16
    }

    /// The slot whose live flows stay with it, or [`NO_SLOT`] in a steady bucket.
    #[inline(always)]
    #[must_use]
    pub const fn previous(self) -> u16 {
        Self::or_none(self.0 >> Self::PREVIOUS & Self::SLOT)
    }

    /// The side of [`Activity`] on which the flows of [`Entry::slot`] are marked: 0 or 1. Those of
    /// [`Entry::previous`] are on the other one.
    #[inline(always)]
    #[must_use]
    pub const fn side(self) -> usize {
        (self.0 & Self::SIDE != 0) as usize
    }

    /// Whether there is more to look at than the slot: somebody traces, the bucket is moving or has
    /// no slot, or its worker is not fit. Everything else takes the fast path.
    #[inline(always)]
    #[must_use]
    pub const fn is_careful(self) -> bool {
        self.0 & Self::CAREFUL != 0
    }

    /// The same, but with care if `careful` or if the entry itself needs it.
    #[must_use]
    pub const fn with_care(self, careful: bool) -> Self {
        let needs = self.slot() == NO_SLOT || self.previous() != NO_SLOT;
        Self(if careful || needs { self.0 | Self::CAREFUL } else { self.0 & !Self::CAREFUL })
    }

    /// The same, with this slot for new flows.
    #[must_use]
    pub const fn with_slot(self, slot: u16) -> Self {
        Self(self.0 & !Self::SLOT | slot as u32 & Self::SLOT).with_care(false)
    }

    /// The same, with this slot for the flows that are there, or [`NO_SLOT`].
    #[must_use]
    pub const fn with_previous(self, slot: u16) -> Self {
        let others = self.0 & !(Self::SLOT << Self::PREVIOUS);
        Self(others | (slot as u32 & Self::SLOT) << Self::PREVIOUS).with_care(false)
    }

    /// The same, with the flows of [`Entry::slot`] on the other side.
    #[must_use]
    pub const fn turned(self) -> Self {
        Self(self.0 ^ Self::SIDE)
    }

    const fn or_none(slot: u32) -> u16 {
        if slot == Self::SLOT { NO_SLOT } else { slot as u16 }
    }
}

impl core::fmt::Debug for Entry {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self(word) = self;
        write!(f, "{}@{} from {} ({word:#x})", self.slot(), self.side(), self.previous())
    }
}

/// Bits of [`Table::attention`], which is looked at off the fast path only.
pub mod attention {
    /// Somebody traces: write a log line for every decision.
    pub const TRACE: u32 = 1;
    /// At least one line of [`super::Load`] is overloaded or ejected.
    pub const AVOID: u32 = 1 << 1;
}

/// The one value of map `TABLE`: written by the daemon through mmap, read by the program. Its entries
/// mean the same for ever, so that a daemon with another layout finds every bucket where it was.
#[repr(C, align(64))]
pub struct Table {
    entries: [Shared<u32>; BUCKETS],
    /// See [`attention`].
    pub attention: Shared<u32>,
}

impl Table {
    /// All zeros, as the kernel makes it.
    #[must_use]
    pub const fn zeroed() -> Self {
        Self { entries: [const { Shared::new(0) }; BUCKETS], attention: Shared::new(0) }
    }

    /// The entry of the bucket that `key` falls into: its low 16 bits.
    #[inline(always)]
    pub fn entry(&self, key: u32) -> Entry {
        Entry(self.entries[key as usize & (BUCKETS - 1)].get())
    }

    /// Replaces one entry with one aligned 4-byte store.
    pub fn set_entry(&self, bucket: u16, entry: Entry) {
        self.entries[usize::from(bucket)].set(entry.0);
    }
}

/// What the daemon says of the worker in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Fitness {
    /// New connections may go there.
    Fit = 0,
    /// Its queue is much deeper than the others': other candidates first.
    Overloaded = 1,
    /// It does not accept: anybody else, even without a better candidate.
    Ejected = 2,
}

/// One slot's line: 64 bytes, so that no two slots share a cache line.
#[repr(C, align(64))]
pub struct LoadLine {
    fitness: Shared<u32>,
    /// Connections in the accept queue when the daemon last looked.
    pub queue: Shared<u32>,
}

impl LoadLine {
    /// The daemon's last word on this slot.
    #[inline(always)]
    pub fn fitness(&self) -> Fitness {
        match self.fitness.get() {
            0 => Fitness::Fit,
            1 => Fitness::Overloaded,
            _ => Fitness::Ejected,
        }
    }

    /// Sets the word; the program looks at it for entries that are careful, if [`attention::AVOID`] is set.
    pub fn set_fitness(&self, fitness: Fitness) {
        self.fitness.set(fitness as u32);
    }
}

/// A list of slots. A reader may see it half changed: it then tries a slot that was on the list a
/// moment ago, which fails or succeeds like any other.
#[repr(C)]
pub struct Roster {
    len: Shared<u32>,
    slots: [Shared<u16>; MAX_SLOTS],
}

impl Roster {
    /// Spreads `pick` evenly over the list: the slot there and, with `offset`, the ones behind it.
    #[inline(always)]
    pub fn pick(&self, pick: u32, offset: u32) -> Option<u16> {
        let len = self.len.get();
        if offset >= len {
            return None;
        }
        let mut at = ((u64::from(pick) * u64::from(len)) >> 32) as u32 + offset;
        if at >= len {
            at -= len;
        }
        Some(self.slots[at as usize & (MAX_SLOTS - 1)].get())
    }

    /// Replaces the list; slots beyond [`MAX_SLOTS`] are ignored.
    pub fn set(&self, slots: &[u16]) {
        let slots = &slots[..slots.len().min(MAX_SLOTS)];
        for (place, slot) in self.slots.iter().zip(slots) {
            place.set(*slot);
        }
        self.len.set(slots.len() as u32);
    }
}

/// The one value of map `LOAD`: written by the daemon, read by the program off the fast path.
#[repr(C)]
pub struct Load {
    /// One line per slot.
    pub lines: [LoadLine; MAX_SLOTS],
    /// Slots of workers that are ready.
    pub ready: Roster,
    /// Slots whose worker is being started, where connections can wait when nobody is ready.
    pub waiting: Roster,
}

impl Load {
    /// The fitness of `slot`.
    #[inline(always)]
    pub fn fitness(&self, slot: u16) -> Fitness {
        self.lines[usize::from(slot) & (MAX_SLOTS - 1)].fitness()
    }
}

/// Flows of one bucket that are told apart; those that share a sub-bucket share their fate.
pub const SUB_BUCKETS: u32 = 64;

/// Sides of a bucket: the flows of its current slot, and those of its previous one.
pub const SIDES: usize = 2;

/// Times in which flows were seen: now, before, and before that. The daemon begins another one every
/// half `idle_timeout`, so that a flow is forgotten after 1 to 1.5 of them.
pub const EPOCHS: usize = 3;

/// The one value of map `ACTIVITY`, of UDP groups only (3 MiB): which flows live. The program marks
/// them, the daemon forgets them.
///
/// A flow is a bucket (the low 16 bits of its key) and a sub-bucket (the next 6).
#[repr(C, align(64))]
pub struct Activity {
    epoch: Shared<u32>,
    words: [[Words; BUCKETS]; EPOCHS],
}

/// One bit for each sub-bucket, by side.
#[repr(C, align(16))]
struct Words([Shared<u64>; SIDES]);

impl Activity {
    /// All zeros, as the kernel makes it.
    #[must_use]
    pub const fn zeroed() -> Self {
        const NONE: Words = Words([const { Shared::new(0) }; SIDES]);
        Self { epoch: Shared::new(0), words: [const { [const { NONE }; BUCKETS] }; EPOCHS] }
    }

    /// Says that the flow of `key` lives, on this side.
    #[inline(always)]
    pub fn mark(&self, key: u32, side: usize) {
        let word = self.word(self.epoch() as usize, key, side);
        // Once in an epoch for each flow; a look is much cheaper than an atomic store.
        if word.get() & bit(key) == 0 {
            word.or(bit(key));
        }
    }

    /// Whether the flow of `key` lives, on this side.
    #[inline(always)]
    pub fn is_marked(&self, key: u32, side: usize) -> bool {
        let seen = |epoch| self.word(epoch, key, side).get();
        (seen(0) | seen(1) | seen(2)) & bit(key) != 0
    }

    /// All flows of a bucket that live on this side, a bit for each sub-bucket.
    pub fn live(&self, bucket: u16, side: usize) -> u64 {
        (0..EPOCHS).fold(0, |live, epoch| live | self.word(epoch, bucket.into(), side).get())
    }

    /// Forgets these flows of a bucket on this side.
    #[cfg(not(target_arch = "bpf"))]
    pub fn forget(&self, bucket: u16, side: usize, flows: u64) {
        (0..EPOCHS).for_each(|epoch| self.word(epoch, bucket.into(), side).clear(flows));
    }

    /// Begins another epoch: forgets what has not been seen in the last two.
    pub fn rotate(&self) {
        let next = (self.epoch() + 1) % EPOCHS as u32;
        for Words(sides) in &self.words[next as usize] {
            sides.iter().for_each(|word| word.set(0));
        }
        self.epoch.set(next);
    }

    /// Takes over all flows that live in `other`, and its epoch.
    #[cfg(not(target_arch = "bpf"))]
    pub fn merge(&self, other: &Self) {
        self.epoch.set(other.epoch());
        for (own, others) in self.words.iter().flatten().zip(other.words.iter().flatten()) {
            for (own, other) in own.0.iter().zip(&others.0) {
                if other.get() & !own.get() != 0 {
                    own.or(other.get());
                }
            }
        }
    }

    #[inline(always)]
    fn epoch(&self) -> u32 {
        // The comparison is for the verifier.
        let epoch = self.epoch.get();
        if epoch < EPOCHS as u32 { epoch } else { 0 }
    }

    #[inline(always)]
    fn word(&self, epoch: usize, key: u32, side: usize) -> &Shared<u64> {
        &self.words[epoch][key as usize & (BUCKETS - 1)].0[side & (SIDES - 1)]
    }
}

/// The bit of a flow's sub-bucket.
#[inline(always)]
const fn bit(key: u32) -> u64 {
    1 << (key >> 16 & (SUB_BUCKETS - 1))
}

/// The one per-CPU value of map `COUNTERS`: written by the program, summed up by the daemon.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Counters {
    /// Indexed by [`crate::counters::Counter`].
    pub events: [u64; EVENTS],
    /// Decisions for each slot.
    pub selected: [u64; MAX_SLOTS],
}

/// Places for counters; more than there are, so that a new one does not move `selected`.
pub const EVENTS: usize = 32;

/// What a program hashes; there is one for each.
pub mod affinity {
    /// The kernel's hash of the 4-tuple.
    pub const FLOW: u32 = 0;
    /// The client's address, from an IPv4 header.
    pub const SOURCE_V4: u32 = 1;
    /// The client's address, from an IPv6 header.
    pub const SOURCE_V6: u32 = 2;
}

/// The program's constants, patched into its read-only data before it is loaded, so that the
/// verifier removes what a group does not need.
pub mod constant {
    /// Name of the `u32` that is 1 if connections wait at a starting worker when nobody is ready.
    pub const HOLD: &str = "HOLD";
}

const _: () = {
    assert!(size_of::<Table>() == BUCKETS * 4 + 64);
    assert!(size_of::<LoadLine>() == 64);
    assert!(size_of::<Roster>() == 4 + MAX_SLOTS * 2);
    assert!(MAX_SLOTS.is_power_of_two() && MAX_SLOTS <= Entry::SLOT as usize);
    assert!(size_of::<Activity>() == EPOCHS * BUCKETS * 16 + 64);
    assert!(size_of::<Counters>() <= 32 << 10);
    assert!(crate::counters::Counter::ALL.len() <= EVENTS);
};

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "aya reads map values as plain old data")]
mod pod {
    // SAFETY: repr(C) of u64 only: every bit pattern is valid, and there is no padding.
    unsafe impl aya::Pod for super::Counters {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_keeps_its_parts_apart() {
        for slot in [0, 7, 2047, NO_SLOT] {
            for previous in [0, 7, 2047, NO_SLOT] {
                for turned in [false, true] {
                    let entry = Entry::steady(3).with_slot(slot).with_previous(previous);
                    let entry = if turned { entry.turned() } else { entry };
                    assert_eq!((entry.slot(), entry.previous()), (slot, previous));
                    assert_eq!(entry.side(), usize::from(turned));
                    assert_eq!(entry.is_careful(), slot == NO_SLOT || previous != NO_SLOT);
                    assert!(entry.with_care(true).is_careful());
                    assert_eq!(entry.with_care(true).with_care(false), entry);
                }
            }
            assert_eq!(Entry::steady(slot).slot(), slot);
            assert_eq!(Entry::steady(slot).previous(), NO_SLOT);
        }
    }

    #[test]
    fn a_flow_is_forgotten_after_two_epochs_without_it() {
        let activity = Activity::boxed();
        let (key, neighbour) = (0x0005_0009, 0x0006_0009);
        activity.mark(key, 1);
        assert_eq!(activity.live(9, 1), 1 << 5);
        assert!(activity.is_marked(key, 1));
        assert!(!activity.is_marked(key, 0) && !activity.is_marked(neighbour, 1));
        activity.rotate();
        activity.mark(neighbour, 1);
        activity.rotate();
        assert!(activity.is_marked(key, 1) && activity.is_marked(neighbour, 1));
        activity.rotate();
        assert!(!activity.is_marked(key, 1) && activity.is_marked(neighbour, 1));
        activity.forget(9, 1, u64::MAX);
        assert_eq!(activity.live(9, 1), 0);
    }

    #[test]
    fn another_map_takes_all_flows_over_with_their_age() {
        let (old, new) = (Activity::boxed(), Activity::boxed());
        old.rotate();
        old.mark(1, 0);
        new.mark(2, 1);
        new.merge(&old);
        assert!(new.is_marked(1, 0) && new.is_marked(2, 1));
        (0..2).for_each(|_| new.rotate());
        assert!(new.is_marked(1, 0));
        new.rotate();
        assert!(!new.is_marked(1, 0));
    }

    #[test]
    fn a_flow_that_goes_on_lives_for_ever() {
        let activity = Activity::boxed();
        for _ in 0..10 {
            activity.mark(0xffff_ffff, 0);
            activity.rotate();
            assert!(activity.is_marked(0xffff_ffff, 0));
        }
    }

    #[test]
    fn a_roster_is_picked_evenly_and_wraps() {
        let roster = Roster { len: Shared::new(0), slots: [const { Shared::new(0) }; MAX_SLOTS] };
        assert_eq!(roster.pick(u32::MAX, 0), None);
        roster.set(&[3, 5, 9]);
        assert_eq!(roster.pick(0, 0), Some(3));
        assert_eq!(roster.pick(u32::MAX / 2, 0), Some(5));
        assert_eq!(roster.pick(u32::MAX, 0), Some(9));
        assert_eq!(roster.pick(u32::MAX, 1), Some(3));
        assert_eq!(roster.pick(u32::MAX, 3), None);
    }
}
