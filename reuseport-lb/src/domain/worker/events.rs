//! Events of a worker's life, the steps that follow, and the states that `status` shows.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// State of a worker, as `status` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The process runs but is not ready yet.
    Starting,
    /// The time set by `ready` is over, but the process has not been seen to wait for work yet.
    Loading,
    /// The worker serves.
    Ready,
    /// The worker leaves: no new flows; its queue empties, then its process ends.
    Draining,
    /// The process has ended; sockets and queue wait for the next one.
    Held,
    /// Processes have ended again and again before they had run for a while.
    Failed,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Loading => "loading",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Held => "held",
            Self::Failed => "failed",
        })
    }
}

/// What starts a worker's process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The daemon starts the process, and starts it again.
    #[default]
    Started,
    /// The process joined (`exec`, or the client library); the worker ends with it.
    Joined,
    /// The process is that of another worker, which has bound further sockets.
    Bound,
    /// Others have started the process and opened the sockets, which the worker is for.
    Adopted,
}

/// A worker's life as an earlier daemon has saved it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// What started the process.
    pub origin: Origin,
    /// State of the worker.
    pub state: State,
    /// Whether the worker might own buckets.
    pub admitted: bool,
    /// Whether the worker had a process.
    pub running: bool,
    /// How often a process was started again.
    pub restarts: u32,
    /// How many of these because SIGKILL had ended the process.
    #[serde(default)]
    pub kills: u32,
    /// Whether the process knew that it was to end.
    pub told: bool,
    /// Whether a process that was ending by itself is started again.
    pub returns: bool,
    /// Whether the process joined, and opens its sockets itself.
    #[serde(default)]
    pub opens: bool,
}

/// An event of a worker's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The first process is to be started.
    Start,
    /// A process was started.
    Spawned,
    /// The process said `READY=1`.
    SaidReady,
    /// The process was seen to wait for work.
    SeenWaiting {
        /// On each of the worker's sockets; else on at least one.
        all: bool,
    },
    /// The process, which opens its sockets itself, has called listen(2) for all of the worker's.
    Listens,
    /// The process said `READY=1`, but has opened sockets of its own instead of using the worker's.
    Unused,
    /// The process said `STOPPING=1`: it ends by itself.
    SaidStopping,
    /// The process ended.
    Ended {
        /// Whether SIGKILL ended it: that is not the process's own fault.
        killed: bool,
    },
    /// The machine lacks resources to start a process.
    NotStarted,
    /// The process cannot be started before its predecessor has ended.
    Deferred,
    /// The worker is to leave.
    Leave {
        /// Longest time until `stop_signal`, and again until SIGKILL; `None`: `drain_timeout`.
        patience: Option<Duration>,
    },
    /// The worker whose process has the sockets is to leave, and this part of it with it.
    LeaveAlong,
    /// The worker whose process has the sockets has waited for its flows long enough.
    CutAlong,
    /// The worker's queues and flows were counted.
    Looked {
        /// Content of all queues; while flows live, only of TCP queues.
        queue: u64,
        /// Live UDP flows.
        flows: u64,
        /// Live TCP connections, if the worker's end waits for them.
        connections: u64,
    },
    /// A deadline of [`Life::deadline`](super::Life::deadline) has passed.
    Tick,
    /// The process is to be killed.
    Kill,
}

/// A step that follows from an event; steps are carried out in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Start a process.
    Spawn,
    /// Let the worker own buckets.
    Admit,
    /// Take the worker's buckets away.
    Withdraw,
    /// Take the worker's UDP flows away.
    Cut,
    /// The process has ended: hand queued connections to other workers, and listen again.
    Rescue,
    /// The process loads: hand queued connections to other workers at listeners that it does not wait on yet.
    HandOn,
    /// The process does not accept any more: hand queued connections to other workers, for good.
    HandOver,
    /// Tell the process to end: by `stop_signal`.
    Terminate,
    /// Send SIGKILL.
    Kill,
    /// Hand queued connections to other workers, close the sockets, free the slot and forget the worker.
    Remove,
}
