//! The queue of one UDP socket over time, PURE: whether datagrams are read from it. Not: what follows from that
//! (`health/datagrams.rs`).
//!
//! Reads do not shrink a UDP queue one by one: the kernel takes their bytes off together, when those that it has set
//! aside for the reader are read, or make a quarter of the buffer (docs/KERNEL.md 82). So the first datagram is looked at:
//! if another one is first, something was read. The same sender may have sent the same content many times, one after the
//! other; then nothing changes until the bytes are taken off.

use std::time::{Duration, Instant};

use super::window::{Doubt, Verdict};
use crate::domain::observed::{Head, Queue};

/// The first datagram must be the same at so many looks at least.
const LOOKS: u32 = 4;

/// A first datagram that is equal for so many times the patience was not read, whatever the process does: else one sender
/// would have sent all that was read meanwhile, each time the same.
const SURE: u32 = 10;

/// A datagram takes at least so many bytes of the buffer (`truesize`: with the kernel's own structures).
const LEAST: u32 = 512;

/// The recent past of a UDP queue.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// Bytes in the queue at the last look.
    bytes: u32,
    /// Decisions at the last look at an empty queue, if they were known.
    selected: Option<u64>,
    first: Option<First>,
}

/// The first datagram in the queue.
#[derive(Clone, Copy, Debug)]
struct First {
    hash: u64,
    /// Since when it is the first one, without times in which nobody looked.
    since: Instant,
    seen_at: Instant,
    looks: u32,
    /// So many equal datagrams may have been read unseen.
    unseen: u32,
}

impl Reading {
    /// Notes a look at a queue. Calls `head` only for one that was not empty at the last look either.
    pub(super) fn look(
        &mut self,
        queue: Queue,
        selected: Option<u64>,
        head: impl FnOnce() -> Head,
        now: Instant,
        patience: Duration,
    ) -> Verdict {
        let before = std::mem::replace(&mut self.bytes, queue.queue);
        let shrank = queue.queue < before;
        let read = |it: bool| if it { Verdict::Accepts } else { Verdict::Unclear };
        if queue.queue == 0 {
            // What came meanwhile is not there any more.
            let came = self.selected.zip(selected).is_some_and(|(before, now)| now > before);
            (self.first, self.selected) = (None, selected);
            return read(shrank || came);
        }
        if before == 0 {
            self.first = None;
            return Verdict::Unclear;
        }
        let hash = match head() {
            Head::Datagram(hash) => hash,
            other => {
                self.first = None;
                return read(shrank || other == Head::Empty);
            }
        };
        let unseen = queue.queue.min(queue.backlog / 4) / LEAST;
        match &mut self.first {
            Some(first) if first.hash == hash && !shrank => {
                // A long time without a look counts in part only: the whole machine may have stood still.
                first.since += (now - first.seen_at).saturating_sub(patience / 2);
                (first.seen_at, first.looks) = (now, first.looks + 1);
                first.unseen = first.unseen.max(unseen);
                let since = first.since;
                if now - since < patience || first.looks < LOOKS {
                    return Verdict::Unclear;
                }
                // If few wait, a worker that reads one in each `patience` has come to an end of them by now.
                let sure = now - since >= patience * (first.unseen + 1).min(SURE);
                Verdict::Stuck { since, doubt: if sure { Doubt::None } else { Doubt::Small } }
            }
            first => {
                let another = first.is_some();
                *first = Some(First { hash, since: now, seen_at: now, looks: 1, unseen });
                read(shrank || another)
            }
        }
    }
}
