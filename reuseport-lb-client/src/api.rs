//! What is said on `control.sock`, in Rust: requests and answers, field by field as docs/CONTROL.md describes them.

mod refusal;
mod status;

pub use refusal::{Refusal, RefusalBody};
pub use status::{FlowCounts, GroupStatus, ServiceStatus, SocketStatus, Status, WorkerStatus};

use serde::{Deserialize, Serialize};

/// Body of `POST /v1/services/NAME/scale`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// How many workers; this or `add`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<usize>,
    /// How many more than are wanted now; negative: how many fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add: Option<i64>,
    /// Tell how it goes, until it is done: [`Wait`] line by line.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub progress: bool,
}

impl Scale {
    /// So many workers.
    #[must_use]
    pub fn to(workers: usize) -> Self {
        Self { workers: Some(workers), ..Self::default() }
    }

    /// So many more than are wanted now; negative: so many fewer.
    #[must_use]
    pub fn by(add: i64) -> Self {
        Self { add: Some(add), ..Self::default() }
    }
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
    /// Until SIGTERM, and again until SIGKILL; without it the service's `drain_timeout`.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// Tell how it goes: [`Wait`] line by line.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub progress: bool,
}

/// Body of `POST /v1/services/NAME/restart` and `POST /v1/workers/NAME/restart`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Restart {
    /// So many at a time.
    pub parallel: usize,
    /// How long a new process may take to become ready; without it the service's `start_timeout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// How long the first one must have been ready before it takes over; without it 2000.
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
}

/// Answer to `POST /v1/reload`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// What changed, one line a service.
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
    /// Workers before, without those that are leaving.
    pub before: usize,
    /// Workers to come.
    pub after: usize,
}

/// Answer to `POST /v1/workers/NAME/drain`: how the worker left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drained {
    /// Like `web/2`.
    pub worker: String,
    /// From the moment when its buckets moved away until nothing of it was left.
    pub seconds: f64,
    /// Connections (TCP) and bytes (UDP) that waited for it then.
    pub queue: u64,
    /// Connections that others got, because it did not accept them.
    pub handed_over: u64,
    /// Flows (UDP) that it had then.
    pub flows: u64,
    /// Of those, the ones that still lived when it had to go; others got them.
    pub flows_cut: u64,
    /// How its process ended; `null` if it had none, or goes on without the daemon.
    pub end: Option<String>,
}

/// One line of what was asked for with `progress`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Wait<T> {
    /// Each second.
    Waiting(Waiting),
    /// The last line, if it does not end as it should.
    Refused(RefusalBody),
    /// The last line: the answer, as it is without `progress`.
    Done(T),
}

/// What is still waited for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename = "waiting")]
pub struct Waiting {
    /// Since it began.
    pub seconds: f64,
    /// Workers that are not ready yet, or not gone yet.
    pub workers: Vec<Awaited>,
}

/// A worker that is waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Awaited {
    /// Like `web/2`.
    pub worker: String,
    /// As in its status.
    pub state: String,
    /// Its process, if it runs.
    pub pid: Option<i32>,
    /// What it does not do yet; `null` if that is not known.
    pub lacks: Option<String>,
    /// Connections (TCP) and bytes (UDP) that wait for it.
    pub queue: u64,
    /// UDP flows that it has and that live.
    pub flows: u64,
}

/// How a restart goes on: one line of its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Progress {
    /// A successor was started.
    Starting {
        /// Like `web/2`.
        worker: String,
        /// Its process; `null` if it could not be started.
        pid: Option<i32>,
    },
    /// It is ready.
    Ready {
        /// Like `web/2`.
        worker: String,
    },
    /// It serves, and nothing of its predecessor is left.
    Replaced {
        /// Like `web/2`.
        worker: String,
    },
    /// The last line.
    Done {
        /// How many workers were replaced.
        replaced: usize,
        /// Why the others were not.
        error: Option<String>,
    },
}

/// One line of a trace, but for the empty ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Traced {
    /// A decision.
    Decision(Decision),
    /// The reader was too slow.
    Missed {
        /// For so many decisions.
        missed: u64,
    },
}

/// One decision of the kernel program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The listener that it was made for.
    pub listen: String,
    /// A counter of stage arrival: `arrival_packet` or `arrival_migration`.
    pub arrival: String,
    /// The hash.
    pub key: u32,
    /// Its low 16 bits.
    pub bucket: u16,
    /// A counter of stage owner.
    pub owner: String,
    /// A counter of stage detour, unless the owner was taken.
    pub detour: Option<String>,
    /// The selected slot; `null` if it was refused.
    pub slot: Option<u16>,
    /// The worker in that slot.
    pub worker: Option<String>,
}

#[cfg(test)]
mod tests;
