//! What is known of one worker at a listener, PURE: whether it seems stuck, since when it is stalled, and what it has done
//! since it was taken back.

use std::time::{Duration, Instant};

use super::window::{Doubt, Window};

/// A worker that was taken back and has accepted for this long has shown that it works.
const PROVEN: Duration = Duration::from_secs(10);

/// How long a worker is kept away after its first relapse; doubles with every further one.
pub(super) const FIRST_AWAY: Duration = Duration::from_millis(250);

/// So long is one kept away that shows signs of life but is not seen to wait for work; it may be one that never
/// sleeps.
pub(super) const UNSEEN_AWAY: Duration = Duration::from_secs(5);

/// The longest that a worker with a sign of life is kept away.
const LONGEST_AWAY: Duration = Duration::from_secs(30);

/// So many relapses in a row, and the process is beyond help.
const REPLACE_AFTER: u32 = 3;

/// Connections that come to the queue of a stalled worker (their handshakes had begun before it was
/// avoided) wait there for this long.
const LEFT_FOR: Duration = Duration::from_millis(100);

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

#[derive(Debug, Default)]
pub(super) struct Worker {
    pub(super) window: Window,
    pub(super) overloaded: bool,
    pub(super) watch: Option<Watch>,
    pub(super) stall: Option<Stall>,
    pub(super) record: Record,
    /// Its process was seen to accept here, or to wait for work.
    pub(super) proven: bool,
}

/// It seems stuck but may be merely slow: does its process do anything?
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) signs: Signs,
    /// Since when they are the same.
    pub(super) since: Instant,
    pub(super) asked: Instant,
}

#[derive(Debug)]
pub(super) struct Stall {
    /// Not taken back earlier, whatever it shows.
    pub(super) until: Instant,
    /// Nor earlier than this if it is seen not to wait for work.
    pub(super) unseen_until: Instant,
    /// What it showed when it was stalled, or when that was first known.
    pub(super) first: Option<Signs>,
    /// It has shown a sign of life since.
    pub(super) awake: bool,
    /// Since when its queue is not empty and has not shrunk, and how long it is.
    pub(super) left: Option<(Instant, u32)>,
}

/// What a worker has done since it was taken back.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) taken_back: bool,
    /// When it was first seen to accept.
    pub(super) accepts_since: Option<Instant>,
    /// Stalls in a row after each of which it was taken back and accepted nothing.
    pub(super) relapses: u32,
    pub(super) replaced: bool,
}

impl Worker {
    pub(super) fn status(&self) -> Status {
        match (&self.stall, self.overloaded) {
            (Some(_), _) => Status::Stalled,
            (None, true) => Status::Overloaded,
            (None, false) => Status::Fit,
        }
    }

    /// Whether the process of a worker that may be merely slow does nothing. It may be stopped; then
    /// only a `Large` doubt takes more time to see. Or it does not even wake up, for as long as it may
    /// accept nothing.
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
    /// It gets nothing to accept, so it must show otherwise that it would: best by waiting for it. One that
    /// does something else (a long request, another listener) is awake as well.
    pub(super) fn is_over(&mut self, signs: impl FnOnce() -> Option<Signs>, now: Instant) -> bool {
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

    /// Returns for how long it is to be kept away.
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
