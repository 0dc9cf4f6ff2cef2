//! What `status` says: the JSON that scripts rely on (docs/CONTROL.md). Not: how it is shown to people.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Everything about a daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Of the daemon.
    pub version: String,
    /// The kernel's release.
    pub kernel: String,
    /// The daemon's process id.
    pub pid: u32,
    /// The longest time in milliseconds for which one step has kept the daemon from all else.
    #[serde(default)]
    pub longest_step_ms: f64,
    /// Its services.
    pub services: Vec<ServiceStatus>,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// `flow` or `source`.
    pub affinity: String,
    /// Buckets that changed their worker since the daemon started.
    pub moved: u64,
    /// Buckets (of UDP listeners) in which flows stay with another worker than new ones get.
    pub moving: usize,
    /// Buckets that should change their worker, but wait for flows.
    pub waiting: u32,
    /// Why they wait.
    pub pending: Option<String>,
    /// UDP flows that still lived when the patience with the worker that was leaving was over.
    pub flows_cut: u64,
    /// How long a worker may take to become ready, in milliseconds.
    #[serde(default)]
    pub start_timeout_ms: u64,
    /// How many workers it shall have.
    pub wanted: usize,
    /// Why the next daemon could not take the service over as it is now; `null` if it could.
    #[serde(default)]
    pub unsaved: Option<String>,
    /// What it is doing that takes its time: then all else is as it was when that began; mostly `null`.
    #[serde(default)]
    pub busy: Option<String>,
    /// One per listener.
    pub groups: Vec<GroupStatus>,
    /// In the order of their numbers.
    pub workers: Vec<WorkerStatus>,
}

/// One listener's group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Like `tcp://127.0.0.1:8080`.
    pub listen: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// As `bpftool prog` shows it.
    pub program_id: u32,
    /// See docs/COUNTERS.md.
    pub counters: BTreeMap<String, u64>,
    /// UDP flows that live; `null` for TCP.
    pub flows: Option<FlowCounts>,
    /// The service that decides for this address until this one is ready; `null`: this one does.
    #[serde(default)]
    pub decided_by: Option<String>,
    /// Sockets of others on this port; `null` if the kernel cannot list them.
    pub strangers: Option<usize>,
}

/// UDP flows of a listener that live. Those in the same of 64 parts of a bucket count as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowCounts {
    /// All of them.
    pub live: u64,
    /// Those that stay with a worker that does not get new flows of their bucket.
    pub kept: u64,
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Like `web/2`.
    pub name: String,
    /// Its index in the socket arrays.
    pub slot: u16,
    /// `starting`, `loading`, `ready`, `draining`, `held`, `stalled` or `failed`.
    pub state: String,
    /// Its process, if it runs.
    pub pid: Option<i32>,
    /// Its weight.
    pub weight: u32,
    /// Whether it takes part in the table; new workers do from when they are ready.
    pub member: bool,
    /// Its part of the buckets, from 0 to 1.
    pub share: f64,
    /// The same in buckets, of 65,536.
    pub buckets: u32,
    /// UDP flows that it has and that live.
    pub flows: u64,
    /// How often its process was started again.
    pub restarts: u32,
    /// Whether it came by itself, with `exec` say.
    pub joined: bool,
    /// Whether it is still to take over from the worker of the same name.
    pub successor: bool,
    /// Whether its queue is so much deeper than the others' that new connections avoid it.
    pub overloaded: bool,
    /// What a worker that is starting or loading does not do yet; `null` if it is not known.
    #[serde(default)]
    pub lacks: Option<String>,
    /// What its last process wrote before it ended by its own fault.
    pub last_words: Vec<String>,
    /// One per listener, in their order.
    pub sockets: Vec<SocketStatus>,
}

/// One worker's socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SocketStatus {
    /// Like `tcp://127.0.0.1:8080`.
    pub listen: String,
    /// SO_COOKIE, as `ss -e` shows it (`sk:`).
    pub cookie: u64,
    /// Decisions for it so far.
    pub selected: u64,
    /// Connections in its accept queue; for UDP bytes of queued datagrams.
    pub queue: u32,
    /// Room in that queue, in the same unit.
    pub backlog: u32,
}
