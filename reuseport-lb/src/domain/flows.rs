//! Flows of UDP, PURE: whose flows stay, how many buckets wait for them, and when flows are looked at. Not: what becomes
//! of an entry (`bucket_move.rs`), or looking (`engine/placing.rs`).

use std::time::{Duration, Instant};

use reuseport_lb_common::layout::EPOCHS;

use super::ports::ListenerId;
use super::slots::SlotSet;

/// Buckets that moved are looked at after this time: those without live flows are steady again.
/// Decisions that were being made when they moved have marked their flow by then.
const SWEEP: Duration = Duration::from_millis(20);

/// What a service knows about its flows.
#[derive(Default)]
pub struct FlowTracking {
    /// When flows that have been silent are forgotten next.
    rotate_at: Option<Instant>,
    /// Listeners whose flows are still to be aged: one after the other, since each takes milliseconds.
    rotating: Vec<ListenerId>,
    /// That is done, and has not been looked at.
    rotated: bool,
    /// When buckets are looked at that moved.
    sweep_at: Option<Instant>,
    /// Buckets that should change their worker but must not yet.
    waiting: u32,
    /// Flows that still lived when the patience with their worker was over, so far.
    cut: u64,
    /// Flows that stay with a worker that does not get new ones, by slot.
    staying: Vec<u64>,
    /// Slots whose worker is there for its flows, as the kernel was told.
    pinned: SlotSet,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Flows are to be aged, with [`FlowTracking::rotate`].
    Rotation,
    /// Buckets that moved are to be looked at.
    Sweep,
}

impl FlowTracking {
    /// With so many that were cut before.
    #[must_use]
    pub fn new(cut: u64) -> Self {
        Self { cut, ..Self::default() }
    }

    /// How long an epoch is: a flow that is seen at its end lives for all others.
    fn epoch(idle_timeout: Duration) -> Duration {
        idle_timeout / (EPOCHS as u32 - 1)
    }

    /// When something is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        [self.rotate_at, self.sweep_at].into_iter().flatten().min()
    }

    /// Sets when flows are forgotten, after listeners or `idle_timeout` have changed.
    pub fn plan(&mut self, tracked: bool, idle_timeout: Duration, now: Instant) {
        let next = now + Self::epoch(idle_timeout);
        self.rotate_at = tracked.then(|| self.rotate_at.map_or(next, |at| at.min(next)));
    }

    /// What is due now; it is planned no more.
    pub fn due(&mut self, idle_timeout: Duration, now: Instant) -> Option<Due> {
        if self.rotate_at.is_some_and(|at| at <= now) {
            // Never earlier, however late this one is: that would forget flows too soon.
            self.rotate_at = Some(now + Self::epoch(idle_timeout));
            return Some(Due::Rotation);
        }
        self.sweep_at.take_if(|at| *at <= now).map(|_| Due::Sweep)
    }

    /// The flows of these listeners are to be aged.
    pub fn rotate(&mut self, listeners: Vec<ListenerId>) {
        self.rotating = listeners;
    }

    /// Whether [`FlowTracking::next_rotation`] has anything to say.
    #[must_use]
    pub fn is_rotating(&self) -> bool {
        !self.rotating.is_empty()
    }

    /// The listener whose flows are aged next.
    pub fn next_rotation(&mut self, now: Instant) -> Option<ListenerId> {
        let next = self.rotating.pop()?;
        if self.rotating.is_empty() {
            (self.rotated, self.sweep_at) = (true, Some(now));
        }
        Some(next)
    }

    /// A sweep has ended the moves of so many buckets: whether what waits may move now.
    pub fn swept(&mut self, ended: usize) -> bool {
        self.waiting > 0 && (std::mem::take(&mut self.rotated) || ended > 0)
    }

    /// So many buckets have moved, and so many should have: whether the latter is news.
    pub fn placed(&mut self, moved: usize, waiting: u32, now: Instant) -> bool {
        if moved > 0 {
            self.sweep_at = Some(now + SWEEP);
        }
        waiting != std::mem::replace(&mut self.waiting, waiting)
    }

    /// Buckets that should change their worker but must not yet.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.waiting
    }

    /// Flows that were cut, so far.
    #[must_use]
    pub fn cut(&self) -> u64 {
        self.cut
    }

    /// So many more were cut.
    pub fn add_cut(&mut self, flows: u64) {
        self.cut += flows;
    }

    /// Slots whose worker is there for its flows, as the kernel was told.
    #[must_use]
    pub fn pinned(&self) -> &SlotSet {
        &self.pinned
    }

    /// The kernel is told of these from now on.
    pub fn pin(&mut self, pinned: SlotSet) {
        self.pinned = pinned;
    }

    /// Flows that stay with a slot that does not get the new ones.
    #[must_use]
    pub fn staying(&self, slot: u16) -> u64 {
        self.staying.get(usize::from(slot)).copied().unwrap_or_default()
    }

    /// As they were counted.
    pub fn counted(&mut self, staying: Vec<u64>) {
        self.staying = staying;
    }
}
