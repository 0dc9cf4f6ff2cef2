//! What happened: the lines of `GET /v1/events`.

use serde::{Deserialize, Serialize};

/// One line of the answer to `GET /v1/events` that is not empty.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EventLine {
    /// Something that happened.
    Event(EventRecord),
    /// Events that are left out here: the reader was too slow, or they are not kept any more.
    Missed {
        /// How many.
        missed: u64,
    },
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Number of the event, from 1 for the first one of a daemon, without gaps.
    pub seq: u64,
    /// When, in seconds since 1970.
    pub time: f64,
    /// The service that it happened to; `null`: the daemon itself.
    pub service: Option<String>,
    /// The worker that it happened to, like `web/2`; `null`: the whole service.
    pub worker: Option<String>,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
    /// Why, if there is more to say.
    pub reason: Option<String>,
    /// Who asked for it; `null`: the daemon did it by itself.
    pub by: Option<Requester>,
}

/// Who asked for a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Requester {
    /// A process, as it was when it connected.
    Process {
        /// Process id.
        pid: i32,
        /// User id.
        uid: u32,
        /// Name of its program; empty if that is not known.
        command: String,
    },
    /// Whoever sent the daemon this signal.
    Signal {
        /// Name of the signal, like `SIGHUP`.
        signal: String,
    },
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// The daemon was started.
    Started {
        /// Its process id.
        pid: u32,
        /// Its version.
        version: String,
    },
    /// A reload was applied.
    Reloaded {
        /// What has changed, a line for each service.
        changes: String,
    },
    /// A reload was refused; the reason says why.
    ReloadFailed,
    /// The daemon is to end.
    Stopping {
        /// Whether workers, sockets and buckets stay for the next daemon.
        keep: bool,
    },
    /// The machine is to get nothing new.
    HostDrained {
        /// Until when, in seconds since 1970; `null`: until it is undrained.
        until: Option<f64>,
    },
    /// The machine is to get new traffic again.
    HostUndrained,
    /// All workers of the service became ready for the first time.
    Up,
    /// This daemon goes on with the workers of an earlier one.
    TakenOver {
        /// How many of their processes run.
        workers: usize,
    },
    /// The service is to end.
    Ending,
    /// Another number of workers is wanted.
    Scaled {
        /// Number before.
        from: usize,
        /// Number now.
        to: usize,
    },
    /// Workers are being replaced.
    Replacing {
        /// How many.
        workers: usize,
    },
    /// A replacement of workers has ended.
    Replaced {
        /// How many workers were replaced.
        workers: usize,
        /// Whether all were; else the reason says why not.
        all: bool,
    },
    /// Buckets changed their worker.
    Moved {
        /// How many, of 65,536.
        buckets: usize,
        /// How many workers own buckets now.
        members: usize,
    },
    /// A worker was added.
    Added,
    /// A worker is in another state.
    State {
        /// State before, as in [`WorkerStatus`](super::WorkerStatus).
        from: String,
        /// State now.
        to: String,
        /// Whether the worker is a successor that has not taken over yet.
        successor: bool,
    },
    /// The process of a worker has ended; the reason says how.
    Ended {
        /// Whether the worker is a successor that has not taken over yet.
        successor: bool,
        /// Whether it was told to, or had said so.
        expected: bool,
    },
    /// A successor serves in the place of its predecessor.
    Serves,
    /// A worker was removed.
    Removed {
        /// Time since its buckets moved.
        seconds: f64,
        /// Connections that other workers got, because this one did not accept them.
        handed_over: u64,
        /// UDP flows that still lived when its time was over.
        flows_cut: u64,
    },
    /// A worker has another weight.
    Weight {
        /// Weight before.
        from: u32,
        /// Weight now.
        to: u32,
    },
    /// A worker does not accept: it gets no connections, and others get what waits for it.
    Stalled {
        /// Address of the listener.
        listen: String,
    },
    /// A worker accepts again.
    Recovered {
        /// Address of the listener.
        listen: String,
    },
    /// Of a later version.
    #[serde(other)]
    Other,
}
