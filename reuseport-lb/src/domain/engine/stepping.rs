//! The lives of workers: what happened goes in, and the steps that come out are taken. Not: which steps those are
//! (`domain/worker`).

use std::time::Instant;

use super::super::pool::Running;
use super::super::ports::{Dataplane, Processes, WorkerId};
use super::super::watchdog::Watchdog;
use super::super::worker::{Event, State, Step};
use super::Engine;
use super::telling::reason_of;

impl<D: Dataplane, P: Processes> Engine<D, P> {
    /// A deadline of the worker has passed.
    pub(super) fn tick(&mut self, id: WorkerId, now: Instant) {
        let Some(worker) = self.pool.get(id) else { return };
        if worker.life.wants_look(now) {
            // A process ends when all of its sockets are done with.
            let parts = || self.pool.parts(id);
            let flows = parts().map(|part| self.staying_with(part)).sum();
            // While flows stay, UDP queues do not become empty for good.
            let queue = if flows > 0 {
                parts().map(|part| self.connections(part)).sum()
            } else {
                parts().map(|part| self.queue(part)).sum()
            };
            let connections = self.awaited_connections(id);
            self.on_event(id, Event::Looked { queue, flows, connections }, now);
        }
        self.on_event(id, Event::Tick, now);
    }

    pub(super) fn each(&mut self, event: Event, now: Instant) {
        for worker in self.pool.iter_mut() {
            let steps = worker.life.on(event, now, &self.settings.config);
            self.agenda.steps.extend(steps.into_iter().map(|step| (worker.id, step)));
        }
    }

    pub(super) fn on_event(&mut self, id: WorkerId, event: Event, now: Instant) {
        let Some(worker) = self.pool.get_mut(id) else { return };
        let before = worker.life.state();
        let steps = worker.life.on(event, now, &self.settings.config);
        let after = worker.life.state();
        if before != after && after == State::Ready {
            // Messages are those of the process, so of the worker that it belongs to.
            let watchdog = self.settings.config.watchdog.filter(|_| !worker.is_part());
            worker.watchdog = Watchdog::fed(watchdog, now);
            if let Some(rollout) = &mut self.rollout {
                rollout.saw_ready(id, &worker.name, now);
            }
        }
        if before != after {
            let cause = reason_of(event, worker);
            self.tell_state(id, before, cause);
        }
        self.apply(id, steps, now);
    }

    /// Carries steps out in their order. Steps that rely on buckets having moved wait until they have, and so do those
    /// after them.
    pub(super) fn apply(&mut self, id: WorkerId, steps: Vec<Step>, now: Instant) {
        let mut waits = self.agenda.steps.iter().any(|(other, _)| *other == id);
        for step in steps {
            let relies = !matches!(step, Step::Withdraw | Step::Cut | Step::Spawn | Step::Admit);
            waits |= relies && (self.placement.is_wanted() || self.agenda.is_placing());
            if waits {
                self.agenda.steps.push_back((id, step));
            } else {
                self.step(id, step, now);
            }
        }
    }

    pub(super) fn step(&mut self, id: WorkerId, step: Step, now: Instant) {
        match step {
            Step::Spawn => self.spawn(id, now),
            Step::Admit => self.admit(id, now),
            Step::Cut => {
                let parts = self.pool.further_parts(id);
                parts.into_iter().for_each(|part| self.on_event(part, Event::CutAlong, now));
                self.rebalance();
            }
            Step::Withdraw => self.rebalance(),
            Step::Rescue => self.rescue(id, None),
            Step::HandOn => self.hand_on(id),
            Step::HandOver => {
                self.pool.part_ids(id).into_iter().for_each(|part| self.hand_over(part));
            }
            Step::Terminate => {
                let open = self.open_connections(id);
                if let Some(worker) = self.pool.get_mut(id) {
                    worker.drain.connections = open;
                }
                self.tell_process(id, |processes, running| processes.terminate(running.key, running.stop))
            }
            Step::Kill => self.tell_process(id, |processes, running| processes.kill(running.key)),
            Step::Remove => self.part(id, now),
        }
    }

    pub(super) fn tell_process(&mut self, id: WorkerId, tell: impl Fn(&mut P, Running)) {
        if let Some(running) = self.pool.get(id).and_then(|worker| worker.process) {
            tell(&mut self.processes, running);
        }
    }
}
