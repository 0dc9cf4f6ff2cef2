//! The groups of a service: rosters, which service decides, and repairs of what workers may have done to their sockets.

use std::collections::BTreeMap;

use reuseport_lb_common::load::Fitness;
use reuseport_lb_common::slots::NO_SLOT;
use tracing::{info, warn};

use super::super::cpus::CpuShares;
use super::super::health::HealthStatus;
use super::super::listeners::ListenerState;
use super::super::number::Number;
use super::super::pool::{Worker, WorkerSocket};
use super::super::ports::{
    Attachment, Claim, Cookie, Dataplane, Holder, ListenerId, Processes, Repair, Rosters, WorkerId,
};
use super::super::worker::State;
use super::Engine;
use crate::config::{Affinity, Balance, WhenEmpty};

impl<D: Dataplane, P: Processes> Engine<D, P> {
    /// Tells the program which slots are ready, and in which ones connections wait if none is; `coming` is the slot of
    /// a worker that is being added.
    pub(super) fn publish_rosters(&mut self, coming: Option<u16>) {
        let all_awake = self.rosters(None, coming);
        for listener in self.listeners.iter() {
            let own = listener.health.has_stalled().then(|| self.rosters(Some(listener), coming));
            self.dataplane.set_rosters(listener.id, own.as_ref().unwrap_or(&all_awake));
        }
    }

    /// The ready slots, those of CPUs, and those in which connections wait if none of these can be selected. Slots of workers that are
    /// stalled at `listener` are left out, unless all are stalled.
    pub(super) fn rosters(&self, listener: Option<&ListenerState>, coming: Option<u16>) -> Rosters {
        let members = || self.pool.iter().filter(|worker| worker.is_member());
        let fit = |worker: &&Worker| worker.life.state() == State::Ready;
        let awake =
            |worker: &&Worker| listener.is_none_or(|it| it.health.status(worker.id) != HealthStatus::Stalled);
        let stuck = !members().filter(fit).any(|worker| awake(&worker));
        let ready = || members().filter(fit).filter(|worker| stuck || awake(worker));
        let slots = |weightless: bool| -> Vec<u16> {
            ready().filter(|it| (it.weight == 0) == weightless).map(|worker| worker.slot).collect()
        };
        let (mut ready_slots, mut waiting) = (slots(false), slots(true));
        let weightless = ready_slots.is_empty();
        if weightless {
            ready_slots = std::mem::take(&mut waiting);
        }
        let weights = match self.settings.config.connections.balance {
            Balance::Table => Vec::new(),
            Balance::Least | Balance::Bounded(_) => {
                let weights = ready().map(|worker| worker.weight);
                weights.filter(|weight| (*weight == 0) == weightless).collect()
            }
        };
        // Told in advance: without a daemon, the program must know them when the ready slots become empty.
        if waiting.is_empty() && self.settings.config.when_empty == WhenEmpty::Hold {
            let can_wait = members().filter(|worker| worker.life.can_wait()).map(|worker| worker.slot);
            waiting = can_wait.chain(coming).collect();
        }
        Rosters { ready: ready_slots, weights, waiting, by_cpu: self.by_cpu() }
    }

    /// The slot of each CPU's worker, with `affinity = "cpu"`.
    fn by_cpu(&self) -> Vec<u16> {
        if self.settings.config.affinity != Affinity::Cpu {
            return Vec::new();
        }
        CpuShares::new(&self.dataplane.cpus(), &self.sharing_cpus()).slots()
    }

    /// The workers that share the CPUs, each with its slot if that takes new connections, in the order of their numbers.
    fn sharing_cpus(&self) -> Vec<(Number, u16)> {
        let mut sharing = BTreeMap::new();
        for worker in self.pool.iter().filter(|worker| worker.is_member() && worker.stays()) {
            let slot = sharing.entry(Number::from(worker.id)).or_insert(NO_SLOT);
            if worker.life.admitted() && worker.weight > 0 {
                *slot = worker.slot;
            }
        }
        sharing.into_iter().collect()
    }

    /// Says which workers no CPU has, with `affinity = "cpu"`.
    pub(super) fn warn_of_left_out(&self) {
        if self.settings.config.affinity != Affinity::Cpu {
            return;
        }
        let (cpus, sharing) = (self.dataplane.cpus(), self.sharing_cpus());
        let left = CpuShares::new(&cpus, &sharing).left_out();
        if !left.is_empty() {
            let names: Vec<String> = left.into_iter().map(|number| self.pool.name_of(number)).collect();
            warn!(
                service = self.settings.config.name,
                cpus = cpus.len(),
                workers = sharing.len(),
                "no CPU is left for {}: with `affinity = \"cpu\"` only what the workers of the CPUs cannot take goes there",
                names.join(", ")
            );
        }
    }

    /// Takes listeners over from other services once all workers of this one are ready on them.
    pub(super) fn take_listeners(&mut self) {
        if !self.dataplane.may_take() && !self.stopping {
            return;
        }
        let waits = |it: &&ListenerState| it.wanted && self.dataplane.claim(it.id) == Claim::Wanted;
        let wanted: Vec<ListenerId> = self.listeners.iter().filter(waits).map(|it| it.id).collect();
        if wanted.is_empty() || self.stopping {
            self.agenda.deciding.drain(..).for_each(|reply| reply.send(()));
            return;
        }
        let staying = self.pool.staying();
        for listener in wanted {
            let serves = |id: &WorkerId| {
                let ready =
                    |it: &&Worker| it.is_member() && it.life.admitted() && it.life.state() == State::Ready;
                self.pool.get(*id).filter(ready).is_some_and(|it| it.socket_of(listener).is_some())
            };
            if !staying.iter().all(serves) || (staying.is_empty() && self.settings.config.workers > 0) {
                continue;
            }
            let from = self.dataplane.take(listener).unwrap_or_default();
            self.publish_rosters(None);
            match self.attach(listener) {
                Ok(()) => {
                    let address = self.dataplane.address(listener);
                    info!(service = self.settings.config.name, from, "takes {address} over");
                }
                // `repair_all` attaches again each second.
                Err(error) => warn!("{error}"),
            }
        }
    }

