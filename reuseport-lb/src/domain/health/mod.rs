//! Which workers take connections at a TCP listener, or read at a UDP one, PURE: samples of their queues → workers that
//! become overloaded (TCP), stalled, or fit again. Not: sampling (`kernel/`), nor what follows (`engine/checking.rs`).
//!
//! ```text
//!            queue much deeper than the others'
//!      fit ◀────────────────────────────────▶ overloaded
//!       │ ▲                                       │
//!       │ │ it waits for work            a queue, but nothing is accepted, for stall_timeout
//!       ▼ │                                       ▼
//!     stalled ◀───────────────────────────────────┘
//! ```

mod datagrams;
mod reading;
mod record;
mod window;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::config::{OnStall, ServiceConfig};
pub use datagrams::DatagramSample;
pub use record::{HealthStatus, Signs};
use record::{Stall, Worker};
use window::{Doubt, Verdict, Window};

/// Time between looks while a queue is not empty.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// Time between looks while all queues are empty.
const IDLE_PAUSE: Duration = Duration::from_millis(200);

/// One look at the socket of a worker that is ready, be it stalled or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample<K> {
    /// The worker that has the socket.
    pub worker: K,
    /// Connections that wait to be accepted.
    pub queue: u32,
    /// The queue is at its backlog, so that further connections may be dropped.
    pub full: bool,
    /// The program's decisions for the worker so far.
    pub selected: u64,
}

/// A change of a worker's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<K> {
    /// A fit worker is overloaded: new connections go to other candidates first.
    Overloaded(K),
    /// An overloaded worker is fit.
    Fit(K),
    /// A fit or overloaded worker is stalled: it gets no connections, and its queue is to be handed to others.
    Stalled(K),
    /// A stalled worker is fit.
    Recovered(K),
    /// Connections have come to the queue of a stalled worker: they are to be handed to others.
    Rescue(K),
    /// Only a new process will help a stalled worker; reported once for a process, and only with
    /// `on_stall = "restart"`.
    Replace(K),
}

/// The health of the workers at one listener.
#[derive(Debug)]
pub struct Health<K> {
    workers: BTreeMap<K, Worker>,
    /// A queue was not empty at the last look.
    busy: bool,
    /// Time of the last look at a UDP listener's queues.
    looked_at: Option<Instant>,
}

impl<K> Default for Health<K> {
    fn default() -> Self {
        Self { workers: BTreeMap::new(), busy: false, looked_at: None }
    }
}

impl<K: Copy + Ord> Health<K> {
    /// Health of a worker.
    #[must_use]
    pub fn status(&self, worker: K) -> HealthStatus {
        self.workers.get(&worker).map(Worker::status).unwrap_or_default()
    }

    /// Notes that the worker's process was seen to wait for work at this listener.
    pub fn prove(&mut self, worker: K) {
        self.workers.entry(worker).or_default().proven = true;
    }

    /// Whether the worker's process was seen to accept, or to wait for work.
    #[must_use]
    pub fn is_proven(&self, worker: K) -> bool {
        self.workers.get(&worker).is_some_and(|worker| worker.proven)
    }

    /// Whether a stalled worker has never been seen to accept: its process may be loading.
    #[must_use]
    pub fn is_loading(&self, worker: K) -> bool {
        self.workers.get(&worker).is_some_and(|worker| worker.stall.is_some() && !worker.proven)
    }

    /// Forgets a worker that leaves or gets a new process; returns its last status.
    pub fn forget(&mut self, worker: K) -> HealthStatus {
        self.workers.remove(&worker).as_ref().map(Worker::status).unwrap_or_default()
    }

    /// Pause until the next look; `None`: no look is needed.
    #[must_use]
    pub fn pause(&self, policy: &ServiceConfig) -> Option<Duration> {
        let nothing_to_know = policy.stall_timeout.is_none() && policy.overload.is_none();
        if nothing_to_know && self.workers.values().all(|worker| worker.status() == HealthStatus::Fit) {
            return None;
        }
        let pause = if self.busy { BUSY_PAUSE } else { IDLE_PAUSE };
        Some(policy.stall_timeout.map_or(pause, |patience| pause.min(patience / 4)))
    }

    /// Whether a worker is stalled.
    #[must_use]
    pub fn has_stalled(&self) -> bool {
        self.workers.values().any(|worker| worker.stall.is_some())
    }

    /// The workers that are stalled.
    pub fn stalled(&self) -> impl Iterator<Item = K> {
        self.workers.iter().filter(|(_, worker)| worker.stall.is_some()).map(|(key, _)| *key)
    }

