//! Adding and removing workers: their sockets, slots and processes.

use std::time::{Duration, Instant};

use reuseport_lb_common::load::Fitness;
use tracing::warn;

use super::super::incident::{Cause, IncidentKind};
use super::super::listener::{Listener, Protocol};
use super::super::pool::{New, Running, Seat, Worker, WorkerSocket};
use super::super::ports::{Cookie, Dataplane, ListenerId, OpenedSocket, Processes, Spawn, WorkerId};
use super::super::slots::SlotSet;
use super::super::worker::{Event, Origin, State, Step};
use super::Engine;
use crate::config::Replace;

impl<D: Dataplane, P: Processes> Engine<D, P> {
    /// Adds a worker: takes a slot and opens its sockets there. A failure leaves nothing behind.
    pub(super) fn add(&mut self, number: usize, origin: Origin, weight: u32) -> Result<WorkerId, String> {
        let name = self.pool.name_of(number);
        let slot = self.pool.take_slot().ok_or_else(|| format!("no slot is free for worker {name}"))?;
        // Before the sockets can receive: the first connections of a service are to wait, not to be refused.
        self.publish_rosters(Some(slot));
        match self.open_sockets(slot, true) {
            Ok(sockets) => {
                let new = New { number, origin, weight, slot, seat: Seat::Own, revision: 0, sockets };
                let id = self.add_with(new);
                self.dataplane.name_slot(slot, Some((id, &name)));
                Ok(id)
            }
            Err(error) => {
                self.pool.free_slot(slot);
                Err(format!("worker {name} gets no sockets: {error}"))
            }
        }
    }

    /// Adds a worker with sockets that are open, of the current revision of the settings.
    pub(super) fn add_with(&mut self, new: New) -> WorkerId {
        let revision = self.settings.revision();
        self.pool.add(New { revision, ..new })
    }

    /// Adds one of the workers that the configuration wants; false if none is missing.
    pub fn add_configured(&mut self) -> Result<bool, String> {
        let number = self.pool.len();
        if number >= self.settings.config.workers {
            return Ok(false);
        }
        self.add(number, Origin::Started, 1).map(|_| true)
    }

    /// Opens a socket for each listener; with `enter`, puts it into `slot`. If one fails, the others are closed, which
    /// empties their slots.
    pub(super) fn open_sockets(&mut self, slot: u16, enter: bool) -> Result<Vec<WorkerSocket>, String> {
        let mut sockets = Vec::new();
        for listener in self.listeners.wanted() {
            match self.open_socket(listener, slot, enter) {
                Ok(socket) => sockets.push(socket),
                Err(error) => {
                    sockets.iter().for_each(|socket| self.dataplane.close(socket.cookie));
                    return Err(error);
                }
            }
        }
        Ok(sockets)
    }

    /// Opens a socket of one listener; with `enter`, puts it into `slot`.
    pub(super) fn open_socket(
        &mut self,
        listener: ListenerId,
        slot: u16,
        enter: bool,
    ) -> Result<WorkerSocket, String> {
        let first = !self.pool.uses(listener);
        let backlog = self.settings.config.backlog;
        let OpenedSocket { cookie, selected_before } =
            self.dataplane.open(listener, slot, enter, first, backlog)?;
        Ok(WorkerSocket { listener, cookie, selected_before, selected_after: None, opened: false })
    }

    /// The addresses of listeners that new workers serve.
    pub(super) fn addresses_wanted(&self) -> Vec<Listener> {
        self.listeners.wanted().into_iter().map(|it| self.dataplane.address(it)).collect()
    }

