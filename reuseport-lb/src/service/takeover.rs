//! From one daemon to the next: what is written down for it, and going on with what the last one
//! left: maps, sockets and processes. Traffic does not notice.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use reuseport_lb_common::layout::LAYOUT_VERSION;
use tokio::time::sleep;
use tracing::{info, warn};

use super::door::{Door, door_of};
use super::workers::{Id, Place, Worker};
use super::{Service, Surroundings};
use crate::domain::listener::{Listener, Protocol};
use crate::domain::slots::Slots;
use crate::domain::table::Table;
use crate::domain::worker::{self, Event, Life, Origin};
use crate::kernel::cgroup::Cgroup;
use crate::kernel::fd_passing;
use crate::kernel::output::Output;
use crate::kernel::process::{self, Kin, Process};
use crate::kernel::{host, recover, socket};
use crate::offload::Slices;
use crate::service::state_file::{self, State};

/// The most part of the time that saving takes, if that is long.
const SAVING: u32 = 5;

/// A pause that is shorter than this is not worth making.
const TOGETHER: Duration = Duration::from_millis(50);

/// The kernel frees the maps of a program within that time when the last reference to it is gone
/// (`bpf_prog_put`, `bpf_map_put`: RCU and a queue of work), if others do not keep it from that.
const FREED: Duration = Duration::from_secs(2);

/// How often it is tried meanwhile.
const LOOK: Duration = Duration::from_millis(10);

impl Service {
    /// Writes down what the next daemon must know, if that has changed.
    pub(super) fn save(&mut self) {
        let now = Instant::now();
        // A process that is not written down is lost to the next daemon.
        let urgent = std::mem::take(&mut self.has_spawned);
        if self.unsaved && !urgent && self.save_at.is_some_and(|at| at > now) {
            return;
        }
        let again = self.state_file.again_at().is_some_and(|at| at <= now);
        if std::mem::take(&mut self.unsaved) || again {
            let state = self.to_state();
            self.state_file.write(&state);
            // With thousands of sockets several steps are written down together.
            let pause = now.elapsed() * SAVING;
            self.save_at = (pause > TOGETHER).then(|| now + pause);
        }
    }

    /// Ends without touching anything that serves.
    pub(super) fn keep(mut self) {
        self.surroundings.claims.freeze();
        self.end_rollout("the daemon ends");
        // Nobody but the daemon has their sockets, so others take what waits there.
        let idle = self.workers.values().filter(|worker| worker.process.is_none());
        for id in idle.map(|worker| worker.id).collect::<Vec<Id>>() {
            self.hand_over(id);
        }
        (self.unsaved, self.save_at) = (true, None);
        self.save();
        info!(service = self.config.name, "its workers go on without a daemon");
    }

    fn to_state(&self) -> State {
        State {
            abandoned: None,
            told: false,
            version: state_file::VERSION,
            layout: LAYOUT_VERSION,
            boot: host::boot(),
            config: self.config.clone(),
            configured: self.configured.clone(),
            moved: self.moved,
            flows_cut: self.flows.cut,
            count: self.count,
            release: self.release,
            doors: self.doors.iter().map(|door| self.door_state(door)).collect(),
            workers: self.workers.values().map(worker_state).collect(),
        }
    }

    fn door_state(&self, door: &Door) -> state_file::Door {
        state_file::Door {
            asked: door.asked,
            bound: *door.group.listener(),
            name: door.name.clone(),
            wanted: door.wanted,
            program: Some(door.group.program_id()),
            since: self.surroundings.claims.since(&door.asked, &self.config.name),
            lost: self.surroundings.claims.is_lost(&door.asked, &self.config.name),
        }
    }

    /// Goes on with a service that an earlier daemon left.
    pub async fn take_over(state: State, surroundings: Rc<Surroundings>) -> Result<Self> {
        let name = state.config.name.clone();
        let mut service = Self::empty(state.config, surroundings).await?;
        service.configured = state.configured;
        (service.moved, service.count) = (state.moved, state.count);
        service.flows.cut = state.flows_cut;
        service.settled = true;
        service.nag_at = None;
        service
            .adopt(&state.doors, state.workers, state.layout, state.release)
            .await
            .with_context(|| format!("service {name} cannot be taken over from the daemon before"))?;
        service.surroundings.starting.serves();
        Ok(service)
    }

