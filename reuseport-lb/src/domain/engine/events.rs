//! Messages and ends of workers' processes.

use std::time::Instant;

use tracing::info;

use super::super::incident::{Cause, IncidentKind};
use super::super::observed::{Exit, Said};
use super::super::pool::Worker;
use super::super::ports::{Dataplane, ProcessKey, Processes, WorkerId};
use super::super::startup::Startup;
use super::super::watchdog::Watchdog;
use super::super::worker::{Event, Origin, State};
use super::{Engine, ProcessEvent};

/// The end by this signal is not the process's own fault, unless the watchdog sent it.
const SIGKILL: i32 = 9;

impl<D: Dataplane, P: Processes> Engine<D, P> {
    pub(super) fn on_process_event(&mut self, key: ProcessKey, event: ProcessEvent, now: Instant) {
        let id = key.worker;
        let watchdog = self.settings.config.watchdog;
        let Some(worker) = self.pool.get_mut(id) else { return };
        if worker.process.is_none_or(|running| running.key != key) {
            return;
        }
        match event {
            ProcessEvent::Said(said) => {
                if worker.life.state() != State::Draining {
                    worker.watchdog = Watchdog::fed(watchdog, now);
                }
                match said {
                    Said::Ready => self.each_part(id, Event::SaidReady, now),
                    Said::Stopping => self.said_stopping(id, now),
                    Said::Alive => self.monitor.pinged(id),
                    Said::Main(pid) => {
                        info!(worker = worker.name, pid, "its main process is another one now (MAINPID=)");
                    }
                }
            }
            ProcessEvent::Ended(exit) => self.on_exit(id, exit, now),
            ProcessEvent::Opened(foreign) => self.saw_foreign(id, foreign, now),
            ProcessEvent::Called(called) => self.on_call(key, called, now),
            ProcessEvent::Lost => self.on_exit(id, Exit::Unknown, now),
        }
    }

    fn said_stopping(&mut self, id: WorkerId, now: Instant) {
        self.rollout_saw_end(id, "is ending", now);
        self.on_event(id, Event::SaidStopping, now);
        self.leave_with(id, Event::LeaveAlong, now);
        let ends = |worker: &&Worker| worker.life.state() == State::Draining;
        if let Some(running) = self.pool.get(id).filter(ends).and_then(|worker| worker.process) {
            self.processes.expect_end(running.key);
        }
    }

    fn on_exit(&mut self, id: WorkerId, exit: Exit, now: Instant) {
        let Some(worker) = self.pool.get_mut(id) else { return };
        let hung = worker.watchdog.has_killed();
        let advice = worker.advice_on(exit, now);
        worker.watchdog = Watchdog::Off;
        worker.drain.end = Some(exit.to_string());
        let killed = matches!(exit, Exit::Signal(SIGKILL, _)) && !hung;
        let words = worker.process.map(|running| self.processes.forget(running.key));
        if let Some(words) = words.filter(|words| !words.is_empty() && !killed) {
            worker.sightings.last_words = words;
        }
        let (successor, expected) = (worker.is_successor(), worker.life.state() == State::Draining);
        let first = !successor && !expected && Startup::is_first_of(worker, &self.settings.config, now);
        let how = if expected && !successor { exit.to_string() } else { format!("{exit}{advice}") };
        self.tell_of(id, IncidentKind::Ended { successor, expected }, Cause::own(how));
        if first {
            let name = self.pool.name_of(id);
            self.fail_start(&format!("worker {name} {exit} while the service was being started{advice}"));
        }
        let parts = self.pool.part_ids(id);
        for part in &parts {
            if let Some(worker) = self.pool.get_mut(*part) {
                worker.drain.end = Some(exit.to_string());
                worker.process = None;
            }
            self.forget_health(*part);
        }
        self.rollout_saw_end(id, &format!("{exit}{advice}"), now);
        for part in parts {
            self.on_event(part, Event::Ended { killed }, now);
        }
        self.leave_with(id, Event::Leave { patience: None }, now);
    }

    /// Lets the workers with further sockets of a process that had joined leave with it: there is no next one that could
    /// bind as many.
    fn leave_with(&mut self, id: WorkerId, event: Event, now: Instant) {
        let leaves = |worker: &Worker| {
            worker.life.origin() == Origin::Joined && worker.life.state() == State::Draining
        };
        if self.pool.get(id).is_some_and(leaves) {
            self.pool.further_parts(id).into_iter().for_each(|part| self.on_event(part, event, now));
        }
    }

    /// An event of a worker's process, for all workers that have sockets of it.
    fn each_part(&mut self, id: WorkerId, event: Event, now: Instant) {
        self.pool.part_ids(id).into_iter().for_each(|part| self.on_event(part, event, now));
    }

    pub(super) fn fail_start(&mut self, why: &str) {
        if !self.stopping {
            self.startup.fail(&self.settings.config.name, why);
        }
    }
}
