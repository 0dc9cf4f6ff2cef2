//! UDP flows of a service, PURE: which workers keep flows, how many buckets wait for them, and when flows are counted.
//! Not: the entry of a bucket that moves (`bucket_move.rs`), nor counting (`engine/placing.rs`).

use std::time::{Duration, Instant};

use reuseport_lb_common::entry::EPOCHS;

use super::ports::ListenerId;
use super::slots::SlotSet;

/// Time from a move of buckets to the first sweep, which ends the moves of buckets without live flows. Decisions that
/// the program was making during the move have marked their flow by then.
const SWEEP: Duration = Duration::from_millis(20);

/// What a service knows about its UDP flows.
#[derive(Default)]
pub struct FlowTracking {
    /// When the next epoch begins, at which silent flows are forgotten.
    rotate_at: Option<Instant>,
    /// Listeners whose epoch is still to begin: one after the other, since each takes milliseconds.
    rotating: Vec<ListenerId>,
    /// An epoch has begun since the last sweep.
    rotated: bool,
    /// When the next sweep is due.
    sweep_at: Option<Instant>,
    /// Buckets that should change their worker but must not yet.
    waiting: u32,
    /// Flows cut so far: they still lived when the time of their worker was over.
    cut: u64,
    /// Live flows by slot that stay with it although its bucket has moved.
    staying: Vec<u64>,
    /// Slots whose worker serves its flows, as buckets were last written.
    pinned: SlotSet,
}

/// Work on flows that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Another epoch is to begin: call [`FlowTracking::rotate`].
    Rotation,
    /// Moves of buckets without live flows are to be ended.
    Sweep,
}

impl FlowTracking {
    /// Begins with `cut` flows that earlier daemons have cut.
    #[must_use]
    pub fn new(cut: u64) -> Self {
        Self { cut, ..Self::default() }
    }

    /// Length of an epoch: a flow whose last packet comes at the end of one lives during all the others.
    fn epoch(idle_timeout: Duration) -> Duration {
        idle_timeout / (EPOCHS as u32 - 1)
    }

    /// When [`FlowTracking::due`] next has something to return.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        [self.rotate_at, self.sweep_at].into_iter().flatten().min()
    }

    /// Plans the next epoch after listeners, `flows` or `idle_timeout` have changed. If flows are not tracked any more,
    /// nothing waits for them.
    pub fn plan(&mut self, tracked: bool, idle_timeout: Duration, now: Instant) {
        let next = now + Self::epoch(idle_timeout);
        self.rotate_at = tracked.then(|| self.rotate_at.map_or(next, |at| at.min(next)));
        if !tracked {
            (self.sweep_at, self.waiting) = (None, 0);
            self.rotating.clear();
            self.staying.clear();
        }
    }

    /// Returns what is due now, once.
    pub fn due(&mut self, idle_timeout: Duration, now: Instant) -> Option<Due> {
        if self.rotate_at.is_some_and(|at| at <= now) {
            // A full epoch from now, however late this one is: a shorter one would forget flows too soon.
            self.rotate_at = Some(now + Self::epoch(idle_timeout));
            return Some(Due::Rotation);
        }
        self.sweep_at.take_if(|at| *at <= now).map(|_| Due::Sweep)
    }

    /// Notes that another epoch is to begin at these listeners.
    pub fn rotate(&mut self, listeners: Vec<ListenerId>) {
        self.rotating = listeners;
    }

    /// Whether an epoch is still to begin at a listener.
    #[must_use]
    pub fn is_rotating(&self) -> bool {
        !self.rotating.is_empty()
    }

    /// The next listener at which an epoch is to begin.
    pub fn next_rotation(&mut self, now: Instant) -> Option<ListenerId> {
        let next = self.rotating.pop()?;
        if self.rotating.is_empty() {
            (self.rotated, self.sweep_at) = (true, Some(now));
        }
        Some(next)
    }

    /// Notes that a sweep has ended the moves of `ended` buckets; returns whether waiting ones may be able to move.
    pub fn swept(&mut self, ended: usize) -> bool {
        self.waiting > 0 && (std::mem::take(&mut self.rotated) || ended > 0)
    }

    /// Notes that `moved` buckets have moved and `waiting` should have; returns whether to log the latter.
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

    /// Flows cut so far, also by earlier daemons.
    #[must_use]
    pub fn cut(&self) -> u64 {
        self.cut
    }

    /// Notes that `flows` more were cut.
    pub fn add_cut(&mut self, flows: u64) {
        self.cut += flows;
    }

    /// Slots whose worker serves its flows, as buckets were last written.
    #[must_use]
    pub fn pinned(&self) -> &SlotSet {
        &self.pinned
    }

    /// Notes the slots with which buckets are written from now on.
    pub fn pin(&mut self, pinned: SlotSet) {
        self.pinned = pinned;
    }

    /// Live flows that stay with `slot` although their buckets have moved, by the last count.
    #[must_use]
    pub fn staying(&self, slot: u16) -> u64 {
        self.staying.get(usize::from(slot)).copied().unwrap_or_default()
    }

    /// Notes a count of the flows that stay, by slot.
    pub fn counted(&mut self, staying: Vec<u64>) {
        self.staying = staying;
    }
}
