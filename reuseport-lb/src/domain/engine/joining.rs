//! Processes that join a service: by `exec`, or the client library.

use std::time::Instant;

use super::super::denied::Denied;
use super::super::incident::IncidentKind;
use super::super::pool::Running;
use super::super::ports::{Dataplane, ProcessKey, Processes};
use super::super::worker::{Event, Origin, State};
use super::Engine;
use super::input::JoinRequest;
use crate::config::{self, MAX_WORKERS};

impl<D: Dataplane, P: Processes> Engine<D, P> {
    /// Makes a process a worker, or refuses.
    pub(super) fn join(&mut self, request: &JoinRequest, now: Instant) -> Result<ProcessKey, Denied> {
        let number = self.check_join(request)?;
        let id = self.add(number, Origin::Joined, request.weight)?;
        let key = self.pool.next_process(id);
        let listeners = self.addresses_wanted();
        if let Err(error) = self.processes.adopt(key, &self.pool.name_of(number), &listeners) {
            self.remove(id, now);
            return Err(error.into());
        }
        if let Some(worker) = self.pool.get_mut(id) {
            worker.life.set_opens(request.opens);
            let stop = self.settings.config.stop;
            worker.process = Some(Running { key, since: now, selected: 0, stop });
        }
        let cause = self.agenda.incidents.asked("it joins");
        self.tell_of(id, IncidentKind::Added, cause);
        self.on_event(id, Event::Start, now);
        self.on_event(id, Event::Spawned, now);
        Ok(key)
    }

    /// The number of the new worker, or a refusal.
    fn check_join(&self, request: &JoinRequest) -> Result<usize, Denied> {
        let JoinRequest { number, uid, .. } = *request;
        let allowed = self.settings.may_join();
        if uid != 0 && allowed.iter().all(|user| user.uid != uid) {
            let names: Vec<&str> = allowed.iter().map(|user| &*user.name).collect();
            let allowed = match (&*names, &self.settings.join) {
                ([], None) => "root (the service has no `user` and no `join`)".into(),
                ([], Some(_)) => "root (`join` is empty)".into(),
                ([one], _) => format!("root and user {one}"),
                (many, _) => format!("root and users {}", many.join(", ")),
            };
            return Err(Denied::MayNotJoin { uid, service: self.service(), allowed });
        }
        if self.stopping {
            return Err(Denied::Ending { service: self.service() });
        }
        self.require_own("a process joins another service")?;
        config::check_workers(self.pool.len() + 1)?;
        let Some(number) = number else { return Ok(self.pool.free_numbers().next().unwrap_or_default()) };
        // The daemon starts no worker with a higher number.
        if number >= MAX_WORKERS {
            return Err(Denied::NumberTooHigh { worker: self.pool.name_of(number), most: MAX_WORKERS - 1 });
        }
        match self.pool.find(number) {
            None => Ok(number),
            Some(worker) if worker.life.state() == State::Draining => {
                Err(Denied::NameLeaving { worker: worker.name.clone() })
            }
            Some(worker) => {
                let pid = worker.process.and_then(|running| self.processes.pid(running.key));
                Err(Denied::NameTaken { worker: worker.name.clone(), pid })
            }
        }
    }
}
