//! Replacing workers, a few at a time: a successor is started beside each, and takes over when it is
//! ready; if it does not become ready, the old one stays, and so do all others.
//!
//! Where all listeners are TCP, the successor takes the slot: its sockets are put in place of the old
//! ones in the socket array, so no bucket moves. (Not the same sockets: a process that does not work
//! yet would accept connections, and one that ends at SIGTERM would cut those that it has just
//! accepted.) With UDP it has a slot of its own, and the buckets move there.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use reuseport_lb_common::layout::Fitness;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::Service;
use super::door::door_of;
use super::reload::Undo;
use super::workers::{Id, Worker};
use crate::domain::listener::Protocol;
use crate::domain::worker::{Event, Origin, State};

/// How long a service may take to become ready that takes a listener over from another.
pub const START: Duration = Duration::from_secs(30);

/// What is to be replaced, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Only the worker with this number; else all that the daemon started.
    pub only: Option<usize>,
    /// So many at a time, once the first has stood its trial.
    pub parallel: usize,
    /// How long a successor may take to become ready; `None`: `start_timeout`.
    pub timeout: Option<Duration>,
    /// How long the first successor must have been ready before it takes over.
    pub trial: Duration,
}

/// How a replacement goes on, one JSON object a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Progress {
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

/// A replacement that is going on.
pub(super) struct Rollout {
    wish: Wish,
    waiting: VecDeque<usize>,
    active: Vec<Change>,
    /// Successors that serve.
    done: Vec<Id>,
    replaced: usize,
    error: Option<String>,
    undo: Option<Undo>,
    progress: mpsc::UnboundedSender<Progress>,
}

#[derive(Clone, Copy)]
struct Change {
    old: Id,
    new: Id,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// Until it must be ready.
    Starting(Instant),
    /// Until it has shown that it works.
    Trial(Instant),
    /// The old one leaves.
    Leaving,
}

impl Wish {
    /// One after the other, for the service's own reasons.
    pub(super) fn in_turn(trial: Duration) -> Self {
        Self { only: None, parallel: 1, timeout: None, trial }
    }
}

impl Rollout {
    pub(super) fn deadline(&self) -> Option<Instant> {
        let due = self.active.iter().filter_map(|change| match change.phase {
            Phase::Starting(until) | Phase::Trial(until) => Some(until),
            Phase::Leaving => None,
        });
        due.min()
    }

    /// Whether the first has stood its trial.
    fn is_proven(&self) -> bool {
        !self.done.is_empty()
    }

    fn tell(&self, progress: Progress) {
        // Whoever asked may have gone away; it goes on nevertheless.
        let _ = self.progress.send(progress);
    }

    /// No more than has been begun.
    fn give_up(&mut self, why: String) {
        self.waiting.clear();
        self.error.get_or_insert(why);
    }
}

impl Service {
    pub(super) fn restart(&mut self, wish: Wish, progress: mpsc::UnboundedSender<Progress>) {
        let waiting = match self.replaceable(&wish) {
            Ok(waiting) => waiting,
            Err(error) => {
                let _ = progress.send(Progress::Done { replaced: 0, error: Some(error) });
                return;
            }
        };
        self.replace(wish, waiting, None, progress);
    }

    fn replaceable(&self, wish: &Wish) -> Result<VecDeque<usize>, String> {
        if self.stopping {
            return Err(format!("service {} is ending", self.config.name));
        }
        if self.rollout.is_some() || self.prepared.is_some() {
            return Err(format!("workers of service {} are being replaced already", self.config.name));
        }
        let Some(number) = wish.only else {
            return Ok(self.staying().iter().map(|id| id.number).collect());
        };
        let id = self.id_of(number).ok_or_else(|| self.unknown(number))?;
        let name = self.name_of(number);
        match self.workers.get(&id).map(|worker| (worker.life.origin(), worker.life.state())) {
            Some((Origin::Joined, _)) => {
                Err(format!("worker {name} came by itself (`exec`): restart it where it was started"))
            }
            Some((_, State::Draining)) => Err(format!("worker {name} is leaving or ending")),
            _ => Ok([number].into()),
        }
    }

    /// Begins to replace these workers; what does not work is undone.
    pub(super) fn replace(
        &mut self,
        wish: Wish,
        waiting: VecDeque<usize>,
        undo: Option<Undo>,
        progress: mpsc::UnboundedSender<Progress>,
    ) {
        info!(service = self.config.name, workers = waiting.len(), "replacing");
        self.came_up();
        self.rollout = Some(Rollout {
            wish,
            waiting,
            active: Vec::new(),
            done: Vec::new(),
            replaced: 0,
            error: None,
            undo,
            progress,
        });
    }

