//! What a service says of itself, for `status`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use reuseport_lb_common::counters::Counter;
use reuseport_lb_common::layout::BUCKETS;
use socket2::Socket;
use tracing::warn;

use super::Service;
use super::groups::ListenerGroup;
use super::state_file;
use crate::config;
use crate::domain::buckets::{self, FlowCounter, LiveFlows};
use crate::domain::engine::{Standing, Worker, WorkerSocket};
use crate::domain::listener::{Listener, Protocol};
use crate::domain::ports::Processes;
use crate::domain::table::Member;
use crate::domain::worker::{Origin, State};
use crate::kernel::group::{GroupMemory, Totals};
use crate::kernel::socket;
use crate::kernel::strangers::Census;
use crate::offload::in_thread_or_here;
use crate::status;

/// A service of which nothing but its settings is known yet, and what it `is` doing.
#[must_use]
pub fn coming(config: &config::Service, is: &str) -> status::Service {
    let group = |listener: &Listener| shown_group(listener, 0);
    let worker = |number: usize| shown_worker(&config.name, number, State::Starting);
    status::Service {
        name: config.name.clone(),
        affinity: config.affinity.to_string(),
        moved: 0,
        moving: 0,
        waiting: 0,
        pending: None,
        flows_cut: 0,
        start_timeout_ms: config.start_timeout.as_millis() as u64,
        wanted: config.workers,
        unsaved: None,
        busy: Some(is.to_owned()),
        groups: config.listen.iter().map(group).collect(),
        workers: (0..config.workers).map(worker).collect(),
    }
}

/// A service that an earlier daemon left and this one takes over.
#[must_use]
pub fn left(state: &state_file::SavedService) -> status::Service {
    let name = &state.config.name;
    let worker = |written: &state_file::SavedWorker| status::Worker {
        slot: written.slot,
        pid: written.process.map(|process| process.pid),
        weight: written.weight,
        restarts: written.life.restarts,
        joined: written.life.origin == Origin::Joined,
        successor: written.trial,
        ..shown_worker(name, written.number, written.life.state)
    };
    status::Service {
        moved: state.moved,
        flows_cut: state.flows_cut,
        groups: state
            .listeners
            .iter()
            .map(|saved| shown_group(&saved.bound, saved.program.unwrap_or_default()))
            .collect(),
        workers: state.workers.iter().map(worker).collect(),
        ..coming(&state.config, "is being taken over from the daemon before")
    }
}

/// What a service says of itself, without what takes its time.
#[derive(Clone)]
pub struct Report {
    /// Flows, strangers and sockets are missing.
    pub service: status::Service,
    /// Of its groups, in their order.
    groups: Vec<(Listener, Option<FlowCounter<GroupMemory>>)>,
    /// Of its workers, in their order.
    workers: Vec<Rest>,
    /// The cookies of all sockets that are ours.
    ours: HashSet<u64>,
}

/// What is to be looked at of one worker.
#[derive(Clone)]
struct Rest {
    slot: Option<usize>,
    sockets: Vec<Seen>,
}

/// One socket.
#[derive(Clone)]
struct Seen {
    listener: Listener,
    socket: Arc<Socket>,
    cookie: u64,
    selected: u64,
}

impl From<status::Service> for Report {
    /// One that has nothing yet that could be looked at.
    fn from(service: status::Service) -> Self {
        Self { service, groups: Vec::new(), workers: Vec::new(), ours: HashSet::new() }
    }
}

impl Report {
    fn complete(self, census: Option<&Census>) -> status::Service {
        let Self { mut service, groups, workers, ours } = self;
        let mut flows: Vec<LiveFlows> = Vec::new();
        for (group, (listener, counter)) in service.groups.iter_mut().zip(groups) {
            group.strangers = census.map(|census| census.count(&listener, &ours));
            let counted = counter.and_then(|counter| counter.count());
            group.flows = counted.as_ref().map(|it| status::Flows { live: it.live, kept: it.kept });
            flows.extend(counted);
        }
        for (worker, Rest { slot, sockets }) in service.workers.iter_mut().zip(workers) {
            worker.flows = slot.map_or(0, |slot| flows.iter().map(|it| it.by_slot[slot]).sum());
            worker.sockets = sockets.into_iter().map(|seen| seen.complete(census)).collect();
        }
        service
    }
}

impl Seen {
    fn complete(self, census: Option<&Census>) -> status::Socket {
        let listed = census.and_then(|census| census.queue(self.cookie));
        let queue =
            listed.or_else(|| socket::queue(&self.socket, self.listener.protocol).ok()).unwrap_or_default();
        status::Socket {
            listen: self.listener.to_string(),
            cookie: self.cookie,
            selected: self.selected,
            queue: queue.queue,
            backlog: queue.backlog,
        }
    }
}

/// Completes reports, and does with them what is to be done `then`, in a thread: with thousands of sockets it
/// takes many milliseconds.
pub async fn complete<T: Send + 'static>(
    reports: Vec<Report>,
    then: impl FnOnce(Vec<status::Service>) -> T + Send + 'static,
) -> Result<T> {
    let look = move || {
        let groups = reports.iter().flat_map(|report| &report.groups);
        let census = Census::take(&groups.map(|(listener, _)| *listener).collect::<Vec<Listener>>());
        let census = census.inspect_err(|error| warn!("cannot look for strangers: {error:#}")).ok();
        then(reports.into_iter().map(|report| report.complete(census.as_ref())).collect())
    };
    in_thread_or_here("looking", look).await
}

fn shown_group(listener: &Listener, program_id: u32) -> status::Group {
    status::Group {
        listen: listener.to_string(),
        protocol: listener.protocol.to_string(),
        program_id,
        counters: Counter::ALL.iter().map(|counter| (counter.name().to_owned(), 0)).collect(),
        flows: None,
        decided_by: None,
        strangers: None,
    }
}

