//! Replacing workers, a few at a time, PURE: events → actions. A successor is started beside each worker, and takes
//! over when it is ready; if it does not become ready, the old worker stays, and no further worker is replaced. Not:
//! carrying the actions out (`engine/rolling.rs`).
//!
//! ```text
//! start-first:
//!  waiting ──▶ starting ──ready──▶ trial ──stood──▶ leaving (the old one) ──removed──▶ replaced
//!                 │ late, ended      │ ended
//!                 └──────────────────┴──▶ discarded: no further worker is replaced
//! stop-first:
//!  waiting ──▶ stopping (the old one) ──removed──▶ starting ──ready──▶ trial ──stood──▶ replaced
//!                                                     │ late, ended      │ ended
//!                                                     └──────────────────┴──▶ no further worker is replaced
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::incident::Cause;
use super::ports::WorkerId;
use super::reconfigure::Undo;
use crate::config::Replace;

/// Which workers to replace, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartOptions {
    /// The worker with this number; `None`: all that the daemon started.
    pub only: Option<usize>,
    /// How many workers are replaced at a time, once the first successor has stood its trial.
    pub parallel: usize,
    /// How long a successor may take to become ready; `None`: `start_timeout`.
    pub timeout: Option<Duration>,
    /// How long the first successor must be ready before it takes over.
    pub trial: Duration,
}

impl RestartOptions {
    /// Replaces all workers one after the other, as after a reload.
    #[must_use]
    pub fn in_turn(trial: Duration) -> Self {
        Self { only: None, parallel: 1, timeout: None, trial }
    }
}

/// Progress of a rollout, for the caller that asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RolloutEvent {
    /// A worker's process is told to end, before its successor is started.
    Stopping {
        /// Name of both workers, like `web/2`.
        worker: String,
    },
    /// A successor was started.
    Starting {
        /// Name of both workers, like `web/2`.
        worker: String,
        /// Process id of the successor.
        pid: Option<i32>,
    },
    /// A successor is ready.
    Ready {
        /// Name of both workers, like `web/2`.
        worker: String,
    },
    /// A successor serves, and its predecessor was removed.
    Replaced {
        /// Name of both workers, like `web/2`.
        worker: String,
    },
    /// The rollout has ended.
    Done {
        /// How many workers were replaced.
        replaced: usize,
        /// Why the others were not; `None` if all were.
        error: Option<String>,
    },
}

/// A worker and its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The worker that is replaced.
    pub old: WorkerId,
    /// Its successor.
    pub new: WorkerId,
}

/// An action that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start the successor of the worker with this number; then call [`Rollout::started`], or [`Rollout::give_up`].
    StartSuccessor(usize),
    /// The successor was not ready in time: call [`Rollout::fail`] with the reason.
    TimedOut(Pair),
    /// Let the successor take over; then call [`Rollout::promoted`], or [`Rollout::fail`].
    Promote(Pair),
    /// The successor of a worker that has ended before works: call [`Rollout::stood`].
    Stood(Pair),
    /// End the rollout with [`Rollout::finish`].
    Finish,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The old worker ends, and its successor is started then.
    Stopping,
    /// The successor must be ready by this time.
    Starting(Instant),
    /// The successor is ready, and takes over at this time.
    Trial(Instant),
    /// The successor serves, and the old worker leaves.
    Leaving,
}

/// A worker that is being replaced.
#[derive(Clone, Copy, Debug)]
struct Active {
    pair: Pair,
    order: Replace,
    stage: Stage,
}

impl Active {
    /// Whether the successor has not shown yet that it works.
    fn is_unproven(&self) -> bool {
        self.stage != Stage::Leaving
    }
}

/// A replacement that is going on.
pub struct Rollout {
    options: RestartOptions,
    cause: Cause,
    waiting: VecDeque<usize>,
    active: Vec<Active>,
    /// Successors that serve.
    done: Vec<WorkerId>,
    replaced: usize,
    error: Option<String>,
    undo: Option<Undo>,
    listener: Box<dyn Fn(RolloutEvent)>,
}