    /// Does what is due.
    pub(super) fn advance_rollout(&mut self, now: Instant) {
        let due = self.rollout.iter().flat_map(|rollout| rollout.active.clone());
        for change in due.collect::<Vec<Change>>() {
            // What is done for one can end another.
            let active = |rollout: &Rollout| {
                rollout.active.iter().any(|it| it.new == change.new && it.phase == change.phase)
            };
            if !self.rollout.as_ref().is_some_and(active) {
                continue;
            }
            match change.phase {
                Phase::Starting(until) if until <= now => {
                    let asked = self.rollout.as_ref().and_then(|it| it.wish.timeout);
                    let patience = asked.unwrap_or(self.config.start_timeout);
                    let name = self.name_of(change.new.number);
                    let lacks = self
                        .workers
                        .get(&change.new)
                        .and_then(|worker| self.lacks(worker, &self.standing(worker)));
                    let lacks = lacks.map_or_else(String::new, |lacks| format!(" (it {lacks})"));
                    self.fail_change(
                        change,
                        format!("the new {name} was not ready within {patience:?}{lacks}"),
                    );
                }
                Phase::Trial(until) if until <= now => self.promote(change),
                _ => {}
            }
        }
        while let Some(rollout) = &mut self.rollout {
            let room = if rollout.is_proven() { rollout.wish.parallel } else { 1 };
            if rollout.active.len() >= room {
                return;
            }
            match rollout.waiting.pop_front() {
                Some(number) => self.begin_change(number),
                None if rollout.active.is_empty() => return self.finish_rollout(),
                None => return,
            }
        }
    }

    fn finish_rollout(&mut self) {
        let Some(rollout) = self.rollout.take() else { return };
        match &rollout.error {
            None => info!(service = self.config.name, "{} workers replaced", rollout.replaced),
            Some(error) => {
                warn!(service = self.config.name, "{} workers replaced, then: {error}", rollout.replaced)
            }
        }
        rollout.tell(Progress::Done { replaced: rollout.replaced, error: rollout.error.clone() });
        match rollout.undo.filter(|_| rollout.error.is_some()) {
            Some(undo) => self.undo(undo),
            None => self.prune_doors(),
        }
    }

    /// Starts the successor of a worker, if that is still there.
    fn begin_change(&mut self, number: usize) {
        let Some(old) = self.id_of(number).and_then(|id| self.workers.get(&id)) else { return };
        if old.life.origin() == Origin::Joined || !old.stays() {
            return;
        }
        let (old, slot, weight) = (old.id, old.slot, old.weight);
        let in_place = self.config.listen.iter().all(|listener| listener.protocol == Protocol::Tcp);
        let opened = if in_place {
            self.open_places(slot, false)
                .map(|places| self.insert(number, Origin::Started, weight, slot, places))
        } else {
            self.add(number, Origin::Started, weight)
        };
        let new = match opened {
            Ok(new) => new,
            Err(error) => {
                let name = self.name_of(number);
                if let Some(rollout) = &mut self.rollout {
                    rollout.give_up(format!("cannot start a new {name}: {error:#}"));
                }
                return;
            }
        };
        if let Some(worker) = self.workers.get_mut(&new) {
            worker.trial = true;
            worker.holds_slot = !in_place;
        }
        if let Some(rollout) = &mut self.rollout {
            let patience = rollout.wish.timeout.unwrap_or(self.config.start_timeout);
            let phase = Phase::Starting(Instant::now() + patience);
            rollout.active.push(Change { old, new, phase });
        }
        self.happen(new, Event::Start);
        if let (Some(rollout), Some(worker)) = (&self.rollout, self.workers.get(&new)) {
            let pid = worker.process.as_ref().map(|running| running.process.pid());
            rollout.tell(Progress::Starting { worker: worker.name.clone(), pid });
        }
    }

    pub(super) fn rollout_saw_ready(&mut self, id: Id) {
        let name = self.name_of(id.number);
        let Some(rollout) = &mut self.rollout else { return };
        let trial = if rollout.is_proven() { Duration::ZERO } else { rollout.wish.trial };
        if let Some(change) = rollout.active.iter_mut().find(|change| change.new == id) {
            change.phase = Phase::Trial(Instant::now() + trial);
            rollout.tell(Progress::Ready { worker: name });
        }
    }

