//! What was decided, and what of it is counted.

use crate::counters::Counter;
use crate::shared::unfollowed;

/// What was decided, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Decision {
    /// Index of a counter of stage `Owner`: see [`Decision::owner`].
    pub(super) owner: u32,
    /// Who was asked instead (a counter of stage `Detour`), unless the owner was taken.
    pub detour: Option<Counter>,
    /// The selected slot, if `selected`. (In an `Option` that is empty the verifier may see a pointer.)
    pub(super) slot: u16,
    /// Whether a socket was selected; else the connection or datagram is refused.
    pub(super) selected: bool,
    /// Attempts at sockets that were gone.
    pub failed: u32,
}

impl Decision {
    /// The bucket's worker, or the previous one (a counter of stage `Owner`), in `slot`.
    #[inline(always)]
    pub(super) const fn taken(owner: Counter, slot: u16, failed: u32) -> Self {
        Self { owner: owner as u32, detour: None, slot, selected: true, failed }
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

    /// The selected slot; `None` refuses the connection or datagram.
    #[inline(always)]
    #[must_use]
    pub fn slot(&self) -> Option<u16> {
        if self.selected { Some(self.slot) } else { None }
    }

    /// What there is to count of a decision off the fast path: calls `add` with the index of each counter and by
    /// how much. (Of owners that are taken, [`crate::counters::complete`] tells how many.)
    #[inline(always)]
    pub fn count(&self, migrating: bool, mut add: impl FnMut(usize, u64)) {
        if migrating {
            add(Counter::Migration.index(), 1);
        }
        let owner = unfollowed(self.owner);
        if owner != Counter::OwnerTaken as u32 {
            add(owner as usize, 1);
        }
        if let Some(detour) = self.detour {
            add(unfollowed(detour as u32) as usize, 1);
        }
        add(Counter::SelectFailed.index(), self.failed.into());
        if !self.selected {
            add(Counter::Refused.index(), 1);
        }
    }
}
