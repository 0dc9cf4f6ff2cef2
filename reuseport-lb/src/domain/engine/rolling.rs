//! Replacing workers: carries out the actions of [`Rollout`].
//!
//! If all listeners are TCP, the successor takes the slot: its sockets replace the old ones in the socket array, so
//! no bucket moves. (The successor has sockets of its own: with shared ones, a process that does not work yet would
//! accept connections, and a process that ends at SIGTERM would cut those that it has just accepted.) With UDP the
//! successor has a slot of its own, and the buckets move there.
//!
//! With `replace = "stop-first"` the successor takes the slot at once, without a process: what comes from then on waits in
//! its sockets, as after a crash, until the old process has ended and the new one accepts.

use std::time::{Duration, Instant};

use reuseport_lb_common::load::Fitness;

use super::super::denied::Denied;
use super::super::incident::{Cause, IncidentKind};
use super::super::pool::{New, Seat, Worker};
use super::super::ports::{Dataplane, Processes, WorkerId};
use super::super::reconfigure::Undo;
use super::super::rollout::{Action, Pair, RestartOptions, Rollout, RolloutEvent};
use super::super::worker::{Event, Life, Origin, State};
use super::Engine;
use super::membership::is_tcp;
use crate::config::{DrainUntil, Replace};

/// How long the first worker with another command must be ready before it takes over.
pub const TRIAL: Duration = Duration::from_secs(2);

impl<D: Dataplane, P: Processes> Engine<D, P> {
    pub(super) fn restart(&mut self, options: RestartOptions, listener: Box<dyn Fn(RolloutEvent)>) {
        match self.replaceable(&options) {
            Ok(numbers) => {
                let cause = self.agenda.incidents.asked("it is restarted");
                self.replace(options, numbers, None, cause, listener);
            }
            Err(denied) => listener(RolloutEvent::Done { replaced: 0, error: Some(denied.to_string()) }),
        }
    }

    fn replaceable(&self, options: &RestartOptions) -> Result<Vec<usize>, Denied> {
        self.require_own("restart it where it was started")?;
        if self.stopping {
            return Err(Denied::Ending { service: self.service() });
        }
        if self.rollout.is_some() || self.agenda.prepared {
            return Err(Denied::Replacing { service: self.service() });
        }
        let Some(number) = options.only else {
            return Ok(self.pool.staying().iter().map(|id| id.number).collect());
        };
        let worker = self.pool.require(number)?;
        match (worker.life.origin(), worker.life.state()) {
            (Origin::Joined, _) => Err(Denied::Joined { worker: worker.name.clone() }),
            (_, State::Draining) => Err(Denied::Leaving { worker: worker.name.clone() }),
            _ => Ok(vec![number]),
        }
    }

    /// Begins to replace these workers; `undo`: the settings to go back to if a successor does not work.
    pub(super) fn replace(
        &mut self,
        options: RestartOptions,
        numbers: Vec<usize>,
        undo: Option<Undo>,
        cause: Cause,
        listener: Box<dyn Fn(RolloutEvent)>,
    ) {
        self.tell(IncidentKind::Replacing { workers: numbers.len() }, cause.clone());
        self.mark_started();
        self.rollout = Some(Rollout::new(options, cause, numbers, undo, listener));
    }

    /// Begins to replace workers that were started with other settings, unless a replacement is under way.
    pub(super) fn replace_outdated(&mut self) {
        let outdated = self.pool.outdated(self.settings.revision());
        if self.rollout.is_none() && !outdated.is_empty() {
            let cause = Cause::own("it was started with other settings");
            self.replace(RestartOptions::in_turn(TRIAL), outdated, None, cause, Box::new(|_| {}));
        }
    }

    /// Gives a worker another process, as `restart` does; false if that cannot be now, or the worker has joined.
    pub(super) fn replace_alone(&mut self, id: WorkerId) -> bool {
        let id = id.leader();
        let ours = self.pool.get(id).is_some_and(Worker::is_started);
        let busy = self.rollout.is_some() || self.agenda.prepared || self.stopping;
        if ours && !busy {
            let options = RestartOptions { only: Some(id.number), ..RestartOptions::in_turn(Duration::ZERO) };
            let cause = Cause::own("it stalls again and again");
            self.replace(options, vec![id.number], None, cause, Box::new(|_| {}));
        }
        ours && !busy
    }

    /// Carries out the next action that is due; false if none is.
    pub(super) fn go_on_rolling(&mut self, now: Instant) -> bool {
        let Some(action) = self.rollout.as_mut().and_then(|rollout| rollout.next(now)) else { return false };
        match action {
            Action::StartSuccessor(number) => self.start_successor(number, now),
            Action::TimedOut(pair) => self.time_out(pair, now),
            Action::Promote(pair) => self.promote(pair, now),
            Action::Stood(pair) => {
                let name = self.pool.name_of(pair.new);
                self.rollout.iter_mut().for_each(|rollout| rollout.stood(pair.new, &name));
            }
            Action::Finish => self.finish_rollout(),
        }
        true
    }

