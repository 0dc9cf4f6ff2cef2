//! Replacing workers, a few at a time, PURE: what happened → what to do. A successor is started beside each, and takes
//! over when it is ready; if it does not become ready, the old one stays, and so do all others. Not: doing it
//! (`engine/rolling.rs`).
//!
//! ```text
//!  waiting ──▶ starting ──ready──▶ trial ──stood──▶ leaving (the old one) ──removed──▶ replaced
//!                 │ late, ended      │ ended
//!                 └──────────────────┴──▶ discarded: nobody else is replaced
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::ports::WorkerId;
use super::reconfigure::Undo;

/// What is to be replaced, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartOptions {
    /// Only the worker with this number; else all that the daemon started.
    pub only: Option<usize>,
    /// So many at a time, once the first has stood its trial.
    pub parallel: usize,
    /// How long a successor may take to become ready; `None`: `start_timeout`.
    pub timeout: Option<Duration>,
    /// How long the first successor must have been ready before it takes over.
    pub trial: Duration,
}

impl RestartOptions {
    /// One after the other, for the service's own reasons.
    #[must_use]
    pub fn in_turn(trial: Duration) -> Self {
        Self { only: None, parallel: 1, timeout: None, trial }
    }
}

/// How a rollout goes, for those who asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RolloutEvent {
    /// A successor was started.
    Starting {
        /// Like `web/2`.
        worker: String,
        /// Its process.
        pid: Option<i32>,
    },
    /// It is ready.
    Ready {
        /// Like `web/2`.
        worker: String,
    },
    /// It serves, and nothing of its predecessor is left.
    Replaced {
        /// Like `web/2`.
        worker: String,
    },
    /// The end.
    Done {
        /// How many workers were replaced.
        replaced: usize,
        /// Why the others were not.
        error: Option<String>,
    },
}

/// A worker and its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Who serves until then.
    pub old: WorkerId,
    /// Who is to.
    pub new: WorkerId,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start the successor of the worker with this number; then say [`Rollout::started`], or [`Rollout::give_up`].
    StartSuccessor(usize),
    /// It was not ready in time: say why, with [`Rollout::fail`].
    TimedOut(Pair),
    /// The successor takes over; then say [`Rollout::promoted`], or [`Rollout::fail`].
    Promote(Pair),
    /// Nothing is left to do.
    Finish,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Until it must be ready.
    Starting(Instant),
    /// Until it has shown that it works.
    Trial(Instant),
    /// The old one leaves.
    Leaving,
}

/// A replacement that is going on.
pub struct Rollout {
    options: RestartOptions,
    waiting: VecDeque<usize>,
    active: Vec<(Pair, Stage)>,
    /// Successors that serve.
    done: Vec<WorkerId>,
    replaced: usize,
    error: Option<String>,
    undo: Option<Undo>,
    listener: Box<dyn Fn(RolloutEvent)>,
}

impl Rollout {
    /// Of the workers with these numbers; what does not work is undone with `undo`.
    #[must_use]
    pub fn new(
        options: RestartOptions,
        waiting: impl IntoIterator<Item = usize>,
        undo: Option<Undo>,
        listener: Box<dyn Fn(RolloutEvent)>,
    ) -> Self {
        let waiting = waiting.into_iter().collect();
        Self {
            options,
            waiting,
            active: Vec::new(),
            done: Vec::new(),
            replaced: 0,
            error: None,
            undo,
            listener,
        }
    }

