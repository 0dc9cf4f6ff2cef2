//! One worker as its service knows it, PURE: its slot, its sockets, and what was seen of its process.

use std::time::{Duration, Instant};

use super::super::Reply;
use super::super::denied::Denied;
use super::super::listener::Listener;
use super::super::observed::{Exit, ForeignSocket};
use super::super::ports::{Cookie, ListenerId, ProcessKey, WorkerId};
use super::super::watchdog::Watchdog;
use super::super::worker::{Life, Origin, State};
use crate::config::StopSettings;

/// A process that ends within this time of its start counts as one that has not served.
const SOON: Duration = Duration::from_secs(2);

/// How a worker holds its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seat {
    /// The worker has the slot, and gets buckets as far as its life allows.
    Own,
    /// The worker is a successor, and gets no buckets before it has shown that it works. With UDP it has a
    /// slot of its own; else it gets its predecessor's slot later.
    Trial {
        /// Whether the successor has a slot of its own.
        own: bool,
    },
    /// The worker's successor has the slot.
    Former,
    /// The worker has the slot, but neither buckets nor flows any more: it is about to be removed.
    Parting,
}

/// One socket of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerSocket {
    /// The listener that the socket belongs to.
    pub listener: ListenerId,
    /// Identifies the socket.
    pub cookie: Cookie,
    /// Value of the slot's counter of decisions when this worker got the slot.
    pub selected_before: u64,
    /// Decisions for this worker, fixed when it lost the slot.
    pub selected_after: Option<u64>,
    /// Whether the process has opened it itself, with all that it takes to serve: listen(2), with UDP bind(2).
    pub opened: bool,
}

/// A worker's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// Identifies the process.
    pub key: ProcessKey,
    /// When the process was started, or found by this daemon.
    pub since: Instant,
    /// Decisions for the worker's TCP sockets until then.
    pub selected: u64,
    /// How the process is told to end: a successor's command may need another signal.
    pub stop: StopSettings,
}

/// What was seen of a worker's process: for its readiness, and for `lacks` of `status`.
#[derive(Clone, Debug, Default)]
pub struct Sightings {
    /// The process was seen to wait for work on each of its sockets.
    pub waiting: bool,
    /// A socket that the process opened itself, instead of using those that it was given.
    pub foreign: Option<ForeignSocket>,
    /// The log has said which sockets the process does not wait on yet.
    pub said: bool,
    /// The log has said that the process is not ready within `start_timeout`.
    pub overdue: bool,
    /// Why the process cannot be started.
    pub not_started: Option<String>,
    /// Listener of a socket that takes no program any more (SO_LOCK_FILTER).
    pub locked: Option<Listener>,
    /// TCP sockets that the process has bound for a listener, and that do not listen.
    pub bound: Vec<(ListenerId, Cookie)>,
    /// Last lines of the previous process, if that ended by its own fault.
    pub last_words: Vec<String>,
}

/// Progress of a worker's drain, and the callers that wait for its end.
#[derive(Default)]
pub struct DrainReport {
    /// When the worker's buckets moved away.
    pub begun: Option<Instant>,
    /// Connections (TCP) and bytes (UDP) in its queues at that time.
    pub queue: u64,
    /// Connections that other workers got, because this one did not accept them.
    pub handed_over: u64,
    /// Live flows (UDP), counted before the worker's buckets moved away.
    pub flows: Option<u64>,
    /// How many of those flows still lived when the worker's time was over.
    pub flows_cut: u64,
    /// Live TCP connections when its process was told to end; `None` if they are not counted.
    pub connections: Option<u64>,
    /// How the worker's process ended.
    pub end: Option<String>,
    /// Callers that wait for the end of the drain.
    pub waiting: Vec<Reply<Result<Departure, Denied>>>,
}

/// Outcome of a worker's drain.
#[derive(Clone, Debug, PartialEq)]
pub struct Departure {
    /// Name of the worker.
    pub worker: String,
    /// Time from the move of the worker's buckets until it was removed.
    pub took: Duration,
    /// Connections (TCP) and bytes (UDP) in its queues when its buckets moved away.
    pub queue: u64,
    /// Connections that other workers got, because this one did not accept them.
    pub handed_over: u64,
    /// Live flows (UDP) when its buckets moved away.
    pub flows: u64,
    /// How many of those flows still lived when the worker's time was over; other workers got them.
    pub flows_cut: u64,
    /// Live TCP connections when its process was told to end; `None` if they are not counted.
    pub connections: Option<u64>,
    /// How the worker's process ended; `None` if it had none, or a joined process goes on.
    pub end: Option<String>,
}