    /// Makes the listeners what the settings say: which of them are wanted, and how they are bound and called.
    pub(super) fn want_listeners(&mut self) {
        self.listeners.want(&self.settings.config.listen);
        self.describe_listeners();
    }

    /// Tells the listeners how they are bound and called.
    pub(super) fn describe_listeners(&mut self) {
        for (listener, freebind) in self.listeners.describe(&self.settings.config.listen) {
            self.dataplane.set_freebind(listener, freebind);
        }
    }

    /// What sockets of a listener are called in LISTEN_FDNAMES.
    #[must_use]
    pub fn socket_name(&self, listener: ListenerId) -> String {
        let configured = self.listeners.iter().find(|it| it.id == listener).and_then(|it| it.name.clone());
        configured.unwrap_or_else(|| self.dataplane.address(listener).plain_name())
    }

    /// All workers' sockets of a listener.
    pub(super) fn sockets_of(&self, listener: ListenerId) -> Vec<Cookie> {
        self.pool.iter().filter_map(|worker| worker.socket_of(listener)).map(|it| it.cookie).collect()
    }

    /// Attaches the program of a listener to its group, if the group has a socket. Through a socket that its worker has
    /// locked (SO_LOCK_FILTER) nothing can be attached: then through another worker's.
    pub(super) fn attach(&mut self, listener: ListenerId) -> Result<(), String> {
        let sockets = self.sockets_of(listener);
        let Attachment { locked, error } = self.dataplane.attach(listener, &sockets);
        let has = |worker: &Worker| worker.sockets.iter().any(|it| locked.contains(&it.cookie));
        for id in if locked.is_empty() { Vec::new() } else { self.pool.ids(has) } {
            self.saw_locked(id, listener);
        }
        error.map_or(Ok(()), Err)
    }

    /// Replaces a worker whose socket is locked: it takes no program and no filter any more, and the next process gets
    /// a new socket.
    fn saw_locked(&mut self, id: WorkerId, listener: ListenerId) {
        let address = self.dataplane.address(listener);
        let Some(worker) = self.pool.get_mut(id).filter(|worker| !worker.is_adopted()) else { return };
        if worker.sightings.locked.is_none() {
            warn!(
                worker = worker.name,
                "it has locked its socket of {address} (SO_LOCK_FILTER), so that it cannot be kept from giving the \
                 group another program: the program is attached through another's, and the worker is replaced"
            );
            worker.sightings.locked = Some(address);
        }
        // If no replacement can begin now, the next `repair_all` tries again.
        let _ = worker.stays() && self.replace_alone(id);
    }

    /// Repairs what workers and other processes may have done, each second. A process with a socket of a group can give
    /// the group another program, and the kernel does not tell which it has: the group's own is attached again, which
    /// changes nothing if it is attached. Listeners that workers have shut down listen again; a worker that does not
    /// accept from its listener then stalls. Missing workers are added, removed notification sockets are made again.
    pub(super) fn repair_all(&mut self, now: std::time::Instant) {
        // Those of other servers are looked at more often (`adopting.rs`).
        let own = if self.settings.config.adopt.is_some() { Vec::new() } else { self.listeners.ids() };
        for listener in own {
            if let Err(error) = self.attach(listener) {
                warn!("{error}");
            }
        }
        self.agenda.repairs = self.pool.ids(Worker::is_monitored).into();
        self.begin_refilling();
        for id in self.pool.ids(|worker| worker.process.is_some()) {
            self.restore_notify(id, now);
        }
    }

    /// Repairs the sockets of a worker whose process runs.
    pub(super) fn repair_living(&mut self, id: WorkerId, now: std::time::Instant) {
        self.part_with_closed(id, now);
        self.repair(id, Holder::Living);
    }

    /// Repairs the sockets of a worker before its next process gets them.
    pub(super) fn repair_idle(&mut self, id: WorkerId) {
        let used = self.pool.get(id).is_some_and(|worker| worker.life.restarts() > 0);
        self.repair(id, if used { Holder::Successor } else { Holder::New });
        if let Some(worker) = self.pool.get_mut(id) {
            worker.sightings.locked = None;
        }
    }

    fn repair(&mut self, id: WorkerId, holder: Holder) {
        let backlog = self.settings.config.backlog;
        let Some(worker) = self.pool.get_mut(id).filter(|worker| worker.holds_slot()) else { return };
        let (slot, name) = (worker.slot, &worker.name);
        for WorkerSocket { cookie, listener, .. } in &mut worker.sockets {
            match self.dataplane.repair(*cookie, slot, holder, backlog) {
                Repair::Sound => {}
                Repair::Repaired(repaired) => {
                    *cookie = repaired;
                    let listener = self.dataplane.address(*listener);
                    warn!(worker = name, "the socket of {listener} was unusable and is back in service");
                }
                Repair::Failed(error) => {
                    let listener = self.dataplane.address(*listener);
                    warn!(worker = name, "cannot put {listener} back into service: {error}");
                }
            }
        }
    }

    /// Tells the program of a listener whether new connections avoid a worker.
    pub(super) fn set_fitness(&mut self, listener: ListenerId, id: WorkerId, fitness: Fitness) {
        let Some(worker) = self.pool.get(id).filter(|worker| worker.holds_slot()) else { return };
        self.dataplane.set_fitness(listener, worker.slot, fitness);
    }
}
