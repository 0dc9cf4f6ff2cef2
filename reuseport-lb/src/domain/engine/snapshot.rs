//! From one daemon to the next: what the engine must be told again, and going on with it.

use std::time::Instant;

use tracing::{info, warn};

use super::super::flows::FlowTracking;
use super::super::listener::Listener;
use super::super::listeners::{ListenerState, Listeners};
use super::super::monitor::Monitor;
use super::super::placement::Placement;
use super::super::pool::{New, Pool, Running, Seat, Worker, WorkerSocket};
use super::super::ports::{Cookie, Dataplane, ListenerId, ProcessKey, Processes, WorkerId};
use super::super::slots::Slots;
use super::super::startup::Startup;
use super::super::table::{Change as Move, Table};
use super::super::watchdog::Watchdog;
use super::super::worker::{Event, Left, Life, Origin, State};
use super::agenda::Agenda;
use super::{Engine, Settings};

/// What the next daemon must know of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Its settings. (The identity of the user is looked up anew.)
    pub settings: Settings,
    /// Buckets that changed their worker so far.
    pub moved: u64,
    /// UDP flows that were cut so far.
    pub flows_cut: u64,
    /// Serial numbers used so far.
    pub serial: u64,
    /// What a process is started with now.
    pub revision: u64,
    /// In the order of the configuration, and then those that are no longer wanted.
    pub listeners: Vec<ListenerRecord>,
    /// All of them.
    pub workers: Vec<WorkerRecord>,
}

/// One listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerRecord {
    /// Which.
    pub id: ListenerId,
    /// As configured.
    pub asked: Listener,
    /// Whether new workers get sockets of it.
    pub wanted: bool,
}

/// One worker.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerRecord {
    /// Which.
    pub id: WorkerId,
    /// Its slot.
    pub slot: u16,
    /// Whether that is its own.
    pub holds_slot: bool,
    /// Whether it is to replace another one.
    pub trial: bool,
    /// What it was started with.
    pub revision: u64,
    /// Its weight.
    pub weight: u32,
    /// Where it is in its life.
    pub life: Left,
    /// Whether its watchdog runs.
    pub watched: bool,
    /// Its process, if it runs.
    pub process: Option<ProcessKey>,
    /// Listener, socket, and what its slot had been selected for before.
    pub sockets: Vec<(ListenerId, Cookie, u64)>,
}

/// What is still there of a worker that an earlier daemon left.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// Its process runs.
    pub runs: bool,
    /// What that says can be heard.
    pub heard: bool,
    /// Its sockets that are still there.
    pub sockets: Vec<Cookie>,
}

