//! How a worker leaves in order, PURE: buckets are gone already; its queue empties, it is told to
//! end, and what it does not accept any more is handed over.

use std::time::{Duration, Instant};

use super::events::{Origin, Step};

/// How often its queue is looked at.
pub(super) const LOOK: Duration = Duration::from_millis(5);

/// How often, while UDP flows live that stay with it.
const LOOK_AT_FLOWS: Duration = Duration::from_millis(100);

/// It is told to end when its queue has been empty for this long: handshakes that had begun before
/// its buckets moved still end in its queue. An ending worker that leaves connections in its queue
/// for this long does not accept any more.
pub(super) const QUIET: Duration = Duration::from_millis(100);

/// Where a leaving worker is.
#[derive(Clone, Debug)]
pub(super) struct Leaving {
    patience: Duration,
    /// Then SIGTERM; or, if it was told already, SIGKILL.
    until: Option<Instant>,
    /// When to look at its queue next; never, once that was handed over.
    pub(super) next_poll: Option<Instant>,
    /// It knows that it is to end.
    pub(super) told: bool,
    /// It ends by itself, and is started again.
    pub(super) returns: bool,
    /// It leaves by itself, and its process may go on without us.
    parts: bool,
    /// It accepts until its listener is shut down, and ends then.
    pub(super) listens_on: bool,
    queue: u64,
    /// UDP flows that live.
    flows: u64,
    /// Others have them now.
    cut: bool,
    /// Since when its queue is empty, or is not.
    since: Instant,
    /// Since when its queue has not become shorter.
    stuck_since: Instant,
}

impl Leaving {
    /// Somebody wants it to leave.
    pub(super) fn asked(now: Instant, patience: Duration) -> Self {
        Self {
            patience,
            until: Some(now + patience),
            next_poll: Some(now + LOOK),
            told: false,
            returns: false,
            parts: false,
            listens_on: false,
            queue: u64::MAX,
            flows: 0,
            cut: false,
            since: now,
            stuck_since: now,
        }
    }

    /// It said so itself.
    pub(super) fn by_itself(now: Instant, patience: Duration, origin: Origin) -> Self {
        let parts = origin == Origin::Joined;
        Self { told: true, returns: !parts, parts, ..Self::asked(now, patience) }
    }

    /// Whether it is started again.
    pub(super) fn returning(self, returns: bool) -> Self {
        Self { returns, ..self }
    }

    /// It may take no longer than this any more.
    pub(super) fn hasten(&mut self, now: Instant, patience: Duration) {
        self.patience = self.patience.min(patience);
        self.until = self.until.map(|until| until.min(now + patience));
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.until, self.next_poll].into_iter().flatten().min()
    }

    /// Whether it is there for the UDP flows that it has.
    pub(super) fn keeps_flows(&self) -> bool {
        !self.cut
    }

    /// `queue` connections or bytes wait in its sockets, and `flows` live.
    pub(super) fn looked(
        &mut self,
        queue: u64,
        flows: u64,
        now: Instant,
        stall_timeout: Option<Duration>,
    ) -> Vec<Step> {
        if self.next_poll.is_none() {
            return Vec::new();
        }
        self.flows = if self.cut { 0 } else { flows };
        self.next_poll = Some(now + if self.flows > 0 { LOOK_AT_FLOWS } else { LOOK });
        if (queue == 0) != (self.queue == 0) {
            self.since = now;
        }
        if queue < self.queue || self.queue == 0 {
            self.stuck_since = now;
        }
        self.queue = queue;
        let quiet = now - self.since >= QUIET;
        let alone = quiet && self.flows == 0;
        let stuck = stall_timeout.is_some_and(|timeout| now - self.stuck_since >= timeout);
        match (self.told, queue) {
            (false, 0) if alone => self.tell(now),
            (false, 1..) if stuck => {
                let mut steps = self.tell(now);
                steps.extend(self.hand_over());
                steps
            }
            (true, 0) if alone && self.parts => vec![Step::Release],
            (true, 0) if quiet && self.listens_on => self.hand_over(),
            (true, 1..) if quiet => self.hand_over(),
            _ => Vec::new(),
        }
    }

    pub(super) fn tick(&mut self, now: Instant) -> Vec<Step> {
        if self.next_poll.is_some_and(|at| at <= now) {
            self.next_poll = Some(now + LOOK);
        }
        if self.until.is_none_or(|until| until > now) {
            return Vec::new();
        }
        if !self.told && self.flows > 0 {
            // Others get its flows now; it still reads what is queued.
            self.flows = 0;
            self.cut = true;
            self.since = now;
            self.stuck_since = now;
            self.until = Some(now + 2 * QUIET);
            self.next_poll = Some(now + LOOK);
            return vec![Step::Cut];
        }
        if !self.told {
            let mut steps = self.tell(now);
            steps.extend(self.hand_over());
            return steps;
        }
        self.until = None;
        self.next_poll = None;
        vec![if self.parts { Step::Release } else { Step::Kill }]
    }

    fn tell(&mut self, now: Instant) -> Vec<Step> {
        self.told = true;
        self.since = now;
        self.until = Some(now + self.patience);
        vec![Step::Terminate]
    }

    fn hand_over(&mut self) -> Vec<Step> {
        self.next_poll = None;
        vec![if self.parts { Step::Release } else { Step::HandOver }]
    }
}