    /// When [`Rollout::next`] has something to say by itself.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let due = self.active.iter().filter_map(|(_, stage)| match stage {
            Stage::Starting(until) | Stage::Trial(until) => Some(*until),
            Stage::Leaving => None,
        });
        due.min()
    }

    /// Whether the first has stood its trial.
    fn is_proven(&self) -> bool {
        !self.done.is_empty()
    }

    /// How long a successor may take to become ready, if that was asked for.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        self.options.timeout
    }

    /// What is due, one thing at a time; `None`: nothing, for now.
    pub fn next(&mut self, now: Instant) -> Option<Action> {
        for (pair, stage) in &self.active {
            match stage {
                Stage::Starting(until) if *until <= now => return Some(Action::TimedOut(*pair)),
                Stage::Trial(until) if *until <= now => return Some(Action::Promote(*pair)),
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

    /// A successor exists, and its process is about to start.
    pub fn begun(&mut self, pair: Pair, until: Instant) {
        self.active.push((pair, Stage::Starting(until)));
    }

    /// Its process was started.
    pub fn started(&self, worker: &str, pid: Option<i32>) {
        self.tell(RolloutEvent::Starting { worker: worker.to_owned(), pid });
    }

    /// A successor is ready.
    pub fn saw_ready(&mut self, new: WorkerId, name: &str, now: Instant) {
        let trial = if self.is_proven() { Duration::ZERO } else { self.options.trial };
        if let Some((_, stage)) = self.active.iter_mut().find(|(pair, _)| pair.new == new) {
            *stage = Stage::Trial(now + trial);
            self.tell(RolloutEvent::Ready { worker: name.to_owned() });
        }
    }

    /// A successor serves, and the old one is about to leave.
    pub fn promoted(&mut self, new: WorkerId) {
        self.done.push(new);
        if let Some((_, stage)) = self.active.iter_mut().find(|(pair, _)| pair.new == new) {
            *stage = Stage::Leaving;
        }
    }

    /// Nothing of a worker is left.
    pub fn saw_removed(&mut self, old: WorkerId, name: &str) {
        let gone = |(pair, stage): &(Pair, Stage)| pair.old == old && *stage == Stage::Leaving;
        let Some(at) = self.active.iter().position(gone) else { return };
        self.active.remove(at);
        self.replaced += 1;
        self.tell(RolloutEvent::Replaced { worker: name.to_owned() });
    }

    /// The process of a worker ended, or is about to: `what` it did; `stays`: whether it is to be there nevertheless.
    /// Those are to be discarded that this returns.
    #[must_use]
    pub fn saw_end(&mut self, id: WorkerId, name: &str, what: &str, stays: bool) -> Vec<WorkerId> {
        let own =
            self.active.iter().copied().find(|(pair, stage)| pair.new == id && *stage != Stage::Leaving);
        if let Some((pair, stage)) = own {
            let when = if matches!(stage, Stage::Trial(_)) { "soon after" } else { "before" };
            return self.fail(pair, format!("the new {name} {what} {when} it was ready"));
        }
        if self.done.contains(&id) && stays {
            self.give_up(format!("the new {name} {what} after it had taken over: the others stay"));
            return self.discard();
        }
        Vec::new()
    }

    /// A successor does not take over: what is to be discarded.
    #[must_use]
    pub fn fail(&mut self, pair: Pair, why: String) -> Vec<WorkerId> {
        self.give_up(format!("{why}: the old one stays, and so do the others"));
        self.drop_successor(pair)
    }

    /// A successor is not needed, since nobody is to follow the old one: what is to be discarded.
    #[must_use]
    pub fn drop_successor(&mut self, pair: Pair) -> Vec<WorkerId> {
        self.active.retain(|(active, _)| active.new != pair.new);
        vec![pair.new]
    }

    /// No more than has been begun.
    pub fn give_up(&mut self, why: String) {
        self.waiting.clear();
        self.error.get_or_insert(why);
    }

    /// Successors that have not taken over; they are not known any more.
    #[must_use]
    pub fn discard(&mut self) -> Vec<WorkerId> {
        let (kept, discarded): (Vec<_>, Vec<_>) =
            self.active.drain(..).partition(|(_, stage)| *stage == Stage::Leaving);
        self.active = kept;
        discarded.into_iter().map(|(pair, _)| pair.new).collect()
    }

    /// Says that this is the end: how many were replaced, why not the others, and what to go back to then.
    pub fn finish(self) -> (usize, Option<String>, Option<Undo>) {
        self.tell(RolloutEvent::Done { replaced: self.replaced, error: self.error.clone() });
        let undo = self.undo.filter(|_| self.error.is_some());
        (self.replaced, self.error, undo)
    }

    fn tell(&self, event: RolloutEvent) {
        (self.listener)(event);
    }
}
