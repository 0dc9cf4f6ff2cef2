//! Who belongs to a service: sockets and slots of workers that come and go, and their buckets.

use std::time::Instant;

use anyhow::{Context, Result};
use socket2::Socket;
use tracing::{info, warn};

use super::{JOIN_TOGETHER, MAX_WEIGHT, Scaled, Service, Worker};
use crate::config;
use crate::kernel::group::Group;
use crate::kernel::{socket, strangers};
use crate::listener::Protocol;
use crate::table::Member;
use crate::trace;
use crate::worker::{Event, Life, State};

impl Service {
    pub(super) fn open_groups(&mut self) -> Result<()> {
        for listener in &self.config.listen {
            // Two listeners may be written alike: with port 0, which becomes another port each.
            let name = format!("{}-{}", self.groups.len(), listener.plain_name());
            let pins = self.surroundings.pins.directory(&self.config.name, &name)?;
            self.groups.push(Group::load(listener, self.config.affinity, self.config.when_empty, &pins)?);
        }
        for number in 0..self.config.workers {
            self.add(number)?;
        }
        for listener in self.listeners.iter().filter(|_| !self.workers.is_empty()) {
            if let Ok(strangers @ 1..) = strangers::count(listener, &self.surroundings.ours.borrow()) {
                warn!(
                    "{strangers} other sockets are on the port of {listener} (`ss -ltunp sport = :{}`): those in its \
                     group get nothing from now on",
                    listener.address.port()
                );
            }
        }
        for (group, listener) in self.groups.iter_mut().zip(&self.listeners) {
            let log = group.take_log(self.tracer.sink(listener.to_string()))?;
            tokio::task::spawn_local(trace::follow(log));
        }
        Ok(())
    }

    /// Opens the sockets of a new worker; nothing is left behind if that fails.
    pub(super) fn add(&mut self, number: usize) -> Result<()> {
        let name = format!("{}/{number}", self.config.name);
        let slot = self.slots.take().with_context(|| format!("no slot is free for worker {name}"))?;
        // Before its sockets can receive anything: what comes first shall wait, not be refused.
        self.tell_rosters(Some(slot));
        let mut sockets = Vec::new();
        let selected_before = self
            .groups
            .iter()
            .map(|group| Ok(group.totals()?.selected[usize::from(slot)]))
            .collect::<Result<Vec<u64>>>();
        let opened =
            selected_before.and_then(|before| self.open_sockets(slot, &mut sockets).map(|()| before));
        self.surroundings.ours.borrow_mut().extend(sockets.iter().filter_map(|socket| socket.cookie().ok()));
        match opened {
            Ok(selected_before) => {
                self.tracer.rename(slot, Some(&name));
                let life = Life::default();
                let worker = Worker { name, slot, weight: 1, life, sockets, selected_before, process: None };
                self.workers.insert(number, worker);
                Ok(())
            }
            Err(error) => {
                // The sockets close, which empties their slots.
                self.disown(&sockets);
                self.slots.free(slot);
                Err(error.context(format!("worker {name} gets no sockets")))
            }
        }
    }

    pub(super) fn open_sockets(&mut self, slot: u16, sockets: &mut Vec<Socket>) -> Result<()> {
        let first = self.workers.is_empty();
        for (group, listener) in self.groups.iter_mut().zip(&mut self.listeners) {
            let socket = socket::open(listener, group, self.config.backlog, first)?;
            if listener.address.port() == 0 {
                // The kernel has chosen a port; the other workers share it.
                listener.address = socket
                    .local_addr()?
                    .as_socket()
                    .with_context(|| format!("{listener} has no IP address"))?;
            }
            group.insert(slot, &socket)?;
            sockets.push(socket);
        }
        Ok(())
    }

    /// A worker became ready: buckets move at once, or a moment later together with other joins.
    pub(super) fn admit(&mut self) {
        let others = |worker: &Worker| worker.life.state() == State::Starting && !worker.life.admitted();
        if self.workers.values().any(others) {
            self.join_at.get_or_insert_with(|| Instant::now() + JOIN_TOGETHER);
        } else {
            self.rebalance();
        }
    }

    /// Makes the table of those workers that are admitted now, and publishes what changes.
    pub(super) fn rebalance(&mut self) {
        self.join_at = None;
        let admitted = self.workers.values().filter(|worker| worker.life.admitted());
        let members: Vec<Member> =
            admitted.map(|worker| Member::new(&worker.name, worker.slot, worker.weight)).collect();
        if members == self.members {
            return;
        }
        let changes = self.table.rebalance(&members);
        self.members = members;
        for group in &self.groups {
            group.publish(changes.iter().copied());
        }
        self.moved += changes.len() as u64;
        info!(
            service = self.config.name,
            members = self.members.len(),
            buckets = changes.len(),
            "buckets moved"
        );
    }

