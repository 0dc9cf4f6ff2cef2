//! Which slots of the socket array are free, PURE. A freed slot is used again last, so that what
//! still refers to it (a decision being made, somebody's notes) does not meet another worker.

use std::collections::VecDeque;

use reuseport_lb_common::layout::MAX_SLOTS;

/// The free slots of a service.
pub struct Slots {
    free: VecDeque<u16>,
}

impl Default for Slots {
    fn default() -> Self {
        Self { free: (0..MAX_SLOTS as u16).collect() }
    }
}

impl Slots {
    /// All but those that somebody has.
    #[must_use]
    pub fn without(taken: &[u16]) -> Self {
        Self { free: (0..MAX_SLOTS as u16).filter(|slot| !taken.contains(slot)).collect() }
    }

    /// The slot that has been free for the longest time.
    pub fn take(&mut self) -> Option<u16> {
        self.free.pop_front()
    }

    /// Gives a slot back.
    pub fn free(&mut self, slot: u16) {
        self.free.push_back(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_slot_is_used_again_last() {
        let mut slots = Slots::default();
        assert_eq!((slots.take(), slots.take()), (Some(0), Some(1)));
        slots.free(0);
        let rest: Vec<u16> = std::iter::from_fn(|| slots.take()).collect();
        assert_eq!((rest.first(), rest.last(), rest.len()), (Some(&2), Some(&0), MAX_SLOTS - 1));
    }
}