impl<D: Dataplane, P: Processes> Engine<D, P> {
    /// What the next daemon must know.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            settings: self.settings.clone(),
            moved: self.placement.moved(),
            flows_cut: self.flows.cut(),
            serial: self.pool.serial(),
            revision: self.settings.revision(),
            listeners: self.listeners.iter().map(ListenerRecord::of).collect(),
            workers: self.pool.iter().map(WorkerRecord::of).collect(),
        }
    }

    /// Whether the next daemon would know all of it by this; costs less than making another one.
    #[must_use]
    pub fn is_as(&self, known: &Snapshot) -> bool {
        self.settings == known.settings
            && self.placement.moved() == known.moved
            && self.flows.cut() == known.flows_cut
            && self.pool.serial() == known.serial
            && self.listeners.iter().map(ListenerRecord::of).eq(known.listeners.iter().copied())
            && self.pool.len() == known.workers.len()
            && self.pool.iter().zip(&known.workers).all(|(worker, record)| record.is_of(worker))
    }

    /// Goes on with what an earlier daemon left: `snapshot`, of which it has `found` so much of each worker. The ports
    /// know the listeners, and the sockets and processes that were found. `emptied`: its maps are new, so that counters
    /// begin anew.
    pub fn restore(
        snapshot: Snapshot,
        found: Vec<Found>,
        emptied: bool,
        ports: (D, P),
        now: Instant,
    ) -> Result<Self, String> {
        let (dataplane, processes) = ports;
        let Snapshot { settings, moved, flows_cut, serial, revision, listeners, workers } = snapshot;
        let taken: Vec<u16> = workers.iter().filter(|it| it.holds_slot).map(|it| it.slot).collect();
        let mut known = Listeners::default();
        for ListenerRecord { id, asked, wanted } in listeners {
            known.push(ListenerState::new(id, asked, wanted));
        }
        let mut engine = Self {
            pool: Pool::new(&settings.config.name, serial, Slots::without(&taken)),
            listeners: known,
            placement: Placement::of(Table::default(), moved),
            flows: FlowTracking::new(flows_cut),
            rollout: None,
            monitor: Monitor::new(now),
            startup: Startup::Up,
            agenda: Agenda::default(),
            stopping: false,
            settings,
            dataplane,
            processes,
        };
        let mut ended = Vec::new();
        for (mut record, found) in workers.into_iter().zip(found) {
            if record.revision == revision {
                // Earlier versions counted revisions.
                record.revision = engine.settings.revision();
            }
            if emptied {
                record.sockets.iter_mut().for_each(|(.., selected_before)| *selected_before = 0);
            }
            ended.extend(engine.restore_worker(&record, &found, now)?);
        }
        engine.restore_table();
        engine.publish_rosters(None);
        // Now the new program knows all that the old one knew.
        for listener in engine.listeners.ids() {
            if let Err(error) = engine.attach(listener) {
                // It is tried again each second.
                warn!(service = engine.settings.config.name, "{error}");
            }
        }
        // Exact again, if a change was being published, or whoever had buckets is gone.
        engine.placement.want(engine.pool.admitted());
        for id in ended {
            warn!(worker = engine.pool.name_of(id.number), "it ended while there was no daemon");
            engine.on_event(id, Event::Ended { killed: false }, now);
        }
        engine.rebalance();
        engine.begin_refilling();
        engine.prune_listeners();
        let running = engine.pool.iter().filter(|worker| worker.process.is_some()).count();
        info!(service = engine.settings.config.name, workers = running, "taken over from the daemon before");
        Ok(engine)
    }

    /// Buckets are where they were: all groups have the same, also if the daemon died while it was telling them.
    fn restore_table(&mut self) {
        let Some(first) = self.listeners.at(0) else { return };
        let known = self.listeners.iter().find(|it| !self.dataplane.is_new(it.id)).unwrap_or(first);
        let table = Table::of(self.dataplane.owners(known.id));
        let all: Vec<Move> = (0..=u16::MAX).zip(table.owners().iter().copied()).collect();
        self.flows.pin(self.pool.pinned());
        for listener in self.listeners.ids() {
            self.dataplane.publish(listener, &all, self.flows.pinned());
        }
        self.placement = Placement::of(table, self.placement.moved());
    }

    /// One worker; its id if its process has ended meanwhile.
    fn restore_worker(
        &mut self,
        record: &WorkerRecord,
        found: &Found,
        now: Instant,
    ) -> Result<Option<WorkerId>, String> {
        let WorkerRecord { id, slot, weight, revision, life, .. } = *record;
        let name = self.pool.name_of(id.number);
        let joined = life.origin == Origin::Joined;
        let leaves = life.state == State::Draining;
        let mut sockets: Vec<WorkerSocket> = record
            .sockets
            .iter()
            .filter(|(_, cookie, _)| found.sockets.contains(cookie))
            .map(|(listener, cookie, selected_before)| WorkerSocket {
                listener: *listener,
                cookie: *cookie,
                selected_before: *selected_before,
                selected_after: (!record.holds_slot).then_some(0),
            })
            .collect();
        // A successor that had not taken over, and who leaves and is gone, leave nothing.
        let mut forget = record.trial || (!found.runs && (joined || (leaves && !life.returns)));
        forget |= !found.runs && !record.holds_slot;
        // One that leaves has closed what it needs no more.
        let lost = sockets.len() < record.sockets.len() && !leaves;
        if !forget
            && record.holds_slot
            && (lost || !found.runs)
            && let Err(error) = self.reopen(record, &mut sockets)
        {
            warn!(worker = name, "cannot give it new sockets, so that it ends: {error}");
            forget = true;
        }
        if forget {
            if let Some(process) = record.process.filter(|_| found.runs && !joined) {
                self.processes.terminate(process);
            }
            if let Some(process) = record.process {
                self.processes.bury(process);
            }
            sockets.iter().for_each(|socket| self.dataplane.close(socket.cookie));
            if record.holds_slot {
                for listener in self.listeners.ids() {
                    self.dataplane.clear(listener, slot)?;
                }
                self.pool.free_slot(slot);
            }
            return Ok(None);
        }
        if record.holds_slot && !leaves {
            for socket in &sockets {
                let backlog = self.settings.config.backlog;
                if let Err(error) = self.dataplane.put_back(socket.cookie, slot, backlog) {
                    let listener = self.dataplane.address(socket.listener);
                    warn!(worker = name, "cannot put {listener} back into service: {error}");
                }
            }
            self.dataplane.name_slot(slot, Some(&name));
        }
        let seat = if record.holds_slot { Seat::Own } else { Seat::Former };
        let origin = life.origin;
        self.pool.insert(id, New { number: id.number, origin, weight, slot, seat, revision, sockets });
        Ok(self.restore_process(record, found, lost, now))
    }

    /// The process of a worker; the worker's id if that has none, and had one.
    fn restore_process(
        &mut self,
        record: &WorkerRecord,
        found: &Found,
        lost: bool,
        now: Instant,
    ) -> Option<WorkerId> {
        let life = &record.life;
        let joined = life.origin == Origin::Joined;
        let watchdog = self.settings.config.watchdog;
        let worker = self.pool.get_mut(record.id)?;
        worker.life = Life::taken_over(life, now, &self.settings.config);
        let Some(key) = record.process.filter(|_| found.runs) else {
            return life.running.then_some(record.id);
        };
        if !found.heard {
            // Another one takes its place. One that has joined is not ours to end.
            if !joined {
                self.processes.terminate(key);
            }
            self.processes.bury(key);
            return life.running.then_some(record.id);
        }
        let unknown = !matches!(life.state, State::Ready | State::Draining);
        let selected = if unknown { self.pool.get(record.id).map_or(0, |it| self.selected(it)) } else { 0 };
        let worker = self.pool.get_mut(record.id)?;
        worker.process = Some(Running { key, since: now, selected });
        if record.watched {
            worker.watchdog = Watchdog::fed(watchdog, now);
        }
        // It listens no more; or its READY=1 was lost, if it said that, and it cannot be seen whether it waits for
        // work: another one takes its place.
        let unready = matches!(life.state, State::Starting | State::Failed) && !self.dataplane.sees_waits();
        if !joined && (lost || unready) {
            self.processes.terminate(key);
        }
        None
    }

    /// New sockets in the slot of a worker whose old ones are gone.
    fn reopen(&mut self, record: &WorkerRecord, sockets: &mut Vec<WorkerSocket>) -> Result<(), String> {
        for (listener, _, selected_before) in &record.sockets {
            let known = self.listeners.iter().any(|it| it.id == *listener);
            if !known || sockets.iter().any(|socket| socket.listener == *listener) {
                continue;
            }
            let opened = self.open_socket(*listener, record.slot, true)?;
            sockets.push(WorkerSocket { selected_before: *selected_before, ..opened });
        }
        Ok(())
    }
}

