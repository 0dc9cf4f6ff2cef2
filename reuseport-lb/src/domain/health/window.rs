//! The queue of one worker over time, PURE: whether connections are accepted from it. Not: what
//! follows from that (`health/mod.rs`).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The time in which a worker must accept something is measured in so many parts.
const PARTS: u32 = 16;

/// Up to so many decisions whose connections never reached the queue are taken for handshakes under way.
const FEW: i64 = 4;

/// More than one in so many decisions without a connection in the queue: the worker probably accepts.
const ONE_IN: i64 = 10;

/// A connection that was decided this long ago and is not in the queue has been accepted.
const HANDSHAKE: Duration = Duration::from_secs(1);

/// What a look shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing new.
    Unclear,
    /// The worker accepts.
    Accepts,
    /// For the whole time the queue was not empty, and no look has seen it shrink.
    Stuck {
        /// When the queue was first seen like that.
        since: Instant,
        /// Whether the worker may only be slow.
        doubt: Doubt,
    },
}

/// How much may have been accepted although no look has seen the queue shrink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// Nothing.
    None,
    /// A few connections among many that arrive, or some from a full queue that is filled again before
    /// the next look.
    Small,
    /// Many of the connections that arrive, unless their handshakes never end.
    Large,
}

#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    queue: u32,
    full: bool,
    selected: u64,
}

/// The counts of a [`Window`] at one moment.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    /// Decisions while the queue was not full.
    decided: i64,
    /// How many of their connections are not in the queue: accepted, or still in a handshake.
    gone: i64,
    /// Number of looks at a full queue.
    full: u32,
}

/// The recent past of a queue: since it was first seen not empty, or last seen to shrink.
#[derive(Debug, Default)]
pub(super) struct Window {
    last: Option<Look>,
    began: Option<Instant>,
    /// Counts at earlier moments, back to `patience` ago; none while the queue is empty.
    marks: VecDeque<Mark>,
    decided: i64,
    gone: i64,
    full: u32,
    /// Time of a decision since which the queue has been empty.
    decided_at: Option<Instant>,
}

impl Window {
    pub(super) fn look(
        &mut self,
        queue: u32,
        full: bool,
        selected: u64,
        at: Instant,
        patience: Duration,
    ) -> Verdict {
        let look = Look { at, queue, full, selected };
        let last = self.last.replace(look);
        let shrank = last.is_some_and(|last| queue < last.queue);
        if queue > 0 {
            self.decided_at = None;
        }
        match last {
            Some(last) if queue > 0 && !shrank && self.began.is_some() => self.go_on(last, look, patience),
            Some(last) if queue == 0 && !shrank => self.stay_empty(last, look),
            _ => {
                self.begin(look);
                if shrank { Verdict::Accepts } else { Verdict::Unclear }
            }
        }
    }

    fn begin(&mut self, look: Look) {
        self.marks.clear();
        self.began = (look.queue > 0).then_some(look.at);
        if self.began.is_some() {
            self.mark(look.at);
        }
    }

    fn mark(&mut self, at: Instant) {
        self.marks.push_back(Mark { at, decided: self.decided, gone: self.gone, full: self.full });
    }

    fn go_on(&mut self, last: Look, look: Look, patience: Duration) -> Verdict {
        // A long time without a look counts in part only: the whole machine may have stood still.
        let lost = (look.at - last.at).saturating_sub(patience / 2);
        self.marks.iter_mut().for_each(|mark| mark.at += lost);
        // Connections to a full queue may be dropped, so decisions are not counted.
        if last.full || look.full {
            self.full = self.full.wrapping_add(1);
        } else {
            let decided = i64::try_from(look.selected.saturating_sub(last.selected)).unwrap_or_default();
            self.decided += decided;
            self.gone += decided - i64::from(look.queue - last.queue);
        }
        if self.marks.back().is_none_or(|mark| look.at - mark.at >= patience / PARTS) {
            self.mark(look.at);
        }
        // The window slides: connections accepted longer than `patience` ago do not count.
        while self.marks.get(1).is_some_and(|mark| look.at - mark.at >= patience) {
            self.marks.pop_front();
        }
        match (self.marks.front(), self.began) {
            (Some(start), Some(since)) if look.at - start.at >= patience => {
                let gone = self.gone - start.gone;
                let doubt = if gone > FEW && gone * ONE_IN > self.decided - start.decided {
                    Doubt::Large
                } else if gone > FEW || self.full != start.full {
                    Doubt::Small
                } else {
                    Doubt::None
                };
                Verdict::Stuck { since, doubt }
            }
            _ => Verdict::Unclear,
        }
    }

    fn stay_empty(&mut self, last: Look, look: Look) -> Verdict {
        let accepted = self.decided_at.take_if(|decided| look.at - *decided >= HANDSHAKE).is_some();
        if look.selected > last.selected {
            self.decided_at.get_or_insert(look.at);
        }
        if accepted { Verdict::Accepts } else { Verdict::Unclear }
    }
}
