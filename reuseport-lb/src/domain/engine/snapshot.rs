//! From one daemon to the next: the snapshot of an engine, and an engine from a snapshot.

use std::time::Instant;

use tracing::warn;

use super::super::apart::Apart;
use super::super::flows::FlowTracking;
use super::super::incident::{Cause, IncidentKind};
use super::super::incidents::IncidentQueue;
use super::super::listeners::{ListenerState, Listeners};
use super::super::monitor::Monitor;
use super::super::placement::Placement;
use super::super::pool::{New, Pool, Running, Seat, WorkerSocket};
use super::super::ports::{Cookie, Dataplane, Processes, WorkerId};
use super::super::slots::Slots;
use super::super::startup::Startup;
use super::super::table::{BucketChange, BucketTable};
use super::super::tally::Tally;
use super::super::watchdog::Watchdog;
use super::super::worker::{Event, Life, Origin, State};
use super::agenda::Agenda;
use super::records::{ListenerRecord, WorkerRecord};
use super::{Engine, Settings};

/// What the next daemon needs to know of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Settings in force and as configured. (The identity of the user is looked up anew.)
    pub settings: Settings,
    /// Buckets that changed their worker so far.
    pub moved: u64,
    /// UDP flows that were cut so far.
    pub flows_cut: u64,
    /// What has happened so far, in numbers.
    pub tally: Tally,
    /// The last serial number in use.
    pub serial: u64,
    /// Revision of the settings in force.
    pub revision: u64,
    /// All listeners in their order.
    pub listeners: Vec<ListenerRecord>,
    /// All workers.
    pub workers: Vec<WorkerRecord>,
}

/// What the next daemon has found of a worker.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// The process runs.
    pub runs: bool,
    /// The process can send messages: its notification socket could be made again.
    pub heard: bool,
    /// The worker's sockets that still exist.
    pub sockets: Vec<Cookie>,
}

