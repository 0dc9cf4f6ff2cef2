//! Which workers can take connections at a TCP listener, PURE: looks at their queues → who is
//! overloaded, who is stalled, who is fit again. Not: looking (`kernel/`), or what is then done.
//!
//! ```text
//!            queue much deeper than the others'
//!      fit ◀────────────────────────────────▶ overloaded
//!       │ ▲                                       │
//!       │ │ it waits for work            a queue, but nothing is accepted, for stall_timeout
//!       ▼ │                                       ▼
//!     stalled ◀───────────────────────────────────┘
//! ```

mod window;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::config::{OnStall, Service};
use window::{Doubt, Verdict, Window};

/// Time between looks while anything waits.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// Time between looks while nothing waits.
const IDLE_PAUSE: Duration = Duration::from_millis(200);

/// A worker that was taken back and has accepted for this long has shown that it works.
const PROVEN: Duration = Duration::from_secs(10);

/// How long a worker is kept away after its first relapse; doubles with every further one.
const FIRST_AWAY: Duration = Duration::from_millis(250);

/// So long is one kept away that shows signs of life but is not seen to wait for work; it may be one that never
/// sleeps.
const UNSEEN_AWAY: Duration = Duration::from_secs(5);

/// The longest that a worker with a sign of life is kept away.
const LONGEST_AWAY: Duration = Duration::from_secs(30);

/// So many relapses in a row, and the process is beyond help.
const REPLACE_AFTER: u32 = 3;

/// Connections that come to the queue of a stalled worker (their handshakes had begun before it was
/// avoided) wait there for this long.
const LEFT_FOR: Duration = Duration::from_millis(100);

/// What one look at a worker's socket shows. Of workers that are ready, stalled ones as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample<K> {
    /// Whose.
    pub worker: K,
    /// Connections that wait to be accepted.
    pub queue: u32,
    /// The queue is at its backlog, so that what arrives may be dropped.
    pub full: bool,
    /// Decisions for it, so far.
    pub selected: u64,
}

/// Signs of life of a worker's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signs {
    /// It is stopped, by a signal or a debugger.
    pub stopped: bool,
    /// Voluntary context switches of its threads, so far.
    pub switches: u64,
    /// It said `WATCHDOG=1` since it was stalled, or since this was last asked.
    pub pinged: bool,
    /// Something of it waits for work on the socket; `None` where that cannot be seen.
    pub waits: Option<bool>,
}

/// What a worker is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// New connections may go there; also one that nothing is known of.
    #[default]
    Fit,
    /// Its queue is much deeper than the others'.
    Overloaded,
    /// It does not accept.
    Stalled,
}

/// What has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<K> {
    /// From fit: other candidates first.
    Overloaded(K),
    /// From overloaded.
    Fit(K),
    /// From fit or overloaded: nobody is sent there, and its queue is to be rescued.
    Stalled(K),
    /// From stalled: it is fit.
    Recovered(K),
    /// It is stalled, and connections have come to its queue after that: they are to be rescued.
    Rescue(K),
    /// It is stalled, and only a new process will help; said once, and only with `on_stall = "restart"`.
    Replace(K),
}

/// The health of the workers at one listener.
#[derive(Debug)]
pub struct Health<K> {
    workers: BTreeMap<K, Worker>,
    /// Something waited at the last look.
    busy: bool,
}

#[derive(Debug, Default)]
struct Worker {
    window: Window,
    overloaded: bool,
    watch: Option<Watch>,
    stall: Option<Stall>,
    record: Record,
    /// Its process was seen to accept here, or to wait for work.
    proven: bool,
}

/// It seems stuck but may be merely slow: does its process do anything?
#[derive(Debug)]
struct Watch {
    signs: Signs,
    /// Since when they are the same.
    since: Instant,
    asked: Instant,
}

#[derive(Debug)]
struct Stall {
    /// Not taken back earlier, whatever it shows.
    until: Instant,
    /// Nor earlier than this if it is seen not to wait for work.
    unseen_until: Instant,
    /// What it showed when it was stalled, or when that was first known.
    first: Option<Signs>,
    /// It has shown a sign of life since.
    awake: bool,
    /// Since when its queue is not empty and has not shrunk, and how long it is.
    left: Option<(Instant, u32)>,
}

