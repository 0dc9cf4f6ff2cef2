//! How a worker leaves in order, PURE: after its buckets have moved away, its queue empties, its process is told to
//! end, and connections that it does not accept any more are handed over.

use std::time::{Duration, Instant};

use super::events::{Origin, Step};

/// Interval between looks at the queue of a leaving worker.
pub(super) const LOOK: Duration = Duration::from_millis(5);

/// Interval between looks while UDP flows stay with the worker, or connections are waited for.
const LOOK_AT_FLOWS: Duration = Duration::from_millis(100);

/// A process is told to end when its queue has been empty for this long: handshakes that had begun before
/// the buckets moved still end in the queue. A process that was told to end and leaves connections in its queue
/// for this long does not accept any more.
pub(super) const QUIET: Duration = Duration::from_millis(100);

/// What a leaving worker has besides its queue.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    /// Live UDP flows.
    pub(super) flows: u64,
    /// Live TCP connections, if its end waits for them.
    pub(super) connections: u64,
}

/// Progress of a leaving worker.
#[derive(Clone, Debug)]
pub(super) struct Leaving {
    patience: Duration,
    /// When the process is told to end; or SIGKILL is sent, if the process knows that it is to end.
    until: Option<Instant>,
    /// When to look at the queue next; `None` once it was handed over.
    pub(super) next_poll: Option<Instant>,
    /// The process knows that it is to end: by `stop_signal`, or because it said `STOPPING=1`.
    pub(super) told: bool,
    /// The process ends by itself, and another one is started.
    pub(super) returns: bool,
    /// A joined process leaves by itself, and may go on without the daemon.
    parts: bool,
    /// The process accepts until its listener is shut down, and ends then.
    pub(super) listens_on: bool,
    /// Content of all queues at the last look.
    queue: u64,
    /// What it had besides at the last look.
    held: Held,
    /// Other workers have got the flows.
    cut: bool,
    /// Since when the queue is empty, or is not.
    since: Instant,
    /// Since when the queue has not become shorter.
    stuck_since: Instant,
}

impl Leaving {
    /// The worker is to leave.
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
            held: Held::default(),
            cut: false,
            since: now,
            stuck_since: now,
        }
    }

    /// The process said `STOPPING=1`.
    pub(super) fn by_itself(now: Instant, patience: Duration, origin: Origin) -> Self {
        let parts = origin == Origin::Joined;
        Self { told: true, returns: !parts, parts, ..Self::asked(now, patience) }
    }

    /// Another worker is to leave, which has the process: that is waited for.
    pub(super) fn along(now: Instant, patience: Duration) -> Self {
        Self { until: None, next_poll: None, ..Self::asked(now, patience) }
    }

    /// Takes the worker's flows away.
    pub(super) fn cut(&mut self) {
        self.cut = true;
    }

    /// Sets whether another process is started.
    pub(super) fn returning(self, returns: bool) -> Self {
        Self { returns, ..self }
    }

    /// Shortens the time until `stop_signal` or SIGKILL to `patience`, if that is less.
    pub(super) fn hasten(&mut self, now: Instant, patience: Duration) {
        self.patience = self.patience.min(patience);
        self.until = self.until.map(|until| until.min(now + patience));
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.until, self.next_poll].into_iter().flatten().min()
    }

    /// Whether the worker still serves its UDP flows.
    pub(super) fn keeps_flows(&self) -> bool {
        !self.cut
    }

    /// Notes that `queue` connections or bytes wait in the worker's sockets, and what else it has; returns what follows.
    pub(super) fn looked(
        &mut self,
        queue: u64,
        held: Held,
        now: Instant,
        stall_timeout: Option<Duration>,
    ) -> Vec<Step> {
        if self.next_poll.is_none() {
            return Vec::new();
        }
        self.held = Held { flows: if self.cut { 0 } else { held.flows }, ..held };
        let holds = self.held.flows > 0 || self.held.connections > queue;
        self.next_poll = Some(now + if holds { LOOK_AT_FLOWS } else { LOOK });
        if (queue == 0) != (self.queue == 0) {
            self.since = now;
        }
        if queue < self.queue || self.queue == 0 {
            self.stuck_since = now;
        }
        self.queue = queue;
        let quiet = now - self.since >= QUIET;
        let alone = quiet && !holds;
        let stuck = stall_timeout.is_some_and(|timeout| now - self.stuck_since >= timeout);
        match (self.told, queue) {
            (false, 0) if alone => self.tell(now),
            // What waits goes to others, and what it has accepted is waited for.
            (false, 1..) if stuck && self.held.connections > queue => vec![Step::HandOver],
            (false, 1..) if stuck => {
                let mut steps = self.tell(now);
                steps.extend(self.hand_over());
                steps
            }
            (true, 0) if alone && self.parts => vec![Step::Remove],
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
        if !self.told && self.held.flows > 0 {
            // Other workers get the flows now; the process still reads what is queued.
            self.held.flows = 0;
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
        vec![if self.parts { Step::Remove } else { Step::Kill }]
    }

    fn tell(&mut self, now: Instant) -> Vec<Step> {
        self.told = true;
        self.since = now;
        self.until = Some(now + self.patience);
        vec![Step::Terminate]
    }

    fn hand_over(&mut self) -> Vec<Step> {
        self.next_poll = None;
        vec![if self.parts { Step::Remove } else { Step::HandOver }]
    }
}
