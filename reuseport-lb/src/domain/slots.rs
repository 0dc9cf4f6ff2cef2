//! Free slots of the socket arrays, PURE. A freed slot is used again last: a decision that is being made, or a reader
//! of `status`, may still refer to it, and must not meet another worker.

use std::collections::VecDeque;

use reuseport_lb_common::slots::MAX_SLOTS;

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
    /// All slots but those that are taken.
    #[must_use]
    pub fn without(taken: &[u16]) -> Self {
        Self { free: (0..MAX_SLOTS as u16).filter(|slot| !taken.contains(slot)).collect() }
    }

    /// Takes the slot that has been free for the longest time; `None` if all are used.
    pub fn take(&mut self) -> Option<u16> {
        self.free.pop_front()
    }

    /// Gives a slot back.
    pub fn free(&mut self, slot: u16) {
        self.free.push_back(slot);
    }
}

/// A set of slots, as bits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotSet {
    words: Vec<u64>,
}

impl SlotSet {
    /// Whether a slot is in the set; [`NO_SLOT`](reuseport_lb_common::slots::NO_SLOT) never is.
    #[must_use]
    pub fn contains(&self, slot: u16) -> bool {
        self.words.get(usize::from(slot) / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }

    /// Whether the set has no slot.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// The slots of this set that are not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let theirs = other.words.iter().copied().chain(std::iter::repeat(0));
        let mut words: Vec<u64> = self.words.iter().zip(theirs).map(|(own, their)| own & !their).collect();
        while words.last() == Some(&0) {
            words.pop();
        }
        Self { words }
    }
}

impl FromIterator<u16> for SlotSet {
    fn from_iter<I: IntoIterator<Item = u16>>(slots: I) -> Self {
        let mut words = Vec::new();
        for slot in slots {
            let at = usize::from(slot) / 64;
            if words.len() <= at {
                words.resize(at + 1, 0);
            }
            words[at] |= 1 << (slot % 64);
        }
        Self { words }
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
