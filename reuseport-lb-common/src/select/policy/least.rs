//! The worker with the fewest connections for its weight (`balance = "least"`); of equals the owner, so that nothing
//! moves while there is nothing to gain.

use super::super::group::{Group, SelectPolicy};
use super::best::Best;
use crate::counters::Counter;

/// Compares the owner with ready workers, up to eight: of nine workers it is the one with the fewest, of more nearly so
/// (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001).
#[derive(Default)]
pub struct Least(Best);

impl SelectPolicy for Least {
    const ASKS: bool = true;
    const CANDIDATE_TRIES: u32 = 0;
    const READY_TRIES: u32 = 8;
    const PASSED_OVER: Counter = Counter::OwnerFuller;
    const COMPARES: bool = true;

    #[inline(always)]
    fn takes(&mut self, slot: u16, turn: u32, group: &impl Group) -> bool {
        let weight = group.load().map_or(1, |load| load.line(slot).weight.get());
        self.0.note(fullness(group.connections(slot), weight), turn, slot);
        false
    }

    #[inline(always)]
    fn best(&self) -> Option<(u16, u32)> {
        self.0.get()
    }
}

/// How full a worker with so many connections would be with one more, in 1 / 1024 of a connection for each unit of weight.
#[inline(always)]
pub(super) fn fullness(connections: u32, weight: u32) -> u32 {
    let weight = if weight == 0 { 1 } else { u64::from(weight) };
    (((u64::from(connections) + 1) << 10) / weight) as u32 & 0x7fff_ffff
}
