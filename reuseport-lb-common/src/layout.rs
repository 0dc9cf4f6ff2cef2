//! The values of the maps that the kernel program and the daemon share. Not: who decides what.
//!
//! Every field that one side writes while the other reads is a [`Shared`], so a reader sees either
//! the old or the new value. All memory is valid when zeroed.

use crate::shared::Shared;

/// Version of what one daemon takes over from another, [`Activity`] and [`Counters`]; changes whenever a
/// size, an offset or a meaning does. ([`Load`] is made anew, and [`Table`] stays as it is for ever.)
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
///       27        16     15      14 13    12   11        0
/// ┌───┬────────────┬─────────┬───────┬──────┬───────────┐
/// │   │  previous  │ careful │ epoch │ side │  current  │    slots; 0xfff: none
/// └───┴────────────┴─────────┴───────┴──────┴───────────┘
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Entry(u32);

impl Entry {
    const SLOT: u32 = 0xfff;
    const SIDE: u32 = 1 << 12;
    const LANE: u32 = 0b111 << 12;
    const EPOCH: u32 = 13;
    const CAREFUL: u32 = 1 << 15;
    const PREVIOUS: u32 = 16;

    /// A bucket of `slot`, or of nobody, whose flows are marked on side 0 in epoch 0.
    #[must_use]
    pub const fn steady(slot: u16) -> Self {
        Self(Self::SLOT << Self::PREVIOUS).with_slot(slot)
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
        self.0 as u16 & (MAX_SLOTS as u16 - 1)
    }

    /// The slot whose live flows stay with it, or [`NO_SLOT`] in a steady bucket.
    #[inline(always)]
    #[must_use]
    pub const fn previous(self) -> u16 {
        Self::or_none(self.0 >> Self::PREVIOUS & Self::SLOT)
    }

    /// The same where there is one.
    #[inline(always)]
    #[must_use]
    pub const fn plain_previous(self) -> u16 {
        (self.0 >> Self::PREVIOUS) as u16 & (MAX_SLOTS as u16 - 1)
    }

    /// Whether there is a previous slot.
    #[inline(always)]
    #[must_use]
    pub const fn is_moving(self) -> bool {
        self.0 & Self::SLOT << Self::PREVIOUS != Self::SLOT << Self::PREVIOUS
    }

    /// The side of [`Activity`] on which the flows of [`Entry::slot`] are marked: 0 or 1. Those of
    /// [`Entry::previous`] are on the other one.
    #[inline(always)]
    #[must_use]
    pub const fn side(self) -> usize {
        (self.0 & Self::SIDE != 0) as usize
    }

    /// Where the flows of [`Entry::slot`] are marked just now: epoch and side.
    #[inline(always)]
    const fn lane(self) -> usize {
        (self.0 & Self::LANE) as usize / Self::SIDE as usize
    }

    /// Whether there is nothing to look at but the slot: neither moving nor careful. This takes the
    /// fast path.
    #[inline(always)]
    #[must_use]
    pub const fn is_plain(self) -> bool {
        const STEADY: u32 = Entry::SLOT << Entry::PREVIOUS;
        self.0 & (STEADY | Self::CAREFUL) == STEADY
    }

    /// Whether there is more to look at than slots: somebody traces, the bucket has no slot, or its
    /// worker is not fit.
    #[inline(always)]
    #[must_use]
    pub const fn is_careful(self) -> bool {
        self.0 & Self::CAREFUL != 0
    }

    /// The same, but with care if `careful` or if the entry itself needs it.
    #[must_use]
    pub const fn with_care(self, careful: bool) -> Self {
        let careful = careful || self.slot() == NO_SLOT;
        Self(if careful { self.0 | Self::CAREFUL } else { self.0 & !Self::CAREFUL })
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
        Self(others | (slot as u32 & Self::SLOT) << Self::PREVIOUS)
    }

    /// The same, with the flows of [`Entry::slot`] on the other side.
    #[must_use]
    pub const fn turned(self) -> Self {
        Self(self.0 ^ Self::SIDE)
    }

    /// The same, in the next epoch.
    #[must_use]
    pub const fn aged(self) -> Self {
        let next = (self.lane() / SIDES + 1) % EPOCHS;
        Self(self.0 & !(Self::LANE & !Self::SIDE) | (next as u32) << Self::EPOCH)
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
    /// How many of its own buckets' connections in a row found its worker busy, up to [`LONGEST_BUSY`]. The
    /// program's own.
    busy: Shared<u32>,
}

/// Beyond this a worker that is found busy again and again is not worse than before: then queues decide.
const LONGEST_BUSY: u32 = 16;

impl LoadLine {
    /// Notes that the worker in this slot waits for work.
    #[inline(always)]
    pub fn found_waiting(&self) {
        // A look is much cheaper than a store to a line that other CPUs look at.
        if self.busy.get() != 0 {
            self.busy.set(0);
        }
    }

    /// How many in a row have found it busy.
    #[inline(always)]
    pub fn busy(&self) -> u32 {
        self.busy.get()
    }

