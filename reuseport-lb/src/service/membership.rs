//! Who belongs to a service: workers that come and go, their sockets and slots, and their buckets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use reuseport_lb_common::layout::Fitness;
use serde::{Deserialize, Serialize};
use socket2::Socket;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::Service;
use super::door::{Door, door_near, door_of};
use super::flows::{MOVING, keeps};
use super::workers::{Farewell, Id, Place, Worker};
use crate::config::{self, WhenEmpty};
use crate::domain::health::Status;
use crate::domain::listener::{Listener, Protocol};
use crate::domain::table::{Member, Plan};
use crate::domain::worker::{Event, Origin, State, Step};
use crate::kernel::{socket, strangers};
use crate::offload::Slices;

/// A worker that is ready waits this long for others that are starting, so that buckets move once
/// for all of them.
pub(super) const JOIN_TOGETHER: Duration = Duration::from_millis(200);

/// How many workers a service shall have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// So many.
    Exactly(usize),
    /// So many more than are wanted now, or fewer.
    More(i64),
}

/// What [`super::Command::Scale`] has begun.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Scaled {
    /// Workers before, without those that are leaving.
    pub before: usize,
    /// Workers to come.
    pub after: usize,
}

/// How a worker left.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Drained {
    /// Like `web/2`.
    pub worker: String,
    /// From the moment when its buckets moved away until nothing of it was left.
    pub seconds: f64,
    /// Connections (TCP) and bytes (UDP) that waited for it then.
    pub queue: u64,
    /// Connections that others got, because it did not accept them.
    pub handed_over: u64,
    /// Flows (UDP) that it had then.
    pub flows: u64,
    /// Of those, the ones that still lived when it had to go; others got them.
    pub flows_cut: u64,
    /// How its process ended; `null` if it had none, or goes on without us.
    pub end: Option<String>,
}

impl Service {
    /// A worker that does not exist yet.
    pub(super) fn next_id(&mut self, number: usize) -> Id {
        self.count += 1;
        Id { number, instance: self.count }
    }

    /// The worker that serves under a number; one that leaves only if there is no other.
    pub(super) fn id_of(&self, number: usize) -> Option<Id> {
        let all = self.workers.values().filter(|worker| worker.id.number == number && !worker.trial);
        all.max_by_key(|worker| (worker.stays(), worker.id.instance)).map(|worker| worker.id)
    }

    pub(super) fn name_of(&self, number: usize) -> String {
        format!("{}/{number}", self.config.name)
    }

    /// Opens the sockets of a new worker in a slot of its own; nothing is left behind if that fails.
    pub(super) fn add(&mut self, number: usize, origin: Origin, weight: u32) -> Result<Id> {
        let name = self.name_of(number);
        let slot = self.slots.take().with_context(|| format!("no slot is free for worker {name}"))?;
        // Before its sockets can receive anything: what comes first shall wait, not be refused.
        self.tell_rosters(Some(slot));
        match self.open_places(slot, true) {
            Ok(places) => {
                self.tracer.rename(slot, Some(&name));
                Ok(self.insert(number, origin, weight, slot, places))
            }
            Err(error) => {
                self.free_slot(slot);
                Err(error.context(format!("worker {name} gets no sockets")))
            }
        }
    }

    pub(super) fn insert(
        &mut self,
        number: usize,
        origin: Origin,
        weight: u32,
        slot: u16,
        places: Vec<Place>,
    ) -> Id {
        let id = self.next_id(number);
        let new = Worker::new(id, self.name_of(number), slot, origin, places);
        let worker = Worker { release: self.release, weight, ..new };
        self.workers.insert(id, worker);
        self.unsaved = true;
        id
    }

    /// Opens a socket for each listener; with `enter`, into `slot`. Nothing is left behind if one fails:
    /// the others close, which empties their slots.
    pub(super) fn open_places(&mut self, slot: u16, enter: bool) -> Result<Vec<Place>> {
        let mut places = Vec::new();
        for at in (0..self.doors.len()).filter(|at| self.doors[*at].wanted).collect::<Vec<usize>>() {
            match self.open_place(at, slot, enter) {
                Ok(place) => places.push(place),
                Err(error) => {
                    self.disown(&places);
                    return Err(error);
                }
            }
        }
        Ok(places)
    }