/// One worker.
pub struct Worker {
    /// Identifies the worker within its service.
    pub id: WorkerId,
    /// Service and number, like `web/2`.
    pub name: String,
    /// Slot in the socket arrays, also of a successor that is to get it later.
    pub slot: u16,
    /// How the worker holds its slot.
    pub seat: Seat,
    /// Revision of the settings that the process was started with.
    pub revision: u64,
    /// Share of all buckets, over the sum of all weights.
    pub weight: u32,
    /// State, readiness, restarts.
    pub life: Life,
    /// One socket per listener, in their order.
    pub sockets: Vec<WorkerSocket>,
    /// The running process, if there is one.
    pub process: Option<Running>,
    /// Watchdog of the running process.
    pub watchdog: Watchdog,
    /// What was seen of the running process.
    pub sightings: Sightings,
    /// Progress of the worker's drain.
    pub drain: DrainReport,
}

impl Worker {
    /// Whether this worker's sockets are in the slot now.
    #[must_use]
    pub fn holds_slot(&self) -> bool {
        matches!(self.seat, Seat::Own | Seat::Trial { own: true } | Seat::Parting)
    }

    /// Whether the worker gets buckets when its life allows that.
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.seat == Seat::Own
    }

    /// Whether the worker is a successor that has not taken over yet.
    #[must_use]
    pub fn is_successor(&self) -> bool {
        matches!(self.seat, Seat::Trial { .. })
    }

    /// Whether the worker serves or will serve again, and does not leave.
    #[must_use]
    pub fn stays(&self) -> bool {
        self.life.state() != State::Draining || self.life.returns()
    }

    /// Whether the daemon starts the process.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.life.origin() == Origin::Started
    }

    /// Whether others have started the worker's process and opened its sockets.
    #[must_use]
    pub fn is_adopted(&self) -> bool {
        self.life.origin() == Origin::Adopted
    }

    /// Whether the worker has sockets that the process of another one has bound.
    #[must_use]
    pub fn is_part(&self) -> bool {
        self.id.part > 0
    }

    /// Whether the process has called all that it takes to serve on each of the worker's sockets.
    #[must_use]
    pub fn listens(&self) -> bool {
        self.sockets.iter().all(|socket| socket.opened)
    }

    /// Whether the worker's health is found from its queues: it serves.
    #[must_use]
    pub fn is_monitored(&self) -> bool {
        self.is_member() && self.life.state() == State::Ready
    }

    /// The worker's socket of `listener`, which most often has index `at`: looks there first.
    #[must_use]
    pub fn socket_near(&self, at: usize, listener: ListenerId) -> Option<&WorkerSocket> {
        let is = |socket: &&WorkerSocket| socket.listener == listener;
        self.sockets.get(at).filter(is).or_else(|| self.sockets.iter().find(is))
    }

    /// The worker's socket of `listener`.
    #[must_use]
    pub fn socket_of(&self, listener: ListenerId) -> Option<&WorkerSocket> {
        self.sockets.iter().find(|socket| socket.listener == listener)
    }

    /// Time since the process was started, or found.
    #[must_use]
    pub fn age(&self, now: Instant) -> Option<Duration> {
        self.process.map(|running| now.saturating_duration_since(running.since))
    }

    /// Advice for the log line about the end of the process: a command that ends in order right after its start has
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

    /// Answers the callers that wait for the end of the drain.
    pub fn tell_departure(self, now: Instant) {
        let DrainReport { begun, queue, handed_over, flows, flows_cut, connections, end, waiting } =
            self.drain;
        let took = begun.map_or(Duration::ZERO, |begun| now - begun);
        let flows = flows.unwrap_or_default();
        let departure =
            Departure { worker: self.name, took, queue, handed_over, flows, flows_cut, connections, end };
        waiting.into_iter().for_each(|answer| answer.send(Ok(departure.clone())));
    }
}