    /// Notes one more of them; how many there were before.
    #[inline(always)]
    pub fn found_busy(&self) -> u32 {
        let before = self.busy.get();
        // Other CPUs may do the same, and one of them count for both.
        if before < LONGEST_BUSY {
            self.busy.set(before + 1);
        }
        before
    }

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
    /// Slots for when nobody on the other roster is there: of ready workers of weight 0, or else of those
    /// that are being started, where connections can wait.
    pub waiting: Roster,
}

impl Load {
    /// The line of `slot`.
    #[inline(always)]
    pub fn line(&self, slot: u16) -> &LoadLine {
        &self.lines[usize::from(slot) & (MAX_SLOTS - 1)]
    }
}

/// Flows of one bucket that are told apart; those that share a sub-bucket share their fate.
pub const SUB_BUCKETS: u32 = 64;

/// Sides of a bucket: the flows of its current slot, and those of its previous one.
pub const SIDES: usize = 2;

/// Times in which flows were seen: now, before, and so on. The daemon begins another one every third
/// of `idle_timeout`, so that a flow is forgotten after 1 to 4/3 of it.
pub const EPOCHS: usize = 4;

/// Words of a bucket, one for each epoch and side.
const LANES: usize = EPOCHS * SIDES;

/// The one value of map `ACTIVITY`, of UDP groups only (4 MiB): which flows live. The program marks
/// them, the daemon forgets them.
///
/// A flow is a bucket (the low 16 bits of its key) and a sub-bucket (the next 6), one bit of a word.
/// Words of one epoch and side lie together: nearly all decisions are about one of these parts.
#[repr(C, align(64))]
pub struct Activity {
    lanes: [[Shared<u64>; BUCKETS]; LANES],
}

impl Activity {
    /// All zeros, as the kernel makes it.
    #[must_use]
    pub const fn zeroed() -> Self {
        Self { lanes: [const { [const { Shared::new(0) }; BUCKETS] }; LANES] }
    }

    /// Says that the flow of `key`, in the bucket of `entry`, lives at [`Entry::slot`].
    #[inline(always)]
    pub fn mark(&self, key: u32, entry: Entry) {
        let word = self.word(key, entry.lane());
        // Once in an epoch for each flow; a look is much cheaper than an atomic store.
        if word.get() & bit(key) == 0 {
            word.or(bit(key));
        }
    }

    /// Looks at the word that [`Activity::mark`] most likely needs, before the bucket's entry is there to
    /// say which that is: if both are far away, both are then waited for at once. `other` is the entry of
    /// any bucket: all are in one epoch, but for a moment, and most of them on one side until the number of
    /// workers has changed often.
    #[inline(always)]
    pub fn expect(&self, key: u32, other: Entry) {
        let _ = self.word(key, other.lane()).get();
    }

    /// Whether the flow of `key`, in the bucket of `entry`, lives at [`Entry::previous`]. Says that it
    /// lives, there or at [`Entry::slot`].
    #[inline(always)]
    pub fn stays(&self, key: u32, entry: Entry) -> bool {
        let (bit, lane) = (bit(key), entry.lane());
        // Marked there in this epoch, it is not at the previous one: no flow is at both.
        let current = self.word(key, lane);
        if current.get() & bit != 0 {
            return false;
        }
        let previous = self.word(key, lane ^ 1);
        if previous.get() & bit != 0 {
            return true;
        }
        let side = lane & 1 ^ 1;
        let seen = |epoch: usize| self.word(key, epoch * SIDES + side).get();
        let stays = (seen(0) | seen(1) | seen(2) | seen(3)) & bit != 0;
        if stays {
            previous.or(bit)
        } else {
            current.or(bit)
        }
        stays
    }

    /// All flows of a bucket that live on this side, a bit for each sub-bucket.
    pub fn live(&self, bucket: u16, side: usize) -> u64 {
        let seen = |epoch| self.word(bucket.into(), epoch * SIDES + side).get();
        (0..EPOCHS).fold(0, |live, epoch| live | seen(epoch))
    }

    /// Forgets these flows of a bucket on this side.
    #[cfg(not(target_arch = "bpf"))]
    pub fn forget(&self, bucket: u16, side: usize, flows: u64) {
        (0..EPOCHS).for_each(|epoch| self.word(bucket.into(), epoch * SIDES + side).clear(flows));
    }

    /// Forgets what was seen the last time that a bucket was in the epoch of `entry`, before it is again.
    pub fn renew(&self, bucket: u16, entry: Entry) {
        let lane = entry.lane();
        [lane, lane ^ 1].iter().for_each(|lane| self.word(bucket.into(), *lane).set(0));
    }

    /// Takes over all flows that live in `other`.
    #[cfg(not(target_arch = "bpf"))]
    pub fn merge(&self, other: &Self) {
        for (own, other) in self.lanes.iter().flatten().zip(other.lanes.iter().flatten()) {
            if other.get() & !own.get() != 0 {
                own.or(other.get());
            }
        }
    }

