//! Taking a service over from an earlier daemon: going on with its maps, sockets and processes, without a gap for
//! traffic.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use reuseport_lb_common::LAYOUT_VERSION;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::warn;

use super::dataplane::Groups;
use super::groups::{ListenerGroup, Owner};
use super::opening::{connections_of, look_up};
use super::processes::ProcessTable;
use super::state_file::{self, SavedService};
use super::trace::Tracer;
use super::{Service, Surroundings};
use crate::domain::engine::{Engine, Found, ListenerRecord, Settings, Snapshot, WorkerRecord};
use crate::domain::listener::Listener;
use crate::domain::number::Number;
use crate::domain::ports::{Cookie, ListenerId, ProcessKey, WorkerId};
use crate::domain::worker::{self, Left, Life, Origin};
use crate::kernel::adopt::Finder;
use crate::kernel::cgroup::Cgroup;
use crate::kernel::process::{self, Kin, Process};
use crate::kernel::{fd_passing, recover};
use crate::offload::{Slices, in_thread};

/// How long to wait until the kernel has freed the maps of a program after the last reference to it is gone
/// (`bpf_prog_put`, `bpf_map_put`: RCU and a work queue). If it takes longer, another process holds a reference.
const FREED: Duration = Duration::from_secs(2);

/// How often a socket's insertion is tried until then.
const LOOK: Duration = Duration::from_millis(10);

impl Service {
    /// Goes on with a service that an earlier daemon left.
    pub async fn take_over(state: SavedService, surroundings: Rc<Surroundings>) -> Result<Self> {
        let name = state.config.name.clone();
        let service = Takeover::of(state, &surroundings).await;
        let service =
            service.with_context(|| format!("service {name} cannot be taken over from the daemon before"))?;
        surroundings.starting.serves();
        Ok(service)
    }
}

/// A service that is being taken over.
struct Takeover {
    snapshot: Snapshot,
    groups: Groups,
    processes: ProcessTable,
    /// Listeners by their bound addresses.
    known: HashMap<Listener, ListenerId>,
    surroundings: Rc<Surroundings>,
}

impl Takeover {
    async fn of(state: SavedService, surroundings: &Rc<Surroundings>) -> Result<Service> {
        let found = look_up(state.config.clone()).await?;
        let settings = Settings { configured: state.configured.clone(), ..found };
        let (name, tracer) = (settings.config.name.clone(), Tracer::default());
        let (send, events) = mpsc::unbounded_channel();
        let connections = connections_of(&settings.config, surroundings).await?;
        let groups = Groups::new(&settings, surroundings, &tracer, connections, state.identities.word);
        let processes =
            ProcessTable::new(&name, (groups.sockets(), groups.opened()), groups.word(), send, surroundings);
        let snapshot = Snapshot {
            settings,
            moved: state.moved,
            flows_cut: state.flows_cut,
            tally: state.tally.clone(),
            serial: state.identities.count,
            revision: state.revision,
            listeners: Vec::new(),
            workers: Vec::new(),
        };
        let layout = state.stamp.layout;
        let (known, surroundings) = (HashMap::new(), surroundings.clone());
        let mut takeover = Self { snapshot, groups, processes, known, surroundings };
        for saved in &state.listeners {
            takeover.group(saved, layout, &tracer).await?;
        }
        if let Some(adopt) = &state.config.adopt {
            let listeners: Vec<Listener> = takeover.known.keys().copied().collect();
            let mut finder = Finder::new(adopt.whose.clone(), listeners);
            let sighting = in_thread("adopting", move || finder.look()).await?;
            takeover.groups.sighted(&sighting);
        }
        let mut found = Vec::new();
        let mut slices = Slices::begin();
        for written in &state.workers {
            slices.turn().await;
            found.push(takeover.worker(written));
        }
        takeover.fill().await?;
        if layout != LAYOUT_VERSION {
            warn!(
                service = name,
                "its maps had layout {layout} and have {LAYOUT_VERSION} now: counters are zero, and UDP flows of \
                 moving buckets go to the new worker"
            );
        }
        let Self { snapshot, groups, processes, surroundings, .. } = takeover;
        let (emptied, ports) = (layout != LAYOUT_VERSION, (groups, processes));
        let engine = Engine::restore(snapshot, found, emptied, ports, Instant::now());
        let engine = engine.map_err(|error| anyhow!(error))?;
        Ok(Service::new(engine, events, tracer, &surroundings))
    }

