//! The life of a worker, PURE: what happened → what to do. Not: doing it (`service.rs`).
//!
//! ```text
//!            READY=1 / at once / after a time            leave
//!  starting ────────────────────────────────▶ ready ──────────────▶ draining ──▶ gone
//!     ▲  │ exits                                │ exits                 exits
//!     │  ▼                                      ▼
//!     └─ held (its sockets and queue stay; back-off) ── too often before it was ready ──▶ failed
//! ```

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::config::{OnCrash, Ready, Service};

/// A worker that was ready for this long has shown that it works: its back-off starts anew.
const PROVEN: Duration = Duration::from_secs(1);

/// First pause before a restart; doubles with every further crash in a row.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Longest pause between the restarts of a worker that has not failed.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// So many exits in a row, none of them after it had been ready, make a worker `failed`.
const FAILED_AFTER: u32 = 8;

/// A failed worker is still tried, this often: what it lacked may have come back.
const FAILED_PAUSE: Duration = Duration::from_secs(30);

/// A worker that was killed after it had been ready for this long is not to blame for it.
const NOT_ITS_FAULT: Duration = Duration::from_millis(100);

/// How often the queue of a draining worker is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// A draining worker is told to end when its queue has been empty for this long: handshakes that
/// had begun before its buckets moved still end in its queue.
const EMPTY_FOR: Duration = Duration::from_millis(100);

/// What `status` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its process runs but is not ready yet.
    Starting,
    /// It serves.
    Ready,
    /// It leaves: no new flows; its queue empties, then its process ends.
    Draining,
    /// Its process is gone; its sockets and queue wait for the next one.
    Held,
    /// It ended again and again before it was ready.
    Failed,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Held => "held",
            Self::Failed => "failed",
        })
    }
}

/// What happens to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It exists: start it.
    Start,
    /// It said `READY=1`.
    SaidReady,
    /// Its process ended, or could not be started. `killed`: by SIGKILL, so not by its own fault.
    Ended {
        /// Whether it was SIGKILL.
        killed: bool,
    },
    /// It shall leave.
    Leave,
    /// Its queues were looked at.
    Looked {
        /// Whether nothing waits in them.
        empty: bool,
    },
    /// Time has passed.
    Tick,
    /// No more patience.
    Kill,
}

/// What is to be done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Start its process.
    Spawn,
    /// It may own buckets.
    Admit,
    /// It may not own buckets any longer.
    Withdraw,
    /// Its process is gone: hand its queued connections to other workers, and listen again.
    Rescue,
    /// Its process does not accept any more: hand its queued connections to other workers, for good.
    HandOver,
    /// SIGTERM.
    Terminate,
    /// SIGKILL.
    Kill,
    /// Rescue what is queued, close its sockets, free its slot and forget it.
    Release,
}

/// Where one worker is in its life.
#[derive(Clone, Debug)]
pub struct Life {
    state: State,
    admitted: bool,
    running: bool,
    restarts: u32,
    /// Exits in a row that count against it.
    streak: u32,
    /// Of those, since it was last ready.
    unready_exits: u32,
    ready_since: Option<Instant>,
    ready_at: Option<Instant>,
    restart_at: Option<Instant>,
    hold_until: Option<Instant>,
    drain_until: Option<Instant>,
    look_at: Option<Instant>,
    /// Since when its queues are empty (before SIGTERM) or not empty (after it).
    seen_since: Option<Instant>,
    terminated: bool,
}

impl Default for Life {
    fn default() -> Self {
        Self {
            state: State::Starting,
            admitted: false,
            running: false,
            restarts: 0,
            streak: 0,
            unready_exits: 0,
            ready_since: None,
            ready_at: None,
            restart_at: None,
            hold_until: None,
            drain_until: None,
            look_at: None,
            seen_since: None,
            terminated: false,
        }
    }
}

impl Life {
    /// What `status` shows.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether it may own buckets.
    #[must_use]
    pub fn admitted(&self) -> bool {
        self.admitted
    }

    /// Whether connections may wait in its queue when nobody is ready.
    #[must_use]
    pub fn can_wait(&self) -> bool {
        matches!(self.state, State::Starting | State::Held)
    }

    /// How often its process was started again.
    #[must_use]
    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    /// Whether it is time for [`Event::Looked`].
    #[must_use]
    pub fn wants_look(&self, now: Instant) -> bool {
        self.look_at.is_some_and(|at| at <= now)
    }

    /// Since when it is ready.
    #[must_use]
    pub fn ready_since(&self) -> Option<Instant> {
        self.ready_since
    }