    /// Starts the process of a worker. A failure means that the machine lacks resources: errors of the command itself
    /// come from the child.
    pub(super) fn spawn(&mut self, id: WorkerId, now: Instant) {
        if self.must_wait(id) {
            return self.on_event(id, Event::Deferred, now);
        }
        self.repair_idle(id);
        let key = self.pool.next_process(id);
        let Some(worker) = self.pool.get(id) else { return };
        let named = |socket: &WorkerSocket| (socket.cookie, self.socket_name(socket.listener));
        let opens = self.opens_sockets();
        let sockets: Vec<(Cookie, String)> = worker.sockets.iter().filter(|_| !opens).map(named).collect();
        let listeners = self.addresses_wanted();
        let spawned = self.processes.spawn(&Spawn {
            key,
            name: &worker.name,
            slot: worker.slot,
            sockets: &sockets,
            listeners: &listeners,
            settings: &self.settings,
        });
        let (revision, stop) = (self.settings.revision(), self.settings.config.stop);
        // Decisions for earlier processes do not count for this one. For the first process of a new slot there were none.
        let used = worker.life.restarts() > 0 || self.settings.config.replace == Replace::StopFirst;
        let selected = if used { self.selected(worker) } else { 0 };
        let Some(worker) = self.pool.get_mut(id) else { return };
        match spawned {
            Ok(()) => {
                worker.process = Some(Running { key, since: now, selected, stop });
                worker.revision = revision;
                worker.sightings.began();
                self.forget_opened(id);
                self.note_following(id, now);
                self.on_event(id, Event::Spawned, now);
            }
            Err(why) => {
                if worker.sightings.not_started.replace(why.clone()).is_none() {
                    warn!(worker = worker.name, "{why}; it is tried again each second");
                }
                self.fail_start(&why);
                self.rollout_saw_end(id, "could not be started", now);
                self.on_event(id, Event::NotStarted, now);
            }
        }
    }

    /// Gives buckets to a worker that became ready: at once, or together with workers that are starting.
    pub(super) fn admit(&mut self, id: WorkerId, now: Instant) {
        let Some(worker) = self.pool.get(id) else { return };
        if worker.is_successor() {
            return;
        }
        let starts = |worker: &Worker| {
            worker.is_member()
                && matches!(worker.life.state(), State::Starting | State::Loading)
                && !worker.life.admitted()
                && worker.is_started()
        };
        if self.pool.iter().any(starts) || self.has_opened(id) {
            self.placement.join_soon(now);
        } else {
            self.rebalance();
        }
    }

    /// Removes a worker; if a bucket still has flows of its slot, after these have been taken away.
    pub(super) fn part(&mut self, id: WorkerId, now: Instant) {
        let Some(worker) = self.pool.get(id) else { return };
        let own: SlotSet = [worker.slot].into_iter().collect();
        let first = worker.holds_slot() && worker.seat != Seat::Parting;
        if first && self.have_flows(&own) {
            if let Some(worker) = self.pool.get_mut(id) {
                worker.seat = Seat::Parting;
            }
            self.placement.want(self.pool.admitted());
            self.agenda.steps.push_back((id, Step::Remove));
        } else {
            self.remove(id, now);
        }
    }

