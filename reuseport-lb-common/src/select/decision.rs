//! What was decided, and what of it is counted.

use crate::counters::{Counter, EVENTS};
use crate::shared::unfollowed;
use crate::slots::NO_SLOT;

/// What was decided, and why. Numbers that the verifier does not follow, so that it goes once through what is done
/// with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Decision {
    /// Index of a counter of stage `Owner`: see [`Decision::owner`].
    owner: u32,
    /// Index of a counter of stage `Detour`, or [`NO_DETOUR`].
    detour: u32,
    /// The selected slot, or [`NO_SLOT`].
    slot: u32,
    /// Attempts at sockets that were gone.
    pub failed: u32,
}

/// The index of a detour that was not made.
const NO_DETOUR: u32 = EVENTS as u32;

impl Decision {
    /// The bucket's worker, or the previous one (a counter of stage `Owner`), in `slot`.
    #[inline(always)]
    pub const fn taken(owner: Counter, slot: u16, failed: u32) -> Self {
        Self { owner: owner as u32, detour: NO_DETOUR, slot: slot as u32, failed }
    }

    /// Another one than the bucket's worker, of which the index `owner` says what became of it, in `slot`; none if that
    /// is [`NO_SLOT`].
    #[inline(always)]
    pub(super) fn detoured(owner: u32, detour: Counter, slot: u16, failed: u32) -> Self {
        Self { owner, detour: unfollowed(detour as u32), slot: unfollowed(slot.into()), failed }
    }

    /// A copy of the decision: what the verifier learns of the copy, by a branch for example, it does not learn of the
    /// original.
    #[inline(always)]
    pub(super) fn again(&self) -> Self {
        let Self { owner, detour, slot, failed } = *self;
        Self { owner: unfollowed(owner), detour: unfollowed(detour), slot: unfollowed(slot), failed }
    }

    /// What became of the bucket's own worker (a counter of stage `Owner`).
    #[must_use]
    pub fn owner(&self) -> Counter {
        Counter::ALL[self.owner as usize]
    }

    /// The index of [`Decision::owner`], which needs no table.
    #[inline(always)]
    #[must_use]
    pub fn owner_index(&self) -> u32 {
        self.owner
    }

    /// Who was asked instead (a counter of stage `Detour`), unless the owner was taken.
    #[must_use]
    pub fn detour(&self) -> Option<Counter> {
        Counter::ALL.get(self.detour as usize).copied()
    }

    /// The index of [`Decision::detour`], which needs no table; [`EVENTS`] if there is none.
    #[inline(always)]
    #[must_use]
    pub fn detour_index(&self) -> u32 {
        self.detour
    }

    /// Whether the connection or datagram is refused: nobody was selected, and the kernel shall not choose either.
    #[inline(always)]
    #[must_use]
    pub fn refuses(&self) -> bool {
        self.slot == NO_SLOT as u32 && self.detour != Counter::DetourKernel as u32
    }

    /// The selected slot, if there is one.
    #[inline(always)]
    #[must_use]
    pub fn slot(&self) -> Option<u16> {
        if self.slot == NO_SLOT as u32 { None } else { Some(self.slot as u16) }
    }

    /// What there is to count of a decision off the fast path: calls `add` with the index of each counter and by
    /// how much. (Of owners that are taken, [`crate::counters::complete`] tells how many.)
    #[inline(always)]
    pub fn count(&self, migrating: bool, mut add: impl FnMut(usize, u64)) {
        if migrating {
            add(Counter::Migration.index(), 1);
        }
        if self.owner != Counter::OwnerTaken as u32 {
            add(self.owner as usize, 1);
        }
        if self.detour != NO_DETOUR {
            add(self.detour as usize, 1);
        }
        add(Counter::SelectFailed.index(), self.failed.into());
        if self.refuses() {
            add(Counter::Refused.index(), 1);
        }
    }
}
