//! The decisions of one service. Inputs and a time go in ([`Engine::handle`]); the work that follows is done in parts
//! ([`Engine::advance`]) by commands to the two ports. Between any two parts the loop may serve others, and the daemon
//! may die. [`Engine::next_deadline`] says when time alone makes work; [`Engine::snapshot`] is for the next daemon.

mod adopting;
mod agenda;
mod applying;
mod calls;
mod checking;
mod events;
mod input;
mod joining;
mod listening;
mod membership;
mod placing;
mod previewing;
mod queues;
mod readiness;
mod reading;
mod records;
mod rolling;
mod scaling;
mod snapshot;
mod stepping;
mod telling;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::flows::FlowTracking;
use super::incident::{Cause, IncidentKind};
use super::listener::Listener;
use super::listeners::{ListenerState, Listeners};
use super::monitor::Monitor;
use super::placement::Placement;
use super::ports::{Dataplane, ListenerId, Processes};
use super::rollout::Rollout;
use super::slots::Slots;
use super::startup::{NAG_AFTER, Startup};
use super::worker::{Event, State};
use agenda::{Agenda, Change};

pub use super::monitor::CheckKind;
pub use super::pool::{Departure, Pool, Seat, Worker, WorkerSocket};
pub use super::reconfigure::Settings;
pub use super::rollout::{RestartOptions, RolloutEvent};
pub use input::{
    Called, Input, JoinRequest, NewGroup, ProcessEvent, Reconfiguration, Scaling, Sighted, Target, Work,
};
pub use reading::Standing;
pub use records::{ListenerRecord, WorkerRecord};
pub use rolling::TRIAL;
pub use snapshot::{Found, Snapshot};

/// One service.
pub struct Engine<D, P> {
    settings: Settings,
    pool: Pool,
    listeners: Listeners,
    placement: Placement,
    flows: FlowTracking,
    rollout: Option<Rollout>,
    monitor: Monitor,
    startup: Startup,
    agenda: Agenda,
    stopping: bool,
    dataplane: D,
    processes: P,
}

impl<D: Dataplane, P: Processes> Engine<D, P> {
    /// Makes a service without workers: [`Engine::add_configured`] adds them.
    pub fn new(
        settings: Settings,
        listeners: Vec<(ListenerId, Listener)>,
        ports: (D, P),
        now: Instant,
    ) -> Self {
        let (dataplane, processes) = ports;
        let serial = listeners.iter().map(|(id, _)| id.0).max().unwrap_or_default();
        let mut known = Listeners::default();
        listeners.into_iter().for_each(|(id, asked)| known.push(ListenerState::new(id, asked, true)));
        let mut engine = Self {
            pool: Pool::new(&settings.config.name, serial, Slots::default()),
            listeners: known,
            placement: Placement::default(),
            flows: FlowTracking::default(),
            rollout: None,
            monitor: Monitor::new(now),
            startup: Startup::new(&settings.config, now),
            agenda: Agenda::default(),
            stopping: false,
            settings,
            dataplane,
            processes,
        };
        engine.describe_listeners();
        engine
    }

    /// Begins the work of a service that has all of its workers: starts missing processes, replaces workers that were
    /// started with other settings, and tracks flows.
    pub fn begin(&mut self, now: Instant) {
        let idle = self.pool.ids(is_idle);
        self.agenda.starts.extend(idle);
        self.replace_outdated();
        self.plan_flows(now);
        self.warn_if_unseen();
    }

    /// The settings in force, and as configured.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// All workers, also leaving ones and successors.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// All listeners, also those that are not wanted any more.
    pub fn listeners(&self) -> impl Iterator<Item = &ListenerState> {
        self.listeners.iter()
    }

    /// The owner of each bucket.
    #[must_use]
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// Numbers of UDP flows that stay, were cut, or keep buckets waiting.
    #[must_use]
    pub fn flows(&self) -> &FlowTracking {
        &self.flows
    }

    /// Both ports, to change them.
    pub fn ports(&mut self) -> (&mut D, &mut P) {
        (&mut self.dataplane, &mut self.processes)
    }

    /// The port to groups and sockets.
    pub fn dataplane(&self) -> &D {
        &self.dataplane
    }

    /// The port to processes.
    pub fn processes(&self) -> &P {
        &self.processes
    }

