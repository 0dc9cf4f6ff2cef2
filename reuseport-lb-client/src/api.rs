//! Requests and answers of `control.sock`, field by field as docs/CONTROL.md describes them.

mod event;
mod explained;
mod machine;
mod refusal;
mod status;

pub use event::{EventKind, EventLine, EventRecord, Requester};
pub use explained::{Chance, ClientAddress, Explainable, Explained, Explanation, Place};
pub use machine::{HostDrain, HostDrained, HostHealth, HostUndrain};
pub use refusal::{Refusal, RefusalBody};
pub use status::{
    Adopts, FlowCounts, GroupStatus, LastReload, ServiceStatus, ServiceTotals, SocketStatus, Status, Usage,
    WorkerStatus,
};

use serde::{Deserialize, Serialize};

/// Body of `POST /v1/services/NAME/scale`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// Number of workers; either this or `add` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<usize>,
    /// How many more workers than the service wants now; fewer if negative.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add: Option<i64>,
    /// Report progress until new workers are ready and surplus ones are removed: one [`Wait`] a line.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub progress: bool,
}

impl Scale {
    /// Asks for this number of workers.
    #[must_use]
    pub fn to(workers: usize) -> Self {
        Self { workers: Some(workers), ..Self::default() }
    }

    /// Asks for so many more workers than the service wants now; fewer if negative.
    #[must_use]
    pub fn by(add: i64) -> Self {
        Self { add: Some(add), ..Self::default() }
    }
}

/// Body of `POST /v1/services/NAME/adopt`: exactly one of `pid`, `pid_file`, `unit` and `any` is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Adopt {
    /// The addresses that the server listens on, like `tcp://0.0.0.0:8080`.
    pub listen: Vec<String>,
    /// The sockets of this process and its descendants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Those of the process whose id is in this file, an absolute path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid_file: Option<String>,
    /// Those of a unit of systemd, like `nginx.service`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Those of any process.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub any: bool,
    /// What decisions are made from, as the configuration has it; `flow` without this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<String>,
    /// Replace a program that the server has given its group itself.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub replace_program: bool,
}

/// Answer to `POST /v1/services/NAME/adopt`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    /// Names of the workers, one for each socket that was found, or for several of one process.
    pub workers: Vec<String>,
}

/// Body of `POST /v1/services/NAME/release`: an empty object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {}

/// Answer to `POST /v1/services/NAME/release`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// Names of the workers that there were.
    pub workers: Vec<String>,
}

/// Body of `POST /v1/workers/NAME/weight`, and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weight {
    /// From 0 (no new flows) to 1,000,000.
    pub weight: u32,
}

/// Body of `POST /v1/workers/NAME/drain`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// Longest time until `stop_signal`, and again until SIGKILL; without it the service's `drain_timeout`.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// Report progress until the worker is removed: one [`Wait`] a line.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub progress: bool,
}

/// Body of `POST /v1/services/NAME/restart` and `POST /v1/workers/NAME/restart`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Restart {
    /// How many workers are replaced at a time, once the first has stood its trial.
    pub parallel: usize,
    /// How long a new process may take to become ready; without it the service's `start_timeout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// How long the first new process must be ready before it takes over; without it 2000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trial_ms: Option<u64>,
}

impl Default for Restart {
    fn default() -> Self {
        Self { parallel: 1, timeout_ms: None, trial_ms: None }
    }
}

/// Body of `POST /v1/stop`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Stop {
    /// Workers, sockets and buckets stay for the next daemon.
    pub keep: bool,
    /// How long to go on serving, in milliseconds, while everyone who asks is told that the services are ending; without it
    /// as long as `lame_duck` of each service says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub announce_ms: Option<u64>,
}

/// Body of `POST /v1/reload`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Reload {
    /// Change nothing, and answer what would be changed.
    pub dry_run: bool,
}

/// Answer to `POST /v1/reload`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// What has changed, or would be changed, one line a service.
    pub changes: String,
}

/// Answer to `POST /v1/stop`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopping {
    /// The daemon's process id.
    pub pid: u32,
}

/// Answer to `POST /v1/services/NAME/scale`: what has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scaled {
    /// Number of workers before, without leaving ones.
    pub before: usize,
    /// Number of workers after the change.
    pub after: usize,
}

