//! An entry of the table: what one bucket points to. Not: who decides where it points.

use crate::slots::{MAX_SLOTS, NO_SLOT};

/// Sides of a bucket: the flows of its current slot, and those of its previous one.
pub const SIDES: usize = 2;

/// Times in which flows were seen: now, before, and so on. The daemon begins another one every third
/// of `idle_timeout`, so that a flow is forgotten after 1 to 4/3 of it.
pub const EPOCHS: usize = 4;

/// Epochs and sides in one number.
pub(crate) const LANES: usize = EPOCHS * SIDES;

/// What a bucket of the table points to, in one word:
///
/// ```text
///       27        16     15      14 13    12   11        0
/// ┌───┬────────────┬─────────┬───────┬──────┬───────────┐
/// │   │  previous  │  slow   │ epoch │ side │  current  │    slots; 0xfff: none
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
    const SLOW: u32 = 1 << 15;
    const PREVIOUS: u32 = 16;

    /// A bucket of `slot`, or of no worker ([`NO_SLOT`]), whose flows are marked on side 0 in epoch 0.
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

    /// The slot that gets new flows, of an entry that is not slow: such an entry has one. Always below
    /// [`MAX_SLOTS`], which the verifier sees.
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

    /// The previous slot of an entry that is moving. Always below [`MAX_SLOTS`], which the verifier sees.
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

    /// The side of the activity map on which the flows of [`Entry::slot`] are marked: 0 or 1. Those of
    /// [`Entry::previous`] are on the other one.
    #[inline(always)]
    #[must_use]
    pub const fn side(self) -> usize {
        (self.0 & Self::SIDE != 0) as usize
    }

    /// Where the flows of [`Entry::slot`] are marked now: epoch and side in one number below [`LANES`].
    #[inline(always)]
    pub(crate) const fn lane(self) -> usize {
        (self.0 & Self::LANE) as usize / Self::SIDE as usize
    }

    /// Whether the entry takes the fast path: it is neither moving nor slow, and the slot is all there is
    /// to look at.
    #[inline(always)]
    #[must_use]
    pub const fn is_plain(self) -> bool {
        const STEADY: u32 = Entry::SLOT << Entry::PREVIOUS;
        self.0 & (STEADY | Self::SLOW) == STEADY
    }

    /// Whether there is more to look at than slots: decisions are traced, the bucket has no slot, or its
    /// worker is not fit.
    #[inline(always)]
    #[must_use]
    pub const fn is_slow(self) -> bool {
        self.0 & Self::SLOW != 0
    }

    /// The entry with its slow bit set if `slow` says so or the bucket has no slot, else with the bit clear.
    #[must_use]
    pub const fn with_slow(self, slow: bool) -> Self {
        let slow = slow || self.slot() == NO_SLOT;
        Self(if slow { self.0 | Self::SLOW } else { self.0 & !Self::SLOW })
    }

    /// The entry with `slot` for new flows.
    #[must_use]
    pub const fn with_slot(self, slot: u16) -> Self {
        Self(self.0 & !Self::SLOT | slot as u32 & Self::SLOT).with_slow(false)
    }

    /// The entry with `slot`, or [`NO_SLOT`], for the flows that are there.
    #[must_use]
    pub const fn with_previous(self, slot: u16) -> Self {
        let others = self.0 & !(Self::SLOT << Self::PREVIOUS);
        Self(others | (slot as u32 & Self::SLOT) << Self::PREVIOUS)
    }

    /// The entry with the flows of [`Entry::slot`] on the other side.
    #[must_use]
    pub const fn turned(self) -> Self {
        Self(self.0 ^ Self::SIDE)
    }

    /// The entry in the next epoch.
    #[must_use]
    pub const fn aged(self) -> Self {
        let next = (self.lane() / SIDES + 1) % EPOCHS;
        Self(self.0 & !(Self::LANE & !Self::SIDE) | (next as u32) << Self::EPOCH)
    }

    /// An entry as the table keeps it.
    #[inline(always)]
    pub(crate) const fn from_bits(word: u32) -> Self {
        Self(word)
    }

    /// The word that the table keeps.
    pub(crate) const fn bits(self) -> u32 {
        self.0
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

const _: () = assert!(MAX_SLOTS.is_power_of_two() && MAX_SLOTS <= Entry::SLOT as usize);

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
                    assert_eq!(entry.is_slow(), slot == NO_SLOT);
                    assert_eq!(entry.is_moving(), previous != NO_SLOT);
                    assert_eq!(entry.is_plain(), !entry.is_moving() && !entry.is_slow());
                    assert!(slot == NO_SLOT || entry.plain_slot() == slot);
                    assert!(previous == NO_SLOT || entry.plain_previous() == previous);
                    assert!(entry.with_slow(true).is_slow());
                    assert_eq!(entry.with_slow(true).with_slow(false), entry);
                }
            }
            assert_eq!(Entry::steady(slot).slot(), slot);
            assert_eq!(Entry::steady(slot).previous(), NO_SLOT);
        }
    }
}
