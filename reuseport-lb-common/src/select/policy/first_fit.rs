//! The first worker that is fit and there.

use super::super::group::{Group, SelectPolicy};
use crate::counters::Counter;

/// Takes the first one.
#[derive(Default)]
pub struct FirstFit;

impl SelectPolicy for FirstFit {
    const ASKS: bool = false;
    const CANDIDATE_TRIES: u32 = 4;
    const READY_TRIES: u32 = 0;
    const PASSED_OVER: Counter = Counter::OwnerBusy;
    const COMPARES: bool = false;

    #[inline(always)]
    fn takes(&mut self, _slot: u16, _turn: u32, _group: &impl Group) -> bool {
        true
    }

    #[inline(always)]
    fn best(&self) -> Option<(u16, u32)> {
        None
    }
}