    fn time_out(&mut self, pair: Pair, now: Instant) {
        let asked = self.rollout.as_ref().and_then(Rollout::timeout);
        let patience = asked.unwrap_or(self.settings.config.start_timeout);
        let name = self.pool.name_of(pair.new);
        let lacks = self.pool.get(pair.new).and_then(|worker| self.lacks(worker, now, self.counted(worker)));
        let lacks = lacks.map_or_else(String::new, |lacks| format!(" (it {lacks})"));
        self.fail_successor(pair, format!("the new {name} was not ready within {patience:?}{lacks}"), now);
    }

    fn finish_rollout(&mut self) {
        let Some(rollout) = self.rollout.take() else { return };
        let cause = rollout.cause_of_end();
        let (workers, error, undo) = rollout.finish();
        self.tell(IncidentKind::Replaced { workers, all: error.is_none() }, cause);
        match undo {
            Some(undo) => self.undo(undo),
            None => self.prune_listeners(),
        }
    }

    /// Starts the successor of the worker with this number, unless the worker leaves.
    fn start_successor(&mut self, number: usize, now: Instant) {
        let stays = |worker: &&Worker| worker.is_started() && worker.stays();
        let Some(old) = self.pool.find(number).filter(stays) else { return };
        let (old, slot, weight) = (old.id, old.slot, old.weight);
        let stop_first = self.settings.config.replace == Replace::StopFirst;
        // Connections of the old process can be told from those of the new one by their sockets only.
        let apart = self.settings.config.connections.drain_until == DrainUntil::Connections;
        let in_place = stop_first || (!apart && self.settings.config.listeners().all(is_tcp));
        let opened = if in_place {
            self.open_sockets(slot, false).map(|sockets| {
                let (origin, seat) = (Origin::Started, Seat::Trial { own: false });
                self.add_with(New { number, origin, weight, slot, seat, revision: 0, sockets })
            })
        } else {
            self.add(number, Origin::Started, weight).inspect(|id| {
                if let Some(worker) = self.pool.get_mut(*id) {
                    worker.seat = Seat::Trial { own: true };
                }
            })
        };
        let name = self.pool.name_of(number);
        let Some(rollout) = &mut self.rollout else { return };
        let new = match opened {
            Ok(new) => new,
            Err(error) => return rollout.give_up(format!("cannot start a new {name}: {error}")),
        };
        if stop_first {
            return self.stop_first(Pair { old, new }, now);
        }
        let patience = rollout.timeout().unwrap_or(self.settings.config.start_timeout);
        rollout.begun(Pair { old, new }, now + patience);
        self.on_event(new, Event::Start, now);
        let process = self.pool.get(new).and_then(|worker| worker.process);
        let pid = process.and_then(|running| self.processes.pid(running.key));
        if let Some(rollout) = &self.rollout {
            rollout.started(&name, pid);
        }
    }

    /// Gives the successor, which has no process yet, the old worker's place, and lets the old one leave.
    fn stop_first(&mut self, pair: Pair, now: Instant) {
        let name = self.pool.name_of(pair.new);
        let seated = self.seat_successor(pair);
        let Some(rollout) = &mut self.rollout else { return };
        if let Err(error) = seated {
            let why = format!("cannot replace {name}: {error}");
            rollout.give_up(why.clone());
            return self.leave(&[pair.new], None, &Cause::own(why), now);
        }
        rollout.stopping(pair, &name);
        let life = self.pool.get(pair.old).map(|old| Life::succeeding(&old.life));
        if let (Some(new), Some(life)) = (self.pool.get_mut(pair.new), life) {
            new.life = life;
        }
        self.forget_health(pair.old);
        let cause = self.rollout_cause("it ends before its successor starts");
        self.leave(&[pair.old], None, &cause, now);
        self.on_event(pair.new, Event::Start, now);
    }

    /// Whether a process must not be started yet: another one of that number still runs, and may have a lock or a port.
    pub(super) fn must_wait(&self, id: WorkerId) -> bool {
        let before = |it: &Worker| it.id.number == id.number && it.id != id && it.process.is_some();
        self.settings.config.replace == Replace::StopFirst && self.pool.iter().any(before)
    }

    /// Starts the process of the worker with this number if it has waited for the end of another one.
    pub(super) fn start_follower(&mut self, number: usize, now: Instant) {
        for id in self.pool.ids(|worker| worker.id.number == number && worker.life.is_deferred()) {
            self.on_event(id, Event::Start, now);
        }
    }

