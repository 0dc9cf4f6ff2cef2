//! State of one worker at a listener, PURE: whether it seems stuck, since when it is stalled, and what it has accepted
//! since it recovered.

use std::time::{Duration, Instant};

use super::reading::Reading;
use super::window::{Doubt, Window};

/// A recovered worker that has accepted for this long has shown that it works: its relapses are forgotten.
const PROVEN: Duration = Duration::from_secs(10);

/// How long a worker stays stalled at least after its first relapse; doubles with every further one.
pub(super) const FIRST_AWAY: Duration = Duration::from_millis(250);

/// How long a worker stays stalled that shows signs of life but is not seen to wait for work: it may poll without
/// ever sleeping.
const UNSEEN_AWAY: Duration = Duration::from_secs(5);

/// The longest that relapses keep a worker with signs of life stalled.
const LONGEST_AWAY: Duration = Duration::from_secs(30);

/// After so many relapses in a row the process is to be replaced.
const REPLACE_AFTER: u32 = 3;

/// Connections that come to the queue of a stalled worker (their handshakes had begun before it was
/// avoided) wait there for this long.
const LEFT_FOR: Duration = Duration::from_millis(100);

/// Signs of life of a worker's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signs {
    /// The process is stopped, by a signal or a debugger.
    pub stopped: bool,
    /// Voluntary context switches of its threads so far.
    pub switches: u64,
    /// The process has said `WATCHDOG=1` since the last look.
    pub pinged: bool,
    /// One of its threads waits for work on the socket; `None` if this kernel does not show that.
    pub waits: Option<bool>,
}

/// Health of a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HealthStatus {
    /// The worker gets new connections; also one of which nothing is known.
    #[default]
    Fit,
    /// The worker's queue is much deeper than those of the others.
    Overloaded,
    /// The worker does not accept.
    Stalled,
}

#[derive(Debug, Default)]
pub(super) struct Worker {
    pub(super) window: Window,
    pub(super) reading: Reading,
    pub(super) overloaded: bool,
    pub(super) watch: Option<Watch>,
    pub(super) stall: Option<Stall>,
    pub(super) record: Record,
    /// The process was seen to accept at this listener, or to wait for work.
    pub(super) proven: bool,
}

/// Signs of life of a worker that seems stuck but may only be slow.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) signs: Signs,
    /// Since when the signs have not changed.
    pub(super) since: Instant,
    pub(super) asked: Instant,
}

#[derive(Debug)]
pub(super) struct Stall {
    /// The worker does not recover before this time.
    pub(super) until: Instant,
    /// A worker that is seen not to wait for work does not recover before this time.
    pub(super) unseen_until: Instant,
    /// Signs of life when the worker was stalled, or when they were first known.
    pub(super) first: Option<Signs>,
    /// The worker has shown a sign of life since.
    pub(super) awake: bool,
    /// Since when the queue is not empty and has not shrunk, and its length.
    pub(super) left: Option<(Instant, u32)>,
}

/// What a worker has done since it recovered.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) taken_back: bool,
    /// When the worker was first seen to accept.
    pub(super) accepts_since: Option<Instant>,
    /// Stalls in a row before each of which the worker had recovered and accepted nothing.
    pub(super) relapses: u32,
    pub(super) replaced: bool,
}

impl Worker {
    pub(super) fn status(&self) -> HealthStatus {
        match (&self.stall, self.overloaded) {
            (Some(_), _) => HealthStatus::Stalled,
            (None, true) => HealthStatus::Overloaded,
            (None, false) => HealthStatus::Fit,
        }
    }

    /// Whether the process of a worker that may only be slow does nothing: it is stopped (for `patience` if the doubt
    /// is `Large`), or, with a smaller doubt and while other queues have `room`, shows no sign of life for `patience`.
    pub(super) fn shows_nothing(
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
    /// A stall that lasts for `away` at least.
    pub(super) fn begun(now: Instant, away: Duration, first: Option<Signs>) -> Self {
        let unseen_until = now + away.max(UNSEEN_AWAY);
        Self { until: now + away, unseen_until, first, awake: false, left: None }
    }

    /// Whether the worker recovers. It gets no connections, so it cannot show that it accepts; the best sign is that it
    /// waits for work. Other signs of life may come from other work (a long request, another listener).
    pub(super) fn is_over(&mut self, signs: impl FnOnce() -> Option<Signs>, now: Instant) -> bool {
        let Some(signs) = signs() else { return false };
        let first = self.first.get_or_insert(signs);
        let continued = first.stopped && !signs.stopped;
        // A thread that ends takes its switches with it, which is a sign of life as well.
        self.awake |= signs.pinged || continued || signs.switches != first.switches;
        let would = match signs.waits {
            Some(true) => true,
            Some(false) => self.awake && now >= self.unseen_until,
            None => self.awake,
        };
        would && !signs.stopped && now >= self.until
    }

    /// Whether connections that came to the queue are to be handed to others: after [`LEFT_FOR`], or after `patience`
    /// if the worker has shown a sign of life and may accept them itself.
    pub(super) fn has_leftovers(&mut self, queue: u32, now: Instant, patience: Duration) -> bool {
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
    pub(super) fn taken_back(&mut self) {
        self.taken_back = true;
        self.accepts_since = None;
    }

    pub(super) fn accepted(&mut self, now: Instant) {
        let since = *self.accepts_since.get_or_insert(now);
        if now - since >= PROVEN {
            *self = Self { accepts_since: Some(since), ..Self::default() };
        }
    }

    /// Notes a stall; returns how long the worker stays stalled at least.
    pub(super) fn stalled(&mut self) -> Duration {
        if self.taken_back && self.accepts_since.is_none() {
            self.relapses += 1;
        }
        match self.relapses {
            0 => Duration::ZERO,
            n => (FIRST_AWAY * 2u32.saturating_pow(n - 1)).min(LONGEST_AWAY),
        }
    }

    pub(super) fn wants_replacement(&mut self) -> bool {
        self.relapses >= REPLACE_AFTER && !std::mem::replace(&mut self.replaced, true)
    }
}
