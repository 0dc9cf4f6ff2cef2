//! What a service says of itself, for `status`.

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::Result;
use reuseport_lb_common::counters::Counter;
use reuseport_lb_common::layout::BUCKETS;
use socket2::Socket;
use tracing::warn;

use super::Service;
use super::attend::Standing;
use super::door::{Door, index_near};
use super::workers::{Place, Worker};
use crate::config;
use crate::domain::listener::Listener;
use crate::domain::worker::{Origin, State};
use crate::kernel::group::{FlowCounter, Flows, Totals};
use crate::kernel::socket;
use crate::kernel::strangers::Census;
use crate::offload::{Slices, in_thread_or_here};
use crate::service::state_file;
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
pub fn left(state: &state_file::State) -> status::Service {
    let name = &state.config.name;
    let worker = |written: &state_file::Worker| status::Worker {
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
            .doors
            .iter()
            .map(|door| shown_group(&door.bound, door.program.unwrap_or_default()))
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
    groups: Vec<(Listener, Option<FlowCounter>)>,
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
        let mut flows: Vec<Flows> = Vec::new();
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
        let totals = self.doors.iter().map(|door| door.group.totals()).collect::<Result<Vec<Totals>>>()?;
        let service = self.status(&totals);
        let of = |(door, shown): (&Door, &status::Group)| {
            (*door.group.listener(), door.group.flow_counter(shown.counters.values().sum()))
        };
        Ok(Report {
            groups: self.doors.iter().zip(&service.groups).map(of).collect(),
            service,
            workers: self.workers.values().map(|worker| self.rest(worker, &totals)).collect(),
            ours: self.surroundings.ours.borrow().clone(),
        })
    }

    fn rest(&self, worker: &Worker, totals: &[Totals]) -> Rest {
        let slot = usize::from(worker.slot);
        let selected = |at: usize, place: &Place| {
            place.selected_after.unwrap_or_else(|| {
                let door = index_near(&self.doors, at, &place.listener);
                let now = door.map_or(0, |door| totals[door].selected[slot]);
                if worker.holds_slot { now.saturating_sub(place.selected_before) } else { 0 }
            })
        };
        let seen = |(at, place): (usize, &Place)| Seen {
            listener: place.listener,
            socket: place.socket.clone(),
            cookie: place.cookie,
            selected: selected(at, place),
        };
        Rest {
            slot: worker.holds_slot.then_some(slot),
            sockets: worker.places.iter().enumerate().map(seen).collect(),
        }
    }

    /// Others get their turn, and hear meanwhile what it does.
    pub(super) async fn turn(&self, slices: &mut Slices, with: &str) {
        if slices.is_over() && self.shown.as_ref().is_some_and(|shown| shown.borrow().is_none()) {
            self.busy(with);
        }
        slices.turn().await;
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
    fn status(&self, totals: &[Totals]) -> status::Service {
        let shares = self.table.shares();
        let waiting = self.flows.waiting;
        status::Service {
            name: self.config.name.clone(),
            affinity: self.config.affinity.to_string(),
            moved: self.moved,
            moving: self.moving(),
            waiting,
            pending: (waiting > 0).then(|| {
                format!("{waiting} buckets wait: flows of two workers live in those that could move")
            }),
            flows_cut: self.flows.cut,
            start_timeout_ms: self.config.start_timeout.as_millis() as u64,
            wanted: self.config.workers,
            unsaved: self.state_file.failure().map(str::to_owned),
            busy: None,
            groups: self
                .doors
                .iter()
                .zip(totals)
                .map(|(door, totals)| self.group_status(door, totals))
                .collect(),
            workers: self.workers.values().map(|worker| self.worker_status(worker, &shares)).collect(),
        }
    }

    fn group_status(&self, door: &Door, totals: &Totals) -> status::Group {
        let listener = door.group.listener();
        let counter = |counter: &Counter| (counter.name().to_owned(), totals.events[counter.index()]);
        status::Group {
            listen: listener.to_string(),
            protocol: listener.protocol.to_string(),
            program_id: door.group.program_id(),
            counters: Counter::ALL.iter().map(counter).collect(),
            flows: None,
            decided_by: self.surroundings.claims.holder(&door.asked).filter(|it| *it != self.config.name),
            strangers: None,
        }
    }

    fn worker_status(&self, worker: &Worker, shares: &[u32]) -> status::Worker {
        let standing = self.standing(worker);
        let slot = usize::from(worker.slot);
        let buckets = if worker.holds_slot { shares[slot] } else { 0 };
        status::Worker {
            name: worker.name.clone(),
            slot: worker.slot,
            state: state_shown(worker, &standing),
            pid: worker.process.as_ref().map(|running| running.process.pid()),
            weight: worker.weight,
            member: self.members.iter().any(|member| member.slot() == worker.slot) && worker.is_member(),
            share: f64::from(buckets) / BUCKETS as f64,
            buckets,
            flows: 0,
            restarts: worker.life.restarts(),
            joined: worker.life.origin() == Origin::Joined,
            successor: worker.trial,
            overloaded: standing.overloaded,
            lacks: self.lacks(worker, &standing),
            last_words: worker.last_words.clone(),
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