    /// Tells the rollout that the process of a worker was started, if that has waited for the end of another one.
    pub(super) fn note_following(&mut self, id: WorkerId, now: Instant) {
        let process = self.pool.get(id).and_then(|worker| worker.process);
        let pid = process.and_then(|running| self.processes.pid(running.key));
        let Some(rollout) = &mut self.rollout else { return };
        let patience = rollout.timeout().unwrap_or(self.settings.config.start_timeout);
        if rollout.follows(id, now + patience) {
            rollout.started(&self.pool.name_of(id), pid);
        }
    }

    /// Lets the successor take over and the old worker leave.
    fn promote(&mut self, pair: Pair, now: Instant) {
        let stays = |id| self.pool.get(id).is_some_and(Worker::stays);
        if !stays(pair.old) || !stays(pair.new) {
            // The worker was drained meanwhile, and needs no successor.
            let dropped = self.rollout.as_mut().map(|rollout| rollout.drop_successor(pair));
            let cause = Cause::own("its predecessor needs no successor any more");
            return self.leave(&dropped.unwrap_or_default(), None, &cause, now);
        }
        if let Err(error) = self.seat_successor(pair) {
            return self.fail_successor(pair, error, now);
        }
        let cause = self.rollout_cause("it has stood its trial");
        self.tell_of(pair.new, IncidentKind::Serves, cause);
        self.forget_health(pair.old);
        if let Some(rollout) = &mut self.rollout {
            rollout.promoted(pair.new);
        }
        let cause = self.rollout_cause("its successor serves");
        self.leave(&[pair.old], None, &cause, now);
        self.rebalance();
    }

    /// Puts the successor's sockets in place of the old worker's; all of them, or none.
    fn seat_successor(&mut self, pair: Pair) -> Result<(), String> {
        let [Some(mut old), Some(mut new)] = [pair.old, pair.new].map(|id| self.pool.remove(id)) else {
            return Err("a worker is missing".into());
        };
        let seated = if new.holds_slot() { Ok(()) } else { self.take_slot(&mut old, &mut new) };
        if seated.is_ok() {
            new.seat = Seat::Own;
            new.weight = old.weight;
        }
        let seat = new.seat;
        self.pool.put_back(old);
        self.pool.put_back(new);
        for part in self.pool.further_parts(pair.new) {
            self.pool.get_mut(part).iter_mut().for_each(|part| part.seat = seat);
        }
        seated
    }

    fn take_slot(&mut self, old: &mut Worker, new: &mut Worker) -> Result<(), String> {
        for socket in &new.sockets {
            if let Err(error) = self.dataplane.insert(socket.cookie, new.slot) {
                for socket in &old.sockets {
                    // For slots that were not replaced this changes nothing.
                    let _ = self.dataplane.insert(socket.cookie, old.slot);
                }
                return Err(error);
            }
        }
        for socket in &mut new.sockets {
            self.dataplane.set_fitness(socket.listener, new.slot, Fitness::Fit);
            if let Some(before) = old.sockets.iter_mut().find(|old| old.listener == socket.listener) {
                // Decisions are counted by the worker's name, which the successor has.
                socket.selected_before = before.selected_before;
                before.selected_after = Some(0);
            }
        }
        old.seat = Seat::Former;
        Ok(())
    }

    fn fail_successor(&mut self, pair: Pair, why: String, now: Instant) {
        let cause = Cause::own(why.as_str());
        let dropped = self.rollout.as_mut().map(|rollout| rollout.fail(pair, why));
        self.leave(&dropped.unwrap_or_default(), None, &cause, now);
    }

    /// Tells the rollout that the process of a worker has done `what`: it ended, or is about to.
    pub(super) fn rollout_saw_end(&mut self, id: WorkerId, what: &str, now: Instant) {
        let (name, stays) = (self.pool.name_of(id), self.pool.get(id).is_some_and(Worker::stays));
        let Some(rollout) = &mut self.rollout else { return };
        for new in rollout.saw_end(id, &name, what, stays) {
            self.leave(&[new], None, &Cause::own(format!("it {what}")), now);
        }
    }

    /// The cause of a step of the replacement that is going on.
    fn rollout_cause(&self, what: &str) -> Cause {
        self.rollout.as_ref().map_or_else(|| Cause::own(what), |rollout| rollout.cause(what))
    }

    /// Ends the rollout: successors that have not taken over leave, and no further worker is replaced.
    pub(super) fn end_rollout(&mut self, why: &str, now: Instant) {
        let Some(rollout) = &mut self.rollout else { return };
        rollout.give_up(why.to_owned());
        for new in rollout.discard() {
            self.leave(&[new], None, &Cause::own(why), now);
        }
        self.finish_rollout();
    }
}
