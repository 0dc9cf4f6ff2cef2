//! Sockets that processes of workers open themselves (`sockets = "bind"`): answers to their calls of bind(2) and listen(2).
//! Not: making calls wait (`kernel/calls`).
//!
//! A worker has a socket for each listener before its process begins, as with other ways to give sockets: connections
//! wait there. The first socket of the process that listens takes its place, and what waits is handed to it. The second one
//! for a listener makes a worker of its own, a part of the first. A socket that is bound and does not listen has no place:
//! a process may bind one to try the address, or to keep it, and leave listening to others. UDP has no listen: there
//! bind counts.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Instant;

use tracing::{info, warn};

use super::super::incident::{Cause, IncidentKind};
use super::super::observed::CallKind;
use super::super::pool::{New, Seat, Worker, WorkerSocket};
use super::super::ports::{CallOutcome, Cookie, Dataplane, Fit, ListenerId, ProcessKey, Processes, WorkerId};
use super::super::worker::{Event, Origin, State};
use super::Engine;
use super::input::Called;
use super::membership::is_tcp;
use crate::config::{Ready, SocketSource};

/// EADDRINUSE of asm-generic/errno.h.
const ADDRESS_IN_USE: i32 = 98;

/// How many sockets that do not listen are noted of a process, which may bind as many as it has descriptors.
const MOST_NOTED: usize = 64;

/// Why a socket of a leaving worker's process cannot serve.
const LEAVES: &str = "it is leaving";

impl<D: Dataplane, P: Processes> Engine<D, P> {
    /// Whether processes of workers open their sockets themselves.
    pub(super) fn opens_sockets(&self) -> bool {
        self.settings.config.sockets == SocketSource::Bind
    }

    /// Whether the process of a worker opens its sockets itself.
    pub(super) fn has_opened(&self, id: WorkerId) -> bool {
        self.opens_sockets() || self.pool.get(id).is_some_and(|worker| self.opens(worker))
    }

    /// Answers a call of a worker's process.
    pub(super) fn on_call(&mut self, key: ProcessKey, called: Called, now: Instant) {
        let leader = key.worker;
        let (answer, served) = match called.kind {
            CallKind::Bind(address) => self.on_bind(leader, called.socket, address, now),
            CallKind::Listen => self.on_listen(leader, called.socket, now),
            CallKind::Other => (CallOutcome::GoOn, None),
        };
        self.processes.answer(key, called.id, answer);
        if let Some(id) = served.filter(|id| self.pool.get(*id).is_some_and(Worker::listens)) {
            self.on_event(id, Event::Listens, now);
            // READY=1 was said for all that the process serves.
            let ready = self.pool.get(leader).is_some_and(|worker| worker.life.state() == State::Ready);
            if id.part > 0 && ready && self.settings.config.ready == Ready::Notify {
                self.on_event(id, Event::SaidReady, now);
            }
        }
    }

    fn on_bind(
        &mut self,
        leader: WorkerId,
        opened: Cookie,
        address: SocketAddr,
        now: Instant,
    ) -> (CallOutcome, Option<WorkerId>) {
        self.forget_closed(leader);
        let Some((listener, fit)) = self.meant(leader, opened, address) else {
            return (CallOutcome::GoOn, None);
        };
        if is_tcp(&self.dataplane.address(listener)) {
            return (self.bind(leader, listener, opened), None);
        }
        let at = match self.part_for(leader, listener, now) {
            Ok(id) => id,
            Err(why) => return (self.refuse(leader, listener, &why), None),
        };
        if fit == Fit::Itself {
            if let Err(error) = self.dataplane.bind(opened, listener) {
                return (CallOutcome::Fails(error), None);
            }
            return match self.serve(at, listener, opened) {
                Ok(()) => (CallOutcome::Done, Some(at)),
                Err(why) => (self.refuse(leader, listener, &why), None),
            };
        }
        let Some(own) = self.pool.get(at).and_then(|worker| worker.socket_of(listener)).map(|it| it.cookie)
        else {
            return (CallOutcome::Fails(ADDRESS_IN_USE), None);
        };
        self.dataplane.resemble(own, opened);
        self.note_opened(at, listener);
        (CallOutcome::Instead(own), Some(at))
    }

    /// Binds a TCP socket, and notes it until it listens.
    fn bind(&mut self, leader: WorkerId, listener: ListenerId, opened: Cookie) -> CallOutcome {
        if !self.pool.get(leader).is_some_and(Worker::stays) {
            return self.refuse(leader, listener, LEAVES);
        }
        let bound = match self.dataplane.bind(opened, listener) {
            Ok(bound) => bound,
            Err(error) => return CallOutcome::Fails(error),
        };
        if let Some(worker) = self.pool.get_mut(leader)
            && worker.sightings.bound.len() < MOST_NOTED
        {
            worker.sightings.bound.push((listener, bound));
        }
        if bound == opened { CallOutcome::Done } else { CallOutcome::Instead(bound) }
    }

