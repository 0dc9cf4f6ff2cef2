//! All workers of a service by their ids, PURE: numbers, slots, serial numbers. Not: when workers are added or removed
//! (`engine/`).

mod worker;

pub use worker::{Departure, DrainReport, Running, Seat, Sightings, Worker, WorkerSocket};

use std::collections::BTreeMap;

use super::denied::Denied;
use super::number::Number;
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
    /// The last serial number; each worker, process and listener gets one.
    serial: u64,
}

impl Pool {
    /// A pool without workers. `serial`: the last serial number in use.
    #[must_use]
    pub fn new(service: &str, serial: u64, slots: Slots) -> Self {
        Self { service: service.to_owned(), workers: BTreeMap::new(), slots, serial }
    }

    /// The name of the worker with this number, like `web/2`, or of a part of it, like `web/2.1`.
    #[must_use]
    pub fn name_of(&self, number: impl Into<Number>) -> String {
        format!("{}/{}", self.service, number.into())
    }

    /// The last serial number in use.
    #[must_use]
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Marks serial numbers up to `serial` as used.
    pub fn reserve(&mut self, serial: u64) {
        self.serial = self.serial.max(serial);
    }

    /// Takes the next serial number.
    pub fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Makes a key for another process of a worker.
    pub fn next_process(&mut self, worker: WorkerId) -> ProcessKey {
        ProcessKey { worker, incarnation: self.next_serial() }
    }

    /// Takes the slot that has been free for the longest time; `None` if all are used.
    pub fn take_slot(&mut self) -> Option<u16> {
        self.slots.take()
    }

    /// Gives a slot back.
    pub fn free_slot(&mut self, slot: u16) {
        self.slots.free(slot);
    }

    /// Adds a worker without a process, under a new id.
    pub fn add(&mut self, new: New) -> WorkerId {
        let id = WorkerId { number: new.number, instance: self.next_serial(), part: 0 };
        self.insert(id, new);
        id
    }

    /// A worker and those with further sockets of its process; a part of another one alone.
    pub fn parts(&self, id: WorkerId) -> impl Iterator<Item = &Worker> + Clone {
        let last = if id.part == 0 { WorkerId { part: usize::MAX, ..id } } else { id };
        self.workers.range(id..=last).map(|(_, worker)| worker)
    }

    /// Ids of [`Pool::parts`].
    #[must_use]
    pub fn part_ids(&self, id: WorkerId) -> Vec<WorkerId> {
        self.parts(id).map(|worker| worker.id).collect()
    }

    /// Ids of the workers with further sockets of the process of `id`.
    #[must_use]
    pub fn further_parts(&self, id: WorkerId) -> Vec<WorkerId> {
        self.parts(id).map(|worker| worker.id).filter(|part| *part != id).collect()
    }

    /// Adds a worker under the id that an earlier daemon gave it.
    pub fn insert(&mut self, id: WorkerId, new: New) {
        let New { number: _, origin, weight, slot, seat, revision, sockets } = new;
        let worker = Worker {
            id,
            name: self.name_of(id),
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

    /// Adds a worker that [`Pool::remove`] has taken out.
    pub fn put_back(&mut self, worker: Worker) {
        self.workers.insert(worker.id, worker);
    }

    /// Takes a worker out; its slot stays used until [`Pool::free_slot`].
    pub fn remove(&mut self, id: WorkerId) -> Option<Worker> {
        self.workers.remove(&id)
    }

    /// The worker with this id.
    #[must_use]
    pub fn get(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.get(&id)
    }

    /// The worker with this id, to change it.
    pub fn get_mut(&mut self, id: WorkerId) -> Option<&mut Worker> {
        self.workers.get_mut(&id)
    }

    /// All workers, by number and age.
    pub fn iter(&self) -> impl Iterator<Item = &Worker> + Clone {
        self.workers.values()
    }

    /// All workers, by number and age, to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Worker> {
        self.workers.values_mut()
    }

    /// Ids of the workers for which `which` is true.
    pub fn ids(&self, which: impl Fn(&Worker) -> bool) -> Vec<WorkerId> {
        self.iter().filter(|worker| which(worker)).map(|worker| worker.id).collect()
    }

    /// Number of workers, also leaving ones.
    #[must_use]
    pub fn len(&self) -> usize {
        self.workers.len()
    }

    /// Whether there is no worker.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    /// The worker with this number: of several the one that serves, one that leaves only if there is no other.
    #[must_use]
    pub fn find(&self, number: impl Into<Number>) -> Option<&Worker> {
        let number = number.into();
        let all = self.iter().filter(|it| Number::from(it.id) == number && !it.is_successor());
        all.max_by_key(|worker| (worker.stays(), worker.id.instance))
    }

    /// The worker with this number, or the refusal that names those that exist.
    pub fn require(&self, number: impl Into<Number> + Copy) -> Result<&Worker, Denied> {
        self.find(number).ok_or_else(|| self.unknown(number.into()))
    }

    fn unknown(&self, number: Number) -> Denied {
        let known = self.iter().map(|worker| worker.name.clone()).collect();
        Denied::UnknownWorker { worker: self.name_of(number), known }
    }

    /// Workers that the daemon starts, without joined ones.
    pub fn started(&self) -> impl Iterator<Item = &Worker> {
        self.iter().filter(|worker| worker.is_started())
    }

    /// Workers that count for `scale` (started by the daemon and not leaving), in the order of their numbers.
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

    /// Numbers that no worker has, lowest first.
    pub fn free_numbers(&self) -> impl Iterator<Item = usize> {
        (0..).filter(|number| !self.workers.keys().any(|id| id.number == *number))
    }

    /// The workers that may own buckets now.
    #[must_use]
    pub fn admitted(&self) -> Vec<Member> {
        let admitted = self.iter().filter(|worker| worker.is_member() && worker.life.admitted());
        admitted.map(|worker| Member::new(&worker.name, worker.slot, worker.weight)).collect()
    }

    /// Slots whose worker serves its UDP flows, be it for new ones or not.
    #[must_use]
    pub fn pinned(&self) -> SlotSet {
        let keeps = |worker: &&Worker| worker.is_member() && worker.life.keeps_flows();
        self.iter().filter(keeps).map(|worker| worker.slot).collect()
    }

    /// Whether a worker has a socket of this listener.
    #[must_use]
    pub fn uses(&self, listener: ListenerId) -> bool {
        self.iter().any(|worker| worker.socket_of(listener).is_some())
    }
}

/// A worker that is to be added.
pub struct New {
    /// Number in the worker's name.
    pub number: usize,
    /// Whether the daemon starts the process.
    pub origin: Origin,
    /// Share of all buckets, over the sum of all weights.
    pub weight: u32,
    /// Slot in the socket arrays, also of a successor that is to get it later.
    pub slot: u16,
    /// How the worker holds its slot.
    pub seat: Seat,
    /// Revision of the settings that the process is started with.
    pub revision: u64,
    /// One socket per listener, in their order.
    pub sockets: Vec<WorkerSocket>,
}
