//! Periodic checks of workers: queues, watchdogs. Not: how health is found from queues (`health/`).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Instant;

use reuseport_lb_common::load::Fitness;
use tracing::warn;

use super::super::health::{Change, HealthStatus, Sample, Signs};
use super::super::incident::{Cause, IncidentKind};
use super::super::listener::Listener;
use super::super::monitor::{CheckKind, OFTEN, RARELY, Wanted};
use super::super::observed::Pulse;
use super::super::pool::Worker;
use super::super::ports::{Dataplane, ListenerId, Processes, WorkerId};
use super::super::watchdog::Watchdog;
use super::super::worker::State;
use super::Engine;

impl<D: Dataplane, P: Processes> Engine<D, P> {
    /// Plans the next checks.
    pub(super) fn plan_checks(&mut self, now: Instant) {
        let queues = self.pool.iter().any(|it| it.is_monitored() && !it.sockets.is_empty());
        let all = || self.listeners.iter().filter(|_| queues);
        let pause = all().filter_map(|it| it.pause(&self.settings.config)).min();
        let busy = all().any(|listener| listener.health.is_busy());
        let served = self.pool.iter().filter(|worker| worker.life.state() != State::Draining);
        let wanted = Wanted {
            queues: pause.map(|pause| (pause, if busy { OFTEN } else { RARELY })),
            readiness: self.readiness_pause(now),
            foreign: self.next_foreign(now),
            watchdog: served.filter_map(|worker| worker.watchdog.deadline()).min(),
        };
        self.monitor.plan(&wanted, now);
    }

    pub(super) fn check(&mut self, check: CheckKind, now: Instant) {
        match check {
            CheckKind::Readiness => self.check_readiness(now),
            CheckKind::Foreign => self.look_for_foreign(now),
            CheckKind::Queues => self.check_health(now),
            CheckKind::Watchdogs => self.check_watchdogs(now),
            CheckKind::Repairs => self.repair_all(now),
        }
    }

    /// Finds the health of all workers from their queues, for each listener: a worker may accept at one only.
    fn check_health(&mut self, now: Instant) {
        let pings = self.monitor.take_pings();
        // Read once per process: reading /proc takes longer than all the rest of this check.
        let known: RefCell<BTreeMap<WorkerId, Option<Pulse>>> = RefCell::default();
        for at in 0..self.listeners.iter().len() {
            let Some(state) = self.listeners.at_mut(at) else { continue };
            let (listener, tcp) = (state.id, state.is_tcp());
            if !tcp && !state.health.is_due(&self.settings.config, now) {
                continue;
            }
            let mut health = std::mem::take(&mut state.health);
            let signs = |engine: &Self, id: WorkerId| {
                let worker = engine.pool.get(id)?;
                let look = || engine.processes.pulse(worker.process?.key);
                let pulse = (*known.borrow_mut().entry(id).or_insert_with(look))?;
                let Pulse { stopped, switches, ticks } = pulse;
                let socket = worker.socket_near(at, listener);
                let waits = socket.and_then(|socket| engine.dataplane.waits(socket.cookie));
                // A worker that computes between two datagrams need not sleep.
                let switches = if tcp { switches } else { switches.wrapping_add(ticks) };
                Some(Signs { stopped, switches, pinged: pings.contains(&id), waits })
            };
            let changes = if tcp {
                let samples = self.sample_queues(at, listener);
                health.look(&samples, |id| signs(self, id), now, &self.settings.config)
            } else {
                let samples = self.sample_datagrams(at, listener, &health);
                let head = |id| self.head(at, listener, id);
                health.look_at_datagrams(&samples, head, |id| signs(self, id), now, &self.settings.config)
            };
            if let Some(state) = self.listeners.at_mut(at) {
                state.health = health;
            }
            for change in changes {
                if tcp { self.on_health(listener, change) } else { self.on_reading(listener, change) }
            }
        }
    }

    fn sample_queues(&mut self, at: usize, listener: ListenerId) -> Vec<Sample<WorkerId>> {
        let mut seen = Vec::new();
        for worker in self.pool.iter().filter(|worker| worker.is_monitored()) {
            let Some(socket) = worker.socket_near(at, listener) else { continue };
            // The queue of a socket that is closed or shut down is empty.
            seen.push((worker.id, worker.slot, self.dataplane.queue(socket.cookie)));
        }
        let Some(state) = self.listeners.at_mut(at) else { return Vec::new() };
        // Only if needed: reading the counters of all CPUs takes longer than all the rest of this check.
        if seen.iter().any(|(.., queue)| queue.queue > 0)
            && let Some(selected) = self.dataplane.selected(listener)
        {
            state.selected = selected;
        }
        let sample = |(worker, slot, seen): (WorkerId, u16, super::super::observed::Queue)| Sample {
            worker,
            queue: seen.queue,
            full: seen.queue > 0 && seen.queue >= seen.backlog,
            selected: state.selected.get(usize::from(slot)).copied().unwrap_or_default(),
        };
        seen.into_iter().map(sample).collect()
    }