    fn on_listen(
        &mut self,
        leader: WorkerId,
        socket: Cookie,
        now: Instant,
    ) -> (CallOutcome, Option<WorkerId>) {
        let is = |it: &WorkerSocket| it.cookie == socket;
        if let Some(worker) = self.pool.parts(leader).find(|worker| worker.sockets.iter().any(is)) {
            // It listens already; the process may have wanted another backlog, which the service sets.
            return (CallOutcome::Done, Some(worker.id));
        }
        // The daemon before may have let the process bind it.
        let bound = self.listeners.ids().into_iter().find(|it| self.dataplane.is_bound_to(socket, *it));
        let Some(listener) = bound else { return (CallOutcome::GoOn, None) };
        self.forget_closed(leader);
        let at = self.part_for(leader, listener, now);
        match at.and_then(|at| self.serve(at, listener, socket).map(|()| at)) {
            Ok(at) => {
                let bound = self.pool.get_mut(leader).map(|worker| &mut worker.sightings.bound);
                bound.into_iter().for_each(|bound| bound.retain(|(_, noted)| *noted != socket));
                (CallOutcome::Done, Some(at))
            }
            Err(why) => (self.refuse(leader, listener, &why), None),
        }
    }

    /// The listener that a socket is meant for which a process binds to `address`, and how it can serve there: of several
    /// the one that the process has bound the fewest sockets for.
    fn meant(&self, leader: WorkerId, opened: Cookie, address: SocketAddr) -> Option<(ListenerId, Fit)> {
        let bound = |listener: ListenerId| {
            let parts = || self.pool.parts(leader);
            let serving = parts().filter_map(|worker| worker.socket_of(listener)).filter(|it| it.opened);
            let waiting = parts().flat_map(|it| &it.sightings.bound).filter(|(at, _)| *at == listener);
            serving.count() + waiting.count()
        };
        let fits = |listener: ListenerId| {
            let means = self.dataplane.address(listener).is_bound_by(address);
            Some((listener, self.dataplane.fits(opened, listener)))
                .filter(|(_, fit)| means && *fit != Fit::Not)
        };
        self.listeners.wanted().into_iter().filter_map(fits).min_by_key(|(listener, _)| bound(*listener))
    }

    /// The worker that gets the next socket of a process for a listener: the first part of it that has none yet, or a new
    /// one. It has a socket there.
    fn part_for(&mut self, leader: WorkerId, listener: ListenerId, now: Instant) -> Result<WorkerId, String> {
        let free =
            |worker: &&Worker| worker.stays() && worker.socket_of(listener).is_none_or(|it| !it.opened);
        if !self.pool.get(leader).is_some_and(Worker::stays) {
            return Err(LEAVES.into());
        }
        let found = self.pool.parts(leader).find(free).map(|it| (it.id, it.slot, it.holds_slot()));
        let id = match found {
            Some((id, slot, enter)) => {
                if self.pool.get(id).is_some_and(|worker| worker.socket_of(listener).is_none()) {
                    let socket = self.open_socket(listener, slot, enter)?;
                    self.pool.get_mut(id).iter_mut().for_each(|worker| worker.sockets.push(socket));
                }
                id
            }
            None => self.add_part(leader, listener)?,
        };
        let process = self.pool.get(leader).and_then(|worker| worker.process);
        if let Some(worker) = self.pool.get_mut(id).filter(|worker| worker.process != process) {
            worker.process = process;
            worker.sightings.began();
            self.on_event(id, Event::Start, now);
            self.on_event(id, Event::Spawned, now);
        }
        Ok(id)
    }

    /// Adds a part of a worker, with a socket of this listener.
    fn add_part(&mut self, leader: WorkerId, listener: ListenerId) -> Result<WorkerId, String> {
        crate::config::check_workers(self.pool.len() + 1)?;
        let worker = self.pool.get(leader).ok_or("it is gone")?;
        let (weight, revision, opens) = (worker.weight, worker.revision, worker.life.opens());
        let seat = if worker.is_successor() { Seat::Trial { own: true } } else { Seat::Own };
        let used: Vec<usize> = self.pool.parts(leader).map(|worker| worker.id.part).collect();
        let part = (1..).find(|part| !used.contains(part)).unwrap_or_default();
        let id = WorkerId { part, ..leader };
        let name = self.pool.name_of(id);
        let slot = self.pool.take_slot().ok_or_else(|| format!("no slot is free for {name}"))?;
        let socket = self.open_socket(listener, slot, true).inspect_err(|_| self.pool.free_slot(slot))?;
        self.dataplane.name_slot(slot, Some((id, &name)));
        let (number, origin, sockets) = (leader.number, Origin::Bound, vec![socket]);
        self.pool.insert(id, New { number, origin, weight, slot, seat, revision, sockets });
        self.pool.get_mut(id).into_iter().for_each(|worker| worker.life.set_opens(opens));
        self.tell_of(id, IncidentKind::Added, Cause::own("the process has opened a further socket"));
        Ok(id)
    }

