//! The first worker that has not many more connections than its share (`balance = { bounded = 1.25 }`): consistent
//! hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, 2016, arXiv:1608.01350).

use super::super::group::{Group, SelectPolicy};
use super::best::Best;
use super::least::fullness;
use crate::counters::Counter;
use crate::load::Shares;

/// Takes the first one below its bound. Of those at theirs it remembers the least full one.
#[derive(Default)]
pub struct Bounded(Best);

impl SelectPolicy for Bounded {
    const ASKS: bool = true;
    const CANDIDATE_TRIES: u32 = 4;
    const READY_TRIES: u32 = 4;
    const PASSED_OVER: Counter = Counter::OwnerFuller;
    const COMPARES: bool = false;

    #[inline(always)]
    fn takes(&mut self, slot: u16, turn: u32, group: &impl Group) -> bool {
        let Some(load) = group.load() else { return true };
        let weight = load.line(slot).weight.get();
        let connections = group.connections(slot);
        if u64::from(connections) < most(group.all_connections(), weight, &load.shares) {
            return true;
        }
        self.0.note(fullness(connections, weight), turn, slot);
        false
    }

    #[inline(always)]
    fn best(&self) -> Option<(u16, u32)> {
        self.0.get()
    }
}

/// How many connections a worker of this weight may have when the service has one more than `all`, rounded up.
#[inline(always)]
fn most(all: u32, weight: u32, shares: &Shares) -> u64 {
    let share = (u64::from(all) + 1) * u64::from(weight) * u64::from(shares.bound.get());
    let whole = u64::from(shares.weights.get()) * u64::from(Shares::UNIT);
    // Written while the program reads, the weights may be 0 for a moment: then each may have one.
    if whole == 0 { 1 } else { share.div_ceil(whole) }
}
