//! One worker as its service knows it, PURE: its place in the service, its sockets, and what was seen of its process.

use std::time::{Duration, Instant};

use super::super::Reply;
use super::super::denied::Denied;
use super::super::listener::Listener;
use super::super::observed::{Exit, ForeignSocket};
use super::super::ports::{Cookie, ListenerId, ProcessKey, WorkerId};
use super::super::watchdog::Watchdog;
use super::super::worker::{Life, Origin, State};

/// A process that ends so soon after its start has not served.
const SOON: Duration = Duration::from_secs(2);

/// What a worker has to do with its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seat {
    /// Its own: it takes part in the service as far as its life allows.
    Own,
    /// It is to replace another one, and has no part in the service before it has shown that it works. With UDP it has a
    /// slot of its own; else it is to get that of the other one.
    Trial {
        /// Whether it has a slot of its own.
        own: bool,
    },
    /// Its successor has it.
    Former,
    /// Its own, but it is about to be removed: it has neither buckets nor flows any more.
    Parting,
}

/// One socket of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerSocket {
    /// Of which listener.
    pub listener: ListenerId,
    /// Which.
    pub cookie: Cookie,
    /// What the counter of the slot said when this worker got it.
    pub selected_before: u64,
    /// What it had been selected for when it lost the slot.
    pub selected_after: Option<u64>,
}

/// A worker's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// Which.
    pub key: ProcessKey,
    /// When it was started, or found.
    pub since: Instant,
    /// What its TCP sockets had been selected for by then.
    pub selected: u64,
}

/// What was seen of a worker's process, for readiness and for those who ask what it lacks.
#[derive(Clone, Debug, Default)]
pub struct Sightings {
    /// It was seen to wait for work on each of its sockets.
    pub waiting: bool,
    /// What it opened to be reached at, instead of its sockets.
    pub foreign: Option<ForeignSocket>,
    /// The log says what it does not wait for yet.
    pub said: bool,
    /// Why it cannot be started.
    pub not_started: Option<String>,
    /// A socket of it takes no program any more: the listener.
    pub locked: Option<Listener>,
    /// What the last process wrote before it ended by its own fault.
    pub last_words: Vec<String>,
}

/// How a drain goes, and who waits for its end.
#[derive(Default)]
pub struct DrainReport {
    /// When its buckets moved away.
    pub begun: Option<Instant>,
    /// What waited for it then: connections (TCP) and bytes (UDP).
    pub queue: u64,
    /// Connections that others got, because it did not accept them.
    pub handed_over: u64,
    /// Flows (UDP) that it had, as they were counted before its buckets moved away.
    pub flows: Option<u64>,
    /// Of those, the ones that still lived when it had to go.
    pub flows_cut: u64,
    /// How its process ended.
    pub end: Option<String>,
    /// Who waits.
    pub waiting: Vec<Reply<Result<Departure, Denied>>>,
}

/// How a worker left.
#[derive(Clone, Debug, PartialEq)]
pub struct Departure {
    /// Its name.
    pub worker: String,
    /// From the moment when its buckets moved away until nothing of it was left.
    pub took: Duration,
    /// Connections (TCP) and bytes (UDP) that waited for it then.
    pub queue: u64,
    /// Connections that others got, because it did not accept them.
    pub handed_over: u64,
    /// Flows (UDP) that it had then.
    pub flows: u64,
    /// Of those, the ones that still lived when it had to go; others got them.
    pub flows_cut: u64,
    /// How its process ended; `None` if it had none, or goes on without us.
    pub end: Option<String>,
}

/// One worker.
pub struct Worker {
    /// Which.
    pub id: WorkerId,
    /// Like `web/2`.
    pub name: String,
    /// Its slot, or the one that it is to get.
    pub slot: u16,
    /// What it has to do with that.
    pub seat: Seat,
    /// The revision of the settings that it was started with.
    pub revision: u64,
    /// Its part of all buckets, over the sum of all weights.
    pub weight: u32,
    /// Where it is in its life.
    pub life: Life,
    /// One per listener, in their order.
    pub sockets: Vec<WorkerSocket>,
    /// Its process.
    pub process: Option<Running>,
    /// Whether it says that it is alive.
    pub watchdog: Watchdog,
    /// What was seen of it.
    pub sightings: Sightings,
    /// How it leaves.
    pub drain: DrainReport,
}

impl Worker {
    /// Whether the slot is its own, now.
    #[must_use]
    pub fn holds_slot(&self) -> bool {
        matches!(self.seat, Seat::Own | Seat::Trial { own: true } | Seat::Parting)
    }

    /// Whether it takes part in the service, as far as its life allows.
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.seat == Seat::Own
    }

    /// Whether it is to replace another one, and has not taken over yet.
    #[must_use]
    pub fn is_successor(&self) -> bool {
        matches!(self.seat, Seat::Trial { .. })
    }

    /// Whether it will be there: it serves, or will again.
    #[must_use]
    pub fn stays(&self) -> bool {
        self.life.state() != State::Draining || self.life.returns()
    }

    /// Whether the daemon started it.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.life.origin() == Origin::Started
    }

    /// Whether its queues say anything about its health.
    #[must_use]
    pub fn is_judged(&self) -> bool {
        self.is_member() && self.life.state() == State::Ready
    }

    /// Its socket of `listener`; most often the one with index `at`.
    #[must_use]
    pub fn socket_near(&self, at: usize, listener: ListenerId) -> Option<&WorkerSocket> {
        let is = |socket: &&WorkerSocket| socket.listener == listener;
        self.sockets.get(at).filter(is).or_else(|| self.sockets.iter().find(is))
    }

    /// Its socket of `listener`.
    #[must_use]
    pub fn socket_of(&self, listener: ListenerId) -> Option<&WorkerSocket> {
        self.sockets.iter().find(|socket| socket.listener == listener)
    }

    /// For how long its process has been there.
    #[must_use]
    pub fn age(&self, now: Instant) -> Option<Duration> {
        self.process.map(|running| now.saturating_duration_since(running.since))
    }

    /// What to add to how its process ended: a command that ends in order right after its start has
    /// perhaps gone to the background.
    #[must_use]
    pub fn advice_on(&self, exit: Exit, now: Instant) -> &'static str {
        let soon = self.age(now).is_some_and(|age| age < SOON);
        let own = self.is_started() && self.life.state() != State::Draining;
        if exit != Exit::Status(0) || !own || !soon {
            return "";
        }
        " (what goes to the background cannot be watched: keep it in the foreground, with nginx -g 'daemon off;', \
         haproxy -db, for others --foreground, --no-daemon or the like)"
    }

    /// Says to those who wait how it left.
    pub fn tell_departure(self, now: Instant) {
        let DrainReport { begun, queue, handed_over, flows, flows_cut, end, waiting } = self.drain;
        let took = begun.map_or(Duration::ZERO, |begun| now - begun);
        let flows = flows.unwrap_or_default();
        let departure = Departure { worker: self.name, took, queue, handed_over, flows, flows_cut, end };
        waiting.into_iter().for_each(|answer| answer.send(Ok(departure.clone())));
    }
}