    /// Goes on with the group of a listener, or makes another group if that is impossible.
    async fn group(&mut self, saved: &state_file::SavedListener, layout: u32, tracer: &Tracer) -> Result<()> {
        let config = &self.snapshot.settings.config;
        let connections = self.groups.connections();
        let word = self.groups.word();
        let owner = Owner { config, surroundings: &self.surroundings, tracer, connections, word };
        let group = match adopt(saved, layout, &owner).await {
            Ok(group) => group,
            Err(error) => {
                warn!(service = config.name, "{}: {error:#}; it gets another group", saved.bound);
                ListenerGroup::make_anew((&saved.asked, &saved.bound), &saved.name, &owner).await?
            }
        };
        // A service that decided and does not any more has lost the listener, perhaps without having saved that.
        if saved.lost || (saved.since != 0 && !group.group.decides.get()) {
            self.surroundings.claims.lose(&saved.asked, &config.name);
        }
        self.snapshot.serial += 1;
        let id = ListenerId(self.snapshot.serial);
        let (asked, wanted, avoided) = (saved.asked, saved.wanted, saved.avoided.clone());
        let left: Vec<Cookie> = saved.left.iter().copied().map(Cookie).collect();
        left.iter().for_each(|cookie| self.groups.found_adopted(*cookie, None));
        self.snapshot.listeners.push(ListenerRecord { id, asked, wanted, avoided, left });
        self.known.insert(saved.bound, id);
        self.groups.add(id, group);
        Ok(())
    }

    /// Looks for the process, cgroup and sockets of a saved worker.
    fn worker(&mut self, written: &state_file::SavedWorker) -> Found {
        let id = WorkerId::from(written.id);
        let name = format!("{}/{}", self.snapshot.settings.config.name, Number::from(id));
        if written.life.origin == Origin::Adopted {
            return self.adopted(written, id);
        }
        let process = process_of(written);
        if id.part > 0 {
            return self.part(written, id, process);
        }
        let cgroup = cgroup_of(written);
        let joined = written.life.origin == Origin::Joined;
        let leaves = written.life.state == worker::State::Draining;
        if process.is_none()
            && !(joined || leaves)
            && let (Some(ended), Some((mark, _))) = (written.process.leader(), &written.process.notify)
        {
            process::kill_rest(ended, cgroup.as_ref(), mark);
        }
        cgroup.into_iter().for_each(|cgroup| self.surroundings.cgroups.take_over(cgroup));
        let mut found = Found::default();
        if let Some(process) = process {
            found.runs = true;
            found.sockets = self.sockets(written, &process).unwrap_or_else(|error| {
                warn!(worker = name, "cannot get its sockets: {error:#}");
                Vec::new()
            });
            self.snapshot.serial += 1;
            let key = ProcessKey { worker: id, incarnation: self.snapshot.serial };
            let listeners: Vec<Listener> = self.known.keys().copied().collect();
            let log = &self.snapshot.settings.config.process.log;
            found.heard = self.processes.find(key, &name, process, written, (log, &listeners));
            self.record(written, id, Some(key));
        } else {
            self.record(written, id, None);
        }
        found
    }

    /// Looks for the sockets of a saved worker whose process is that of another one, which has been found before.
    fn part(&mut self, written: &state_file::SavedWorker, id: WorkerId, process: Option<Process>) -> Found {
        let leader = self.snapshot.workers.iter().find(|record| record.id == id.leader());
        let key = leader.and_then(|record| record.process);
        let heard = key.is_some_and(|key| self.processes.get(key).is_some());
        let mut found = Found { runs: process.is_some() && key.is_some(), heard, ..Found::default() };
        if let Some(process) = process {
            found.sockets = self.sockets(written, &process).unwrap_or_default();
        }
        self.record(written, id, key);
        found
    }

    /// Looks for the sockets of others that a saved worker is for.
    fn adopted(&mut self, written: &state_file::SavedWorker, id: WorkerId) -> Found {
        let open = |place: &state_file::SavedSocket| {
            let cookie = Cookie(place.cookie);
            self.groups.place(cookie).map(|_| cookie)
        };
        let sockets: Vec<Cookie> = written.sockets.iter().filter_map(open).collect();
        sockets.iter().for_each(|cookie| self.groups.found_adopted(*cookie, Some(written.slot)));
        self.record(written, id, None);
        Found { runs: true, heard: true, sockets }
    }

