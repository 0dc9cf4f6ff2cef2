//! Sockets that processes of workers open themselves (`sockets = "bind"`): answers to their calls of bind(2) and listen(2).
//! Not: making calls wait (`kernel/calls`).
//!
//! A worker has a socket for each listener before its process begins, as with other ways to give sockets: connections
//! wait there. The socket that the process binds takes its place when it listens, and what waits is handed to it. The
//! second one that it binds for a listener makes a worker of its own, a part of the first.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Instant;

use tracing::{info, warn};

use super::super::incident::{Cause, IncidentKind};
use super::super::observed::CallKind;
use super::super::pool::{New, Opening, Seat, Worker, WorkerSocket};
use super::super::ports::{CallOutcome, Cookie, Dataplane, Fit, ListenerId, ProcessKey, Processes, WorkerId};
use super::super::worker::{Event, Origin, State};
use super::Engine;
use super::input::Called;
use super::membership::is_tcp;
use crate::config::{Ready, SocketSource};

/// EADDRINUSE of asm-generic/errno.h.
const ADDRESS_IN_USE: i32 = 98;

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
        let at = match self.part_for(leader, listener, now) {
            Ok(id) => id,
            Err(why) => {
                self.refuse(leader, listener, &why);
                return (CallOutcome::Fails(ADDRESS_IN_USE), None);
            }
        };
        let tcp = is_tcp(&self.dataplane.address(listener));
        if fit == Fit::Itself {
            if let Err(error) = self.dataplane.bind(opened, listener) {
                return (CallOutcome::Fails(error), None);
            }
            self.note_opening(at, listener, Opening::Bound(Some(opened)));
            if tcp {
                return (CallOutcome::Done, None);
            }
            return match self.serve(at, listener, opened) {
                Ok(()) => (CallOutcome::Done, Some(at)),
                Err(why) => {
                    self.refuse(leader, listener, &why);
                    (CallOutcome::Fails(ADDRESS_IN_USE), None)
                }
            };
        }
        let Some(own) = self.pool.get(at).and_then(|worker| worker.socket_of(listener)).map(|it| it.cookie)
        else {
            return (CallOutcome::Fails(ADDRESS_IN_USE), None);
        };
        self.dataplane.resemble(own, opened);
        self.note_opening(at, listener, if tcp { Opening::Bound(None) } else { Opening::Done });
        (CallOutcome::Instead(own), Some(at))
    }

    fn on_listen(
        &mut self,
        leader: WorkerId,
        socket: Cookie,
        now: Instant,
    ) -> (CallOutcome, Option<WorkerId>) {
        let of = |worker: &Worker| {
            let is = |it: &&WorkerSocket| it.cookie == socket || it.opening == Opening::Bound(Some(socket));
            worker.sockets.iter().find(is).map(|it| (worker.id, it.listener, it.cookie))
        };
        let found = self.pool.parts(leader).find_map(of);
        let (at, listener, cookie) = match found {
            Some(found) => found,
            // The daemon before has let the process bind it.
            None => {
                let bound =
                    self.listeners.ids().into_iter().find(|it| self.dataplane.is_bound_to(socket, *it));
                let Some(listener) = bound else { return (CallOutcome::GoOn, None) };
                match self.part_for(leader, listener, now) {
                    Ok(at) => (at, listener, Cookie::default()),
                    Err(_) => return (CallOutcome::GoOn, None),
                }
            }
        };
        if cookie == socket {
            // It listens already; the process may have wanted another backlog, which the service sets.
            self.note_opening(at, listener, Opening::Done);
            return (CallOutcome::Done, Some(at));
        }
        match self.serve(at, listener, socket) {
            Ok(()) => (CallOutcome::Done, Some(at)),
            Err(why) => {
                self.refuse(leader, listener, &why);
                (CallOutcome::Fails(ADDRESS_IN_USE), None)
            }
        }
    }

    /// The listener that a socket is meant for which a process binds to `address`, and how it can serve there: of several
    /// the one that the process has bound the fewest sockets for.
    fn meant(&self, leader: WorkerId, opened: Cookie, address: SocketAddr) -> Option<(ListenerId, Fit)> {
        let bound = |listener: ListenerId| {
            let sockets = self.pool.parts(leader).filter_map(move |worker| worker.socket_of(listener));
            sockets.filter(|socket| socket.opening != Opening::Nothing).count()
        };
        let fits = |listener: ListenerId| {
            let means = self.dataplane.address(listener).is_bound_by(address);
            Some((listener, self.dataplane.fits(opened, listener)))
                .filter(|(_, fit)| means && *fit != Fit::Not)
        };
        self.listeners.wanted().into_iter().filter_map(fits).min_by_key(|(listener, _)| bound(*listener))
    }

    /// The worker that gets the next socket which a process binds for a listener: the first part of it that has none yet,
    /// or a new one. It has a socket there.
    fn part_for(&mut self, leader: WorkerId, listener: ListenerId, now: Instant) -> Result<WorkerId, String> {
        let free = |worker: &&Worker| {
            worker.stays() && worker.socket_of(listener).is_none_or(|it| it.opening == Opening::Nothing)
        };
        if !self.pool.get(leader).is_some_and(Worker::stays) {
            return Err("it is leaving".into());
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
        self.dataplane.name_slot(slot, Some(&name));
        let (number, origin, sockets) = (leader.number, Origin::Bound, vec![socket]);
        self.pool.insert(id, New { number, origin, weight, slot, seat, revision, sockets });
        self.pool.get_mut(id).into_iter().for_each(|worker| worker.life.set_opens(opens));
        self.tell_of(id, IncidentKind::Added, Cause::own("the process has bound a further socket"));
        Ok(id)
    }

    /// Lets a socket that a process has bound serve in place of the worker's.
    fn serve(&mut self, id: WorkerId, listener: ListenerId, opened: Cookie) -> Result<(), String> {
        let worker = self.pool.get(id).ok_or("it is gone")?;
        let old = worker.socket_of(listener).ok_or("it has no socket there")?.cookie;
        let (slot, enter, backlog) = (worker.slot, worker.holds_slot(), self.settings.config.backlog);
        self.dataplane.replace(old, opened, slot, enter, backlog)?;
        self.note_opening(id, listener, Opening::Done);
        let socket =
            self.pool.get_mut(id).and_then(|it| it.sockets.iter_mut().find(|it| it.listener == listener));
        socket.into_iter().for_each(|socket| socket.cookie = opened);
        Ok(())
    }

    /// Forgets the sockets that a worker's processes have closed: the next ones that they bind take their places.
    fn forget_closed(&mut self, leader: WorkerId) {
        let called = self.pool.parts(leader).flat_map(called_for).collect();
        self.forget_closed_of(leader, called);
    }

    /// Forgets those of these sockets that the processes have closed; returns their listeners.
    fn forget_closed_of(&mut self, id: WorkerId, called: Vec<CalledFor>) -> Vec<ListenerId> {
        let Some(running) = self.pool.get(id).and_then(|worker| worker.process) else { return Vec::new() };
        if called.is_empty() {
            return Vec::new();
        }
        let cookies: Vec<Cookie> = called.iter().map(|(.., cookie)| *cookie).collect();
        let closed: BTreeSet<Cookie> = self.processes.closed(running.key, &cookies).into_iter().collect();
        let mut listeners = Vec::new();
        for (part, listener, cookie) in called.into_iter().filter(|(.., cookie)| closed.contains(cookie)) {
            self.dataplane.forget_opened(cookie);
            self.note_opening(part, listener, Opening::Nothing);
            listeners.push(listener);
        }
        listeners
    }

    /// Gives up a worker whose process has closed all sockets that it had opened for it: others get what waits there.
    /// Looks only at sockets that nobody is seen to wait on.
    pub(super) fn part_with_closed(&mut self, id: WorkerId, now: Instant) {
        let Some(worker) = self.pool.get(id).filter(|worker| self.opens(worker)) else { return };
        let waits = |cookie| self.dataplane.waits(cookie) == Some(false);
        let idle = called_for(worker).filter(|(.., cookie)| waits(*cookie)).collect();
        let closed = self.forget_closed_of(id, idle);
        let all = |worker: &&Worker| worker.sockets.iter().all(|socket| socket.opening == Opening::Nothing);
        if closed.is_empty() || self.pool.get(id).filter(all).is_none() {
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
        worker.sockets.iter().any(|socket| socket.opening != Opening::Nothing)
    }

    /// Forgets what the process before has called: the next one begins anew.
    pub(super) fn forget_openings(&mut self, id: WorkerId) {
        for part in self.pool.part_ids(id) {
            let sockets = self.pool.get_mut(part).map(|worker| worker.sockets.iter_mut());
            sockets.into_iter().flatten().for_each(|socket| socket.opening = Opening::Nothing);
        }
    }

    fn note_opening(&mut self, id: WorkerId, listener: ListenerId, opening: Opening) {
        let Some(worker) = self.pool.get_mut(id) else { return };
        let sockets = worker.sockets.iter_mut().filter(|socket| socket.listener == listener);
        sockets.for_each(|socket| socket.opening = opening);
        if opening == Opening::Done {
            info!(worker = worker.name, "listens on {}", self.dataplane.address(listener));
        }
    }

    fn refuse(&self, leader: WorkerId, listener: ListenerId, why: &str) {
        let (worker, listener) = (self.pool.name_of(leader), self.dataplane.address(listener));
        warn!(worker, "a socket that it has opened cannot serve {listener}: {why}");
    }
}

/// A socket that a process has bound, with the worker and the listener that it is for.
type CalledFor = (WorkerId, ListenerId, Cookie);

/// The sockets that a worker's process has bound for it.
fn called_for(worker: &Worker) -> impl Iterator<Item = CalledFor> {
    worker.sockets.iter().filter_map(|socket| {
        let cookie = match socket.opening {
            Opening::Nothing => return None,
            Opening::Bound(Some(own)) => own,
            Opening::Bound(None) | Opening::Done => socket.cookie,
        };
        Some((worker.id, socket.listener, cookie))
    })
}