    /// Lets a socket that a process has bound serve in place of the worker's.
    fn serve(&mut self, id: WorkerId, listener: ListenerId, opened: Cookie) -> Result<(), String> {
        let worker = self.pool.get(id).ok_or("it is gone")?;
        let old = worker.socket_of(listener).ok_or("it has no socket there")?.cookie;
        let (slot, enter, backlog) = (worker.slot, worker.holds_slot(), self.settings.config.backlog);
        self.dataplane.replace(old, opened, slot, enter, backlog)?;
        self.note_opened(id, listener);
        let socket =
            self.pool.get_mut(id).and_then(|it| it.sockets.iter_mut().find(|it| it.listener == listener));
        socket.into_iter().for_each(|socket| socket.cookie = opened);
        Ok(())
    }

    /// Forgets the sockets that a worker's processes have closed: the next ones that they open take their places.
    fn forget_closed(&mut self, leader: WorkerId) {
        let opened = self.pool.parts(leader).flat_map(opened_by).collect();
        self.forget_closed_of(leader, opened);
    }

    /// Forgets those of these sockets that the worker's processes have closed, and of those that it has bound only; returns
    /// the listeners of the former.
    fn forget_closed_of(&mut self, id: WorkerId, opened: Vec<Cookie>) -> Vec<ListenerId> {
        let Some(worker) = self.pool.get(id) else { return Vec::new() };
        let bound = worker.sightings.bound.iter().map(|(_, cookie)| *cookie);
        let cookies: Vec<Cookie> = opened.into_iter().chain(bound).collect();
        let Some(running) = worker.process.filter(|_| !cookies.is_empty()) else { return Vec::new() };
        let closed: BTreeSet<Cookie> = self.processes.closed(running.key, &cookies).into_iter().collect();
        let mut listeners = Vec::new();
        for part in self.pool.part_ids(id) {
            let Some(worker) = self.pool.get_mut(part) else { continue };
            worker.sightings.bound.retain(|(_, cookie)| !closed.contains(cookie));
            for socket in worker.sockets.iter_mut().filter(|it| closed.contains(&it.cookie)) {
                socket.opened = false;
                listeners.push(socket.listener);
            }
        }
        listeners
    }

    /// Gives up a worker whose process has closed all sockets that it had opened for it: others get what waits there.
    /// Looks only at sockets that nobody is seen to wait on.
    pub(super) fn part_with_closed(&mut self, id: WorkerId, now: Instant) {
        let Some(worker) = self.pool.get(id).filter(|worker| self.opens(worker)) else { return };
        let waits = |cookie| self.dataplane.waits(cookie) == Some(false);
        let idle = opened_by(worker).filter(|cookie| waits(*cookie)).collect();
        let closed = self.forget_closed_of(id, idle);
        if closed.is_empty() || self.pool.get(id).is_none_or(|worker| self.opens(worker)) {
            return;
        }
        let cause = Cause::own("its process has closed the socket");
        if id.part > 0 {
            return self.leave(&[id], None, &cause, now);
        }
        warn!(
            worker = self.pool.name_of(id),
            "its process has closed the socket, and gets nothing there until it opens another"
        );
        self.on_event(id, Event::Unused, now);
        closed.into_iter().for_each(|listener| self.rescue(id, Some(listener)));
    }

    /// Whether a worker's process has opened its sockets itself, whatever the settings are by now.
    fn opens(&self, worker: &Worker) -> bool {
        worker.sockets.iter().any(|socket| socket.opened)
    }

    /// Forgets what the process before has called: the next one begins anew.
    pub(super) fn forget_opened(&mut self, id: WorkerId) {
        for part in self.pool.part_ids(id) {
            let sockets = self.pool.get_mut(part).map(|worker| worker.sockets.iter_mut());
            sockets.into_iter().flatten().for_each(|socket| socket.opened = false);
        }
    }

    fn note_opened(&mut self, id: WorkerId, listener: ListenerId) {
        let Some(worker) = self.pool.get_mut(id) else { return };
        let sockets = worker.sockets.iter_mut().filter(|socket| socket.listener == listener);
        sockets.for_each(|socket| socket.opened = true);
        info!(worker = worker.name, "listens on {}", self.dataplane.address(listener));
    }

    fn refuse(&self, leader: WorkerId, listener: ListenerId, why: &str) -> CallOutcome {
        let (worker, listener) = (self.pool.name_of(leader), self.dataplane.address(listener));
        warn!(worker, "a socket that it has opened cannot serve {listener}: {why}");
        CallOutcome::Fails(ADDRESS_IN_USE)
    }
}

/// The sockets of a worker that its process has opened itself.
fn opened_by(worker: &Worker) -> impl Iterator<Item = Cookie> {
    worker.sockets.iter().filter(|socket| socket.opened).map(|socket| socket.cookie)
}