    async fn adopt(
        &mut self,
        doors: &[state_file::Door],
        workers: Vec<state_file::Worker>,
        layout: u32,
        release: u64,
    ) -> Result<()> {
        let mut anew = Vec::new();
        for door in doors {
            let mut made = match self.adopt_door(door, layout).await {
                Ok(made) => made,
                Err(error) => {
                    warn!(service = self.config.name, "{}: {error:#}; it gets another group", door.bound);
                    anew.push(door.bound);
                    let which = (&door.asked, &door.bound);
                    let (around, tracer) = (&self.surroundings, &self.tracer);
                    Door::make_anew(&self.config, which, &door.name, around, tracer).await?
                }
            };
            // Whoever decided and does no more has lost it, perhaps without having written that down.
            if door.lost || (door.since != 0 && !made.group.decides.get()) {
                self.surroundings.claims.lose(&door.asked, &self.config.name);
            }
            made.wanted = door.wanted;
            self.doors.push(made);
        }
        let slots = workers.iter().filter(|worker| worker.holds_slot).map(|worker| worker.slot);
        self.slots = Slots::without(&slots.collect::<Vec<u16>>());
        let mut slices = Slices::begin();
        for mut written in workers {
            slices.turn().await;
            if written.release == release {
                // Earlier versions counted releases.
                written.release = self.release;
            }
            let id = Id { number: written.number, instance: written.instance };
            self.adopt_worker(id, written)?;
        }
        if layout != LAYOUT_VERSION {
            // Their counters begin anew.
            let places = self.workers.values_mut().flat_map(|worker| &mut worker.places);
            places.for_each(|place| place.selected_before = 0);
        }
        for listener in &anew {
            self.fill(listener).await?;
        }
        self.adopt_table(layout, &anew).await;
        self.tell_rosters(None);
        // Now the new program knows all that the old one knew.
        for at in 0..self.doors.len() {
            slices.turn().await;
            if let Err(error) = self.attach_door(at) {
                // It is tried again each second.
                warn!(service = self.config.name, "{error:#}");
            }
        }
        for id in std::mem::take(&mut self.ended_meanwhile) {
            warn!(worker = self.name_of(id.number), "it ended while there was no daemon");
            self.happen(id, Event::Ended { killed: false });
        }
        self.rebalance();
        self.spread().await;
        self.prune_doors();
        self.refill().await;
        let running = self.workers.values().filter(|worker| worker.process.is_some()).count();
        info!(service = self.config.name, workers = running, "taken over from the daemon before");
        Ok(())
    }

    /// Goes on with the group of a listener, also if its pins are gone.
    async fn adopt_door(&self, door: &state_file::Door, layout: u32) -> Result<Door> {
        if let Some(program) = door.program {
            let pins = self.surroundings.pins.directory(&self.config.name, &door.name)?;
            recover::pin_again(program, &pins)?;
        }
        let which = (&door.asked, &door.bound);
        Door::take_over(&self.config, which, &door.name, layout, &self.surroundings, &self.tracer).await
    }

