//! The state of one worker, PURE: events → steps.

mod part;
mod saved;

use std::time::{Duration, Instant};

use super::crashes::{Crashes, MACHINE_PAUSE, Next};
use super::events::{Event, Origin, State, Step};
use super::leaving::{Held, Leaving};
use super::readiness::Readiness;
use crate::config::{OnCrash, Ready, ServiceConfig};

/// The life of one worker: its state, and the deadlines after which the state changes.
#[derive(Clone, Debug)]
pub struct Life {
    state: State,
    origin: Origin,
    /// The process opens its sockets itself, though those of the service need not.
    opens: bool,
    admitted: bool,
    running: bool,
    crashes: Crashes,
    ready_since: Option<Instant>,
    readiness: Readiness,
    restart_at: Option<Instant>,
    hold_until: Option<Instant>,
    leaving: Option<Leaving>,
}

impl Life {
    /// The life of a worker that has no process yet.
    #[must_use]
    pub fn new(origin: Origin) -> Self {
        Self {
            state: State::Starting,
            origin,
            opens: false,
            admitted: false,
            running: false,
            crashes: Crashes::default(),
            ready_since: None,
            readiness: Readiness::default(),
            restart_at: None,
            hold_until: None,
            leaving: None,
        }
    }

    /// The life of a worker that takes the place of another one, whose process is to end first.
    #[must_use]
    pub fn succeeding(before: &Self) -> Self {
        Self { admitted: before.admitted, ..Self::new(Origin::Started) }
    }

    /// Notes that messages of the process may have been lost, among them `READY=1`.
    pub fn lose_word(&mut self) {
        if self.running && Readiness::is_open(self.state) {
            self.readiness.lose_word();
        }
    }

    /// The state that `status` shows.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// What starts the process.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Whether the process opens its sockets itself, though those of the service need not: it joined so.
    #[must_use]
    pub fn opens(&self) -> bool {
        self.opens
    }

    /// Sets whether the process opens its sockets itself.
    pub fn set_opens(&mut self, opens: bool) {
        self.opens = opens;
    }

    /// Whether a process is ready that has called listen(2) for all of its sockets.
    fn is_ready_by_listening(&self, policy: &ServiceConfig) -> bool {
        // The default, which means the same for processes that open their sockets.
        policy.ready == Ready::Listening || (self.opens && policy.ready == Ready::Accepting)
    }

    /// Whether the worker may own buckets.
    #[must_use]
    pub fn admitted(&self) -> bool {
        self.admitted
    }

    /// Whether the worker serves its UDP flows.
    #[must_use]
    pub fn keeps_flows(&self) -> bool {
        let leaves = self.leaving.as_ref().is_some_and(Leaving::keeps_flows);
        self.admitted || self.state == State::Draining && self.running && leaves
    }

    /// Whether connections may wait in the worker's queue when no worker is ready.
    #[must_use]
    pub fn can_wait(&self) -> bool {
        matches!(self.state, State::Starting | State::Loading | State::Held)
    }

    /// Whether the state depends on whether the process waits for work.
    #[must_use]
    pub fn wants_sight(&self, policy: &ServiceConfig) -> bool {
        self.running && Readiness::is_open(self.state) && self.readiness.wants_sight(policy)
    }

    /// Whether the process becomes ready only by saying `READY=1`.
    #[must_use]
    pub fn awaits_word(&self, policy: &ServiceConfig) -> bool {
        self.running && Readiness::is_open(self.state) && self.readiness.awaits_word(policy)
    }

    /// Whether a process that is ending by itself is started again.
    #[must_use]
    pub fn returns(&self) -> bool {
        self.leaving.as_ref().is_some_and(|leaving| leaving.returns)
    }

    /// Whether the process knows that it is to end.
    #[must_use]
    pub fn told(&self) -> bool {
        self.leaving.as_ref().is_some_and(|leaving| leaving.told)
    }

    /// Whether the process is started when [`Event::Start`] says that nothing is in its way any more.
    #[must_use]
    pub fn is_deferred(&self) -> bool {
        let idle = !self.running && self.restart_at.is_none() && self.origin == Origin::Started;
        idle && matches!(self.state, State::Held | State::Failed)
    }

    /// How often a process was started again.
    #[must_use]
    pub fn restarts(&self) -> u32 {
        self.crashes.restarts()
    }

    /// How many of these restarts came after a SIGKILL that the daemon had not sent.
    #[must_use]
    pub fn kills(&self) -> u32 {
        self.crashes.kills()
    }