    /// Removes a worker with its sockets, slot and process.
    pub(super) fn remove(&mut self, id: WorkerId, now: Instant) {
        let Some(mut worker) = self.pool.remove(id) else { return };
        let last: Vec<(ListenerId, Cookie)> = worker
            .sockets
            .iter()
            .filter(|socket| !self.pool.uses(socket.listener))
            .map(|socket| (socket.listener, socket.cookie))
            .collect();
        self.dataplane.leave_to_others(&last);
        let holds_slot = worker.holds_slot();
        // The process goes on with the socket, but gets nothing there any more.
        let goes_on = worker.is_adopted() || (worker.is_part() && worker.process.is_some());
        for (at, socket) in worker.sockets.iter().enumerate() {
            if self.is_tcp(at, socket) && !goes_on {
                worker.drain.handed_over += u64::from(self.dataplane.queue(socket.cookie).queue);
                // The kernel hands queued connections to other sockets, and the slot becomes empty.
                if let Err(error) = self.dataplane.shut_down(socket.cookie) {
                    let listener = self.dataplane.address(socket.listener);
                    warn!(worker = worker.name, "cannot shut {listener} down: {error}");
                }
            }
            if holds_slot {
                self.dataplane.set_fitness(socket.listener, worker.slot, Fitness::Fit);
                if let Err(error) = self.dataplane.clear(socket.listener, worker.slot) {
                    warn!(worker = worker.name, "{error}");
                }
            }
            if goes_on {
                worker.drain.end = Some("goes on without this socket".into());
                self.dataplane.let_go(socket.cookie);
                self.listeners.note_left(socket.listener, socket.cookie);
            } else {
                self.dataplane.close(socket.cookie);
            }
        }
        self.forget_health(id);
        if holds_slot {
            self.dataplane.name_slot(worker.slot, None);
            self.pool.free_slot(worker.slot);
        }
        if let Some(running) = worker.process.filter(|_| !worker.is_part()) {
            self.processes.forget(running.key);
        }
        if worker.life.origin() == Origin::Joined {
            self.remove_parts(id, now);
        }
        let took = worker.drain.begun.map_or(Duration::ZERO, |begun| now - begun);
        let (handed_over, flows_cut) = (worker.drain.handed_over, worker.drain.flows_cut);
        self.tell_of(id, IncidentKind::Removed { took, handed_over, flows_cut }, Cause::default());
        if let Some(rollout) = &mut self.rollout {
            rollout.saw_removed(id, &worker.name);
        }
        worker.tell_departure(now);
        self.start_follower(id.number, now);
        if self.rollout.is_none() {
            self.prune_listeners();
        }
    }

    /// Removes the workers with further sockets of one that had joined: nothing is started in its place, and what waits
    /// there is for others.
    fn remove_parts(&mut self, id: WorkerId, now: Instant) {
        for part in self.pool.further_parts(id) {
            self.pool.get_mut(part).into_iter().for_each(|worker| worker.process = None);
            self.on_event(part, Event::Ended { killed: false }, now);
            self.on_event(part, Event::Leave { patience: None }, now);
        }
    }

    /// Removes a worker of a service whose opening has failed.
    pub fn discard(&mut self, id: WorkerId, now: Instant) {
        self.remove(id, now);
    }

    /// Lets all of these workers leave at once, so that buckets move once.
    pub(super) fn leave(
        &mut self,
        ids: &[WorkerId],
        patience: Option<Duration>,
        cause: &Cause,
        now: Instant,
    ) {
        let mut all = Vec::new();
        let along: Vec<WorkerId> = ids.iter().flat_map(|id| self.pool.further_parts(*id)).collect();
        let alone = ids.iter().filter(|id| !along.contains(id));
        let ids: Vec<WorkerId> = alone.chain(&along).copied().collect();
        for id in &ids {
            let queue = self.pool.get(*id).map_or(0, |worker| self.queue(worker));
            let Some(worker) = self.pool.get_mut(*id) else { continue };
            let from = worker.life.state();
            if from != State::Draining {
                worker.drain.begun = Some(now);
                worker.drain.queue = queue;
            }
            let event = if along.contains(id) { Event::LeaveAlong } else { Event::Leave { patience } };
            all.push((*id, worker.life.on(event, now, &self.settings.config)));
            self.tell_state(*id, from, cause.clone());
        }
        for (id, steps) in all {
            if ids.len() > 1 {
                self.agenda.steps.extend(steps.into_iter().map(|step| (id, step)));
            } else {
                self.apply(id, steps, now);
            }
        }
    }

    /// Name of the service, for refusals.
    pub(super) fn service(&self) -> String {
        self.settings.config.name.clone()
    }
}

/// Whether this is a TCP listener.
pub(super) fn is_tcp(listener: &Listener) -> bool {
    listener.protocol == Protocol::Tcp
}
