//! What is looked at when, PURE: queues, readiness, what workers may have done to their sockets, what they write. Not:
//! looking (`engine/`).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::ports::WorkerId;

/// How often what workers may do to groups and listeners is put right.
const REPAIR: Duration = Duration::from_secs(1);

/// With thousands of sockets looks take one in so many parts of the time, or of a processor: while something
/// waits, and while nothing does.
pub(super) const OFTEN: u32 = 4;
pub(super) const RARELY: u32 = 160;

/// How often the output of workers that are suspect is passed on.
pub(super) const FORWARD: Duration = Duration::from_millis(500);

/// Which look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Whether workers wait for work that are not seen to yet.
    Readiness,
    /// Which sockets they opened by themselves.
    Foreign,
    /// What waits for them.
    Queues,
    /// Whether they say that they are alive.
    Watchdogs,
    /// What they may have done to groups and sockets.
    Repairs,
    /// What they write.
    Output,
}

/// A look that is repeated.
#[derive(Default)]
struct Poll {
    at: Option<Instant>,
    cost: Duration,
}

impl Poll {
    /// Plans the next one after a pause that is at least so many times as long as the last one took, without putting
    /// one off that is planned; `None`: there is nothing to look at.
    fn plan(&mut self, pause: Option<(Duration, u32)>, now: Instant) {
        let next = pause.map(|(pause, part)| now + pause.max(self.cost * part));
        self.at = next.map(|next| self.at.map_or(next, |at| at.min(next)));
    }

    /// Whether it is due; then it is planned no more.
    fn is_due(&mut self, now: Instant) -> bool {
        self.at.take_if(|at| *at <= now).is_some()
    }
}

/// What there is to look at now, and how often.
pub(super) struct Wanted {
    /// A pause, and how many times as long as the look takes it is at least; `None`: nothing.
    pub(super) queues: Option<(Duration, u32)>,
    pub(super) readiness: Option<(Duration, u32)>,
    /// When the earliest of them is due.
    pub(super) foreign: Option<Instant>,
    pub(super) watchdog: Option<Instant>,
    /// Whether anything is written that is kept.
    pub(super) output: bool,
}

/// All looks of a service.
pub(super) struct Monitor {
    queues: Poll,
    readiness: Poll,
    foreign: Option<Instant>,
    /// No earlier than this.
    foreign_after: Instant,
    watchdog: Option<Instant>,
    repair_at: Instant,
    repair_cost: Duration,
    output: Option<Instant>,
    /// Who said `WATCHDOG=1` since the last look at queues.
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
            output: None,
            pings: BTreeSet::new(),
        }
    }

    pub(super) fn plan(&mut self, wanted: &Wanted, now: Instant) {
        self.queues.plan(wanted.queues, now);
        self.readiness.plan(wanted.readiness, now);
        self.foreign = wanted.foreign.map(|at| at.max(self.foreign_after));
        self.watchdog = wanted.watchdog;
        self.output = wanted.output.then(|| self.output.unwrap_or(now + FORWARD));
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let all = [self.queues.at, self.readiness.at, self.foreign, self.watchdog, self.output];
        all.into_iter().flatten().chain([self.repair_at]).min()
    }

    /// What is due; that is planned no more.
    pub(super) fn due(&mut self, now: Instant) -> Option<Check> {
        let due = |at: &mut Option<Instant>| at.take_if(|at| *at <= now).is_some();
        if self.readiness.is_due(now) {
            Some(Check::Readiness)
        } else if due(&mut self.foreign) {
            Some(Check::Foreign)
        } else if self.queues.is_due(now) {
            Some(Check::Queues)
        } else if due(&mut self.watchdog) {
            Some(Check::Watchdogs)
        } else if self.repair_at <= now {
            self.repair_at = now + REPAIR.max(std::mem::take(&mut self.repair_cost) * RARELY);
            Some(Check::Repairs)
        } else if due(&mut self.output) {
            Some(Check::Output)
        } else {
            None
        }
    }

    /// A look took so long.
    pub(super) fn took(&mut self, check: Check, cost: Duration) {
        match check {
            Check::Readiness => self.readiness.cost = cost,
            Check::Queues => self.queues.cost = cost,
            Check::Repairs => self.repair_cost += cost,
            Check::Foreign | Check::Watchdogs | Check::Output => {}
        }
    }

    /// Sockets that workers opened by themselves are not looked for again before this.
    pub(super) fn foreign_after(&mut self, at: Instant) {
        self.foreign_after = at;
    }

    /// There is more to pass on.
    pub(super) fn more_output(&mut self, at: Instant) {
        self.output = Some(at);
    }

    /// It said `WATCHDOG=1`.
    pub(super) fn pinged(&mut self, worker: WorkerId) {
        self.pings.insert(worker);
    }

    /// Who said so since this was last asked.
    pub(super) fn take_pings(&mut self) -> BTreeSet<WorkerId> {
        std::mem::take(&mut self.pings)
    }
}