impl ListenerRecord {
    fn of(state: &ListenerState) -> Self {
        Self { id: state.id, asked: state.asked, wanted: state.wanted }
    }
}

impl WorkerRecord {
    fn of(worker: &Worker) -> Self {
        let sockets = worker.sockets.iter().map(|it| (it.listener, it.cookie, it.selected_before)).collect();
        Self { sockets, ..Self::without_sockets(worker) }
    }

    fn without_sockets(worker: &Worker) -> Self {
        Self {
            id: worker.id,
            slot: worker.slot,
            holds_slot: worker.holds_slot(),
            trial: worker.is_successor(),
            revision: worker.revision,
            weight: worker.weight,
            life: worker.life.left(),
            watched: worker.watchdog.is_armed(),
            process: worker.process.map(|running| running.key),
            sockets: Vec::new(),
        }
    }

    fn is_of(&self, worker: &Worker) -> bool {
        let Self { id, slot, holds_slot, trial, revision, weight, life, watched, process, sockets } = self;
        let now = Self::without_sockets(worker);
        let own = (*id, *slot, *holds_slot, *trial, *revision, *weight, *life, *watched, *process);
        let its = (now.id, now.slot, now.holds_slot, now.trial, now.revision, now.weight);
        (own.0, own.1, own.2, own.3, own.4, own.5) == its
            && (own.6, own.7, own.8) == (now.life, now.watched, now.process)
            && sockets
                .iter()
                .copied()
                .eq(worker.sockets.iter().map(|it| (it.listener, it.cookie, it.selected_before)))
    }
}
