//! The workers of a service by their ids, PURE: numbers, slots, serial numbers, and what each was started with. Not:
//! when one comes or goes (`engine/`).

mod worker;

pub use worker::{Departure, DrainReport, Running, Seat, Sightings, Worker, WorkerSocket};

use std::collections::BTreeMap;

use super::denied::Denied;
use super::ports::{ListenerId, ProcessKey, WorkerId};
use super::slots::{SlotSet, Slots};
use super::table::Member;
use super::watchdog::Watchdog;
use super::worker::{Life, Origin};

/// All workers of a service.
pub struct Pool {
    service: String,
    workers: BTreeMap<WorkerId, Worker>,
    slots: Slots,
    /// Counts up with each worker, process and listener.
    serial: u64,
}

impl Pool {
    /// Nobody yet.
    #[must_use]
    pub fn new(service: &str, serial: u64, slots: Slots) -> Self {
        Self { service: service.to_owned(), workers: BTreeMap::new(), slots, serial }
    }

    /// What the worker with this number is called.
    #[must_use]
    pub fn name_of(&self, number: usize) -> String {
        format!("{}/{number}", self.service)
    }

    /// Serial numbers used so far.
    #[must_use]
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Serial numbers up to this one are used.
    pub fn reserve(&mut self, serial: u64) {
        self.serial = self.serial.max(serial);
    }

    /// Another serial number.
    pub fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Another process of a worker.
    pub fn next_process(&mut self, worker: WorkerId) -> ProcessKey {
        ProcessKey { worker, incarnation: self.next_serial() }
    }

    /// The slot that has been free for the longest time.
    pub fn take_slot(&mut self) -> Option<u16> {
        self.slots.take()
    }

    /// Somebody else may have it from now on.
    pub fn free_slot(&mut self, slot: u16) {
        self.slots.free(slot);
    }

    /// A worker that does not run yet.
    pub fn add(&mut self, new: New) -> WorkerId {
        let id = WorkerId { number: new.number, instance: self.next_serial() };
        self.insert(id, new);
        id
    }

    /// A worker with the serial number that an earlier daemon gave it.
    pub fn insert(&mut self, id: WorkerId, new: New) {
        let New { number, origin, weight, slot, seat, revision, sockets } = new;
        let worker = Worker {
            id,
            name: self.name_of(number),
            slot,
            seat,
            revision,
            weight,
            life: Life::new(origin),
            sockets,
            process: None,
            watchdog: Watchdog::default(),
            sightings: Sightings::default(),
            drain: DrainReport::default(),
        };
        self.workers.insert(id, worker);
    }

    /// A worker that was taken out comes back.
    pub fn put_back(&mut self, worker: Worker) {
        self.workers.insert(worker.id, worker);
    }

    /// Takes a worker out.
    pub fn remove(&mut self, id: WorkerId) -> Option<Worker> {
        self.workers.remove(&id)
    }

    /// One worker.
    #[must_use]
    pub fn get(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.get(&id)
    }

    /// One worker, to change.
    pub fn get_mut(&mut self, id: WorkerId) -> Option<&mut Worker> {
        self.workers.get_mut(&id)
    }

    /// All, by number and age.
    pub fn iter(&self) -> impl Iterator<Item = &Worker> + Clone {
        self.workers.values()
    }

    /// All, to change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Worker> {
        self.workers.values_mut()
    }

    /// The ids of those of whom `which` is true.
    pub fn ids(&self, which: impl Fn(&Worker) -> bool) -> Vec<WorkerId> {
        self.iter().filter(|worker| which(worker)).map(|worker| worker.id).collect()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.workers.len()
    }

    /// Whether nobody is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    /// The worker that serves under a number; one that leaves only if there is no other.
    #[must_use]
    pub fn find(&self, number: usize) -> Option<&Worker> {
        let all = self.iter().filter(|worker| worker.id.number == number && !worker.is_successor());
        all.max_by_key(|worker| (worker.stays(), worker.id.instance))
    }

    /// The same, or why not.
    pub fn require(&self, number: usize) -> Result<&Worker, Denied> {
        self.find(number).ok_or_else(|| self.unknown(number))
    }

    fn unknown(&self, number: usize) -> Denied {
        let known = self.iter().map(|worker| worker.name.clone()).collect();
        Denied::UnknownWorker { worker: self.name_of(number), known }
    }

    /// Workers that the daemon starts: what becomes of others says nothing about the start.
    pub fn started(&self) -> impl Iterator<Item = &Worker> {
        self.iter().filter(|worker| worker.is_started())
    }

    /// Workers that count for `scale`, in the order of their numbers.
    #[must_use]
    pub fn staying(&self) -> Vec<WorkerId> {
        self.ids(|worker| !worker.is_successor() && worker.is_started() && worker.stays())
    }

    /// Numbers of workers that were not started with this revision of the settings.
    #[must_use]
    pub fn outdated(&self, revision: u64) -> Vec<usize> {
        let old = |id: &WorkerId| self.get(*id).is_some_and(|worker| worker.revision != revision);
        self.staying().into_iter().filter(old).map(|id| id.number).collect()
    }

    /// Numbers that nobody has.
    pub fn free_numbers(&self) -> impl Iterator<Item = usize> {
        (0..).filter(|number| !self.workers.keys().any(|id| id.number == *number))
    }

    /// Those that may own buckets now.
    #[must_use]
    pub fn admitted(&self) -> Vec<Member> {
        let admitted = self.iter().filter(|worker| worker.is_member() && worker.life.admitted());
        admitted.map(|worker| Member::new(&worker.name, worker.slot, worker.weight)).collect()
    }

    /// Slots whose worker is there for the flows that it has, though perhaps not for new ones.
    #[must_use]
    pub fn pinned(&self) -> SlotSet {
        let keeps = |worker: &&Worker| worker.is_member() && worker.life.keeps_flows();
        self.iter().filter(keeps).map(|worker| worker.slot).collect()
    }

    /// Whether anybody has a socket of this listener.
    #[must_use]
    pub fn uses(&self, listener: ListenerId) -> bool {
        self.iter().any(|worker| worker.socket_of(listener).is_some())
    }
}

/// A worker that is to come.
pub struct New {
    /// The number in its name.
    pub number: usize,
    /// Where its process comes from.
    pub origin: Origin,
    /// Its part of all buckets.
    pub weight: u32,
    /// Its slot, or the one that it is to get.
    pub slot: u16,
    /// What it has to do with that.
    pub seat: Seat,
    /// The revision of the settings that it is to be started with.
    pub revision: u64,
    /// One per listener, in their order.
    pub sockets: Vec<WorkerSocket>,
}