    /// When it next needs [`Event::Tick`].
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        [self.ready_at, self.restart_at, self.hold_until, self.drain_until, self.look_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// What to do about `event`.
    #[must_use]
    pub fn on(&mut self, event: Event, now: Instant, policy: &Service) -> Vec<Step> {
        match event {
            Event::Start => self.spawn(now, policy),
            Event::SaidReady if self.running && matches!(self.state, State::Starting | State::Failed) => {
                self.ready(now, policy)
            }
            Event::Ended { killed } if self.running => self.ended(killed, now, policy),
            Event::Leave => self.leave(now, policy),
            Event::Looked { empty } if self.look_at.is_some() => self.looked(empty, now, policy),
            Event::Kill if self.running => vec![Step::Kill],
            Event::Tick => self.tick(now, policy),
            _ => Vec::new(),
        }
    }

    fn spawn(&mut self, now: Instant, policy: &Service) -> Vec<Step> {
        self.restart_at = None;
        self.running = true;
        if self.state != State::Failed {
            self.state = State::Starting;
        }
        let mut steps = vec![Step::Spawn];
        match policy.ready {
            Ready::Notify => {}
            // After a crash it must first show that it runs.
            Ready::Immediate if self.streak > 0 => self.ready_at = Some(now + PROVEN),
            Ready::Immediate => steps.extend(self.ready(now, policy)),
            Ready::After(time) => self.ready_at = Some(now + time),
        }
        steps
    }

    fn ready(&mut self, now: Instant, policy: &Service) -> Vec<Step> {
        self.state = State::Ready;
        self.ready_since = Some(now);
        self.ready_at = None;
        self.hold_until = None;
        if policy.ready != Ready::Immediate || self.streak > 0 {
            self.unready_exits = 0;
        }
        if std::mem::replace(&mut self.admitted, true) { Vec::new() } else { vec![Step::Admit] }
    }

    fn ended(&mut self, killed: bool, now: Instant, policy: &Service) -> Vec<Step> {
        self.running = false;
        self.ready_at = None;
        if self.state == State::Draining {
            return vec![Step::Release];
        }
        let was_ready = self.ready_since.take();
        let ready_for = was_ready.map(|since| now - since);
        if ready_for.is_some_and(|time| time >= PROVEN) {
            self.streak = 0;
            self.unready_exits = 0;
        }
        let pause = match self.streak {
            0 => Duration::ZERO,
            n => (FIRST_PAUSE * 2u32.saturating_pow(n - 1)).min(LONGEST_PAUSE),
        };
        if !(killed && ready_for.is_some_and(|time| time >= NOT_ITS_FAULT)) {
            self.streak += 1;
        }
        // Ready at once says nothing before it has run for a while.
        let unproven = policy.ready == Ready::Immediate && ready_for.is_some_and(|time| time < PROVEN);
        self.unready_exits += u32::from(was_ready.is_none() || unproven);
        self.restarts += 1;
        if self.unready_exits >= FAILED_AFTER {
            self.state = State::Failed;
            self.restart_at = Some(now + FAILED_PAUSE);
            return self.give_up_buckets();
        }
        self.state = State::Held;
        self.restart_at = Some(now + pause);
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
            // What is queued is the running successor's, and shutting its socket down would break it.
            (true, true) => vec![Step::Withdraw],
            (true, false) => vec![Step::Withdraw, Step::Rescue],
        }
    }

    fn leave(&mut self, now: Instant, policy: &Service) -> Vec<Step> {
        if self.state == State::Draining {
            return Vec::new();
        }
        self.state = State::Draining;
        self.admitted = false;
        self.ready_at = None;
        self.restart_at = None;
        self.hold_until = None;
        if !self.running {
            return vec![Step::Withdraw, Step::Release];
        }
        self.drain_until = Some(now + policy.drain_timeout);
        self.look_at = Some(now + LOOK);
        vec![Step::Withdraw]
    }

    fn looked(&mut self, empty: bool, now: Instant, policy: &Service) -> Vec<Step> {
        self.look_at = Some(now + LOOK);
        if empty == self.terminated {
            self.seen_since = None;
            return Vec::new();
        }
        let since = *self.seen_since.get_or_insert(now);
        if now - since < EMPTY_FOR {
            return Vec::new();
        }
        if self.terminated {
            self.look_at = None;
            return vec![Step::HandOver];
        }
        self.terminate(now, policy)
    }