impl Rollout {
    /// Replaces the workers with these numbers for this cause; `undo` is returned by [`Rollout::finish`] if a successor
    /// fails.
    #[must_use]
    pub fn new(
        options: RestartOptions,
        cause: Cause,
        waiting: impl IntoIterator<Item = usize>,
        undo: Option<Undo>,
        listener: Box<dyn Fn(RolloutEvent)>,
    ) -> Self {
        let waiting = waiting.into_iter().collect();
        Self {
            options,
            cause,
            waiting,
            active: Vec::new(),
            done: Vec::new(),
            replaced: 0,
            error: None,
            undo,
            listener,
        }
    }

    /// When [`Rollout::next`] next has an action by the passing of time alone.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let due = self.active.iter().filter_map(|it| match it.stage {
            Stage::Starting(until) | Stage::Trial(until) => Some(until),
            Stage::Stopping | Stage::Leaving => None,
        });
        due.min()
    }

    /// Why a worker leaves or is added: this replacement's cause, after what happens to the worker.
    #[must_use]
    pub fn cause(&self, what: &str) -> Cause {
        let Cause { reason, by } = self.cause.clone();
        let reason = reason.map_or_else(|| what.to_owned(), |reason| format!("{what}: {reason}"));
        Cause { reason: Some(reason), by }
    }

    /// The cause of the end of this replacement, with why it did not replace all.
    #[must_use]
    pub fn cause_of_end(&self) -> Cause {
        Cause { reason: self.error.clone(), by: self.cause.by.clone() }
    }

    /// Whether a successor has stood its trial.
    fn is_proven(&self) -> bool {
        !self.done.is_empty()
    }

    /// How long a successor may take to become ready; `None`: `start_timeout`.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        self.options.timeout
    }

    /// The next action that is due; `None`: none for now.
    pub fn next(&mut self, now: Instant) -> Option<Action> {
        for Active { pair, order, stage } in self.active.iter().copied() {
            match (stage, order) {
                (Stage::Starting(until), _) if until <= now => return Some(Action::TimedOut(pair)),
                (Stage::Trial(until), Replace::StartFirst) if until <= now => {
                    return Some(Action::Promote(pair));
                }
                (Stage::Trial(until), Replace::StopFirst) if until <= now => {
                    return Some(Action::Stood(pair));
                }
                _ => {}
            }
        }
        let room = if self.is_proven() { self.options.parallel } else { 1 };
        if self.active.len() >= room {
            return None;
        }
        match self.waiting.pop_front() {
            Some(number) => Some(Action::StartSuccessor(number)),
            None if self.active.is_empty() => Some(Action::Finish),
            None => None,
        }
    }

    /// Notes that a successor was added, whose process is about to start and must be ready by `until`.
    pub fn begun(&mut self, pair: Pair, until: Instant) {
        self.active.push(Active { pair, order: Replace::StartFirst, stage: Stage::Starting(until) });
    }

    /// Notes that a worker is about to be told to end, whose successor is started after that.
    pub fn stopping(&mut self, pair: Pair, name: &str) {
        self.active.push(Active { pair, order: Replace::StopFirst, stage: Stage::Stopping });
        self.tell(RolloutEvent::Stopping { worker: name.to_owned() });
    }

    /// Notes that the process of a worker was started; returns whether that is a successor whose predecessor has ended
    /// for it. It must be ready by `until`.
    #[must_use]
    pub fn follows(&mut self, new: WorkerId, until: Instant) -> bool {
        let waits = |it: &&mut Active| it.pair.new == new && it.stage == Stage::Stopping;
        let follower = self.active.iter_mut().find(waits);
        follower.map(|it| it.stage = Stage::Starting(until)).is_some()
    }

    /// Reports to the caller that the process of a successor was started.
    pub fn started(&self, worker: &str, pid: Option<i32>) {
        self.tell(RolloutEvent::Starting { worker: worker.to_owned(), pid });
    }

    /// Notes that a successor is ready.
    pub fn saw_ready(&mut self, new: WorkerId, name: &str, now: Instant) {
        let trial = if self.is_proven() { Duration::ZERO } else { self.options.trial };
        if let Some(it) = self.active.iter_mut().find(|it| it.pair.new == new && it.is_unproven()) {
            it.stage = Stage::Trial(now + trial);
            self.tell(RolloutEvent::Ready { worker: name.to_owned() });
        }
    }

    /// Notes that a successor serves, and its predecessor is about to leave.
    pub fn promoted(&mut self, new: WorkerId) {
        self.done.push(new);
        if let Some(it) = self.active.iter_mut().find(|it| it.pair.new == new) {
            it.stage = Stage::Leaving;
        }
    }

    /// Notes that a successor works whose predecessor had ended before.
    pub fn stood(&mut self, new: WorkerId, name: &str) {
        let Some(at) = self.active.iter().position(|it| it.pair.new == new) else { return };
        self.done.push(new);
        self.replace(at, name);
    }

    /// Notes that a worker was removed.
    pub fn saw_removed(&mut self, id: WorkerId, name: &str) {
        // A successor that has left needs no replacement any more.
        self.active.retain(|it| it.pair.new != id);
        let gone = |it: &Active| it.pair.old == id && it.stage == Stage::Leaving;
        if let Some(at) = self.active.iter().position(gone) {
            self.replace(at, name);
        }
    }

    fn replace(&mut self, at: usize, name: &str) {
        self.active.remove(at);
        self.replaced += 1;
        self.tell(RolloutEvent::Replaced { worker: name.to_owned() });
    }

    /// Notes that the process of a worker has done `what`: it ended, or is about to; `stays`: the worker gets another
    /// process. Returns the successors to be discarded.
    #[must_use]
    pub fn saw_end(&mut self, id: WorkerId, name: &str, what: &str, stays: bool) -> Vec<WorkerId> {
        let own = self.active.iter().copied().find(|it| it.pair.new == id && it.is_unproven());
        if let Some(Active { pair, stage, .. }) = own {
            let when = if matches!(stage, Stage::Trial(_)) { "soon after" } else { "before" };
            return self.fail(pair, format!("the new {name} {what} {when} it was ready"));
        }
        if self.done.contains(&id) && stays {
            self.give_up(format!("the new {name} {what} after it had taken over: the others stay"));
            return self.discard();
        }
        Vec::new()
    }

    /// Notes that a successor does not take over; returns the successors to be discarded.
    #[must_use]
    pub fn fail(&mut self, pair: Pair, why: String) -> Vec<WorkerId> {
        let stopped = self.active.iter().any(|it| it.pair == pair && it.order == Replace::StopFirst);
        self.give_up(if stopped {
            format!("{why}: the old one had to end before (replace = \"stop-first\"), and the others stay")
        } else {
            format!("{why}: the old one stays, and so do the others")
        });
        self.drop_successor(pair)
    }

    /// Notes that a worker leaves and needs no successor any more; returns the successors to be discarded: not one that
    /// has the place of its predecessor already.
    #[must_use]
    pub fn drop_successor(&mut self, pair: Pair) -> Vec<WorkerId> {
        let of = |it: &mut Active| it.pair.new == pair.new;
        let dropped = self.active.extract_if(.., of).filter(|it| it.order == Replace::StartFirst);
        dropped.map(|it| it.pair.new).collect()
    }

    /// Replaces no further workers than those that have a successor already.
    pub fn give_up(&mut self, why: String) {
        self.waiting.clear();
        self.error.get_or_insert(why);
    }

    /// Forgets the successors that have not taken over, and returns them.
    #[must_use]
    pub fn discard(&mut self) -> Vec<WorkerId> {
        let discarded = self.active.extract_if(.., |it| it.is_unproven());
        discarded.filter(|it| it.order == Replace::StartFirst).map(|it| it.pair.new).collect()
    }

    /// Reports the end to the caller; returns how many workers were replaced, why not the others, and the settings to
    /// go back to.
    pub fn finish(self) -> (usize, Option<String>, Option<Undo>) {
        self.tell(RolloutEvent::Done { replaced: self.replaced, error: self.error.clone() });
        let undo = self.undo.filter(|_| self.error.is_some());
        (self.replaced, self.error, undo)
    }

    fn tell(&self, event: RolloutEvent) {
        (self.listener)(event);
    }
}