/// What a worker has done since it was taken back.
#[derive(Debug, Default)]
struct Record {
    taken_back: bool,
    /// When it was first seen to accept.
    accepts_since: Option<Instant>,
    /// Stalls in a row after each of which it was taken back and accepted nothing.
    relapses: u32,
    replaced: bool,
}

impl<K> Default for Health<K> {
    fn default() -> Self {
        Self { workers: BTreeMap::new(), busy: false }
    }
}

impl<K: Copy + Ord> Health<K> {
    /// What a worker is.
    #[must_use]
    pub fn status(&self, worker: K) -> Status {
        self.workers.get(&worker).map(Worker::status).unwrap_or_default()
    }

    /// Its process was seen to wait for work here.
    pub fn prove(&mut self, worker: K) {
        self.workers.entry(worker).or_default().proven = true;
    }

    /// Whether its process was seen to accept, or to wait for work.
    #[must_use]
    pub fn is_proven(&self, worker: K) -> bool {
        self.workers.get(&worker).is_some_and(|worker| worker.proven)
    }

    /// Whether a stalled worker has never been seen to accept: its process may be loading.
    #[must_use]
    pub fn is_loading(&self, worker: K) -> bool {
        self.workers.get(&worker).is_some_and(|worker| worker.stall.is_some() && !worker.proven)
    }

    /// Forgets a worker that leaves or gets a new process; returns what it was.
    pub fn forget(&mut self, worker: K) -> Status {
        self.workers.remove(&worker).as_ref().map(Worker::status).unwrap_or_default()
    }

    /// How long to wait until the next look; `None`: for ever.
    #[must_use]
    pub fn pause(&self, policy: &Service) -> Option<Duration> {
        let nothing_to_know = policy.stall_timeout.is_none() && policy.overload.is_none();
        if nothing_to_know && self.workers.values().all(|worker| worker.status() == Status::Fit) {
            return None;
        }
        let pause = if self.busy { BUSY_PAUSE } else { IDLE_PAUSE };
        Some(policy.stall_timeout.map_or(pause, |patience| pause.min(patience / 4)))
    }

    /// Whether anybody is stalled.
    #[must_use]
    pub fn has_stalled(&self) -> bool {
        self.workers.values().any(|worker| worker.stall.is_some())
    }

    /// Whether something waited at the last look.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.busy
    }

    /// Judges from a look at all workers that are ready. Asks for `signs` of those workers only that
    /// are stalled, about to be, or may be; it answers `None` for one that has no process.
    pub fn look(
        &mut self,
        samples: &[Sample<K>],
        mut signs: impl FnMut(K) -> Option<Signs>,
        now: Instant,
        policy: &Service,
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
        policy: &Service,
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
        policy: &Service,
        changes: &mut Vec<Change<K>>,
    ) {
        let Some(patience) = policy.stall_timeout else {
            for worker in self.workers.values_mut() {
                worker.window = Window::default();
                worker.watch = None;
            }
            return;
        };
        let takers = || samples.iter().filter(|sample| self.status(sample.worker) != Status::Stalled);
        let mut able = takers().count();
        // If all queues are full, there is too much to do, and one worker less is no help.
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
        // If all are stuck, the one that got stuck last is kept.
        stuck.sort_unstable();
        for (_, key) in stuck {
            // Somebody must be there to take the queue.
            if able <= 1 {
                break;
            }
            let Some(worker) = self.workers.get_mut(&key) else { continue };
            able -= 1;
            let away = worker.record.stalled();
            worker.overloaded = false;
            worker.window = Window::default();
            worker.watch = None;
            worker.stall = Some(Stall {
                until: now + away,
                unseen_until: now + away.max(UNSEEN_AWAY),
                first: signs(key),
                awake: false,
                left: None,
            });
            changes.push(Change::Stalled(key));
            if policy.on_stall == OnStall::Restart && worker.proven && worker.record.wants_replacement() {
                changes.push(Change::Replace(key));
            }
        }
    }

    fn find_overload(&mut self, samples: &[Sample<K>], policy: &Service, changes: &mut Vec<Change<K>>) {
        let able = || samples.iter().filter(|sample| self.status(sample.worker) != Status::Stalled);
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
                // The mean of the others: of all, it would be beyond reach with `factor` workers.
                Some(overload) if others > 0 => {
                    let mean = (total - u64::from(sample.queue)) as f64 / others as f64;
                    (overload.factor * mean).max(f64::from(overload.floor))
                }
                _ => f64::INFINITY,
            };
            // What comes to a full queue is dropped.
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