    /// Whether all workers became ready once, or the service was scaled, restarted or ended during its start.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self.startup, Startup::Up)
    }

    /// Why the service does not start, if an error came since the last call.
    pub fn take_failure(&mut self) -> Option<String> {
        self.startup.take_failure()
    }

    /// Marks serial numbers up to `serial` as used.
    pub fn reserve(&mut self, serial: u64) {
        self.pool.reserve(serial);
    }

    /// Whether a snapshot now is one that the next daemon can go on with: not while other settings are being applied.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        !matches!(self.agenda.change, Some(Change::Applying(_)))
    }

    /// Whether workers are being replaced.
    #[must_use]
    pub fn is_replacing(&self) -> bool {
        self.rollout.is_some()
    }

    /// Whether the service is ending.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Whether the service has ended: all workers are removed.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.stopping && self.pool.is_empty()
    }

    /// What keeps the service from taking inputs, as the end of a sentence; `None`: nothing does.
    #[must_use]
    pub fn busy(&self) -> Option<&'static str> {
        self.agenda.busy()
    }

    /// Takes an input. Not while the service is [`Engine::busy`].
    pub fn handle(&mut self, input: Input, now: Instant) {
        debug_assert!(self.busy().is_none(), "told something while it is busy");
        match input {
            Input::Scale(target, reply) => self.scale(target, reply, now),
            Input::Weight(number, weight, reply) => self.set_weight(number, weight, reply),
            Input::Drain(number, patience, reply) => self.drain(number, patience, reply, now),
            Input::Restart(options, listener) => self.restart(options, listener),
            Input::Join(request, reply) => reply.send(self.join(&request, now)),
            Input::Reconfigure(change, reply) => self.reconfigure(change, reply, now),
            Input::Decides(reply) => self.agenda.deciding.push(reply),
            Input::Stop => self.stop(now),
            Input::Kill => {
                self.stop(now);
                self.each(Event::Kill, now);
            }
            Input::Sighted(sighted) => self.on_sighted(&sighted, now),
            Input::Process(key, event) => self.on_process_event(key, event, now),
        }
    }

    /// Does one part of the work; `None`: there is none now.
    pub fn advance(&mut self, now: Instant) -> Option<Work> {
        if self.go_on_placing(now) || self.go_on_changing(now) {
            return Some(Work::Other);
        }
        if let Some(id) = self.agenda.starts.pop_front() {
            // The worker may have been told to leave meanwhile.
            if self.pool.get(id).is_some_and(is_idle) {
                self.on_event(id, Event::Start, now);
            }
            return Some(Work::Other);
        }
        if let Some((id, step)) = self.agenda.steps.pop_front() {
            self.step(id, step, now);
            return Some(Work::Other);
        }
        if let Some(listener) = self.flows.next_rotation(now) {
            self.dataplane.rotate(listener);
            return Some(Work::Other);
        }
        if let Some(id) = self.agenda.repairs.pop_front() {
            self.repair_living(id, now);
            return Some(Work::Check(CheckKind::Repairs));
        }
        if let Some(id) = self.agenda.due.pop_front() {
            self.tick(id, now);
            return Some(Work::Other);
        }
        if self.go_on_rolling(now) || self.begin_due(now) || self.begin_sweep(now) {
            return Some(Work::Other);
        }
        if let Some(check) = self.monitor.due(now) {
            self.check(check, now);
            return Some(Work::Check(check));
        }
        None
    }

    /// Notes how long a part of the work took: checks that take long are made less often.
    pub fn took(&mut self, work: Work, cost: Duration) {
        if let Work::Check(check) = work {
            self.monitor.took(check, cost);
        }
    }

    /// Publishes and plans what follows from inputs and work since the last call. Does nothing while the service is
    /// [`Engine::busy`].
    pub fn settle(&mut self, now: Instant) {
        if self.busy().is_some() {
            return;
        }
        self.follow_pinned(now);
        self.follow_stalls();
        if !self.startup.is_over()
            && !self.stopping
            && Startup::is_complete(&self.pool, &self.settings.config, now)
        {
            self.mark_started();
            info!("service {} is up: {}", self.settings.config.name, self.summary());
            self.tell(IncidentKind::Up, Cause::default());
        }
        self.take_listeners();
        self.publish_rosters(None);
        self.plan_checks(now);
    }

    /// When [`Engine::advance`] next has work without another input.
    #[must_use]
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        if !self.agenda.is_empty() || self.placement.is_wanted() || self.flows.is_rotating() {
            return Some(now);
        }
        let rollout = self.rollout.as_ref().and_then(Rollout::deadline);
        let startup =
            if self.stopping { None } else { self.startup.deadline(&self.pool, &self.settings.config, now) };
        let overdue = self.next_overdue();
        let own = [
            self.placement.join_at(),
            startup,
            rollout,
            overdue,
            self.monitor.deadline(),
            self.flows.deadline(),
        ];
        let workers = self.pool.iter().filter_map(|worker| worker.life.deadline());
        workers.chain(own.into_iter().flatten()).min()
    }

    fn begin_due(&mut self, now: Instant) -> bool {
        let due = self.pool.ids(|worker| worker.life.deadline().is_some_and(|at| at <= now));
        self.agenda.due.extend(due);
        if self.placement.join_at().is_some_and(|at| at <= now) {
            self.rebalance();
            return true;
        }
        self.warn_overdue(now);
        if self.startup.nags(now) {
            for worker in Startup::silent(&self.pool) {
                warn!(
                    worker = worker.name,
                    "no READY=1 for {NAG_AFTER:?}; if the command does not speak sd_notify(3), set ready = \"accepting\""
                );
            }
        }
        !self.agenda.due.is_empty()
    }

    /// Ends the start of the service: from now on an exit is a crash, not a failed start.
    fn mark_started(&mut self) {
        if !self.startup.is_over() {
            self.startup = Startup::Up;
        }
    }

    fn summary(&self) -> String {
        let addresses = self.listeners.iter().map(|it| self.dataplane.address(it.id).to_string());
        let workers = match self.pool.len() {
            1 => "1 worker".into(),
            n => format!("{n} workers"),
        };
        format!("{workers} on {}", addresses.collect::<Vec<String>>().join(" "))
    }

    fn stop(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.stopping, true) {
            let cause = self.agenda.incidents.asked("the service is ending");
            self.tell(IncidentKind::Ending, cause.clone());
            if self.settings.config.adopt.is_some() {
                return self.release(now);
            }
            self.end_rollout("the service is ending", now);
            self.leave(&self.pool.ids(|_| true), None, &cause, now);
        }
    }
}

/// Whether the first process of a worker is still to be started.
fn is_idle(worker: &Worker) -> bool {
    worker.process.is_none() && worker.life.state() == State::Starting
}
