//! What follows when workers do not read at UDP listeners, and how workers stand over all of their listeners. Not: how it
//! is found (`health/`), nor how new flows avoid them (`placing.rs`).

use std::time::Instant;

use tracing::warn;

use super::super::apart::Apart;
use super::super::health::{Change, DatagramSample, Health, HealthStatus};
use super::super::incident::{Cause, IncidentKind};
use super::super::listener::{Listener, Protocol};
use super::super::observed::Head;
use super::super::pool::Worker;
use super::super::ports::{Dataplane, ListenerId, Processes, WorkerId};
use super::super::table::BucketTable;
use super::Engine;

/// Health of a worker over all of its listeners.
pub struct Standing {
    /// Number of the worker's TCP and UDP listeners.
    counts: [usize; 2],
    /// Listeners at which the worker is stalled.
    pub stalled: Vec<Listener>,
    /// The worker has never accepted, or read, at any of the stalled listeners.
    pub never: bool,
    /// The worker is overloaded at one of its listeners.
    pub overloaded: bool,
}

impl Standing {
    /// Whether the worker is stalled at all of its TCP listeners, or at all of its UDP listeners.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        [Protocol::Tcp, Protocol::Udp].into_iter().zip(self.counts).any(|(protocol, count)| {
            count > 0 && self.stalled.iter().filter(|it| it.protocol == protocol).count() == count
        })
    }

    /// Whether the worker is stalled at some of its listeners and not at others.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        !self.stalled.is_empty() && self.stalled.len() < self.counts.iter().sum()
    }

    /// Where the worker is stalled, as the end of a sentence: it "does not accept on …".
    #[must_use]
    pub fn where_stalled(&self) -> String {
        let of = |protocol: Protocol, what: &str| {
            let meant = self.stalled.iter().filter(|it| it.protocol == protocol);
            let listeners: Vec<String> = meant.map(Listener::to_string).collect();
            (!listeners.is_empty()).then(|| format!("does not {what} {}", listeners.join(", ")))
        };
        let all = [of(Protocol::Tcp, "accept on"), of(Protocol::Udp, "read from")];
        all.into_iter().flatten().collect::<Vec<String>>().join(", and ")
    }
}

impl<D: Dataplane, P: Processes> Engine<D, P> {
    /// Health of a worker over all of its listeners.
    #[must_use]
    pub fn standing(&self, worker: &Worker) -> Standing {
        let mut standing = Standing { counts: [0; 2], stalled: Vec::new(), never: true, overloaded: false };
        for (at, socket) in worker.sockets.iter().enumerate() {
            let Some(listener) = self.listeners.near(at, socket.listener) else { continue };
            standing.counts[usize::from(!listener.is_tcp())] += 1;
            match listener.health.status(worker.id) {
                HealthStatus::Fit => {}
                HealthStatus::Overloaded => standing.overloaded = true,
                HealthStatus::Stalled => {
                    standing.stalled.push(self.dataplane.address(listener.id));
                    standing.never &= listener.health.is_loading(worker.id);
                }
            }
        }
        standing
    }

    /// Goes on with the buckets of a listener that were not those of the service, and with the stalls that this was for;
    /// false if its buckets are to be those of the service.
    pub(super) fn restore_apart(&mut self, listener: ListenerId, now: Instant) -> bool {
        let is_new = self.dataplane.is_new(listener);
        let Some(known) = self.listeners.iter_mut().find(|it| it.id == listener) else { return false };
        let Some(apart) = known.apart.take() else { return false };
        for slot in apart.avoided() {
            let reads = |it: &&Worker| it.slot == *slot && it.is_monitored();
            if let Some(worker) = self.pool.iter().find(reads) {
                known.health.restore_stalled(worker.id, now);
            }
        }
        if is_new {
            return false;
        }
        let table = BucketTable::of(self.dataplane.owners(listener));
        known.apart = Some(Apart::of(table, apart.avoided().to_vec()));
        true
    }

    pub(super) fn sample_datagrams(
        &self,
        at: usize,
        listener: ListenerId,
        health: &Health<WorkerId>,
    ) -> Vec<DatagramSample<WorkerId>> {
        let monitored = || self.pool.iter().filter(|worker| worker.is_monitored());
        let wanted = health.wants_selected(monitored().map(|worker| worker.id));
        let all = if wanted { self.dataplane.selected(listener) } else { None };
        let sample = |worker: &Worker| {
            let socket = worker.socket_near(at, listener)?;
            let selected = all.as_ref().and_then(|all| all.get(usize::from(worker.slot)).copied());
            Some(DatagramSample { worker: worker.id, queue: self.dataplane.queue(socket.cookie), selected })
        };
        monitored().filter_map(sample).collect()
    }

    /// What waits first in the queue of a worker.
    pub(super) fn head(&self, at: usize, listener: ListenerId, id: WorkerId) -> Head {
        let socket = self.pool.get(id).and_then(|worker| worker.socket_near(at, listener));
        socket.map_or(Head::Unseen, |socket| self.dataplane.head(socket.cookie))
    }

    /// New flows avoid a worker that does not read: `follow_stalls` gives its buckets to others. What waits in its queue
    /// stays there, and its live flows stay with it.
    pub(super) fn on_reading(&mut self, listener: ListenerId, change: Change<WorkerId>) {
        let address = self.dataplane.address(listener);
        match change {
            Change::Stalled(id) => {
                let known = self.listeners.iter().find(|it| it.id == listener);
                let loading = known.is_some_and(|it| it.health.is_loading(id));
                let loading = if loading { " yet (it has never)" } else { "" };
                let worker = self.pool.name_of(id.number);
                warn!(worker, "it does not read from {address}{loading}: others get new flows");
                let cause = Cause::own(format!("it does not read{loading}"));
                self.tell_of(id, IncidentKind::Stalled { listener: address }, cause);
            }
            Change::Recovered(id) => {
                let cause = Cause::own("it reads again");
                self.tell_of(id, IncidentKind::Recovered { listener: address }, cause);
            }
            Change::Replace(id) => self.replace_stalling(address, id),
            // Of TCP only.
            Change::Overloaded(_) | Change::Fit(_) | Change::Rescue(_) => {}
        }
    }
}
