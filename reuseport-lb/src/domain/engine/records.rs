//! What the next daemon needs to know of listeners and workers.

use super::super::listener::Listener;
use super::super::listeners::ListenerState;
use super::super::pool::Worker;
use super::super::ports::{Cookie, ListenerId, ProcessKey, WorkerId};
use super::super::worker::Left;
use crate::config::StopSettings;

/// What the next daemon needs to know of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerRecord {
    /// Identifies the listener within its service.
    pub id: ListenerId,
    /// Address as the configuration says, perhaps with port 0.
    pub asked: Listener,
    /// Whether new workers get sockets of the listener.
    pub wanted: bool,
    /// If its buckets are not those of the service: the slots of workers that do not read there.
    pub avoided: Option<Vec<u16>>,
    /// Sockets of others that have left, and are open.
    pub left: Vec<Cookie>,
}

/// What the next daemon needs to know of a worker.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerRecord {
    /// Identifies the worker within its service.
    pub id: WorkerId,
    /// Slot in the socket arrays.
    pub slot: u16,
    /// Whether the worker's sockets are in the slot.
    pub holds_slot: bool,
    /// Whether the worker is a successor that has not taken over.
    pub trial: bool,
    /// Revision of the settings that the process was started with.
    pub revision: u64,
    /// Share of all buckets, over the sum of all weights.
    pub weight: u32,
    /// State, readiness, restarts.
    pub life: Left,
    /// Whether watchdog pings are expected.
    pub watched: bool,
    /// How the process is told to end.
    pub stop: StopSettings,
    /// The process, if one runs.
    pub process: Option<ProcessKey>,
    /// Listener, socket, and the slot's counter of decisions when the worker got the slot.
    pub sockets: Vec<(ListenerId, Cookie, u64)>,
    /// Sockets that the process has bound for a listener, and that do not listen.
    pub bound: Vec<(ListenerId, Cookie)>,
}

impl ListenerRecord {
    pub(super) fn of(state: &ListenerState) -> Self {
        let avoided = state.apart.as_ref().map(|apart| apart.avoided().to_vec());
        let left = state.left.iter().copied().collect();
        Self { id: state.id, asked: state.asked, wanted: state.wanted, avoided, left }
    }
}

impl WorkerRecord {
    pub(super) fn of(worker: &Worker) -> Self {
        let sockets = worker.sockets.iter().map(|it| (it.listener, it.cookie, it.selected_before)).collect();
        Self { sockets, bound: worker.sightings.bound.clone(), ..Self::without_sockets(worker) }
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
            stop: worker.process.map(|running| running.stop).unwrap_or_default(),
            process: worker.process.map(|running| running.key),
            sockets: Vec::new(),
            bound: Vec::new(),
        }
    }

    pub(super) fn is_of(&self, worker: &Worker) -> bool {
        let Self {
            id,
            slot,
            holds_slot,
            trial,
            revision,
            weight,
            life,
            watched,
            stop,
            process,
            sockets,
            bound,
        } = self;
        let now = Self::without_sockets(worker);
        let own = (*id, *slot, *holds_slot, *trial, *revision, *weight, *life, *watched, *stop, *process);
        let its = (now.id, now.slot, now.holds_slot, now.trial, now.revision, now.weight);
        (own.0, own.1, own.2, own.3, own.4, own.5) == its
            && (own.6, own.7, own.8, own.9) == (now.life, now.watched, now.stop, now.process)
            && *bound == worker.sightings.bound
            && sockets
                .iter()
                .copied()
                .eq(worker.sockets.iter().map(|it| (it.listener, it.cookie, it.selected_before)))
    }
}
