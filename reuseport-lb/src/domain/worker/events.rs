//! What happens to a worker, what is to be done then, and what is shown of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What `status` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its process runs but is not ready yet.
    Starting,
    /// Its time to become ready has come, but it has not been seen to wait for work yet.
    Loading,
    /// It serves.
    Ready,
    /// It leaves: no new flows; its queue empties, then its process ends.
    Draining,
    /// Its process is gone; its sockets and queue wait for the next one.
    Held,
    /// It ended again and again before it had run for a while.
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

/// Where a worker's process comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The daemon starts it, and starts it again.
    #[default]
    Started,
    /// It came by itself (`exec`), and is gone when its process is.
    Joined,
}

/// What an earlier daemon wrote down about a worker's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Who started it.
    pub origin: Origin,
    /// Where it was.
    pub state: State,
    /// Whether it had buckets.
    pub admitted: bool,
    /// Whether it had a process.
    pub running: bool,
    /// How often its process was started again.
    pub restarts: u32,
    /// Whether it knew that it was to end.
    pub told: bool,
    /// Whether it is started again when it has ended by itself.
    pub returns: bool,
}

/// What happens to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It exists: start it.
    Start,
    /// Its process was started.
    Spawned,
    /// It said `READY=1`.
    SaidReady,
    /// It was seen to wait for work.
    SeenWaiting {
        /// On each of its sockets; else on one of them at least.
        all: bool,
    },
    /// It said `READY=1`, but does not use its sockets: it opened their addresses by itself.
    Unused,
    /// It said `STOPPING=1`: it ends by itself.
    SaidStopping,
    /// Its process ended, or could not be started. `killed`: by SIGKILL, so not by its own fault.
    Ended {
        /// Whether it was SIGKILL.
        killed: bool,
    },
    /// It could not be started for want of something that the machine lacks.
    NotStarted,
    /// It shall leave.
    Leave {
        /// How long it may take before SIGTERM, and again before SIGKILL; `None`: `drain_timeout`.
        patience: Option<Duration>,
    },
    /// Its queues were looked at, and its flows.
    Looked {
        /// What waits in all queues; while flows live, in those of connections.
        queue: u64,
        /// UDP flows that it has and that live.
        flows: u64,
    },
    /// Time has passed.
    Tick,
    /// No more patience.
    Kill,
}

/// What is to be done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Start its process.
    Spawn,
    /// It may own buckets.
    Admit,
    /// It may not own buckets any longer.
    Withdraw,
    /// It may not keep its UDP flows any longer.
    Cut,
    /// Its process is gone: hand its queued connections to other workers, and listen again.
    Rescue,
    /// Its process loads: hand queued connections to other workers where it does not wait for any yet.
    HandOn,
    /// Its process does not accept any more: hand its queued connections to other workers, for good.
    HandOver,
    /// SIGTERM.
    Terminate,
    /// SIGKILL.
    Kill,
    /// Rescue what is queued, close its sockets, free its slot and forget it.
    Release,
}
