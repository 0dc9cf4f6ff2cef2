//! A traced decision in one word, as the program logs it and the daemon reads it.

use crate::counters::{Counter, EVENTS};

/// What is logged of a decision. In one word, because the verifier follows the writing of a line once for each size that it
/// may have, number by number (KERNEL.md 80).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceWord {
    /// What the decision was made of.
    pub key: u32,
    /// The selected slot, or [`crate::slots::NO_SLOT`].
    pub slot: u16,
    /// Indices of counters: why the program ran; what became of the bucket's own worker; who was asked instead, or
    /// [`EVENTS`]. Each is at most [`EVENTS`].
    pub counters: [u32; 3],
}

/// Bits of an index; the first one has only what the others leave of a word.
const INDEX_BITS: u32 = 6;

impl TraceWord {
    /// All of it in one word.
    #[inline(always)]
    #[must_use]
    pub const fn pack(self) -> u64 {
        let [arrival, owner, detour] = self.counters;
        let counters = (arrival << INDEX_BITS | owner) << INDEX_BITS | detour;
        (counters as u64) << 48 | (self.slot as u64) << 32 | self.key as u64
    }

    /// The inverse of [`TraceWord::pack`].
    #[must_use]
    pub fn unpack(word: u64) -> Self {
        let counters = (word >> 48) as u32;
        let index = |nth| counters >> (nth * INDEX_BITS) & ((1 << INDEX_BITS) - 1);
        Self { key: word as u32, slot: (word >> 32) as u16, counters: [index(2), index(1), index(0)] }
    }
}

const _: () = assert!(EVENTS < 1 << INDEX_BITS);
const _: () = assert!((Counter::Packet as u32) < 16 && (Counter::Migration as u32) < 16);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slots::{MAX_SLOTS, NO_SLOT};

    #[test]
    fn a_word_has_all_of_a_decision() {
        for key in [0, 1, 0x8000_0001, u32::MAX] {
            for slot in [0, MAX_SLOTS as u16 - 1, NO_SLOT] {
                for arrival in [Counter::Packet, Counter::Migration] {
                    for (owner, detour) in [(0, EVENTS), (EVENTS - 1, 1)] {
                        let counters = [arrival as u32, owner as u32, detour as u32];
                        let traced = TraceWord { key, slot, counters };
                        assert_eq!(TraceWord::unpack(traced.pack()), traced);
                    }
                }
            }
        }
    }
}
