//! What a service says of itself, for `status`.

use anyhow::Result;
use reuseport_lb_common::counters::Counter;
use reuseport_lb_common::layout::BUCKETS;
use tracing::warn;

use super::Service;
use super::door::Door;
use super::workers::{Place, Worker};
use crate::health::Status;
use crate::kernel::group::{Flows, Totals};
use crate::kernel::{socket, strangers};
use crate::status;
use crate::worker::{Origin, State};

impl Service {
    pub(super) fn status(&self) -> Result<status::Service> {
        let totals = self.doors.iter().map(|door| door.group.totals()).collect::<Result<Vec<Totals>>>()?;
        let shares = self.table.shares();
        let flows: Vec<Option<Flows>> = self.doors.iter().map(|door| door.group.flows()).collect();
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
            wanted: self.config.workers,
            unsaved: self.state_file.failure().map(str::to_owned),
            groups: self
                .doors
                .iter()
                .zip(&totals)
                .zip(&flows)
                .map(|((door, totals), flows)| self.group_status(door, totals, flows.as_ref()))
                .collect(),
            workers: self
                .workers
                .values()
                .map(|worker| self.worker_status(worker, &totals, &shares, &flows))
                .collect(),
        })
    }

    fn group_status(&self, door: &Door, totals: &Totals, flows: Option<&Flows>) -> status::Group {
        let listener = door.group.listener();
        let counter = |counter: &Counter| (counter.name().to_owned(), totals.events[counter.index()]);
        status::Group {
            listen: listener.to_string(),
            protocol: listener.protocol.to_string(),
            program_id: door.group.program_id(),
            counters: Counter::ALL.iter().map(counter).collect(),
            flows: flows.map(|flows| status::Flows { live: flows.live, kept: flows.kept }),
            decided_by: self.surroundings.claims.holder(&door.asked).filter(|it| *it != self.config.name),
            strangers: strangers::count(listener, &self.surroundings.ours.borrow())
                .inspect_err(|error| warn!("cannot look for strangers on {listener}: {error:#}"))
                .ok(),
        }
    }

    fn worker_status(
        &self,
        worker: &Worker,
        totals: &[Totals],
        shares: &[u32],
        flows: &[Option<Flows>],
    ) -> status::Worker {
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
                cookie: place.socket.cookie().unwrap_or_default(),
                selected: selected(place),
                queue: queue.queue,
                backlog: queue.backlog,
            }
        });
        status::Worker {
            name: worker.name.clone(),
            slot: worker.slot,
            state: self.state_shown(worker),
            pid: worker.process.as_ref().map(|running| running.process.pid()),
            weight: worker.weight,
            member: self.members.iter().any(|member| member.slot() == worker.slot) && worker.is_member(),
            share: f64::from(buckets) / BUCKETS as f64,
            buckets,
            flows: if worker.holds_slot {
                flows.iter().flatten().map(|it| it.by_slot[slot]).sum()
            } else {
                0
            },
            restarts: worker.life.restarts(),
            joined: worker.life.origin() == Origin::Joined,
            successor: worker.trial,
            overloaded: self.health.status(worker.id) == Status::Overloaded,
            last_words: worker.last_words.clone(),
            sockets: sockets.collect(),
        }
    }

    fn state_shown(&self, worker: &Worker) -> String {
        if worker.life.state() == State::Ready && self.health.status(worker.id) == Status::Stalled {
            return "stalled".into();
        }
        worker.life.state().to_string()
    }
}