    /// Whether a queue was not empty at the last look.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.busy
    }

    /// Finds changes of health from samples of all workers that are ready. Calls `signs` only for workers that
    /// are stalled, are about to be, or may be; it returns `None` for one that has no process.
    pub fn look(
        &mut self,
        samples: &[Sample<K>],
        mut signs: impl FnMut(K) -> Option<Signs>,
        now: Instant,
        policy: &ServiceConfig,
    ) -> Vec<Change<K>> {
        let mut changes = Vec::new();
        self.busy = samples.iter().any(|sample| sample.queue > 0);
        self.take_back(&mut signs, now, policy, &mut changes);
        self.find_stalls(samples, &mut signs, now, policy, &mut changes);
        self.find_overload(samples, policy, &mut changes);
        changes
    }

    fn take_back(
        &mut self,
        signs: &mut impl FnMut(K) -> Option<Signs>,
        now: Instant,
        policy: &ServiceConfig,
        changes: &mut Vec<Change<K>>,
    ) {
        for (key, worker) in &mut self.workers {
            let Some(stall) = &mut worker.stall else { continue };
            if policy.stall_timeout.is_none() || stall.is_over(|| signs(*key), now) {
                worker.stall = None;
                worker.record.taken_back();
                changes.push(Change::Recovered(*key));
            }
        }
    }

    fn find_stalls(
        &mut self,
        samples: &[Sample<K>],
        signs: &mut impl FnMut(K) -> Option<Signs>,
        now: Instant,
        policy: &ServiceConfig,
        changes: &mut Vec<Change<K>>,
    ) {
        let Some(patience) = policy.stall_timeout else {
            for worker in self.workers.values_mut() {
                worker.window = Window::default();
                worker.watch = None;
            }
            return;
        };
        let takers = || samples.iter().filter(|sample| self.status(sample.worker) != HealthStatus::Stalled);
        let able = takers().count();
        // If all queues are full there is too much work, and one worker less would not help.
        let room = takers().any(|sample| !sample.full);
        let mut stuck = Vec::new();
        for sample in samples {
            let worker = self.workers.entry(sample.worker).or_default();
            if let Some(stall) = &mut worker.stall {
                if stall.has_leftovers(sample.queue, now, patience) && able > 0 {
                    changes.push(Change::Rescue(sample.worker));
                }
                continue;
            }
            match worker.window.look(sample.queue, sample.full, sample.selected, now, patience) {
                Verdict::Stuck { since, doubt: Doubt::None } => stuck.push((since, sample.worker)),
                Verdict::Stuck { since, doubt } => {
                    if worker.shows_nothing(|| signs(sample.worker), doubt, room, now, patience) {
                        stuck.push((since, sample.worker));
                    } else if doubt == Doubt::Large {
                        worker.record.accepted(now);
                    }
                    continue;
                }
                Verdict::Accepts => {
                    worker.proven = true;
                    worker.record.accepted(now);
                }
                Verdict::Unclear => {}
            }
            worker.watch = None;
        }
        self.set_stalled(stuck, able, signs, now, policy, changes);
    }

    /// Stalls workers that were found `stuck`, of which at least one that is `able` is left: if all are stuck, the one that
    /// got stuck last.
    fn set_stalled(
        &mut self,
        mut stuck: Vec<(Instant, K)>,
        mut able: usize,
        signs: &mut impl FnMut(K) -> Option<Signs>,
        now: Instant,
        policy: &ServiceConfig,
        changes: &mut Vec<Change<K>>,
    ) {
        stuck.sort_unstable();
        for (_, key) in stuck {
            if able <= 1 {
                break;
            }
            let Some(worker) = self.workers.get_mut(&key) else { continue };
            able -= 1;
            let away = worker.record.stalled();
            worker.overloaded = false;
            worker.window = Window::default();
            worker.watch = None;
            worker.stall = Some(Stall::begun(now, away, signs(key)));
            changes.push(Change::Stalled(key));
            if policy.on_stall == OnStall::Restart && worker.proven && worker.record.wants_replacement() {
                changes.push(Change::Replace(key));
            }
        }
    }

    fn find_overload(&mut self, samples: &[Sample<K>], policy: &ServiceConfig, changes: &mut Vec<Change<K>>) {
        let able = || samples.iter().filter(|sample| self.status(sample.worker) != HealthStatus::Stalled);
        let total: u64 = able().map(|sample| u64::from(sample.queue)).sum();
        let others = able().count().saturating_sub(1);
        let room = able().any(|sample| !sample.full);
        for sample in samples {
            let worker = self.workers.entry(sample.worker).or_default();
            if worker.stall.is_some() {
                continue;
            }
            let queue = f64::from(sample.queue);
            let limit = match policy.overload {
                // The mean of the others: with `factor` workers, no queue exceeds `factor` times the mean of all.
                Some(overload) if others > 0 => {
                    let mean = (total - u64::from(sample.queue)) as f64 / others as f64;
                    (overload.factor * mean).max(f64::from(overload.floor))
                }
                _ => f64::INFINITY,
            };
            // Connections to a full queue are dropped.
            let full = sample.full && room && policy.overload.is_some();
            if !worker.overloaded && (full || queue > limit) {
                worker.overloaded = true;
                changes.push(Change::Overloaded(sample.worker));
            } else if worker.overloaded && !full && queue <= limit / 2.0 {
                worker.overloaded = false;
                changes.push(Change::Fit(sample.worker));
            }
        }
    }
}
