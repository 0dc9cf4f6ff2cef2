//! Sockets of servers that others have started (`adopt`): each becomes a worker as long as it is open. Not: finding them
//! (`kernel/adopt/`).
//!
//! Nothing is done to a socket or a process: a closed socket leaves its slot by itself, and the kernel hands its queue to
//! another. Where nobody is found, the kernel chooses as it did before.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use tracing::warn;

use super::super::denied::Denied;
use super::super::incident::{Cause, IncidentKind};
use super::super::pool::{New, Running, Seat, Worker, WorkerSocket};
use super::super::ports::{Cookie, Dataplane, ListenerId, OpenedSocket, Processes, WorkerId};
use super::super::worker::{Event, Origin};
use super::Engine;
use super::input::Sighted;
use crate::config;

impl<D: Dataplane, P: Processes> Engine<D, P> {
    /// Refuses what cannot be done to servers that others have started, and says what to do `instead`.
    pub(super) fn require_own(&self, instead: &'static str) -> Result<(), Denied> {
        match self.settings.config.adopt {
            None => Ok(()),
            Some(_) => Err(Denied::Adopted { service: self.service(), instead }),
        }
    }

    /// Makes the workers what was `sighted`: all sockets that are open now, in the order that names follow.
    pub(super) fn on_sighted(&mut self, sighted: &[Sighted], now: Instant) {
        if self.stopping {
            return;
        }
        let open: BTreeSet<Cookie> = sighted.iter().map(|it| it.cookie).collect();
        self.forget_unseen(&open, now);
        let known = |it: &Sighted| self.pool.iter().any(|worker| has(worker, it.cookie));
        let new: Vec<Sighted> = sighted.iter().filter(|it| !known(it)).copied().collect();
        let mut refused = BTreeMap::new();
        for it in new {
            if self.listeners.has_left(it.listener, it.cookie) {
                continue;
            }
            if let Err(why) = self.take_up(it, now) {
                refused.insert(it.listener, format!("a socket of process {} is not adopted: {why}", it.pid));
            }
        }
        for listener in self.listeners.ids() {
            // The server may have given its group a program of its own since.
            let attached = self.attach(listener).err();
            let why = refused.remove(&listener).or(attached);
            if self.listeners.note_refused(listener, why.clone())
                && let Some(why) = why
            {
                warn!(service = self.settings.config.name, "{}: {why}", self.dataplane.address(listener));
            }
        }
        self.follow_processes(sighted, now);
    }

    /// Lets go of everything at once: the server goes on as if nothing had been there.
    pub(super) fn release(&mut self, now: Instant) {
        let sockets = self.pool.iter().flat_map(|worker| &worker.sockets);
        let all: Vec<(ListenerId, Cookie)> = sockets.map(|it| (it.listener, it.cookie)).collect();
        self.dataplane.leave_to_others(&all);
        self.pool.ids(|_| true).into_iter().for_each(|id| self.remove(id, now));
    }

    /// Why a socket that was found is not adopted.
    pub fn refusals(&self) -> impl Iterator<Item = &str> {
        self.listeners.iter().filter_map(|listener| listener.refused.as_deref())
    }

    fn forget_unseen(&mut self, open: &BTreeSet<Cookie>, now: Instant) {
        for gone in self.listeners.forget_left(open) {
            self.dataplane.close(gone);
        }
        for id in self.pool.ids(Worker::is_adopted) {
            let Some(worker) = self.pool.get_mut(id) else { continue };
            let gone: Vec<WorkerSocket> =
                worker.sockets.extract_if(.., |socket| !open.contains(&socket.cookie)).collect();
            let (ended, slot, holds) = (worker.sockets.is_empty(), worker.slot, worker.holds_slot());
            for socket in gone {
                // The kernel has emptied the slot already, unless the socket was only moved to another address.
                if holds && let Err(error) = self.dataplane.clear(socket.listener, slot) {
                    warn!(worker = self.pool.name_of(id), "{error}");
                }
                self.dataplane.close(socket.cookie);
            }
            if ended {
                self.on_event(id, Event::Ended { killed: false }, now);
            }
        }
    }