    #[inline(always)]
    fn word(&self, key: u32, lane: usize) -> &Shared<u64> {
        &self.lanes[lane & (LANES - 1)][key as usize & (BUCKETS - 1)]
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
    /// Name of the [`crate::offsets::Offsets`], for programs that avoid busy workers.
    pub const OFFSETS: &str = "OFFSETS";
}

const _: () = {
    assert!(size_of::<Table>() == BUCKETS * 4 + 64);
    assert!(size_of::<LoadLine>() == 64);
    assert!(size_of::<Roster>() == 4 + MAX_SLOTS * 2);
    assert!(MAX_SLOTS.is_power_of_two() && MAX_SLOTS <= Entry::SLOT as usize);
    assert!(size_of::<Activity>() == LANES * BUCKETS * 8 && LANES.is_power_of_two());
    assert!(size_of::<Counters>() <= 32 << 10);
    assert!(crate::counters::Counter::ALL.len() <= EVENTS);
};

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "aya reads map values as plain old data")]
mod pod {
    // SAFETY: repr(C) of u64 only: every bit pattern is valid, and there is no padding.
    unsafe impl aya::Pod for super::Counters {}

    // SAFETY: the same of u32.
    unsafe impl aya::Pod for crate::offsets::Offsets {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_keeps_its_parts_apart() {
        for slot in [0, 7, 2047, NO_SLOT] {
            for previous in [0, 7, 2047, NO_SLOT] {
                for turns in 0..8 {
                    let mut entry = Entry::steady(3).with_slot(slot).with_previous(previous);
                    (0..turns / 2).for_each(|_| entry = entry.aged());
                    entry = if turns % 2 == 1 { entry.turned() } else { entry };
                    assert_eq!((entry.slot(), entry.previous()), (slot, previous));
                    assert_eq!((entry.side(), entry.lane()), (turns % 2, turns));
                    assert_eq!(entry.is_careful(), slot == NO_SLOT);
                    assert_eq!(entry.is_moving(), previous != NO_SLOT);
                    assert_eq!(entry.is_plain(), !entry.is_moving() && !entry.is_careful());
                    assert!(slot == NO_SLOT || entry.plain_slot() == slot);
                    assert!(previous == NO_SLOT || entry.plain_previous() == previous);
                    assert!(entry.with_care(true).is_careful());
                    assert_eq!(entry.with_care(true).with_care(false), entry);
                }
            }
            assert_eq!(Entry::steady(slot).slot(), slot);
            assert_eq!(Entry::steady(slot).previous(), NO_SLOT);
        }
    }

    /// The daemon's way into the next epoch.
    fn rotate(activity: &Activity, bucket: u16, entry: &mut Entry) {
        activity.renew(bucket, entry.aged());
        *entry = entry.aged();
    }

    #[test]
    fn a_flow_is_forgotten_after_three_epochs_without_it() {
        let activity = Activity::boxed();
        let (key, neighbour) = (0x0005_0009, 0x0006_0009);
        let mut entry = Entry::steady(0).turned();
        activity.mark(key, entry);
        assert_eq!((activity.live(9, 0), activity.live(9, 1)), (0, 1 << 5));
        rotate(&activity, 9, &mut entry);
        activity.mark(neighbour, entry);
        for _ in 0..EPOCHS - 2 {
            rotate(&activity, 9, &mut entry);
            assert_eq!(activity.live(9, 1), 0b11 << 5);
        }
        rotate(&activity, 9, &mut entry);
        assert_eq!(activity.live(9, 1), 1 << 6);
        activity.forget(9, 1, u64::MAX);
        assert_eq!(activity.live(9, 1), 0);
    }

    #[test]
    fn a_flow_that_goes_on_stays_for_ever() {
        let activity = Activity::boxed();
        let (old, new) = (0xffff_ffff, 0x0000_ffff);
        let mut entry = Entry::steady(0);
        activity.mark(old, entry);
        entry = entry.turned().with_slot(1).with_previous(0);
        for _ in 0..3 * EPOCHS {
            assert!(activity.stays(old, entry) && activity.stays(old, entry));
            assert!(!activity.stays(new, entry) && !activity.stays(new, entry));
            rotate(&activity, u16::MAX, &mut entry);
        }
        assert_eq!((activity.live(u16::MAX, 0), activity.live(u16::MAX, 1)), (1 << 63, 1));
    }

    #[test]
    fn another_map_takes_all_flows_over_with_their_age() {
        let (old, new) = (Activity::boxed(), Activity::boxed());
        let mut entry = Entry::steady(0).aged();
        old.mark(1, entry);
        new.mark(0x0001_0001, entry.turned());
        new.merge(&old);
        assert_eq!((new.live(1, 0), new.live(1, 1)), (1, 2));
        (0..EPOCHS - 1).for_each(|_| rotate(&new, 1, &mut entry));
        assert_eq!(new.live(1, 0), 1);
        rotate(&new, 1, &mut entry);
        assert_eq!(new.live(1, 0), 0);
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
