//! Telling what happens, with its reason, to those who watch the service.

use super::super::incident::{Asker, Cause, Incident, IncidentKind};
use super::super::pool::Worker;
use super::super::ports::{Dataplane, Processes, WorkerId};
use super::super::tally::Tally;
use super::super::worker::{Event, State};
use super::Engine;

impl<D: Dataplane, P: Processes> Engine<D, P> {
    /// Notes who asks for the inputs that come from now on; `None`: nobody.
    pub fn asked_by(&mut self, asker: Option<Asker>) {
        self.agenda.incidents.asked_by(asker);
    }

    /// Takes what has happened since the last call.
    #[must_use]
    pub fn take_incidents(&mut self) -> Vec<Incident> {
        self.agenda.incidents.take()
    }

    /// What has happened since the service began, in numbers.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        self.agenda.incidents.tally()
    }

    /// Tells what happened to the service.
    pub(super) fn tell(&mut self, kind: IncidentKind, cause: Cause) {
        self.agenda.incidents.add(&self.settings.config.name, None, kind, cause);
    }

    /// Tells what happened to a worker.
    pub(super) fn tell_of(&mut self, id: WorkerId, kind: IncidentKind, cause: Cause) {
        let name = self.pool.name_of(id);
        self.agenda.incidents.add(&self.settings.config.name, Some(&name), kind, cause);
    }

    /// Tells that a worker is in another state than `from`, if it is.
    pub(super) fn tell_state(&mut self, id: WorkerId, from: State, cause: Cause) {
        let Some(worker) = self.pool.get(id).filter(|worker| worker.life.state() != from) else { return };
        let (slot, successor, to) = (worker.slot, worker.is_successor(), worker.life.state());
        self.tell_of(id, IncidentKind::State { slot, successor, from, to }, cause);
    }
}

/// Why `event` brought a worker into its state.
pub(super) fn reason_of(event: Event, worker: &Worker) -> Cause {
    Cause::own(match (event, worker.life.state()) {
        (Event::Spawned, _) if worker.is_adopted() => "its socket was found",
        (Event::Ended { .. }, _) if worker.is_adopted() => "its socket is closed",
        (Event::Start, _) | (Event::Tick, State::Starting) => "its process is started",
        (Event::Spawned, _) => "it need not show that it is ready (ready = \"immediate\")",
        (Event::SaidReady, _) => "it said READY=1",
        (Event::SeenWaiting { .. }, _) => "it waits for work",
        (Event::Listens, _) => "its process has called listen for all of its sockets",
        (Event::LeaveAlong, _) => "its process is to end",
        (Event::Unused, _) => "it opened sockets of its own instead of using the worker's",
        (Event::SaidStopping, _) => "it said STOPPING=1",
        (Event::Tick, State::Ready) => "the time set by `ready` is over",
        (Event::Tick, State::Loading) => "it was not seen to wait for work yet",
        (Event::Deferred, _) => "another process of its number has not ended yet",
        (Event::Ended { .. }, _) => return Cause { reason: worker.drain.end.clone(), by: None },
        (Event::NotStarted, _) => return Cause { reason: worker.sightings.not_started.clone(), by: None },
        _ => return Cause::default(),
    })
}