/// Answer to `POST /v1/workers/NAME/drain`: the outcome of the drain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drained {
    /// Name of the worker, like `web/2`.
    pub worker: String,
    /// Time from the move of the worker's buckets until it was removed.
    pub seconds: f64,
    /// Connections (TCP) and bytes (UDP) in its queues when its buckets moved away.
    pub queue: u64,
    /// Connections that other workers got, because this one did not accept them.
    pub handed_over: u64,
    /// Live flows (UDP) when its buckets moved away.
    pub flows: u64,
    /// How many of those flows still lived when the worker's time was over; other workers got them.
    pub flows_cut: u64,
    /// Live TCP connections when its process was told to end; `null` if they are not counted.
    #[serde(default)]
    pub connections: Option<u64>,
    /// How the worker's process ended; `null` if it had none, or a joined process goes on.
    pub end: Option<String>,
}

/// One line of an answer to a request with `progress`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Wait<T> {
    /// What is still waited for, each second.
    Waiting(Waiting),
    /// The last line after a failure.
    Refused(RefusalBody),
    /// The last line after success: the answer that a request without `progress` gets.
    Done(T),
}

/// What is still waited for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename = "waiting")]
pub struct Waiting {
    /// Time since the request.
    pub seconds: f64,
    /// Workers that are not ready yet, or not removed yet.
    pub workers: Vec<Awaited>,
}

/// A worker that is waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Awaited {
    /// Name of the worker, like `web/2`.
    pub worker: String,
    /// State, as in [`WorkerStatus`].
    pub state: String,
    /// Process id, if a process runs.
    pub pid: Option<i32>,
    /// What the worker does not do yet; `null` if that is not known.
    pub lacks: Option<String>,
    /// Connections (TCP) and bytes (UDP) in the worker's queues.
    pub queue: u64,
    /// Live UDP flows of the worker.
    pub flows: u64,
    /// Live TCP connections, where they are counted.
    #[serde(default)]
    pub connections: u64,
}

impl From<&WorkerStatus> for Awaited {
    fn from(worker: &WorkerStatus) -> Self {
        Self {
            worker: worker.name.clone(),
            state: worker.state.clone(),
            pid: worker.pid,
            lacks: worker.lacks.clone(),
            queue: worker.queue(),
            flows: worker.flows,
            connections: worker.connections().unwrap_or_default(),
        }
    }
}

/// One line of the answer to a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Progress {
    /// A worker's process is told to end, before its successor is started (`replace = "stop-first"`).
    Stopping {
        /// Name of both workers, like `web/2`.
        worker: String,
    },
    /// A successor was started.
    Starting {
        /// Name of both workers, like `web/2`.
        worker: String,
        /// Process id of the successor; `null` if it could not be started.
        pid: Option<i32>,
    },
    /// A successor is ready.
    Ready {
        /// Name of both workers, like `web/2`.
        worker: String,
    },
    /// A successor serves, and its predecessor was removed.
    Replaced {
        /// Name of both workers, like `web/2`.
        worker: String,
    },
    /// The last line.
    Done {
        /// How many workers were replaced.
        replaced: usize,
        /// Why the others were not; `null` if all were.
        error: Option<String>,
    },
}

/// One line of a trace that is not empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Traced {
    /// A decision.
    Decision(TracedDecision),
    /// The reader was too slow, and decisions are left out here.
    Missed {
        /// Number of decisions that are left out.
        missed: u64,
    },
}

/// One decision of the kernel program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracedDecision {
    /// Address of the listener.
    pub listen: String,
    /// Address and port of the client, like `192.0.2.7:40000` or `[::1]:40000`; `null` if the kernel did not tell.
    #[serde(default)]
    pub client: Option<String>,
    /// Counter of stage arrival: `arrival_packet` or `arrival_migration`.
    pub arrival: String,
    /// Hash of the 4-tuple or of the client's address.
    pub key: u32,
    /// Low 16 bits of the key.
    pub bucket: u16,
    /// Counter of stage owner.
    pub owner: String,
    /// Counter of stage detour; `null` if the owner was selected.
    pub detour: Option<String>,
    /// The selected slot; `null` if the packet was refused.
    pub slot: Option<u16>,
    /// The worker in that slot.
    pub worker: Option<String>,
}

#[cfg(test)]
mod tests;