    /// Whether the last process ended by its own fault.
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        self.crashes.is_suspect()
    }

    /// Whether [`Event::Looked`] is due.
    #[must_use]
    pub fn wants_look(&self, now: Instant) -> bool {
        self.leaving.as_ref().and_then(|leaving| leaving.next_poll).is_some_and(|at| at <= now)
    }

    /// Since when the worker is ready.
    #[must_use]
    pub fn ready_since(&self) -> Option<Instant> {
        self.ready_since
    }

    /// When [`Event::Tick`] is due next.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let leaving = self.leaving.as_ref().and_then(Leaving::deadline);
        [self.readiness.at, self.restart_at, self.hold_until, leaving].into_iter().flatten().min()
    }

    /// The steps that follow from `event`.
    #[must_use]
    pub fn on(&mut self, event: Event, now: Instant, policy: &ServiceConfig) -> Vec<Step> {
        let steps = self.follow(event, now, policy);
        match self.origin {
            Origin::Started | Origin::Joined => steps,
            Origin::Bound => Self::steps_of_part(steps),
            Origin::Adopted => Self::steps_of_adopted(steps),
        }
    }

    fn follow(&mut self, event: Event, now: Instant, policy: &ServiceConfig) -> Vec<Step> {
        match event {
            Event::Start => self.start(),
            Event::Spawned if self.running => self.spawned(now, policy),
            Event::SaidReady if self.running && Readiness::is_open(self.state) => self.ready(now),
            Event::SeenWaiting { all } if self.wants_sight(policy) => self.seen_waiting(all, now, policy),
            Event::Listens
                if self.running && Readiness::is_open(self.state) && self.is_ready_by_listening(policy) =>
            {
                self.ready(now)
            }
            Event::Unused if self.state == State::Ready => self.unused(),
            Event::SaidStopping if self.running => self.said_stopping(now, policy),
            Event::Ended { killed } if self.running => self.ended(killed, now, policy),
            Event::NotStarted if self.running => self.not_started(now, policy),
            Event::Deferred if self.running => self.deferred(now, policy),
            Event::Leave { patience } => self.leave(now, patience.unwrap_or(policy.drain_timeout)),
            Event::LeaveAlong => self.leave_along(now, policy),
            Event::CutAlong => self.cut_along(),
            Event::Looked { queue, flows, connections } => {
                let held = Held { flows, connections };
                self.leaving
                    .as_mut()
                    .map_or_else(Vec::new, |it| it.looked(queue, held, now, policy.stall_timeout))
            }
            Event::Kill if self.running => vec![Step::Kill],
            Event::Tick => self.tick(now, policy),
            _ => Vec::new(),
        }
    }

    fn start(&mut self) -> Vec<Step> {
        self.restart_at = None;
        self.running = true;
        self.readiness.begin();
        if self.state != State::Failed {
            self.state = State::Starting;
        }
        if self.origin == Origin::Started { vec![Step::Spawn] } else { Vec::new() }
    }

    fn spawned(&mut self, now: Instant, policy: &ServiceConfig) -> Vec<Step> {
        let ready = self.readiness.spawned(self.crashes.is_suspect(), now, policy);
        if ready { self.ready(now) } else { Vec::new() }
    }

    fn seen_waiting(&mut self, all: bool, now: Instant, policy: &ServiceConfig) -> Vec<Step> {
        let ready = self.readiness.seen_waiting(all, policy);
        if ready { self.ready(now) } else { Vec::new() }
    }

    /// Makes a worker that was ready `loading`, until its process is seen to wait for work.
    fn unused(&mut self) -> Vec<Step> {
        self.state = State::Loading;
        self.ready_since = None;
        self.readiness.unused();
        if std::mem::replace(&mut self.admitted, false) { vec![Step::Withdraw] } else { Vec::new() }
    }

    /// The time to become ready has come.
    fn due(&mut self, now: Instant, policy: &ServiceConfig) -> Vec<Step> {
        if self.readiness.due(policy) {
            return self.ready(now);
        }
        if self.state == State::Starting {
            self.state = State::Loading;
        }
        Vec::new()
    }

    fn ready(&mut self, now: Instant) -> Vec<Step> {
        self.state = State::Ready;
        self.ready_since = Some(now);
        self.readiness.at = None;
        self.hold_until = None;
        if std::mem::replace(&mut self.admitted, true) { Vec::new() } else { vec![Step::Admit] }
    }

    fn ended(&mut self, killed: bool, now: Instant, policy: &ServiceConfig) -> Vec<Step> {
        self.running = false;
        self.readiness.at = None;
        let stays = self.leaving.take().is_none_or(|leaving| leaving.returns);
        if matches!(self.origin, Origin::Joined | Origin::Adopted) {
            self.state = State::Draining;
            self.admitted = false;
            return vec![Step::Withdraw, Step::Remove];
        }
        if !stays {
            return vec![Step::Remove];
        }
        if self.origin == Origin::Bound {
            return self.held_as_part(now, policy);
        }
        let ready_for = self.ready_since.take().map(|since| now - since);
        match self.crashes.ended(ready_for, killed) {
            Next::Failed(pause) => {
                self.state = State::Failed;
                self.restart_at = Some(now + pause);
                self.give_up_buckets()
            }
            Next::After(pause) => {
                self.state = State::Held;
                self.restart_at = Some(now + pause);
                self.hold(now, policy)
            }
        }
    }

    /// A start that failed for lack of resources does not count as a crash.
    fn not_started(&mut self, now: Instant, policy: &ServiceConfig) -> Vec<Step> {
        let steps = self.deferred(now, policy);
        self.restart_at = Some(now + MACHINE_PAUSE);
        steps
    }

    fn deferred(&mut self, now: Instant, policy: &ServiceConfig) -> Vec<Step> {
        self.running = false;
        self.readiness.at = None;
        if self.state != State::Failed {
            self.state = State::Held;
        }
        self.hold(now, policy)
    }

    /// Lets the buckets of a worker without a process wait for the next one, or gives them up (`on_crash`).
    fn hold(&mut self, now: Instant, policy: &ServiceConfig) -> Vec<Step> {
        match policy.on_crash {
            OnCrash::Migrate => self.give_up_buckets(),
            OnCrash::Hold => {
                if self.admitted && self.hold_until.is_none() {
                    self.hold_until = Some(now + policy.hold_timeout);
                }
                Vec::new()
            }
        }
    }

    fn give_up_buckets(&mut self) -> Vec<Step> {
        self.hold_until = None;
        match (std::mem::replace(&mut self.admitted, false), self.running) {
            (false, _) => Vec::new(),
            (true, true) => vec![Step::Withdraw, Step::HandOn],
            // The next process has bound fewer sockets.
            (true, false) if self.origin == Origin::Bound => vec![Step::Withdraw, Step::Remove],
            (true, false) => vec![Step::Withdraw, Step::Rescue],
        }
    }

    fn leave(&mut self, now: Instant, patience: Duration) -> Vec<Step> {
        if let Some(leaving) = &mut self.leaving {
            leaving.returns = false;
            leaving.hasten(now, patience);
            return Vec::new();
        }
        self.stop_serving();
        if !self.running {
            return vec![Step::Withdraw, Step::Remove];
        }
        self.leaving = Some(Leaving::asked(now, patience));
        vec![Step::Withdraw]
    }

    fn said_stopping(&mut self, now: Instant, policy: &ServiceConfig) -> Vec<Step> {
        if let Some(leaving) = &mut self.leaving {
            leaving.told = true;
            // docs/JOIN.md tells joined processes to do so.
            leaving.listens_on = self.origin == Origin::Joined;
            return Vec::new();
        }
        if self.state != State::Ready {
            // A worker that has not served has nothing to drain.
            return Vec::new();
        }
        let ready_since = self.ready_since;
        self.stop_serving();
        // Kept: `crashes` asks at the end of the process how long it had been ready.
        self.ready_since = ready_since;
        self.leaving = Some(Leaving::by_itself(now, policy.drain_timeout, self.origin));
        vec![Step::Withdraw]
    }

    fn stop_serving(&mut self) {
        self.state = State::Draining;
        self.admitted = false;
        self.ready_since = None;
        self.readiness.at = None;
        self.restart_at = None;
        self.hold_until = None;
    }

    fn tick(&mut self, now: Instant, policy: &ServiceConfig) -> Vec<Step> {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let mut steps = Vec::new();
        if due(self.readiness.at) {
            steps.extend(self.due(now, policy));
        }
        if due(self.hold_until) {
            steps.extend(self.give_up_buckets());
        }
        if due(self.restart_at) {
            steps.extend(self.start());
        }
        if let Some(leaving) = &mut self.leaving {
            steps.extend(leaving.tick(now));
        }
        steps
    }
}