    /// Opens a socket at the door with this index; with `enter`, into `slot`.
    pub(super) fn open_place(&mut self, at: usize, slot: u16, enter: bool) -> Result<Place> {
        let door = &mut self.doors[at];
        let here = |place: &Place| place.listener == *door.group.listener();
        let first = !self.workers.values().any(|worker| worker.places.iter().any(here));
        // What a slot that is free has been selected for does not change.
        let fresh = if enter { None } else { Some(door.group.totals()?) };
        let selected = fresh.as_ref().map_or_else(|| door.counted(), |totals| Ok(&totals.selected))?;
        let selected_before = selected[usize::from(slot)];
        let socket = door.open(self.config.backlog, first)?;
        if enter {
            door.group.insert(slot, &socket)?;
        }
        let cookie = socket.cookie().unwrap_or_default();
        self.surroundings.ours.borrow_mut().insert(cookie);
        let socket = Arc::new(socket);
        Ok(Place { listener: *door.group.listener(), socket, cookie, selected_before, selected_after: None })
    }

    /// A worker became ready: buckets move at once, or a moment later together with other joins.
    pub(super) fn admit(&mut self, id: Id) {
        if self.workers.get(&id).is_some_and(|worker| worker.trial) {
            return self.rollout_saw_ready(id);
        }
        let others = |worker: &Worker| {
            worker.is_member()
                && matches!(worker.life.state(), State::Starting | State::Loading)
                && !worker.life.admitted()
                && worker.life.origin() == Origin::Started
        };
        if self.workers.values().any(others) {
            self.join_at.get_or_insert_with(|| Instant::now() + JOIN_TOGETHER);
        } else {
            self.rebalance();
        }
    }

    /// Makes the table of those workers that are admitted now, if these are others than before, or
    /// others keep their flows.
    pub(super) fn rebalance(&mut self) {
        self.join_at = None;
        let members = self.admitted();
        if self.spreading.is_some() || members != self.members || self.keepers() != self.flows.keepers {
            self.spreading = Some(members);
        }
    }

    pub(super) fn admitted(&self) -> Vec<Member> {
        let admitted = self.workers.values().filter(|worker| worker.is_member() && worker.life.admitted());
        admitted.map(|worker| Member::new(&worker.name, worker.slot, worker.weight)).collect()
    }

    /// Makes the table of those that buckets are to be spread over, and publishes what changes. Nothing else
    /// happens in the service meanwhile.
    pub(super) async fn spread(&mut self) {
        let Some(members) = self.spreading.take() else { return };
        let mut slices = Slices::begin();
        self.count_flows_of_leavers(&mut slices).await;
        self.cut_flows(&mut slices).await;
        let freedoms = self.freedoms(&mut slices).await;
        let freedom = |bucket: u16| freedoms.get(usize::from(bucket)).copied().unwrap_or_default();
        let Plan { changes, waiting } = self.table.plan(&members, freedom);
        self.members = members;
        for door in &self.doors {
            self.turn(&mut slices, MOVING).await;
            door.group.publish(changes.iter().copied(), keeps(&self.flows.keepers));
        }
        self.flows_moved(changes.len(), waiting, &mut slices).await;
        self.moved += changes.len() as u64;
        self.unsaved = true;
        if changes.is_empty() {
            return;
        }
        info!(
            service = self.config.name,
            members = self.members.len(),
            buckets = changes.len(),
            "buckets moved"
        );
    }

