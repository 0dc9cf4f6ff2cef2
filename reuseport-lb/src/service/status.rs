//! Making a service's report from its engine, its groups and its sockets. Not: completing it (`report.rs`).

use std::collections::HashMap;
use std::time::Instant;

use anyhow::Result;
use reuseport_lb_client::api::{GroupStatus, Refusal, ServiceStatus, WorkerStatus};
use reuseport_lb_common::counters::Counter;
use reuseport_lb_common::table::BUCKETS;

use super::Service;
use super::command::MOVING;
use super::groups::ListenerGroup;
use super::report::{Reach, Rest, Seen, ServiceReport, in_numbers};
use crate::config::ServiceConfig;
use crate::config::process::LogTo;
use crate::config::settings::without_secrets;
use crate::domain::buckets;
use crate::domain::engine::{Standing, Worker, WorkerSocket};
use crate::domain::listener::{Listener, Protocol};
use crate::domain::ports::{Dataplane, ListenerId, Processes};
use crate::domain::slots::SlotSet;
use crate::domain::table::Member;
use crate::domain::worker::{Origin, State};
use crate::kernel::group::Totals;
use crate::placeholders;

impl Service {
    /// The report without the parts that take milliseconds per listener: a thread completes it.
    pub(super) fn report(&self) -> Result<ServiceReport, Refusal> {
        self.quick_report().map_err(|error| Refusal::Failed(format!("{error:#}")))
    }

    fn quick_report(&self) -> Result<ServiceReport> {
        let mut totals = HashMap::new();
        for group in self.groups() {
            totals.insert(*group.group.listener(), group.group.totals()?);
        }
        let service = self.status(&totals);
        let of = |(group, shown): (&ListenerGroup, &GroupStatus)| {
            (*group.group.listener(), group.flow_counter(shown.counters.values().sum()))
        };
        Ok(ServiceReport {
            groups: self.groups().zip(&service.groups).map(of).collect(),
            service,
            workers: self.engine.pool().iter().map(|worker| self.rest(worker, &totals)).collect(),
            ours: self.surroundings.ours.borrow().clone(),
        })
    }

    fn groups(&self) -> impl Iterator<Item = &ListenerGroup> {
        self.engine.listeners().filter_map(|listener| self.engine.dataplane().get(listener.id))
    }

    fn rest(&self, worker: &Worker, totals: &HashMap<Listener, Totals>) -> Rest {
        let slot = usize::from(worker.slot);
        let dataplane = self.engine.dataplane();
        let sockets = dataplane.sockets();
        let sockets = sockets.borrow();
        let seen = |socket: &WorkerSocket| {
            let own = sockets.get(&socket.cookie);
            let (listener, reach) = match own {
                Some(own) => (own.listener, Reach::Own(own.socket.clone())),
                None => {
                    dataplane.place(socket.cookie).map(|place| (place.listener, Reach::Adopted(*place)))?
                }
            };
            let now = selected(totals, &listener, slot);
            let since = if worker.holds_slot() { now.saturating_sub(socket.selected_before) } else { 0 };
            Some(Seen {
                listener,
                reach,
                cookie: socket.cookie.0,
                selected: socket.selected_after.unwrap_or(since),
                live: dataplane.live(socket.cookie),
            })
        };
        Rest {
            slot: worker.holds_slot().then_some(slot),
            sockets: worker.sockets.iter().filter_map(seen).collect(),
        }
    }

    /// Drops the report that [`Service::busy`] made.
    pub(super) fn idle(&self) {
        if let Some(shown) = &self.shown {
            shown.take();
        }
    }

    /// Makes a report that status requests get while the service is busy `with` something that takes its time.
    pub(super) fn busy(&self, with: &str) {
        let Some(shown) = &self.shown else { return };
        if let Ok(mut report) = self.report() {
            report.service.busy = Some(with.to_owned());
            *shown.borrow_mut() = Some(report);
        }
    }

    /// The status without flows, strangers and sockets.
    fn status(&self, totals: &HashMap<Listener, Totals>) -> ServiceStatus {
        let (engine, config) = (&self.engine, &self.engine.settings().config);
        let placement = engine.placement();
        let members = placement.members().iter().map(Member::slot).collect();
        let known = Known { shares: placement.table().shares(), members, totals };
        let waiting = engine.flows().waiting();
        ServiceStatus {
            name: config.name.clone(),
            affinity: config.affinity.to_string(),
            moved: engine.placement().moved(),
            moving: self.moving().into_iter().filter(|moving| *moving).count(),
            waiting,
            pending: (waiting > 0).then(|| {
                format!("{waiting} buckets wait: flows of two workers live in those that could move")
            }),
            flows_cut: engine.flows().cut(),
            totals: in_numbers(engine.tally()),
            settings: without_secrets(config),
            start_timeout_ms: config.start_timeout.as_millis() as u64,
            socket_owner: engine.settings().socket_owner().map(|user| user.name.clone()),
            may_join: engine.settings().may_join().iter().map(|user| user.name.clone()).collect(),
            wanted: config.workers,
            adopts: self.adopts(),
            unsaved: self.saver.failure().map(str::to_owned),
            busy: engine.busy().map(str::to_owned),
            ending: self.retires.is_some() || engine.is_stopping(),
            groups: engine.listeners().filter_map(|it| self.group_status(it.id, totals)).collect(),
            workers: engine.pool().iter().map(|worker| self.worker_status(worker, &known)).collect(),
        }
    }