    fn terminate(&mut self, now: Instant, policy: &Service) -> Vec<Step> {
        self.terminated = true;
        self.seen_since = None;
        self.drain_until = Some(now + policy.drain_timeout);
        vec![Step::Terminate]
    }

    fn tick(&mut self, now: Instant, policy: &Service) -> Vec<Step> {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let mut steps = Vec::new();
        if due(self.ready_at) {
            steps.extend(self.ready(now, policy));
        }
        if due(self.hold_until) {
            steps.extend(self.give_up_buckets());
        }
        if due(self.restart_at) {
            steps.extend(self.spawn(now, policy));
        }
        if due(self.look_at) {
            self.look_at = Some(now + LOOK);
        }
        if due(self.drain_until) {
            if self.terminated {
                self.drain_until = None;
                self.look_at = None;
                steps.push(Step::Kill);
            } else {
                steps.extend(self.terminate(now, policy));
                steps.push(Step::HandOver);
            }
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Trial {
        life: Life,
        policy: Service,
        now: Instant,
    }

    impl Trial {
        fn new(change: impl FnOnce(&mut Service)) -> Self {
            let mut policy = Service::new("web", Vec::new(), 1);
            change(&mut policy);
            Self { life: Life::default(), policy, now: Instant::now() }
        }

        fn on(&mut self, event: Event) -> Vec<Step> {
            self.life.on(event, self.now, &self.policy)
        }

        fn crash(&mut self) -> Vec<Step> {
            self.on(Event::Ended { killed: false })
        }

        /// Lets time pass up to the next deadline; returns how much, and the steps.
        fn wait(&mut self) -> (Duration, Vec<Step>) {
            let until = self.life.deadline().unwrap();
            let passed = until - self.now;
            self.now = until;
            (passed, self.on(Event::Tick))
        }
    }

    const READY: Event = Event::SaidReady;

    #[test]
    fn buckets_come_when_it_is_ready_and_not_before() {
        let mut it = Trial::new(|_| {});
        assert_eq!(it.on(Event::Start), [Step::Spawn]);
        assert!(!it.life.admitted() && it.life.can_wait());
        assert_eq!(it.on(READY), [Step::Admit]);
        assert_eq!(it.life.state(), State::Ready);
        assert_eq!(it.on(READY), []);
    }

    #[test]
    fn readiness_by_time_comes_early_with_a_notification() {
        let mut it = Trial::new(|policy| policy.ready = Ready::After(Duration::from_millis(500)));
        assert_eq!(it.on(Event::Start), [Step::Spawn]);
        assert_eq!(it.wait(), (Duration::from_millis(500), vec![Step::Admit]));
        let mut it = Trial::new(|policy| policy.ready = Ready::Immediate);
        assert_eq!(it.on(Event::Start), [Step::Spawn, Step::Admit]);
    }

    #[test]
    fn a_crash_holds_buckets_until_the_timeout() {
        let mut it = Trial::new(|_| {});
        let _ = (it.on(Event::Start), it.on(READY));
        assert_eq!(it.crash(), []);
        assert_eq!(it.life.state(), State::Held);
        assert!(it.life.admitted());
        assert_eq!(it.wait(), (Duration::ZERO, vec![Step::Spawn]));
        // Its successor runs, so its socket is left alone.
        assert_eq!(it.wait(), (it.policy.hold_timeout, vec![Step::Withdraw]));
        assert_eq!(it.on(READY), [Step::Admit]);
    }

    #[test]
    fn a_queue_without_a_process_is_rescued_after_the_timeout() {
        let mut it = Trial::new(|policy| policy.hold_timeout = Duration::from_millis(10));
        let _ = (it.on(Event::Start), it.on(READY), it.crash(), it.wait());
        let _ = (it.on(READY), it.crash());
        assert_eq!(it.wait(), (Duration::from_millis(10), vec![Step::Withdraw, Step::Rescue]));
    }

    #[test]
    fn running_at_once_must_be_proven_after_a_crash() {
        let mut it = Trial::new(|policy| policy.ready = Ready::Immediate);
        assert_eq!(it.on(Event::Start), [Step::Spawn, Step::Admit]);
        let _ = it.crash();
        assert_eq!(it.wait(), (Duration::ZERO, vec![Step::Spawn]));
        assert_eq!(it.life.state(), State::Starting);
        for _ in 0..6 {
            let _ = it.crash();
            // Its buckets go to others in between.
            while !it.wait().1.contains(&Step::Spawn) {}
        }
        assert!(!it.life.admitted());
        let _ = it.crash();
        assert_eq!(it.life.state(), State::Failed);
    }

    #[test]
    fn a_crash_with_migrate_gives_buckets_up_at_once() {
        let mut it = Trial::new(|policy| policy.on_crash = OnCrash::Migrate);
        let _ = (it.on(Event::Start), it.on(READY));
        assert_eq!(it.crash(), [Step::Withdraw, Step::Rescue]);
        assert_eq!(it.wait(), (Duration::ZERO, vec![Step::Spawn]));
        assert_eq!(it.on(READY), [Step::Admit]);
    }

    #[test]
    fn crashes_in_a_row_pause_longer_and_longer() {
        let mut it = Trial::new(|policy| policy.on_crash = OnCrash::Migrate);
        let _ = it.on(Event::Start);
        let mut pauses = Vec::new();
        for _ in 0..6 {
            let _ = (it.on(READY), it.crash());
            pauses.push(it.wait().0.as_millis());
        }
        assert_eq!(pauses, [0, 50, 100, 200, 400, 800]);
        let _ = it.on(READY);
        it.now += PROVEN;
        let _ = it.crash();
        assert_eq!(it.wait().0, Duration::ZERO, "it had proven itself");
    }

    #[test]
    fn being_killed_is_not_held_against_it() {
        let mut it = Trial::new(|_| {});
        let _ = it.on(Event::Start);
        for _ in 0..100 {
            let _ = it.on(READY);
            it.now += NOT_ITS_FAULT;
            let _ = it.on(Event::Ended { killed: true });
            assert_eq!(it.wait(), (Duration::ZERO, vec![Step::Spawn]));
        }
        assert_eq!(it.life.restarts(), 100);
    }

    #[test]
    fn it_fails_after_eight_exits_before_it_was_ready_and_is_still_tried() {
        let mut it = Trial::new(|_| {});
        let _ = it.on(Event::Start);
        for _ in 0..7 {
            assert_eq!(it.crash(), []);
            let _ = it.wait();
        }
        assert_eq!(it.crash(), []);
        assert_eq!(it.life.state(), State::Failed);
        assert!(!it.life.can_wait());
        assert_eq!(it.wait(), (FAILED_PAUSE, vec![Step::Spawn]));
        assert_eq!(it.life.state(), State::Failed);
        assert_eq!(it.on(READY), [Step::Admit]);
    }

    fn look(it: &mut Trial, empty: bool) -> Vec<Step> {
        it.now = it.life.deadline().unwrap();
        it.on(Event::Looked { empty })
    }

    #[test]
    fn it_leaves_in_order() {
        let mut it = Trial::new(|_| {});
        let _ = (it.on(Event::Start), it.on(READY));
        assert_eq!(it.on(Event::Leave), [Step::Withdraw]);
        let begun = it.now;
        assert_eq!(look(&mut it, true), []);
        assert_eq!(look(&mut it, false), [], "somebody came late");
        let ended = (0..100).map(|_| look(&mut it, true)).find(|steps| !steps.is_empty());
        assert_eq!(ended, Some(vec![Step::Terminate]));
        assert!(it.now - begun >= EMPTY_FOR, "it was empty for a while");
        assert_eq!(it.crash(), [Step::Release]);
    }

    #[test]
    fn what_still_comes_after_sigterm_is_handed_over() {
        let mut it = Trial::new(|_| {});
        let _ = (it.on(Event::Start), it.on(READY), it.on(Event::Leave));
        while look(&mut it, true).is_empty() {}
        assert_eq!(look(&mut it, true), []);
        let handed = (0..100).map(|_| look(&mut it, false)).find(|steps| !steps.is_empty());
        assert_eq!(handed, Some(vec![Step::HandOver]));
        assert!(!it.life.wants_look(it.now + LOOK));
    }

    #[test]
    fn it_is_terminated_and_then_killed_when_it_does_not_leave() {
        let mut it = Trial::new(|_| {});
        let _ = (it.on(Event::Start), it.on(READY), it.on(Event::Leave));
        it.now += it.policy.drain_timeout;
        assert_eq!(it.on(Event::Tick), [Step::Terminate, Step::HandOver]);
        it.now += it.policy.drain_timeout;
        assert_eq!(it.on(Event::Tick), [Step::Kill]);
        assert_eq!(it.on(Event::Ended { killed: true }), [Step::Release]);
    }

    #[test]
    fn without_a_process_it_leaves_at_once() {
        let mut it = Trial::new(|_| {});
        let _ = (it.on(Event::Start), it.on(READY), it.crash());
        assert_eq!(it.on(Event::Leave), [Step::Withdraw, Step::Release]);
    }
}