    /// The successor takes over, and the old one leaves.
    fn promote(&mut self, change: Change) {
        let stays = |id| self.workers.get(&id).is_some_and(Worker::stays);
        if !stays(change.old) || !stays(change.new) {
            // It was drained meanwhile: nobody is to follow it.
            return self.discard_successor(change);
        }
        let [Some(mut old), Some(mut new)] = [change.old, change.new].map(|id| self.workers.remove(&id))
        else {
            return;
        };
        let taken = if new.holds_slot { Ok(()) } else { self.take_slot(&mut old, &mut new) };
        if let Err(error) = taken {
            self.workers.insert(change.old, old);
            self.workers.insert(change.new, new);
            return self.fail_change(change, format!("{error:#}"));
        }
        new.trial = false;
        new.weight = old.weight;
        info!(worker = new.name, slot = new.slot, "its successor serves");
        self.forget_health(change.old);
        self.workers.insert(change.old, old);
        self.workers.insert(change.new, new);
        self.unsaved = true;
        if let Some(rollout) = &mut self.rollout {
            rollout.done.push(change.new);
            if let Some(change) = rollout.active.iter_mut().find(|active| active.new == change.new) {
                change.phase = Phase::Leaving;
            }
        }
        self.leave(&[change.old], None);
        self.rebalance();
    }

    /// Puts the sockets of `new` in place of those of `old`; all of them, or none.
    fn take_slot(&mut self, old: &mut Worker, new: &mut Worker) -> anyhow::Result<()> {
        for at in 0..new.places.len() {
            let Some(door) = door_of(&mut self.doors, &new.places[at].listener) else { continue };
            if let Err(error) = door.group.insert(new.slot, &new.places[at].socket) {
                for place in &old.places {
                    if let Some(door) = door_of(&mut self.doors, &place.listener) {
                        // Those that were not replaced are there still.
                        let _ = door.group.insert(old.slot, &place.socket);
                    }
                }
                return Err(error);
            }
        }
        for place in &mut new.places {
            if let Some(door) = door_of(&mut self.doors, &place.listener) {
                door.group.set_fitness(new.slot, Fitness::Fit);
            }
            if let Some(before) = old.places.iter_mut().find(|old| old.listener == place.listener) {
                // The name goes on counting.
                place.selected_before = before.selected_before;
                before.selected_after = Some(0);
            }
        }
        new.holds_slot = true;
        old.holds_slot = false;
        Ok(())
    }

    /// Ends a successor that does not take over.
    fn discard_successor(&mut self, change: Change) {
        if let Some(rollout) = &mut self.rollout {
            rollout.active.retain(|active| active.new != change.new);
        }
        self.leave(&[change.new], None);
    }

    fn fail_change(&mut self, change: Change, why: String) {
        if let Some(rollout) = &mut self.rollout {
            rollout.give_up(format!("{why}: the old one stays, and so do the others"));
        }
        self.discard_successor(change);
    }

    /// The process of a worker ended, or is about to: `what` it did.
    pub(super) fn rollout_saw_end(&mut self, id: Id, what: &str) {
        let name = self.name_of(id.number);
        let Some(rollout) = &mut self.rollout else { return };
        if let Some(change) =
            rollout.active.iter().copied().find(|it| it.new == id && it.phase != Phase::Leaving)
        {
            let when = if matches!(change.phase, Phase::Trial(_)) { "soon after" } else { "before" };
            self.fail_change(change, format!("the new {name} {what} {when} it was ready"));
        } else if rollout.done.contains(&id) && self.workers.get(&id).is_some_and(Worker::stays) {
            rollout.give_up(format!("the new {name} {what} after it had taken over: the others stay"));
            self.discard_successors();
        }
    }

    pub(super) fn rollout_saw_release(&mut self, id: Id) {
        let name = self.name_of(id.number);
        let Some(rollout) = &mut self.rollout else { return };
        let Some(at) = rollout.active.iter().position(|it| it.old == id && it.phase == Phase::Leaving) else {
            return;
        };
        rollout.active.remove(at);
        rollout.replaced += 1;
        rollout.tell(Progress::Replaced { worker: name });
    }

    fn discard_successors(&mut self) {
        let active = self.rollout.iter().flat_map(|rollout| rollout.active.clone());
        for change in active.filter(|change| change.phase != Phase::Leaving).collect::<Vec<Change>>() {
            self.discard_successor(change);
        }
    }

    /// Nobody else is replaced.
    pub(super) fn end_rollout(&mut self, why: &str) {
        if let Some(rollout) = &mut self.rollout {
            rollout.give_up(why.to_owned());
            self.discard_successors();
            self.finish_rollout();
        }
    }
}