    /// Which buckets are moving in any group.
    fn moving(&self) -> Vec<bool> {
        let mut moving = vec![false; BUCKETS];
        let tracked = self.groups().filter(|it| it.asked.protocol == Protocol::Udp);
        tracked.for_each(|it| buckets::mark_moving(it.memory(), &mut moving));
        moving
    }

    /// The slot that owns each bucket, with [`MOVING`].
    pub(super) fn bucket_owners(&self) -> Vec<u16> {
        let owners = self.engine.placement().table().owners().iter().zip(self.moving());
        owners.map(|(owner, moving)| owner & !MOVING | if moving { MOVING } else { 0 }).collect()
    }

    fn group_status(&self, id: ListenerId, totals: &HashMap<Listener, Totals>) -> Option<GroupStatus> {
        let group = self.engine.dataplane().get(id)?;
        let listener = group.group.listener();
        let events = totals.get(listener).map(|totals| totals.events);
        let count = |counter: &Counter| events.map_or(0, |events| events[counter.index()]);
        let counter = |counter: &Counter| (counter.name().to_owned(), count(counter));
        let own = &self.engine.settings().config.name;
        Some(GroupStatus {
            listen: listener.to_string(),
            name: self.engine.socket_name(id),
            protocol: listener.protocol.to_string(),
            program_id: group.group.program_id(),
            counters: Counter::ALL.iter().map(counter).collect(),
            flows: None,
            decided_by: self.surroundings.claims.holder(&group.asked).filter(|it| it != own),
            strangers: None,
        })
    }

    fn worker_status(&self, worker: &Worker, known: &Known<'_>) -> WorkerStatus {
        let engine = &self.engine;
        let standing = engine.standing(worker);
        let slot = usize::from(worker.slot);
        let buckets = if worker.holds_slot() { known.shares[slot] } else { 0 };
        let dropped = engine.processes().dropped(worker.id.number, worker.process.map(|running| running.key));
        let selected = |id| selected(known.totals, &engine.dataplane().address(id), slot);
        WorkerStatus {
            name: worker.name.clone(),
            slot: worker.slot,
            state: state_shown(worker, &standing),
            pid: worker.process.and_then(|running| engine.processes().pid(running.key)),
            usage: None,
            weight: worker.weight,
            member: worker.is_member() && known.members.contains(worker.slot),
            share: f64::from(buckets) / BUCKETS as f64,
            buckets,
            flows: 0,
            restarts: worker.life.restarts(),
            kills: worker.life.kills(),
            joined: worker.life.origin() == Origin::Joined,
            successor: worker.is_successor(),
            overloaded: standing.overloaded,
            lacks: engine.lacks(worker, Instant::now(), selected),
            log: log_of(&worker.name, worker.is_started(), &engine.settings().config),
            dropped_lines: dropped.lines,
            dropped_bytes: dropped.bytes,
            last_words: worker.sightings.last_words.clone(),
            sockets: Vec::new(),
        }
    }
}

/// What is found out once for all workers.
struct Known<'a> {
    /// Buckets of each slot.
    shares: Vec<u32>,
    /// Slots of the table's members.
    members: SlotSet,
    /// What was counted at each listener.
    totals: &'a HashMap<Listener, Totals>,
}

/// How often a slot was selected at a listener so far.
fn selected(totals: &HashMap<Listener, Totals>, listener: &Listener, slot: usize) -> u64 {
    totals.get(listener).map_or(0, |totals| totals.selected[slot])
}

/// The file that the output of a worker goes into, if it has one.
fn log_of(worker: &str, started: bool, config: &ServiceConfig) -> Option<String> {
    match &config.process.log {
        LogTo::File(file) if started => Some(placeholders::fill(&file.path, worker, 0)),
        _ => None,
    }
}

pub(super) fn state_shown(worker: &Worker, standing: &Standing) -> String {
    match worker.life.state() {
        State::Ready if standing.is_stalled() && standing.never => "loading".into(),
        State::Ready if standing.is_stalled() => "stalled".into(),
        state => state.to_string(),
    }
}
