//! The values of the maps that the kernel program and the daemon share. Not: who decides what.
//!
//! Every field that one side writes while the other reads is a [`Shared`], so a reader sees either
//! the old or the new value. All memory is valid when zeroed.

use crate::shared::Shared;

/// Version of everything in this file; changes whenever a size, an offset or a meaning does.
pub const LAYOUT_VERSION: u32 = 1;

/// Buckets of a table. 2^16, so that a mask finds the bucket and a `u16` counts within a group.
pub const BUCKETS: usize = 1 << 16;

/// Slots of a service's socket array: 1,024 workers, and as many that are leaving. A power of two
/// (the program masks with it); beyond it the per-CPU [`Counters`] would pass the kernel's 32 KiB
/// limit on one per-CPU value (`PCPU_MIN_UNIT_SIZE`, include/linux/percpu.h).
pub const MAX_SLOTS: usize = 2048;

/// The "slot" of a bucket that belongs to nobody.
pub const NO_SLOT: u16 = u16::MAX;

/// The bit of [`Entry::current`] that sends a decision off the fast path. [`NO_SLOT`] has it, too,
/// so the fast path is one load and one comparison.
pub const CAREFUL: u16 = 1 << 15;

/// What a bucket points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The slot that gets new flows of this bucket, with [`CAREFUL`] if there is more to look at
    /// first; or [`NO_SLOT`].
    pub current: u16,
    /// The slot whose live flows stay with it, or [`NO_SLOT`] in a steady bucket.
    pub previous: u16,
}

impl Entry {
    /// A steady bucket of `slot`; `careful` if somebody traces or the slot's worker is not fit.
    #[must_use]
    pub const fn steady(slot: u16, careful: bool) -> Self {
        let current = if careful { slot | CAREFUL } else { slot };
        Self { current, previous: NO_SLOT }
    }

    /// The slot in `current`, or [`NO_SLOT`].
    #[inline(always)]
    #[must_use]
    pub const fn slot(self) -> u16 {
        if self.current == NO_SLOT { NO_SLOT } else { self.current & !CAREFUL }
    }

    const fn to_word(self) -> u32 {
        self.current as u32 | (self.previous as u32) << 16
    }

    const fn from_word(word: u32) -> Self {
        Self { current: word as u16, previous: (word >> 16) as u16 }
    }
}

/// Bits of [`Table::attention`], which is looked at off the fast path only: what [`CAREFUL`] is for.
pub mod attention {
    /// Somebody traces: write a log line for every decision.
    pub const TRACE: u32 = 1;
    /// At least one line of [`super::Load`] is overloaded or ejected.
    pub const AVOID: u32 = 1 << 1;
}

/// The one value of map `TABLE`: written by the daemon through mmap, read by the program.
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
        Entry::from_word(self.entries[key as usize & (BUCKETS - 1)].get())
    }

    /// Replaces one entry with one aligned 4-byte store.
    pub fn set_entry(&self, bucket: u16, entry: Entry) {
        self.entries[usize::from(bucket)].set(entry.to_word());
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

    /// Sets the word; the program looks at it for buckets that are [`CAREFUL`], if [`attention::AVOID`] is set.
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

/// The program's constants, patched into its read-only data before it is loaded, so that the
/// verifier removes what a group does not need.
pub mod constant {
    /// Name of the `u32` that says what is hashed: [`FLOW`], [`SOURCE_V4`] or [`SOURCE_V6`].
    pub const AFFINITY: &str = "AFFINITY";
    /// Name of the `u32` that is 1 if connections wait at a starting worker when nobody is ready.
    pub const HOLD: &str = "HOLD";
    /// The kernel's hash of the 4-tuple.
    pub const FLOW: u32 = 0;
    /// The client's address, from an IPv4 header.
    pub const SOURCE_V4: u32 = 1;
    /// The client's address, from an IPv6 header.
    pub const SOURCE_V6: u32 = 2;
}

const _: () = {
    assert!(size_of::<Table>() == BUCKETS * 4 + 64);
    assert!(size_of::<LoadLine>() == 64);
    assert!(size_of::<Roster>() == 4 + MAX_SLOTS * 2);
    assert!(MAX_SLOTS.is_power_of_two() && MAX_SLOTS <= CAREFUL as usize);
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
    fn an_entry_survives_the_way_through_its_word() {
        let moving = Entry { current: 7, previous: 2047 };
        for (entry, slot) in [
            (Entry::steady(0, false), 0),
            (Entry::steady(2047, true), 2047),
            (moving, 7),
            (Entry::steady(NO_SLOT, false), NO_SLOT),
            (Entry::steady(NO_SLOT, true), NO_SLOT),
        ] {
            assert_eq!(Entry::from_word(entry.to_word()), entry);
            assert_eq!(entry.slot(), slot);
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