fn shown_worker(service: &str, number: usize, state: State) -> status::Worker {
    status::Worker {
        name: format!("{service}/{number}"),
        slot: 0,
        state: state.to_string(),
        pid: None,
        weight: 1,
        member: false,
        share: 0.0,
        buckets: 0,
        flows: 0,
        restarts: 0,
        joined: false,
        successor: false,
        overloaded: false,
        lacks: None,
        last_words: Vec::new(),
        sockets: Vec::new(),
    }
}

impl Service {
    /// What is quickly said; the rest takes milliseconds a listener, and a thread.
    pub(super) fn report(&self) -> Result<Report> {
        let mut totals = HashMap::new();
        for group in self.groups() {
            totals.insert(*group.group.listener(), group.group.totals()?);
        }
        let service = self.status(&totals);
        let of = |(group, shown): (&ListenerGroup, &status::Group)| {
            (*group.group.listener(), group.flow_counter(shown.counters.values().sum()))
        };
        Ok(Report {
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
        let sockets = self.engine.dataplane().sockets();
        let sockets = sockets.borrow();
        let seen = |socket: &WorkerSocket| {
            let own = sockets.get(&socket.cookie)?;
            let now = totals.get(&own.listener).map_or(0, |totals| totals.selected[slot]);
            let since = if worker.holds_slot() { now.saturating_sub(socket.selected_before) } else { 0 };
            Some(Seen {
                listener: own.listener,
                socket: own.socket.clone(),
                cookie: socket.cookie.0,
                selected: socket.selected_after.unwrap_or(since),
            })
        };
        Rest {
            slot: worker.holds_slot().then_some(slot),
            sockets: worker.sockets.iter().filter_map(seen).collect(),
        }
    }

    /// It is not busy any more.
    pub(super) fn idle(&self) {
        if let Some(shown) = &self.shown {
            shown.take();
        }
    }

    /// Shows what it is like now while it does something that takes its time.
    pub(super) fn busy(&self, with: &str) {
        let Some(shown) = &self.shown else { return };
        if let Ok(mut report) = self.report() {
            report.service.busy = Some(with.to_owned());
            *shown.borrow_mut() = Some(report);
        }
    }

    /// Without flows, strangers and sockets.
    fn status(&self, totals: &HashMap<Listener, Totals>) -> status::Service {
        let (engine, config) = (&self.engine, &self.engine.settings().config);
        let shares = engine.placement().table().shares();
        let waiting = engine.flows().waiting();
        status::Service {
            name: config.name.clone(),
            affinity: config.affinity.to_string(),
            moved: engine.placement().moved(),
            moving: self.moving(),
            waiting,
            pending: (waiting > 0).then(|| {
                format!("{waiting} buckets wait: flows of two workers live in those that could move")
            }),
            flows_cut: engine.flows().cut(),
            start_timeout_ms: config.start_timeout.as_millis() as u64,
            wanted: config.workers,
            unsaved: self.saver.failure().map(str::to_owned),
            busy: engine.busy().map(str::to_owned),
            groups: self.groups().map(|group| self.group_status(group, totals)).collect(),
            workers: engine.pool().iter().map(|worker| self.worker_status(worker, &shares)).collect(),
        }
    }

    /// Buckets that are moving in any group.
    fn moving(&self) -> usize {
        let mut moving = vec![false; BUCKETS];
        let tracked = self.groups().filter(|it| it.asked.protocol == Protocol::Udp);
        tracked.for_each(|it| buckets::mark_moving(it.memory(), &mut moving));
        moving.into_iter().filter(|moving| *moving).count()
    }

    fn group_status(&self, group: &ListenerGroup, totals: &HashMap<Listener, Totals>) -> status::Group {
        let listener = group.group.listener();
        let events = totals.get(listener).map(|totals| totals.events);
        let count = |counter: &Counter| events.map_or(0, |events| events[counter.index()]);
        let counter = |counter: &Counter| (counter.name().to_owned(), count(counter));
        let own = &self.engine.settings().config.name;
        status::Group {
            listen: listener.to_string(),
            protocol: listener.protocol.to_string(),
            program_id: group.group.program_id(),
            counters: Counter::ALL.iter().map(counter).collect(),
            flows: None,
            decided_by: self.surroundings.claims.holder(&group.asked).filter(|it| it != own),
            strangers: None,
        }
    }

    fn worker_status(&self, worker: &Worker, shares: &[u32]) -> status::Worker {
        let engine = &self.engine;
        let standing = engine.standing(worker);
        let slot = usize::from(worker.slot);
        let buckets = if worker.holds_slot() { shares[slot] } else { 0 };
        let is_member = |member: &Member| member.slot() == worker.slot && worker.is_member();
        status::Worker {
            name: worker.name.clone(),
            slot: worker.slot,
            state: state_shown(worker, &standing),
            pid: worker.process.and_then(|running| engine.processes().pid(running.key)),
            weight: worker.weight,
            member: engine.placement().members().iter().any(is_member),
            share: f64::from(buckets) / BUCKETS as f64,
            buckets,
            flows: 0,
            restarts: worker.life.restarts(),
            joined: worker.life.origin() == Origin::Joined,
            successor: worker.is_successor(),
            overloaded: standing.overloaded,
            lacks: engine.lacks(worker, Instant::now()),
            last_words: worker.sightings.last_words.clone(),
            sockets: Vec::new(),
        }
    }
}

fn state_shown(worker: &Worker, standing: &Standing) -> String {
    match worker.life.state() {
        State::Ready if standing.is_stalled() && standing.never => "loading".into(),
        State::Ready if standing.is_stalled() => "stalled".into(),
        state => state.to_string(),
    }
}
