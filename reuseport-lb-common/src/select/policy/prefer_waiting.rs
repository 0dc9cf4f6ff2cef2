//! A worker that waits for work (`when_busy = "next"`); if there is none, the least busy one.

use super::super::group::{Group, SelectPolicy};
use super::best::Best;
use crate::counters::Counter;

/// Takes the first one that waits for work. Of those that are busy, it remembers the least busy one: how busy
/// that is (see `badness`), in which turn it was asked, and its slot.
#[derive(Default)]
pub struct PreferWaiting(Best);

impl SelectPolicy for PreferWaiting {
    const ASKS: bool = true;
    const CANDIDATE_TRIES: u32 = 4;
    const READY_TRIES: u32 = 4;
    const PASSED_OVER: Counter = Counter::OwnerBusy;
    const COMPARES: bool = false;

    #[inline(always)]
    fn takes(&mut self, slot: u16, turn: u32, group: &impl Group) -> bool {
        let line = group.load().map(|load| load.line(slot));
        let Some(queue) = group.busy() else {
            if let Some(line) = line {
                line.found_waiting();
            }
            return true;
        };
        // Noted for the owner only, so once in a decision, however often a slot is a candidate.
        let before = line.map_or(0, |line| if turn == 0 { line.found_busy() } else { line.busy() });
        self.0.note(badness(queue, before), turn, slot);
        false
    }

    #[inline(always)]
    fn best(&self) -> Option<(u16, u32)> {
        self.0.get()
    }
}

/// How bad a choice a busy worker is: the length of its queue, and how often in a row it has been found busy.
/// One that was seen to wait just now will do so again soon, and one that is stuck is not better for its empty
/// queue.
#[inline(always)]
fn badness(queue: u32, before: u32) -> u32 {
    queue.saturating_add(before)
}