    /// Puts the sockets of workers into the slots of another group than they were in. They are free for that
    /// when the last reference to the old one is gone, which is dropped a moment after its program.
    async fn fill(&mut self, listener: &Listener) -> Result<()> {
        let until = Instant::now() + FREED;
        let Some(door) = door_of(&mut self.doors, listener) else { return Ok(()) };
        let serves =
            |worker: &&mut Worker| worker.holds_slot && worker.life.state() != worker::State::Draining;
        for worker in self.workers.values_mut().filter(serves) {
            let Some(place) = worker.places.iter_mut().find(|place| place.listener == *listener) else {
                continue;
            };
            place.selected_before = 0;
            door.group.remove(worker.slot)?;
            loop {
                match door.group.insert_if_free(worker.slot, &place.socket) {
                    Ok(true) => break,
                    Ok(false) if Instant::now() > until => {
                        bail!("a program that nobody knows still has the sockets of {listener}")
                    }
                    Ok(false) => sleep(LOOK).await,
                    Err(error) => {
                        // It is put right, if it can be, as for any that has closed or shut down its own.
                        warn!(worker = worker.name, "cannot put {listener} back into service: {error:#}");
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Buckets are where they were; in groups that were made `anew`, where they are in the others.
    async fn adopt_table(&mut self, layout: u32, anew: &[Listener]) {
        if layout != LAYOUT_VERSION {
            warn!(
                service = self.config.name,
                "its maps had layout {layout} and have {LAYOUT_VERSION} now: counters are zero, and UDP flows of \
                 moving buckets go to the new worker"
            );
        }
        let known = |door: &&Door| !anew.contains(door.group.listener());
        let Some(door) = self.doors.iter().find(known).or(self.doors.first()) else { return };
        self.table = Table::of(door.group.owners());
        // All groups have the same, also if the daemon died while it was telling them.
        let keepers = self.keepers();
        let mut slices = Slices::begin();
        for door in &self.doors {
            door.publish(&self.table, &keepers);
            slices.turn().await;
        }
        // Exact again, if a change was being published, or whoever had buckets is gone.
        self.spreading = Some(self.admitted());
        self.spread().await;
    }

    fn adopt_worker(&mut self, id: Id, written: state_file::Worker) -> Result<()> {
        let name = self.name_of(id.number);
        let left = written.life;
        let guest = left.origin == Origin::Joined;
        let leaves = left.state == worker::State::Draining;
        let process = process_of(&written);
        let cgroup = cgroup_of(&written);
        if process.is_none()
            && !(guest || leaves)
            && let (Some(ended), Some((mark, _))) = (written.process, &written.notify)
        {
            process::kill_rest(ended, cgroup.as_ref(), mark);
        }
        cgroup.into_iter().for_each(|cgroup| self.surroundings.cgroups.take_over(cgroup));
        let found = self.find_places(&written, process.as_ref());
        let mut places = found.unwrap_or_else(|error| {
            warn!(worker = name, "cannot get its sockets: {error:#}");
            Vec::new()
        });
        // A successor that had not taken over, and who leaves and is gone, leave nothing.
        let mut forget = written.trial || (process.is_none() && (guest || (leaves && !left.returns)));
        forget |= process.is_none() && !written.holds_slot;
        // One that leaves has closed what it needs no more.
        let lost = places.len() < written.places.len() && !leaves;
        if !forget
            && written.holds_slot
            && (lost || process.is_none())
            && let Err(error) = self.reopen(&written, &mut places)
        {
            warn!(worker = name, "cannot give it new sockets, so that it ends: {error:#}");
            forget = true;
        }
        if forget {
            process.iter().filter(|_| !guest).for_each(Process::terminate);
            self.disown(&places);
            if written.holds_slot {
                self.free_slot(written.slot);
                self.doors.iter_mut().try_for_each(|door| door.group.remove(written.slot))?;
            }
            return Ok(());
        }
        if written.holds_slot && !leaves {
            self.put_back(&places, written.slot, &name);
            self.tracer.rename(written.slot, Some(&name));
        }
        let mut worker = Worker {
            holds_slot: written.holds_slot,
            release: written.release,
            weight: written.weight,
            life: Life::taken_over(&left, Instant::now(), &self.config),
            ..Worker::new(id, name, written.slot, left.origin, places)
        };
        let unheard = |error: &anyhow::Error| warn!(worker = worker.name, "it cannot be heard: {error:#}");
        let whom = self.next_whom(id);
        let notify = written.notify.filter(|_| process.is_some());
        let heard = notify.map(|(path, owner)| self.listen_to(whom, path, owner).inspect_err(unheard));
        match (process, heard) {
            (Some(process), Some(Ok(notify))) => {
                let output = fd_passing::descriptor_of(process.pid(), 1).and_then(Output::resume);
                // It listens no more; or its READY=1 was lost, if it said that, and it cannot be seen
                // whether it waits for work: another one takes its place. A guest is not ours to end.
                let unready = matches!(left.state, worker::State::Starting | worker::State::Failed)
                    && self.surroundings.waits.is_none();
                if !guest && (lost || unready) {
                    process.terminate();
                }
                worker.process = Some(self.running(whom, process, notify, output));
                worker.started = Some(Instant::now());
                if written.watched {
                    worker.alive(self.config.watchdog);
                }
            }
            // It ended while nobody looked, or never had one, or another takes its place.
            (process, _) => {
                process.iter().filter(|_| !guest).for_each(Process::terminate);
                if left.running {
                    self.ended_meanwhile.push(id);
                }
            }
        }
        self.workers.insert(id, worker);
        Ok(())
    }

    /// The sockets of a worker, from its process.
    fn find_places(&self, written: &state_file::Worker, process: Option<&Process>) -> Result<Vec<Place>> {
        let Some(process) = process else { return Ok(Vec::new()) };
        let cookies: Vec<u64> = written.places.iter().map(|place| place.cookie).collect();
        // What it started may have its sockets, and not itself.
        let mut sockets = fd_passing::sockets_of_all(process.pid(), || process.all(), &cookies)?;
        let mut places = Vec::new();
        for place in &written.places {
            let at = sockets.iter().position(|(cookie, _)| *cookie == place.cookie);
            let Some(socket) = at.map(|at| sockets.swap_remove(at).1) else { continue };
            self.surroundings.ours.borrow_mut().insert(place.cookie);
            let (listener, cookie, selected_before) = (place.listener, place.cookie, place.selected_before);
            let selected_after = (!written.holds_slot).then_some(0);
            let socket = Arc::new(socket);
            places.push(Place { listener, socket, cookie, selected_before, selected_after });
        }
        Ok(places)
    }

    /// Puts sockets into their slot that are not there: the daemon may have died while it was
    /// replacing a worker, or rescuing a queue.
    fn put_back(&mut self, places: &[Place], slot: u16, name: &str) {
        let backlog = self.config.backlog;
        for place in places {
            let Some(door) = door_of(&mut self.doors, &place.listener) else { continue };
            let tcp = place.listener.protocol == Protocol::Tcp;
            let done = if tcp && !place.socket.is_listener().unwrap_or(true) {
                socket::listen_again(&place.socket, &mut door.group, slot, backlog)
            } else {
                door.group.insert_if_free(slot, &place.socket).map(drop)
            };
            if let Err(error) = done {
                warn!(worker = name, "cannot put {} back into service: {error:#}", place.listener);
            }
        }
    }

    /// New sockets in the slot of a worker whose old ones are gone.
    fn reopen(&mut self, written: &state_file::Worker, places: &mut Vec<Place>) -> Result<()> {
        let missing = |place: &&state_file::Place| !places.iter().any(|it| it.listener == place.listener);
        for wanted in written.places.iter().filter(missing).collect::<Vec<&state_file::Place>>() {
            let door = self.doors.iter().position(|door| *door.group.listener() == wanted.listener);
            let Some(at) = door else { continue };
            let opened = self.open_place(at, written.slot, true)?;
            places.push(Place { selected_before: wanted.selected_before, ..opened });
        }
        Ok(())
    }
}

/// Ends the processes that an earlier daemon left of a service that cannot be taken over.
pub async fn abandon(state: &State) {
    let mut slices = Slices::begin();
    for process in state.workers.iter().filter_map(process_of) {
        process.terminate();
        slices.turn().await;
    }
}

/// Whether any of those is still there.
#[must_use]
pub fn is_left(state: &State) -> bool {
    state.workers.iter().any(|worker| process_of(worker).is_some())
}

/// Its process, if that is still there.
fn process_of(worker: &state_file::Worker) -> Option<Process> {
    let kin = if worker.life.origin == Origin::Joined { Kin::Guest } else { Kin::Orphan };
    let mark = worker.notify.as_ref().map(|(path, _)| path.clone());
    Process::find(worker.process?, kin, cgroup_of(worker), mark)
}

fn cgroup_of(worker: &state_file::Worker) -> Option<Cgroup> {
    worker.cgroup.as_deref().and_then(Cgroup::find)
}

fn worker_state(worker: &Worker) -> state_file::Worker {
    let place = |place: &Place| state_file::Place {
        listener: place.listener,
        cookie: place.cookie,
        selected_before: place.selected_before,
    };
    let running = worker.process.as_ref();
    state_file::Worker {
        number: worker.id.number,
        instance: worker.id.instance,
        slot: worker.slot,
        holds_slot: worker.holds_slot,
        trial: worker.trial,
        release: worker.release,
        weight: worker.weight,
        life: worker.life.left(),
        watched: worker.bite_at.is_some(),
        process: running.map(|running| running.process.identity()),
        cgroup: running.and_then(|running| running.process.cgroup()).map(Path::to_owned),
        notify: running.map(|running| (Path::to_owned(running.notify.path()), running.notify.owner())),
        places: worker.places.iter().map(place).collect(),
    }
}
