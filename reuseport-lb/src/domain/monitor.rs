//! When the periodic checks of a service are due, PURE: queues, readiness, watchdogs, repairs. Not: the checks
//! (`engine/`).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::ports::WorkerId;

/// Interval between repairs of what workers may do to groups and sockets.
const REPAIR: Duration = Duration::from_secs(1);

/// A check pauses for at least so many times as long as it took, so that with thousands of sockets it takes a bounded
/// part of the thread's time: while something waits in queues, and while nothing does.
pub(super) const OFTEN: u32 = 4;
pub(super) const RARELY: u32 = 160;

/// A periodic check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// Whether workers wait for work that were not seen to do so yet.
    Readiness,
    /// Which sockets workers have opened themselves.
    Foreign,
    /// Queues of workers, from which their health is found.
    Queues,
    /// Whether workers have said `WATCHDOG=1` in time.
    Watchdogs,
    /// Repairs of what workers may have done to groups and sockets.
    Repairs,
}

/// A check whose pause depends on how long it takes.
#[derive(Default)]
struct Poll {
    at: Option<Instant>,
    cost: Duration,
}

impl Poll {
    /// Plans the next check after a pause, or after so many times as long as the last one took if that is longer. A
    /// check that is planned is never put off; `None` plans none.
    fn plan(&mut self, pause: Option<(Duration, u32)>, now: Instant) {
        let next = pause.map(|(pause, part)| now + pause.max(self.cost * part));
        self.at = next.map(|next| self.at.map_or(next, |at| at.min(next)));
    }

    /// Whether the check is due; true once.
    fn is_due(&mut self, now: Instant) -> bool {
        self.at.take_if(|at| *at <= now).is_some()
    }
}

/// Which checks the service needs now, and when.
pub(super) struct Wanted {
    /// A pause, and how many times as long as the check takes it is at least; `None`: not needed.
    pub(super) queues: Option<(Duration, u32)>,
    pub(super) readiness: Option<(Duration, u32)>,
    /// When the earliest of these checks is due.
    pub(super) foreign: Option<Instant>,
    pub(super) watchdog: Option<Instant>,
}

/// All periodic checks of a service.
pub(super) struct Monitor {
    queues: Poll,
    readiness: Poll,
    foreign: Option<Instant>,
    /// The earliest time of the next search for foreign sockets.
    foreign_after: Instant,
    watchdog: Option<Instant>,
    repair_at: Instant,
    repair_cost: Duration,
    /// Workers that have said `WATCHDOG=1` since the last check of queues.
    pings: BTreeSet<WorkerId>,
}

impl Monitor {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            queues: Poll::default(),
            readiness: Poll::default(),
            foreign: None,
            foreign_after: now,
            watchdog: None,
            repair_at: now,
            repair_cost: Duration::ZERO,
            pings: BTreeSet::new(),
        }
    }

    pub(super) fn plan(&mut self, wanted: &Wanted, now: Instant) {
        self.queues.plan(wanted.queues, now);
        self.readiness.plan(wanted.readiness, now);
        self.foreign = wanted.foreign.map(|at| at.max(self.foreign_after));
        self.watchdog = wanted.watchdog;
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let all = [self.queues.at, self.readiness.at, self.foreign, self.watchdog];
        all.into_iter().flatten().chain([self.repair_at]).min()
    }

    /// Returns a check that is due, once.
    pub(super) fn due(&mut self, now: Instant) -> Option<CheckKind> {
        let due = |at: &mut Option<Instant>| at.take_if(|at| *at <= now).is_some();
        if self.readiness.is_due(now) {
            Some(CheckKind::Readiness)
        } else if due(&mut self.foreign) {
            Some(CheckKind::Foreign)
        } else if self.queues.is_due(now) {
            Some(CheckKind::Queues)
        } else if due(&mut self.watchdog) {
            Some(CheckKind::Watchdogs)
        } else if self.repair_at <= now {
            self.repair_at = now + REPAIR.max(std::mem::take(&mut self.repair_cost) * RARELY);
            Some(CheckKind::Repairs)
        } else {
            None
        }
    }

    /// Notes how long a check took, which its next pause depends on.
    pub(super) fn took(&mut self, check: CheckKind, cost: Duration) {
        match check {
            CheckKind::Readiness => self.readiness.cost = cost,
            CheckKind::Queues => self.queues.cost = cost,
            CheckKind::Repairs => self.repair_cost += cost,
            CheckKind::Foreign | CheckKind::Watchdogs => {}
        }
    }

    /// Sets the earliest time of the next search for foreign sockets.
    pub(super) fn foreign_after(&mut self, at: Instant) {
        self.foreign_after = at;
    }

    /// Notes that a worker has said `WATCHDOG=1`.
    pub(super) fn pinged(&mut self, worker: WorkerId) {
        self.pings.insert(worker);
    }

    /// Workers that have said `WATCHDOG=1` since the last call.
    pub(super) fn take_pings(&mut self) -> BTreeSet<WorkerId> {
        std::mem::take(&mut self.pings)
    }
}