impl<D: Dataplane, P: Processes> Engine<D, P> {
    /// What the next daemon needs to know now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            settings: self.settings.clone(),
            moved: self.placement.moved(),
            flows_cut: self.flows.cut(),
            tally: self.tally().clone(),
            serial: self.pool.serial(),
            revision: self.settings.revision(),
            listeners: self.listeners.iter().map(ListenerRecord::of).collect(),
            workers: self.pool.iter().map(WorkerRecord::of).collect(),
        }
    }

    /// Whether [`Engine::snapshot`] would equal `known`; takes less time than making one.
    #[must_use]
    pub fn is_as(&self, known: &Snapshot) -> bool {
        self.settings == known.settings
            && self.placement.moved() == known.moved
            && self.flows.cut() == known.flows_cut
            && *self.tally() == known.tally
            && self.pool.serial() == known.serial
            && self.listeners.iter().map(ListenerRecord::of).eq(known.listeners.iter().cloned())
            && self.pool.len() == known.workers.len()
            && self.pool.iter().zip(&known.workers).all(|(worker, record)| record.is_of(worker))
    }

    /// Goes on with the service of an earlier daemon. `found`: what exists of each worker of `snapshot`, in its order.
    /// The ports know the listeners, and the sockets and processes that were found. `emptied`: maps were made anew, so
    /// that counters begin at 0.
    pub fn restore(
        snapshot: Snapshot,
        found: Vec<Found>,
        emptied: bool,
        ports: (D, P),
        now: Instant,
    ) -> Result<Self, String> {
        let (dataplane, processes) = ports;
        let Snapshot { settings, moved, flows_cut, tally, serial, revision, listeners, workers } = snapshot;
        let taken: Vec<u16> = workers.iter().filter(|it| it.holds_slot).map(|it| it.slot).collect();
        let mut known = Listeners::default();
        for ListenerRecord { id, asked, wanted, avoided, left } in listeners {
            let mut listener = ListenerState::new(id, asked, wanted);
            listener.apart = avoided.map(|slots| Apart::of(BucketTable::default(), slots));
            listener.left.extend(left);
            known.push(listener);
        }
        let mut engine = Self {
            pool: Pool::new(&settings.config.name, serial, Slots::without(&taken)),
            listeners: known,
            placement: Placement::of(BucketTable::default(), moved),
            flows: FlowTracking::new(flows_cut),
            rollout: None,
            monitor: Monitor::new(now),
            startup: Startup::Up,
            agenda: Agenda { incidents: IncidentQueue::after(tally), ..Agenda::default() },
            stopping: false,
            settings,
            dataplane,
            processes,
        };
        engine.describe_listeners();
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
        engine.restore_table(now);
        engine.publish_rosters(None);
        // Only now, when the maps of the new program say all that those of the old one said.
        for listener in engine.listeners.ids() {
            if let Err(error) = engine.attach(listener) {
                // `repair_all` attaches again each second.
                warn!(service = engine.settings.config.name, "{error}");
            }
        }
        // The table may not be exact: a change may have been half written, or a worker with buckets is gone.
        engine.placement.want(engine.pool.admitted());
        for id in ended {
            let kind = IncidentKind::Ended { successor: false, expected: false };
            engine.tell_of(id, kind, Cause::own("ended while no daemon ran"));
            engine.on_event(id, Event::Ended { killed: false }, now);
        }
        engine.rebalance();
        engine.begin_refilling();
        engine.prune_listeners();
        let running = engine.pool.iter().filter(|worker| worker.process.is_some()).count();
        engine.tell(IncidentKind::TakenOver { workers: running }, Cause::default());
        Ok(engine)
    }

    /// Reads the table from a group and writes it into all of them: the earlier daemon may have died between two.
    fn restore_table(&mut self, now: Instant) {
        let Some(first) = self.listeners.at(0) else { return };
        let there = || self.listeners.iter().filter(|it| !self.dataplane.is_new(it.id));
        let common = there().find(|it| it.apart.is_none());
        let known = common.or_else(|| there().next()).unwrap_or(first);
        let mut table = BucketTable::of(self.dataplane.owners(known.id));
        if common.is_none() && known.apart.is_some() {
            // All have buckets of their own: those of the service, which no group has now, are made from them.
            table.rebalance(&self.pool.admitted());
        }
        let all: Vec<BucketChange> = (0..=u16::MAX).zip(table.owners().iter().copied()).collect();
        self.flows.pin(self.pool.pinned());
        for listener in self.listeners.ids() {
            if !self.restore_apart(listener, now) {
                self.dataplane.publish(listener, &all, self.flows.pinned());
            }
        }
        self.placement = Placement::of(table, self.placement.moved());
    }

    /// Restores one worker, or forgets it; returns its id if its process has ended meanwhile.
    fn restore_worker(
        &mut self,
        record: &WorkerRecord,
        found: &Found,
        now: Instant,
    ) -> Result<Option<WorkerId>, String> {
        let WorkerRecord { id, slot, weight, revision, life, .. } = *record;
        let name = self.pool.name_of(id);
        let joined = life.origin == Origin::Joined;
        let part = life.origin == Origin::Bound;
        let adopted = life.origin == Origin::Adopted;
        let opens = self.opens_sockets() || life.opens || part;
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
                // Only the daemon had those that the process had not bound.
                opened: opens,
            })
            .collect();
        // Forgotten are successors that had not taken over, and workers whose process has ended and gets no next one.
        let mut forget = record.trial || (!found.runs && (joined || (leaves && !life.returns)));
        forget |= !found.runs && !record.holds_slot;
        forget |= part && (!found.runs || sockets.is_empty());
        forget |= adopted && sockets.is_empty();
        // A leaving worker may have closed sockets itself.
        let lost = sockets.len() < record.sockets.len() && !leaves && !adopted;
        if !forget
            && record.holds_slot
            && (lost || !found.runs)
            && let Err(error) = self.reopen(record, &mut sockets)
        {
            warn!(worker = name, "cannot open new sockets, so the worker ends: {error}");
            forget = true;
        }
        if forget {
            if let Some(process) = record.process.filter(|_| found.runs && !joined && !part) {
                self.processes.terminate(process, record.stop);
            }
            if let Some(process) = record.process.filter(|_| !part) {
                self.processes.forget(process);
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
        }
        if record.holds_slot {
            self.dataplane.name_slot(slot, Some((id, &name)));
        }
        let seat = if record.holds_slot { Seat::Own } else { Seat::Former };
        let origin = life.origin;
        self.pool.insert(id, New { number: id.number, origin, weight, slot, seat, revision, sockets });
        Ok(self.restore_process(record, found, lost && !opens, now))
    }

    /// Restores the process of a worker; returns the worker's id if the process has ended.
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
        if life.origin == Origin::Adopted {
            // Its process is found with its sockets.
            return None;
        }
        let Some(key) = record.process.filter(|_| found.runs) else {
            return life.running.then_some(record.id);
        };
        if !found.heard {
            // The worker gets another process. A joined process is left alone.
            if !joined && record.id.part == 0 {
                self.processes.terminate(key, record.stop);
            }
            self.processes.forget(key);
            return life.running.then_some(record.id);
        }
        let unknown = !matches!(life.state, State::Ready | State::Draining);
        let selected = if unknown { self.pool.get(record.id).map_or(0, |it| self.selected(it)) } else { 0 };
        let worker = self.pool.get_mut(record.id)?;
        worker.process = Some(Running { key, since: now, selected, stop: record.stop });
        worker.sightings.bound.clone_from(&record.bound);
        if record.watched {
            worker.watchdog = Watchdog::fed(watchdog, now);
        }
        // The worker gets another process if this one has lost sockets; or if its READY=1 may be lost, and this kernel
        // does not show whether it waits for work.
        let unready = matches!(life.state, State::Starting | State::Failed) && !self.dataplane.sees_waits();
        if !joined && record.id.part == 0 && (lost || unready) {
            self.processes.terminate(key, record.stop);
        }
        None
    }

    /// Opens new sockets in the slot of a worker, for those that do not exist any more.
    fn reopen(&mut self, record: &WorkerRecord, sockets: &mut Vec<WorkerSocket>) -> Result<(), String> {
        for (listener, _, selected_before) in &record.sockets {
            let known = self.listeners.iter().any(|it| it.id == *listener);
            if !known || sockets.iter().any(|socket| socket.listener == *listener) {
                continue;
            }
            let opened = self.open_socket(*listener, record.slot, true)?;
            // What was sent to a socket before there was a process was not for the first one.
            let begun = record.life.running || record.life.restarts > 0;
            let selected_before = if begun { *selected_before } else { opened.selected_before };
            sockets.push(WorkerSocket { selected_before, ..opened });
        }
        Ok(())
    }
}