    /// Hands what is queued to others: `shutdown` makes the kernel migrate it, then the socket goes
    /// back into service.
    pub(super) fn rescue(&mut self, id: Id, only: Option<Listener>) {
        let Some(worker) = self.workers.get(&id).filter(|worker| worker.holds_slot) else { return };
        // Without anybody to take it, the queue is better off waiting.
        if self.members.is_empty() {
            return;
        }
        let meant = |place: &&Place| {
            place.listener.protocol == Protocol::Tcp && only.is_none_or(|only| only == place.listener)
        };
        for place in worker.places.iter().filter(meant) {
            let Some(door) = door_of(&mut self.doors, &place.listener) else {
                continue;
            };
            let again = socket::shut_down(&place.socket).and_then(|()| {
                socket::listen_again(&place.socket, &mut door.group, worker.slot, self.config.backlog)
            });
            if let Err(error) = again {
                warn!(worker = worker.name, "cannot put {} back into service: {error:#}", place.listener);
            }
        }
    }

    /// Hands what is queued to others for good: the process that has the sockets does not accept, or
    /// waits for this to end.
    pub(super) fn hand_over(&mut self, id: Id) {
        let alone = self.members.is_empty();
        let Some(worker) = self.workers.get_mut(&id) else { return };
        for place in worker.places.iter().filter(|place| place.listener.protocol == Protocol::Tcp) {
            let queue = queued(&place.socket);
            // Without anybody to take it, the queue is better off waiting; and so is what comes to one
            // that returns.
            if alone && (queue > 0 || worker.life.origin() == Origin::Started) {
                continue;
            }
            worker.farewell.handed_over += queue;
            if let Err(error) = socket::shut_down(&place.socket) {
                warn!(worker = worker.name, "cannot hand over the queue of {}: {error:#}", place.listener);
            }
        }
    }

    /// Tells the program who is ready and where to wait; `coming` is about to be one of the latter.
    pub(super) fn tell_rosters(&self, coming: Option<u16>) {
        let all_awake = self.rosters(None, coming);
        for door in &self.doors {
            if door.health.has_stalled() {
                let (ready, waiting) = self.rosters(Some(door), coming);
                door.group.set_rosters(&ready, &waiting);
            } else {
                door.group.set_rosters(&all_awake.0, &all_awake.1);
            }
        }
    }

    /// Slots that are ready, and those that there are for when none of these is. Workers that do not accept
    /// at `door` are only there where nobody does.
    fn rosters(&self, door: Option<&Door>, coming: Option<u16>) -> (Vec<u16>, Vec<u16>) {
        let members = || self.workers.values().filter(|worker| worker.is_member());
        let fit = |worker: &&Worker| worker.life.state() == State::Ready;
        let awake =
            |worker: &&Worker| door.is_none_or(|door| door.health.status(worker.id) != Status::Stalled);
        let stuck = !members().filter(fit).any(|worker| awake(&worker));
        let ready = || members().filter(fit).filter(|worker| stuck || awake(worker));
        let slots = |weightless: bool| -> Vec<u16> {
            ready().filter(|it| (it.weight == 0) == weightless).map(|worker| worker.slot).collect()
        };
        let (mut ready, mut waiting) = (slots(false), slots(true));
        if ready.is_empty() {
            ready = std::mem::take(&mut waiting);
        }
        // Also while no daemon is there to notice that all others are gone.
        if waiting.is_empty() && self.config.when_empty == WhenEmpty::Hold {
            let can_wait = members().filter(|worker| worker.life.can_wait()).map(|worker| worker.slot);
            waiting = can_wait.chain(coming).collect();
        }
        (ready, waiting)
    }

    /// Somebody else may have it from now on.
    pub(super) fn free_slot(&mut self, slot: u16) {
        self.slots.free(slot);
        self.doors.iter_mut().for_each(Door::forget_counted);
    }

    pub(super) fn disown(&self, places: &[Place]) {
        let mut ours = self.surroundings.ours.borrow_mut();
        for place in places {
            ours.remove(&place.cookie);
        }
    }

