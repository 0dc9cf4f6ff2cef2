//! Which workers read at a UDP listener, PURE: looks at their queues → workers that stall or recover. A stalled one keeps
//! its queue and its live flows, so that it shows by reading that it is back.

use std::time::{Duration, Instant};

use super::record::{Signs, Stall};
use super::window::{Doubt, Verdict};
use super::{BUSY_PAUSE, Change, Health, HealthStatus, IDLE_PAUSE};
use crate::config::ServiceConfig;
use crate::domain::observed::{Head, Queue};

/// The time after which a worker is stalled is looked at in so many parts.
const PARTS: u32 = 16;

/// So many workers at most are asked for signs of life in one look, which takes up to a millisecond each.
const ASKED: usize = 64;

/// One look at the queue of a worker that is ready, be it stalled or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramSample<K> {
    /// The worker that has the socket.
    pub worker: K,
    /// Bytes in the queue, and its limit.
    pub queue: Queue,
    /// The program's decisions for the worker so far, read before the queue; `None` if they were not needed.
    pub selected: Option<u64>,
}

impl<K: Copy + Ord> Health<K> {
    /// Pause until the next look at a UDP listener's queues; `None`: no look is needed.
    #[must_use]
    pub fn datagram_pause(&self, policy: &ServiceConfig) -> Option<Duration> {
        let Some(patience) = policy.stall_timeout else {
            return self.has_stalled().then_some(Duration::ZERO);
        };
        let pause = if self.busy { (patience / PARTS).clamp(BUSY_PAUSE, IDLE_PAUSE) } else { IDLE_PAUSE };
        Some(pause.min(patience / 4))
    }

    /// Whether a look at a UDP listener's queues is due: other listeners may be looked at more often.
    #[must_use]
    pub fn is_due(&self, policy: &ServiceConfig, now: Instant) -> bool {
        let pause = self.datagram_pause(policy);
        pause.is_some_and(|pause| self.looked_at.is_none_or(|before| now - before >= pause))
    }

    /// Whether the program's decisions are needed: one of these workers was never seen to read.
    pub fn wants_selected(&self, workers: impl IntoIterator<Item = K>) -> bool {
        workers.into_iter().any(|worker| !self.is_proven(worker))
    }

    /// Takes over a stall that an earlier daemon has found.
    pub fn restore_stalled(&mut self, worker: K, now: Instant) {
        let worker = self.workers.entry(worker).or_default();
        worker.proven = true;
        worker.stall = Some(Stall::begun(now, Duration::ZERO, None));
    }

    /// Finds changes of health from samples of all workers that are ready. Calls `head` for queues that were not empty at
    /// the last look either, and `signs` for few workers that may be about to be stalled.
    pub fn look_at_datagrams(
        &mut self,
        samples: &[DatagramSample<K>],
        head: impl Fn(K) -> Head,
        mut signs: impl FnMut(K) -> Option<Signs>,
        now: Instant,
        policy: &ServiceConfig,
    ) -> Vec<Change<K>> {
        let mut changes = Vec::new();
        self.looked_at = Some(now);
        self.busy = samples.iter().any(|sample| sample.queue.queue > 0);
        let Some(patience) = policy.stall_timeout else {
            for (key, worker) in &mut self.workers {
                (worker.reading, worker.watch) = Default::default();
                if worker.stall.take().is_some() {
                    worker.record.taken_back();
                    changes.push(Change::Recovered(*key));
                }
            }
            return changes;
        };
        let takers = || samples.iter().filter(|sample| self.status(sample.worker) != HealthStatus::Stalled);
        let able = takers().count();
        // If all queues are full there is too much work, and one worker less would not help.
        let room =
            takers().any(|sample| sample.queue.queue < sample.queue.backlog - sample.queue.backlog / 8);
        let mut stuck = Vec::new();
        let mut asked = 0;
        for sample in samples {
            let worker = self.workers.entry(sample.worker).or_default();
            let head = || head(sample.worker);
            let verdict = worker.reading.look(sample.queue, sample.selected, head, now, patience);
            let reads = verdict == Verdict::Accepts;
            worker.proven |= reads;
            if let Some(stall) = &mut worker.stall {
                // It was not empty when the worker stalled.
                stall.awake |= reads || sample.queue.queue == 0;
                if stall.awake && now >= stall.until {
                    worker.stall = None;
                    worker.record.taken_back();
                    changes.push(Change::Recovered(sample.worker));
                }
                continue;
            }
            if reads {
                worker.record.accepted(now);
            }
            match verdict {
                Verdict::Stuck { since, doubt: Doubt::None } => stuck.push((since, sample.worker)),
                Verdict::Stuck { since, doubt } => {
                    let more = asked < ASKED;
                    let signs = || {
                        asked += 1;
                        signs(sample.worker)
                    };
                    if more && worker.shows_nothing(signs, doubt, room, now, patience) {
                        stuck.push((since, sample.worker));
                    }
                    continue;
                }
                _ => {}
            }
            worker.watch = None;
        }
        // By reading a worker shows that it is back: other signs are not needed.
        self.set_stalled(stuck, able, &mut |_| None, now, policy, &mut changes);
        changes
    }
}