    fn on_health(&mut self, listener: ListenerId, change: Change<WorkerId>) {
        let address = self.dataplane.address(listener);
        match change {
            Change::Overloaded(id) => self.set_fitness(listener, id, Fitness::Overloaded),
            Change::Fit(id) => self.set_fitness(listener, id, Fitness::Fit),
            Change::Stalled(id) => {
                self.set_fitness(listener, id, Fitness::Stalled);
                self.publish_rosters(None);
                self.rescue_living(listener, id);
                let known = self.listeners.iter().find(|it| it.id == listener);
                let loading = known.is_some_and(|it| it.health.is_loading(id));
                let loading = if loading { " yet (it has never)" } else { "" };
                let worker = self.pool.name_of(id);
                warn!(worker, "it does not accept on {address}{loading}: others get what waits for it");
                let cause = Cause::own(format!("it does not accept{loading}"));
                self.tell_of(id, IncidentKind::Stalled { listener: address }, cause);
            }
            Change::Rescue(id) => self.rescue_living(listener, id),
            Change::Recovered(id) => {
                self.set_fitness(listener, id, Fitness::Fit);
                self.publish_rosters(None);
                let cause = Cause::own("it accepts again");
                self.tell_of(id, IncidentKind::Recovered { listener: address }, cause);
            }
            Change::Replace(id) => self.replace_stalling(address, id),
        }
    }

    /// Replaces a worker that stalls again and again.
    pub(super) fn replace_stalling(&mut self, listener: Listener, id: WorkerId) {
        let replaced = self.replace_alone(id);
        let outcome = if replaced { "it gets a new process" } else { "a new process may help" };
        warn!(worker = self.pool.name_of(id.number), "stalls on {listener} again and again: {outcome}");
    }

    /// Hands over the queue of a worker whose process runs. The process is stopped while its listener
    /// is shut down: a process that sees the hang-up may never accept again (HAProxy), or spin
    /// (tokio, whose `accept` does not return).
    fn rescue_living(&mut self, listener: ListenerId, id: WorkerId) {
        // What others have opened is avoided, and not shut down.
        let Some(worker) = self.pool.get(id).filter(|worker| !worker.is_adopted()) else { return };
        let process = worker.process.map(|running| running.key);
        let socket = worker.socket_of(listener).map(|socket| socket.cookie);
        // Not resumed: a process that was stopped before, and a joined one, which is not stopped here.
        let suspended = process.filter(|process| self.processes.suspend(*process));
        // The process may have accepted everything meanwhile.
        if socket.is_some_and(|socket| self.dataplane.queue(socket).queue > 0) {
            self.rescue(id, Some(listener));
        }
        if let Some(process) = suspended {
            self.processes.resume(process);
        }
    }

    /// Hands over the queue of a worker that loads, at listeners that its process is seen not to wait on: elsewhere the
    /// process would take the hang-up for the end of its listener.
    pub(super) fn hand_on(&mut self, id: WorkerId) {
        for at in 0..self.listeners.iter().len() {
            let Some(listener) = self.listeners.at(at).filter(|it| it.is_tcp()).map(|it| it.id) else {
                continue;
            };
            let socket = self.pool.get(id).and_then(|worker| worker.socket_near(at, listener));
            if socket.and_then(|socket| self.dataplane.waits(socket.cookie)) == Some(false) {
                self.rescue_living(listener, id);
            }
        }
    }

    /// Forgets the health of a worker that has another process, or none.
    pub(super) fn forget_health(&mut self, id: WorkerId) {
        let mut known = Vec::new();
        for listener in self.listeners.iter_mut() {
            if listener.health.forget(id) != HealthStatus::Fit {
                known.push(listener.id);
            }
        }
        known.into_iter().for_each(|listener| self.set_fitness(listener, id, Fitness::Fit));
    }

    /// Kills processes that have not said `WATCHDOG=1` in time; their workers then get new ones.
    fn check_watchdogs(&mut self, now: Instant) {
        // A leaving worker finishes its work, and need not send pings.
        let due = |worker: &Worker| {
            worker.watchdog.deadline().is_some_and(|at| at <= now) && worker.life.state() != State::Draining
        };
        for id in self.pool.ids(due) {
            // Without its notification socket the process could not send pings.
            if self.restore_notify(id, now) {
                continue;
            }
            let Some(worker) = self.pool.get_mut(id) else { continue };
            if worker.watchdog.expires(now) {
                warn!(worker = worker.name, "no WATCHDOG=1 in time: process killed");
                self.tell_process(id, |processes, running| processes.kill(running.key));
            }
        }
    }

    /// Makes a worker's notification socket again if it was removed; true if messages may have been lost. The watchdog
    /// then begins anew, and `READY=1` is not waited for.
    pub(super) fn restore_notify(&mut self, id: WorkerId, now: Instant) -> bool {
        let every = self.settings.config.watchdog;
        let Some(worker) = self.pool.get_mut(id) else { return false };
        let unheard = worker.process.is_some_and(|running| self.processes.restore_notify(running.key));
        if unheard {
            worker.life.lose_word();
            if worker.watchdog.is_armed() {
                worker.watchdog = Watchdog::fed(every, now);
            }
        }
        unheard
    }
}