    fn record(&mut self, written: &state_file::SavedWorker, id: WorkerId, process: Option<ProcessKey>) {
        let socket = |place: &state_file::SavedSocket| {
            let listener = *self.known.get(&place.listener)?;
            Some((listener, Cookie(place.cookie), place.selected_before))
        };
        let bound = |(at, cookie): &(Listener, u64)| Some((*self.known.get(at)?, Cookie(*cookie)));
        let record = WorkerRecord {
            id,
            slot: written.slot,
            holds_slot: written.holds_slot,
            trial: written.trial,
            revision: written.revision,
            weight: written.weight,
            life: written.life,
            watched: written.watched,
            stop: written.stop,
            process,
            sockets: written.sockets.iter().filter_map(socket).collect(),
            bound: written.bound.iter().filter_map(bound).collect(),
        };
        self.snapshot.workers.push(record);
    }

    /// Duplicates the sockets of a worker from its process.
    fn sockets(&mut self, written: &state_file::SavedWorker, process: &Process) -> Result<Vec<Cookie>> {
        let cookies: Vec<u64> = written.sockets.iter().map(|place| place.cookie).collect();
        // A child of the process may have the sockets though the process itself has closed them.
        let found = fd_passing::sockets_of_all(process.pid(), || process.family(), &cookies)?;
        let mut own = Vec::new();
        for (cookie, socket) in found {
            let place = written.sockets.iter().find(|place| place.cookie == cookie);
            let listener = place.and_then(|place| self.known.get(&place.listener));
            if let Some(listener) = listener {
                self.groups.found(*listener, Cookie(cookie), written.slot, socket);
                own.push(Cookie(cookie));
            }
        }
        Ok(own)
    }

    /// Puts the sockets of workers into the slots of groups that were made anew. A socket can be in one map only, so
    /// this waits until the kernel has freed the old map, a moment after its program ([`FREED`]).
    async fn fill(&mut self) -> Result<()> {
        let until = Instant::now() + FREED;
        let sockets = self.groups.sockets();
        for (id, it) in self.groups.iter_mut().filter(|(_, it)| it.is_new) {
            let serves = |record: &&mut WorkerRecord| {
                record.holds_slot && record.life.state != worker::State::Draining
            };
            for record in self.snapshot.workers.iter_mut().filter(serves) {
                let Some((_, cookie, selected_before)) =
                    record.sockets.iter_mut().find(|(listener, ..)| *listener == id)
                else {
                    continue;
                };
                *selected_before = 0;
                it.group.remove(record.slot)?;
                let own = sockets.borrow().get(cookie).cloned();
                let Some(own) = own else { continue };
                loop {
                    match it.group.insert_if_free(record.slot, &own.socket) {
                        Ok(true) => break,
                        Ok(false) if Instant::now() > until => {
                            bail!("an unknown program still has the sockets of {}", own.listener)
                        }
                        Ok(false) => sleep(LOOK).await,
                        Err(error) => {
                            // The engine repairs the socket later, like one that a worker has shut down.
                            let number = Number::from(record.id).to_string();
                            warn!(number, "cannot put {} back into service: {error:#}", own.listener);
                            break;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// Goes on with the group of a listener; if its pins are gone, they are made again while its program lives.
async fn adopt(saved: &state_file::SavedListener, layout: u32, owner: &Owner<'_>) -> Result<ListenerGroup> {
    if let Some(program) = saved.program {
        let pins = owner.surroundings.pins.directory(&owner.config.name, &saved.name)?;
        recover::pin_again(program, &pins)?;
    }
    ListenerGroup::take_over((&saved.asked, &saved.bound), &saved.name, layout, owner).await
}

/// The process of a worker that an earlier daemon left, if it still runs.
fn process_of(worker: &state_file::SavedWorker) -> Option<Process> {
    let kin = if worker.life.origin == Origin::Joined { Kin::Joined } else { Kin::Orphan };
    let mark = worker.process.notify.as_ref().map(|(path, _)| path.clone());
    Process::find(worker.process.identity?, worker.process.leader()?, kin, cgroup_of(worker), mark)
}

/// The cgroup of a worker that an earlier daemon left, if it is still there.
fn cgroup_of(worker: &state_file::SavedWorker) -> Option<Cgroup> {
    worker.process.cgroup.as_deref().and_then(Cgroup::find)
}

/// The saved life of a worker of which only the process is known.
#[must_use]
pub fn unknown_life() -> Left {
    Life::new(Origin::Started).left()
}

/// Terminates the processes of a service of an earlier daemon that cannot be taken over.
pub async fn abandon(state: &SavedService) {
    let mut slices = Slices::begin();
    for (worker, process) in state.workers.iter().filter_map(|it| Some((it, process_of(it)?))) {
        process.terminate(worker.stop);
        slices.turn().await;
    }
}

/// Whether any process of a service of an earlier daemon still runs.
#[must_use]
pub fn is_left(state: &SavedService) -> bool {
    state.workers.iter().any(|worker| process_of(worker).is_some())
}
