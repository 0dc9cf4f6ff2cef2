//! What a service says of itself, for `status`.

use std::rc::Rc;

use anyhow::Result;
use reuseport_lb_common::counters::Counter;
use reuseport_lb_common::layout::BUCKETS;
use tracing::warn;

use super::attend::Standing;
use super::door::Door;
use super::workers::{Place, Worker};
use super::{Service, Surroundings};
use crate::config;
use crate::kernel::group::{FlowCounter, Flows, Totals};
use crate::kernel::socket;
use crate::kernel::strangers::Census;
use crate::listener::Listener;
use crate::offload::in_thread;
use crate::state;
use crate::status;
use crate::worker::{Origin, State};

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
pub fn left(state: &state::State) -> status::Service {
    let name = &state.config.name;
    let worker = |written: &state::Worker| status::Worker {
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
pub struct Report {
    /// Flows and strangers are missing.
    pub service: status::Service,
    listeners: Vec<(Listener, Option<FlowCounter>)>,
    /// Of each worker that has one.
    slots: Vec<Option<usize>>,
    surroundings: Rc<Surroundings>,
}

/// Completes reports: the kernel is asked for sockets once, in a thread, where flows are counted as well.
pub async fn complete(reports: Vec<Report>) -> Vec<status::Service> {
    let listeners: Vec<Listener> = reports.iter().flat_map(|it| &it.listeners).map(|it| it.0).collect();
    let mut services: Vec<(status::Service, Vec<Option<usize>>, Rc<Surroundings>)> = Vec::new();
    let mut counters = Vec::new();
    for Report { service, listeners, slots, surroundings } in reports {
        services.push((service, slots, surroundings));
        counters.extend(listeners.into_iter().map(|(_, counter)| counter));
    }
    let asked = listeners.clone();
    let looked = in_thread("looking", move || {
        let flows: Vec<Option<Flows>> = counters.into_iter().map(|it| it.and_then(|it| it.count())).collect();
        (Census::take(&asked), flows)
    });
    let (census, flows) = looked.await.unwrap_or_else(|error| (Err(error), Vec::new()));
    let census = census.inspect_err(|error| warn!("cannot look for strangers: {error:#}")).ok();
    let (mut listeners, mut flows) = (listeners.into_iter(), flows.into_iter());
    let complete =
        |(mut service, slots, surroundings): (status::Service, Vec<Option<usize>>, Rc<Surroundings>)| {
            let of_groups: Vec<Option<Flows>> =
                service.groups.iter().map(|_| flows.next().flatten()).collect();
            for (group, flows) in service.groups.iter_mut().zip(&of_groups) {
                let listener = listeners.next();
                let count =
                    |(census, it): (&Census, Listener)| census.count(&it, &surroundings.ours.borrow());
                group.strangers = census.as_ref().zip(listener).map(count);
                group.flows = flows.as_ref().map(|it| status::Flows { live: it.live, kept: it.kept });
            }
            for (worker, slot) in service.workers.iter_mut().zip(slots) {
                let Some(slot) = slot else { continue };
                worker.flows = of_groups.iter().flatten().map(|it| it.by_slot[slot]).sum();
            }
            service
        };
    services.into_iter().map(complete).collect()
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
        let service = self.status()?;
        let of = |(door, shown): (&Door, &status::Group)| {
            (*door.group.listener(), door.group.flow_counter(shown.counters.values().sum()))
        };
        let slot = |worker: &Worker| worker.holds_slot.then_some(usize::from(worker.slot));
        Ok(Report {
            listeners: self.doors.iter().zip(&service.groups).map(of).collect(),
            service,
            slots: self.workers.values().map(slot).collect(),
            surroundings: self.surroundings.clone(),
        })
    }

    /// Without flows and strangers.
    pub(super) fn status(&self) -> Result<status::Service> {
        let totals = self.doors.iter().map(|door| door.group.totals()).collect::<Result<Vec<Totals>>>()?;
        let shares = self.table.shares();
        let waiting = self.flows.waiting;
        Ok(status::Service {
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
                .zip(&totals)
                .map(|(door, totals)| self.group_status(door, totals))
                .collect(),
            workers: self
                .workers
                .values()
                .map(|worker| self.worker_status(worker, &totals, &shares))
                .collect(),
        })
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

    fn worker_status(&self, worker: &Worker, totals: &[Totals], shares: &[u32]) -> status::Worker {
        let standing = self.standing(worker);
        let slot = usize::from(worker.slot);
        let buckets = if worker.holds_slot { shares[slot] } else { 0 };
        let selected = |place: &Place| {
            place.selected_after.unwrap_or_else(|| {
                let at = self.doors.iter().position(|door| *door.group.listener() == place.listener);
                let now = at.map_or(0, |at| totals[at].selected[slot]);
                if worker.holds_slot { now.saturating_sub(place.selected_before) } else { 0 }
            })
        };
        let sockets = worker.places.iter().map(|place| {
            let queue = socket::queue(&place.socket, place.listener.protocol).unwrap_or_default();
            status::Socket {
                listen: place.listener.to_string(),
                cookie: place.cookie,
                selected: selected(place),
                queue: queue.queue,
                backlog: queue.backlog,
            }
        });
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
            sockets: sockets.collect(),
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