    /// Hands what is queued to others: `shutdown` makes the kernel migrate it, then the socket goes
    /// back into service.
    pub(super) fn rescue(&mut self, number: usize) {
        let Some(worker) = self.workers.get(&number) else { return };
        // Without anybody to take it, the queue is better off waiting.
        if self.members.is_empty() {
            return;
        }
        for ((socket, group), listener) in worker.sockets.iter().zip(&mut self.groups).zip(&self.listeners) {
            if listener.protocol == Protocol::Udp {
                continue;
            }
            let again = socket::shut_down(socket)
                .and_then(|()| socket::listen_again(socket, group, worker.slot, self.config.backlog));
            if let Err(error) = again {
                warn!(worker = worker.name, "cannot put {listener} back into service: {error:#}");
            }
        }
    }

    /// Hands what is queued to others for good: the process that has the sockets is ending.
    pub(super) fn hand_over(&self, number: usize) {
        let Some(worker) = self.workers.get(&number).filter(|_| !self.members.is_empty()) else { return };
        for (socket, listener) in worker.sockets.iter().zip(&self.listeners) {
            if listener.protocol == Protocol::Tcp
                && let Err(error) = socket::shut_down(socket)
            {
                warn!(worker = worker.name, "cannot hand over the queue of {listener}: {error:#}");
            }
        }
    }

    /// Before a process gets its sockets: puts right what its predecessor did to them. A listener
    /// that was shut down and a UDP socket that was connected have lost their slots.
    pub(super) fn repair(&mut self, number: usize) {
        let Some(worker) = self.workers.get_mut(&number) else { return };
        for ((place, group), listener) in worker.sockets.iter_mut().zip(&mut self.groups).zip(&self.listeners)
        {
            let repaired = match listener.protocol {
                Protocol::Tcp if !place.is_listener().unwrap_or(true) => {
                    socket::listen_again(place, group, worker.slot, self.config.backlog)
                }
                Protocol::Udp if place.peer_addr().is_ok() => {
                    socket::open(listener, group, self.config.backlog, false).and_then(|socket| {
                        group.remove(worker.slot)?;
                        group.insert(worker.slot, &socket)?;
                        let mut ours = self.surroundings.ours.borrow_mut();
                        ours.extend(socket.cookie().ok());
                        place.cookie().ok().map(|cookie| ours.remove(&cookie));
                        *place = socket;
                        Ok(())
                    })
                }
                _ => continue,
            };
            match repaired {
                Ok(()) => warn!(
                    worker = worker.name,
                    "the socket of {listener} was unusable and is back in service"
                ),
                Err(error) => {
                    warn!(worker = worker.name, "cannot put {listener} back into service: {error:#}")
                }
            }
        }
    }

    fn disown(&self, sockets: &[Socket]) {
        let mut ours = self.surroundings.ours.borrow_mut();
        for cookie in sockets.iter().filter_map(|socket| socket.cookie().ok()) {
            ours.remove(&cookie);
        }
    }

    pub(super) fn release(&mut self, number: usize) {
        let Some(worker) = self.workers.remove(&number) else { return };
        let last = self.workers.is_empty();
        for ((socket, group), listener) in worker.sockets.iter().zip(&mut self.groups).zip(&self.listeners) {
            if last && !matches!(strangers::count(listener, &self.surroundings.ours.borrow()), Ok(0)) {
                // Others in the group go on without us, as before.
                if let Err(error) = group.detach(socket) {
                    warn!("cannot leave the group of {listener} to others: {error}");
                }
            }
            if listener.protocol == Protocol::Tcp {
                // The kernel hands what is still queued to the others; then the slot is empty.
                if let Err(error) = socket::shut_down(socket) {
                    warn!(worker = worker.name, "cannot shut {listener} down: {error:#}");
                }
            }
            if let Err(error) = group.remove(worker.slot) {
                warn!(worker = worker.name, "{error:#}");
            }
        }
        self.disown(&worker.sockets);
        self.tracer.rename(worker.slot, None);
        self.slots.free(worker.slot);
    }

    pub(super) fn scale(&mut self, to: usize) -> Result<Scaled, String> {
        config::check_workers(to)?;
        if self.stopping {
            return Err(format!("service {} is ending", self.config.name));
        }
        // Whatever becomes of it, the service has been started.
        self.settled = true;
        let staying: Vec<usize> = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.life.state() != State::Draining)
            .map(|(number, _)| *number)
            .collect();
        let before = staying.len();
        if to < before {
            self.leave(&staying[to..]);
        }
        let free: Vec<usize> = (0..)
            .filter(|number| !self.workers.contains_key(number))
            .take(to.saturating_sub(before))
            .collect();
        for (done, number) in free.iter().enumerate() {
            if let Err(error) = self.add(*number) {
                self.leave(&free[..done]);
                return Err(format!("{error:#}"));
            }
        }
        for number in free {
            self.happen(number, Event::Start);
        }
        self.config.workers = to;
        info!(service = self.config.name, "scaled from {before} to {to} workers");
        Ok(Scaled { before, after: to })
    }

    pub(super) fn weigh(&mut self, number: usize, weight: u32) -> Result<(), String> {
        let name = format!("{}/{number}", self.config.name);
        let Some(worker) = self.workers.get_mut(&number) else {
            return Err(format!("there is no worker {name}"));
        };
        if weight > MAX_WEIGHT {
            return Err(format!("weight {weight} is too large: the most is {MAX_WEIGHT}"));
        }
        worker.weight = weight;
        info!(worker = name, "its weight is {weight} now");
        self.rebalance();
        Ok(())
    }
}