    fn take_up(&mut self, it: Sighted, now: Instant) -> Result<(), String> {
        // The next socket of a process is that of the same worker at another listener.
        let free = |worker: &&Worker| {
            worker.is_adopted() && worker.stays() && worker.socket_of(it.listener).is_none()
        };
        let pid = |worker: &Worker| worker.process.and_then(|running| self.processes.pid(running.key));
        let all = || self.pool.iter().filter(free);
        let found = all().find(|worker| pid(worker) == Some(it.pid)).or_else(|| all().next());
        if let Some((id, slot)) = found.map(|worker| (worker.id, worker.slot)) {
            let Some(socket) = self.enter(it, slot)? else { return Ok(()) };
            self.pool.get_mut(id).iter_mut().for_each(|worker| worker.sockets.push(socket));
            return Ok(());
        }
        config::check_workers(self.pool.len() + 1)?;
        let number = self.pool.free_numbers().next().unwrap_or_default();
        let slot = self.pool.take_slot().ok_or("no slot is free")?;
        let entered = self.enter(it, slot);
        if !matches!(entered, Ok(Some(_))) {
            self.pool.free_slot(slot);
        }
        let Some(socket) = entered? else { return Ok(()) };
        let sockets = vec![socket];
        let (origin, seat) = (Origin::Adopted, Seat::Own);
        let id = self.add_with(New { number, origin, weight: 1, slot, seat, revision: 0, sockets });
        self.dataplane.name_slot(slot, Some((id, &self.pool.name_of(number))));
        self.tell_of(id, IncidentKind::Added, Cause::own("its socket was found"));
        self.follow_process(id, it.pid, now);
        self.on_event(id, Event::Start, now);
        self.on_event(id, Event::Spawned, now);
        Ok(())
    }

    fn enter(&mut self, it: Sighted, slot: u16) -> Result<Option<WorkerSocket>, String> {
        let entered = self.dataplane.enter(it.listener, it.cookie, slot)?;
        let socket = |OpenedSocket { cookie, selected_before }| WorkerSocket {
            listener: it.listener,
            cookie,
            selected_before,
            selected_after: None,
            opened: false,
        };
        Ok(entered.map(socket))
    }

    /// Notes which process serves each worker now.
    fn follow_processes(&mut self, sighted: &[Sighted], now: Instant) {
        for id in self.pool.ids(Worker::is_adopted) {
            let Some(worker) = self.pool.get(id) else { continue };
            let first = sighted.iter().find(|it| has(worker, it.cookie));
            if let Some(it) = first {
                self.follow_process(id, it.pid, now);
            }
        }
    }

    fn follow_process(&mut self, id: WorkerId, pid: i32, now: Instant) {
        let Some(worker) = self.pool.get(id) else { return };
        let before = worker.process.map(|running| running.key);
        if before.and_then(|key| self.processes.pid(key)) == Some(pid) {
            return;
        }
        if let Some(key) = before {
            self.processes.forget(key);
        }
        let (key, selected) =
            (self.pool.next_process(id), self.pool.get(id).map_or(0, |it| self.selected(it)));
        self.processes.note(key, pid);
        let stop = self.settings.config.stop;
        if let Some(worker) = self.pool.get_mut(id) {
            worker.process = Some(Running { key, since: now, selected, stop });
        }
        // A stall is the process's, not the socket's. It serves already, so that it is not taken for one that loads.
        self.forget_health(id);
        self.listeners.iter_mut().for_each(|listener| listener.health.prove(id));
    }
}

fn has(worker: &Worker, socket: Cookie) -> bool {
    worker.sockets.iter().any(|it| it.cookie == socket)
}