impl Worker {
    fn status(&self) -> Status {
        match (&self.stall, self.overloaded) {
            (Some(_), _) => Status::Stalled,
            (None, true) => Status::Overloaded,
            (None, false) => Status::Fit,
        }
    }

    /// Whether the process of a worker that may be merely slow does nothing. It may be stopped; then
    /// only a `Large` doubt takes more time to see. Or it does not even wake up, for as long as it may
    /// accept nothing.
    fn shows_nothing(
        &mut self,
        signs: impl FnOnce() -> Option<Signs>,
        doubt: Doubt,
        room: bool,
        now: Instant,
        patience: Duration,
    ) -> bool {
        if self.watch.as_ref().is_some_and(|watch| now - watch.asked < patience / 8) {
            return false;
        }
        let Some(signs) = signs() else { return false };
        let same =
            |watch: &&Watch| watch.signs.switches == signs.switches && watch.signs.stopped == signs.stopped;
        let since = self.watch.as_ref().filter(same).map_or(now, |watch| watch.since);
        self.watch = Some(Watch { signs, since, asked: now });
        let long = now - since >= patience;
        match doubt {
            Doubt::Large => long && signs.stopped,
            _ => signs.stopped || (long && room),
        }
    }
}

impl Stall {
    /// It gets nothing to accept, so it must show otherwise that it would: best by waiting for it. One that
    /// does something else (a long request, another listener) is awake as well.
    fn is_over(&mut self, signs: impl FnOnce() -> Option<Signs>, now: Instant) -> bool {
        let Some(signs) = signs() else { return false };
        let first = self.first.get_or_insert(signs);
        let continued = first.stopped && !signs.stopped;
        // A thread that ends takes its switches with it, and is a sign of life, too.
        self.awake |= signs.pinged || continued || signs.switches != first.switches;
        let would = match signs.waits {
            Some(true) => true,
            Some(false) => self.awake && now >= self.unseen_until,
            None => self.awake,
        };
        would && !signs.stopped && now >= self.until
    }

    /// Whether connections have come to its queue and will not go by themselves. One that is awake
    /// but kept away may take them.
    fn has_leftovers(&mut self, queue: u32, now: Instant, patience: Duration) -> bool {
        let wait = if self.awake { patience } else { patience.min(LEFT_FOR) };
        let since = match self.left {
            _ if queue == 0 => None,
            Some((since, before)) if queue >= before => Some(since),
            _ => Some(now),
        };
        let due = since.is_some_and(|since| now - since >= wait);
        self.left = since.filter(|_| !due).map(|since| (since, queue));
        due
    }
}

impl Record {
    fn taken_back(&mut self) {
        self.taken_back = true;
        self.accepts_since = None;
    }

    fn accepted(&mut self, now: Instant) {
        let since = *self.accepts_since.get_or_insert(now);
        if now - since >= PROVEN {
            *self = Self { accepts_since: Some(since), ..Self::default() };
        }
    }

    /// Returns for how long it is to be kept away.
    fn stalled(&mut self) -> Duration {
        if self.taken_back && self.accepts_since.is_none() {
            self.relapses += 1;
        }
        match self.relapses {
            0 => Duration::ZERO,
            n => (FIRST_AWAY * 2u32.saturating_pow(n - 1)).min(LONGEST_AWAY),
        }
    }

    fn wants_replacement(&mut self) -> bool {
        self.relapses >= REPLACE_AFTER && !std::mem::replace(&mut self.replaced, true)
    }
}
