//! What a service says of itself, for `status`.

use anyhow::Result;
use reuseport_lb_common::counters::Counter;
use reuseport_lb_common::layout::BUCKETS;
use tracing::warn;

use super::{Service, Worker};
use crate::kernel::group::{Group, Totals};
use crate::kernel::{socket, strangers};
use crate::status;

impl Service {
    pub(super) fn status(&self) -> Result<status::Service> {
        let totals = self.groups.iter().map(Group::totals).collect::<Result<Vec<Totals>>>()?;
        let shares = self.table.shares();
        Ok(status::Service {
            name: self.config.name.clone(),
            affinity: self.config.affinity.to_string(),
            moved: self.moved,
            wanted: self.config.workers,
            groups: (0..self.groups.len()).map(|at| self.group_status(at, &totals[at])).collect(),
            workers: self
                .workers
                .values()
                .map(|worker| self.worker_status(worker, &totals, &shares))
                .collect(),
        })
    }

    pub(super) fn group_status(&self, at: usize, totals: &Totals) -> status::Group {
        let listener = &self.listeners[at];
        let counter = |counter: &Counter| (counter.name().to_owned(), totals.events[counter.index()]);
        status::Group {
            listen: listener.to_string(),
            protocol: listener.protocol.to_string(),
            program_id: self.groups[at].program_id(),
            counters: Counter::ALL.iter().map(counter).collect(),
            strangers: strangers::count(listener, &self.surroundings.ours.borrow())
                .inspect_err(|error| warn!("cannot look for strangers on {listener}: {error:#}"))
                .ok(),
        }
    }

    pub(super) fn worker_status(&self, worker: &Worker, totals: &[Totals], shares: &[u32]) -> status::Worker {
        let slot = usize::from(worker.slot);
        let sockets = worker.sockets.iter().enumerate().map(|(at, socket)| {
            let queue = socket::queue(socket, self.listeners[at].protocol).unwrap_or_default();
            status::Socket {
                listen: self.listeners[at].to_string(),
                cookie: socket.cookie().unwrap_or_default(),
                selected: totals[at].selected[slot] - worker.selected_before[at],
                queue: queue.queue,
                backlog: queue.backlog,
            }
        });
        status::Worker {
            name: worker.name.clone(),
            slot: worker.slot,
            state: worker.life.state().to_string(),
            pid: worker.process.as_ref().map(|running| running.process.pid()),
            weight: worker.weight,
            member: self.members.iter().any(|member| member.slot() == worker.slot),
            share: f64::from(shares[slot]) / BUCKETS as f64,
            buckets: shares[slot],
            restarts: worker.life.restarts(),
            sockets: sockets.collect(),
        }
    }
}
