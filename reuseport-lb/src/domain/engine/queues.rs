//! Queues of workers' sockets, and handing queued connections to other workers.

use std::time::Instant;

use tracing::warn;

use super::super::pool::{Worker, WorkerSocket};
use super::super::ports::{Dataplane, ListenerId, Processes, WorkerId};
use super::Engine;
use crate::config::DrainUntil;

impl<D: Dataplane, P: Processes> Engine<D, P> {
    /// Whether this is a TCP socket.
    pub(super) fn is_tcp(&self, at: usize, socket: &WorkerSocket) -> bool {
        self.listeners.near(at, socket.listener).is_some_and(|listener| listener.is_tcp())
    }

    /// Content of all queues of a worker: number of connections, and bytes of datagrams.
    pub(super) fn queue(&self, worker: &Worker) -> u64 {
        let queues = worker.sockets.iter().map(|socket| self.dataplane.queue(socket.cookie).queue);
        queues.map(u64::from).sum()
    }

    /// The TCP sockets of a worker.
    pub(super) fn tcp_sockets<'a>(&'a self, worker: &'a Worker) -> impl Iterator<Item = &'a WorkerSocket> {
        let sockets = worker.sockets.iter().enumerate();
        sockets.filter(|(at, socket)| self.is_tcp(*at, socket)).map(|(_, socket)| socket)
    }

    /// Number of connections in a worker's queues.
    pub(super) fn connections(&self, worker: &Worker) -> u64 {
        let queues = self.tcp_sockets(worker).map(|socket| self.dataplane.queue(socket.cookie).queue);
        queues.map(u64::from).sum()
    }

    /// Live connections of a leaving worker, if its end waits for them. Those of one whose sockets a successor has already
    /// are not waited for: new ones come.
    pub(super) fn awaited_connections(&self, id: WorkerId) -> u64 {
        if self.settings.config.connections.drain_until == DrainUntil::Queue {
            return 0;
        }
        self.open_connections(id).unwrap_or_default()
    }

    /// Live connections of a worker whose sockets no successor has; `None` if they are not counted.
    pub(super) fn open_connections(&self, id: WorkerId) -> Option<u64> {
        let parts = self.pool.parts(id).filter(|part| part.holds_slot());
        let live =
            parts.flat_map(|part| &part.sockets).filter_map(|it| self.dataplane.connections(it.cookie));
        live.map(|live| u64::from(live.count)).reduce(|sum, count| sum + count)
    }

    /// Hands queued connections to other workers: `shutdown` makes the kernel migrate them, then the socket listens
    /// again. `only`: of this listener.
    pub(super) fn rescue(&mut self, id: WorkerId, only: Option<ListenerId>) {
        let Some(worker) = self.pool.get(id).filter(|worker| worker.holds_slot()) else { return };
        // Without a worker that could take the queue, it waits.
        if self.placement.members().is_empty() {
            return;
        }
        let meant = self.tcp_sockets(worker).filter(|it| only.is_none_or(|only| only == it.listener));
        let meant: Vec<WorkerSocket> = meant.copied().collect();
        let (slot, backlog) = (worker.slot, self.settings.config.backlog);
        for socket in meant {
            let again = self.dataplane.shut_down(socket.cookie);
            let again = again.and_then(|()| self.dataplane.listen_again(socket.cookie, slot, backlog));
            if let Err(error) = again {
                let (worker, listener) = (self.pool.name_of(id), self.dataplane.address(socket.listener));
                warn!(worker, "cannot put {listener} back into service: {error}");
            }
        }
    }

    /// Hands queued connections to other workers for good: the process that has the sockets does not accept any more,
    /// or ends when its listeners are shut down.
    pub(super) fn hand_over(&mut self, id: WorkerId) {
        let alone = self.placement.members().is_empty();
        let Some(worker) = self.pool.get(id) else { return };
        let started = worker.is_started();
        let sockets: Vec<WorkerSocket> = self.tcp_sockets(worker).copied().collect();
        let mut handed_over = 0;
        for socket in sockets {
            let queue = u64::from(self.dataplane.queue(socket.cookie).queue);
            // Without a worker that could take the queue, it waits; a started worker may get another process, and goes
            // on listening.
            if alone && (queue > 0 || started) {
                continue;
            }
            handed_over += queue;
            if let Err(error) = self.dataplane.shut_down(socket.cookie) {
                let (worker, listener) = (self.pool.name_of(id), self.dataplane.address(socket.listener));
                warn!(worker, "cannot hand over the queue of {listener}: {error}");
            }
        }
        if let Some(worker) = self.pool.get_mut(id) {
            worker.drain.handed_over += handed_over;
        }
    }

    /// Prepares the service for going on without a daemon. Only the daemon has the sockets of workers without a
    /// process: their queues are handed to other workers.
    pub fn leave_to_itself(&mut self, now: Instant) {
        self.end_rollout("the daemon ends", now);
        for id in self.pool.ids(|worker| worker.process.is_none() && !worker.is_adopted()) {
            self.hand_over(id);
        }
    }
}