    /// Releases the worker, once nothing points to its slot any more.
    pub(super) fn part(&mut self, id: Id) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let first = !std::mem::replace(&mut worker.parting, true);
        let (holds_slot, slot) = (worker.holds_slot, worker.slot);
        if first && holds_slot && self.tracks_flows() && self.have_flows(&[slot]) {
            self.spreading = Some(self.admitted());
            self.later.push_back((id, Step::Release));
        } else {
            self.release(id);
        }
    }

    /// Nothing of the worker is left after this.
    pub(super) fn release(&mut self, id: Id) {
        let Some(mut worker) = self.workers.remove(&id) else { return };
        self.unsaved = true;
        let listeners: Vec<Listener> = worker.places.iter().map(|place| place.listener).collect();
        let mut census: Option<Result<strangers::Census>> = None;
        for (at, place) in worker.places.iter().enumerate() {
            let here = |other: &Worker| other.places.iter().any(|other| other.listener == place.listener);
            let last = !self.workers.values().any(here);
            let door = door_near(&mut self.doors, at, &place.listener);
            if last
                && let Some(door) = &door
                && door.group.decides.get()
                && !matches!(
                    census.get_or_insert_with(|| strangers::Census::take(&listeners)),
                    Ok(census) if census.count(&place.listener, &self.surroundings.ours.borrow()) == 0
                )
            {
                // Others in the group go on without us, as before.
                if let Err(error) = door.group.detach(&place.socket) {
                    warn!("cannot leave the group of {} to others: {error}", place.listener);
                }
            }
            if place.listener.protocol == Protocol::Tcp {
                worker.farewell.handed_over += queued(&place.socket);
                // The kernel hands what is still queued to the others; then the slot is empty.
                if let Err(error) = socket::shut_down(&place.socket) {
                    warn!(worker = worker.name, "cannot shut {} down: {error:#}", place.listener);
                }
            }
            if worker.holds_slot
                && let Some(door) = door
            {
                door.group.set_fitness(worker.slot, Fitness::Fit);
                if let Err(error) = door.group.remove(worker.slot) {
                    warn!(worker = worker.name, "{error:#}");
                }
            }
        }
        self.disown(&worker.places);
        self.forget_health(id);
        if worker.holds_slot {
            self.tracer.rename(worker.slot, None);
            self.free_slot(worker.slot);
        }
        info!(worker = worker.name, "it is gone");
        worker.farewell.tell(&worker.name);
        self.rollout_saw_release(id);
        if self.rollout.is_none() {
            self.prune_doors();
        }
    }

    /// All of these leave at once, so that buckets move once.
    pub(super) fn leave(&mut self, ids: &[Id], patience: Option<Duration>) {
        let now = Instant::now();
        let mut all = Vec::new();
        for id in ids {
            if let Some(worker) = self.workers.get_mut(id) {
                let before = worker.life.state();
                if before != State::Draining {
                    worker.farewell.begun = Some(now);
                    worker.farewell.queue = worker.queue();
                }
                all.push((*id, worker.life.on(Event::Leave { patience }, now, &self.config)));
                info!(worker = worker.name, slot = worker.slot, "{before} → {}", worker.life.state());
            }
        }
        for (id, steps) in all {
            if ids.len() > 1 {
                self.later.extend(steps.into_iter().map(|step| (id, step)));
            } else {
                self.take(id, steps);
            }
        }
    }

    /// Workers that count for `scale`, in the order of their numbers.
    pub(super) fn staying(&self) -> Vec<Id> {
        let counts =
            |worker: &&Worker| !worker.trial && worker.life.origin() == Origin::Started && worker.stays();
        self.workers.values().filter(counts).map(|worker| worker.id).collect()
    }

    pub(super) async fn scale_to(&mut self, target: Target) -> Result<Scaled, String> {
        let by = match target {
            Target::Exactly(to) => return self.scale(to).await,
            Target::More(by) => by,
        };
        let now = self.config.workers;
        let to = i64::try_from(now).ok().and_then(|now| usize::try_from(now.checked_add(by)?).ok());
        self.scale(to.ok_or_else(|| {
            format!(
                "service {} wants {now} workers, and cannot have {} fewer",
                self.config.name,
                by.unsigned_abs()
            )
        })?)
        .await
    }

    pub(super) async fn scale(&mut self, to: usize) -> Result<Scaled, String> {
        config::check_workers(to)?;
        if self.stopping {
            return Err(format!("service {} is ending", self.config.name));
        }
        if to > 0 && self.config.command.is_empty() && !self.config.embedded {
            return Err(format!(
                "service {} has no command: its workers come by themselves, with `reuseport-lb exec {}`",
                self.config.name, self.config.name
            ));
        }
        // Whatever becomes of it, the service has been started.
        self.came_up();
        let staying = self.staying();
        let before = staying.len();
        if to < before {
            self.leave(&staying[to..], None);
        }
        let free: Vec<usize> = self.free_numbers().take(to.saturating_sub(before)).collect();
        let mut added = Vec::new();
        let mut slices = Slices::begin();
        for number in free {
            slices.turn().await;
            match self.add(number, Origin::Started, 1) {
                Ok(id) => added.push(id),
                Err(error) => {
                    self.leave(&added, None);
                    return Err(format!("{error:#}"));
                }
            }
        }
        self.starts.extend(added);
        self.config.workers = to;
        self.unsaved = true;
        info!(service = self.config.name, "scaled from {before} to {to} workers");
        Ok(Scaled { before, after: to })
    }

    /// Adds workers until there are as many as configured; those that leave do not count. What an
    /// earlier daemon was ending when it died may finish, but a service has its workers.
    pub(super) async fn refill(&mut self) {
        let staying = self.staying();
        let missing = self.config.workers.saturating_sub(staying.len());
        let free = (0..).filter(|number| !staying.iter().any(|id| id.number == *number));
        let mut slices = Slices::begin();
        for number in free.take(missing).collect::<Vec<usize>>() {
            slices.turn().await;
            match self.add(number, Origin::Started, 1) {
                Ok(id) => info!(worker = self.name_of(id.number), "added: the service has too few workers"),
                Err(error) => return warn!(service = self.config.name, "cannot add a worker: {error:#}"),
            }
        }
    }

    pub(super) fn free_numbers(&self) -> impl Iterator<Item = usize> {
        (0..).filter(|number| !self.workers.keys().any(|id| id.number == *number))
    }

    pub(super) fn weigh(&mut self, number: usize, weight: u32) -> Result<(), String> {
        let id = self.id_of(number).ok_or_else(|| self.unknown(number))?;
        config::check_weight(weight)?;
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.weight = weight;
            info!(worker = worker.name, "its weight is {weight} now");
        }
        self.unsaved = true;
        self.rebalance();
        Ok(())
    }

    pub(super) fn drain(
        &mut self,
        number: usize,
        patience: Option<Duration>,
        answer: oneshot::Sender<Result<Drained, String>>,
    ) {
        let Some(id) = self.id_of(number) else {
            return drop(answer.send(Err(self.unknown(number))));
        };
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.farewell.waiting.push(answer);
        if worker.stays() && worker.life.origin() == Origin::Started {
            // It is not replaced.
            self.config.workers = self.config.workers.saturating_sub(1);
        }
        self.came_up();
        self.leave(&[id], patience);
    }

    pub(super) fn unknown(&self, number: usize) -> String {
        let known: Vec<&str> = self.workers.values().map(|worker| worker.name.as_str()).collect();
        let known = if known.is_empty() { "nobody".into() } else { known.join(", ") };
        format!("there is no worker {}; there is {known}", self.name_of(number))
    }
}

impl Farewell {
    fn tell(self, name: &str) {
        let drained = Drained {
            worker: name.to_owned(),
            seconds: self.begun.map_or(0.0, |begun| begun.elapsed().as_secs_f64()),
            queue: self.queue,
            handed_over: self.handed_over,
            flows: self.flows.unwrap_or_default(),
            flows_cut: self.flows_cut,
            end: self.end,
        };
        for waiting in self.waiting {
            // Whoever asked may have gone away.
            let _ = waiting.send(Ok(drained.clone()));
        }
    }
}

/// Connections that wait in a listening socket.
fn queued(socket: &Socket) -> u64 {
    socket::queue(socket, Protocol::Tcp).map_or(0, |queue| u64::from(queue.queue))
}
