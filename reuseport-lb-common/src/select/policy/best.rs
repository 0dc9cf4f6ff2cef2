//! The best of the workers that were asked so far.

use crate::shared::unfollowed;

/// How bad it is, in which turn it was asked, and its slot: one number, of which the smallest is kept. Among equally bad ones
/// that is the one that was asked first.
pub(super) struct Best(u64);

/// Worse than any worker.
const WORST: u32 = u32::MAX - 1;

impl Default for Best {
    #[inline(always)]
    fn default() -> Self {
        Self(u64::from(unfollowed(WORST)) << 32)
    }
}

impl Best {
    /// Notes a worker.
    #[inline(always)]
    pub(super) fn note(&mut self, badness: u32, turn: u32, slot: u16) {
        self.0 = self.0.min(u64::from(badness) << 32 | u64::from(turn) << 16 | u64::from(slot));
    }

    /// Slot and turn of the best one; `None` if none was noted.
    #[inline(always)]
    pub(super) fn get(&self) -> Option<(u16, u32)> {
        let Self(best) = *self;
        if (best >> 32) as u32 == WORST { None } else { Some((best as u16, (best >> 16) as u32 & 0xffff)) }
    }
}
