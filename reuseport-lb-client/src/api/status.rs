//! The JSON of `status`, which scripts rely on (docs/CONTROL.md). Not: the tables that the command prints.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::HostDrained;

/// Status of a daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// When the daemon was started, in seconds since 1970.
    #[serde(default)]
    pub start_time: f64,
    /// The last reload; `null`: none yet.
    #[serde(default)]
    pub last_reload: Option<LastReload>,
    /// That the machine is to get nothing new; `null` if it is not drained.
    #[serde(default)]
    pub host_drained: Option<HostDrained>,
    /// Longest time in milliseconds that one step has kept the daemon's loop from everything else.
    #[serde(default)]
    pub longest_step_ms: f64,
    /// All services, or the one that was asked for.
    pub services: Vec<ServiceStatus>,
}

/// How the last reload ended.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastReload {
    /// Whether the configuration was applied.
    pub successful: bool,
    /// When it ended, in seconds since 1970.
    pub time: f64,
}

/// Status of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Name of the service.
    pub name: String,
    /// What decisions are made from, as the configuration has it.
    pub affinity: String,
    /// Buckets that changed their worker since the daemon started.
    pub moved: u64,
    /// Buckets (of UDP listeners) in which live flows stay with another worker than the one that gets new ones.
    pub moving: usize,
    /// Buckets that should change their worker, but wait for live flows.
    pub waiting: u32,
    /// Why buckets wait; `null` if none does.
    pub pending: Option<String>,
    /// UDP flows that still lived when the time of their leaving worker was over.
    pub flows_cut: u64,
    /// What has happened since the service began, also under earlier daemons.
    #[serde(default)]
    pub totals: ServiceTotals,
    /// All settings in force by their keys in the file, defaults included; of `env` the names alone. Empty in
    /// `/status.json` of the HTTP address, which everyone may ask for.
    #[serde(default)]
    pub settings: BTreeMap<String, serde_json::Value>,
    /// Longest time until a worker is ready, in milliseconds.
    #[serde(default)]
    pub start_timeout_ms: u64,
    /// Name of the user that the sockets belong to; `null`: the daemon's.
    #[serde(default)]
    pub socket_owner: Option<String>,
    /// The users whose processes may join, by name, besides root.
    #[serde(default)]
    pub may_join: Vec<String>,
    /// Number of workers that the daemon keeps.
    pub wanted: usize,
    /// What the service adopts; absent if the workers have sockets of the daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopts: Option<Adopts>,
    /// Why the next daemon could not take the service over as it is now; `null` if it could.
    #[serde(default)]
    pub unsaved: Option<String>,
    /// A change that takes its time, during which all else here is as it was before; mostly `null`.
    #[serde(default)]
    pub busy: Option<String>,
    /// The service is to end, be it that it goes on for `lame_duck`: nothing new should be sent to this machine.
    #[serde(default)]
    pub ending: bool,
    /// One group per listener.
    pub groups: Vec<GroupStatus>,
    /// Workers in the order of their numbers.
    pub workers: Vec<WorkerStatus>,
}

/// What has happened to a service, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceTotals {
    /// Connections that other workers got, because the one that was removed did not accept them.
    pub handed_over: u64,
    /// Replacements of workers (`restart`, `reload`) that replaced all that were meant.
    pub rollouts_done: u64,
    /// Replacements that did not.
    pub rollouts_failed: u64,
    /// How many workers were removed within this time (in seconds, `null`: any) since their buckets moved, without those of
    /// the shorter times.
    pub drains: Vec<(Option<f64>, u64)>,
    /// The sum of these times, in seconds.
    pub drain_seconds: f64,
}

/// Status of a listener's group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Address, like `tcp://127.0.0.1:8080`.
    pub listen: String,
    /// What its sockets are called in LISTEN_FDNAMES.
    #[serde(default)]
    pub name: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Id of the program, as `bpftool prog` shows it.
    pub program_id: u32,
    /// Counters by name (docs/COUNTERS.md).
    pub counters: BTreeMap<String, u64>,
    /// Live UDP flows; `null` for TCP.
    pub flows: Option<FlowCounts>,
    /// The service whose program decides for this address until this one is ready; `null`: this one's does.
    #[serde(default)]
    pub decided_by: Option<String>,
    /// Number of sockets of other programs on this address; `null` if the kernel cannot list them.
    pub strangers: Option<usize>,
}

/// Numbers of live UDP flows of a listener. Flows in the same of 64 parts of a bucket count as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowCounts {
    /// All live flows.
    pub live: u64,
    /// Live flows that stay with a worker that gets no new flows of their bucket.
    pub kept: u64,
}

/// Status of a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Name of the worker, like `web/2`.
    pub name: String,
    /// Index in the socket arrays.
    pub slot: u16,
    /// `starting`, `loading`, `ready`, `draining`, `held`, `stalled` or `failed`.
    pub state: String,
    /// Process id, if a process runs.
    pub pid: Option<i32>,
    /// What the process has used; `null` if none runs.
    #[serde(default)]
    pub usage: Option<Usage>,
    /// Weight; the share of buckets is the weight over the sum of all.
    pub weight: u32,
    /// Whether the worker may own buckets; new workers may from when they are ready.
    pub member: bool,
    /// Share of all buckets, from 0 to 1.
    pub share: f64,
    /// Number of buckets, of 65,536.
    pub buckets: u32,
    /// Live UDP flows of the worker.
    pub flows: u64,
    /// How often a process was started again.
    pub restarts: u32,
    /// How many of these came after a SIGKILL that the daemon had not sent.
    #[serde(default)]
    pub kills: u32,
    /// Whether the process joined, with `exec` for example.
    pub joined: bool,
    /// Whether the worker is to take over from the other worker of this name.
    pub successor: bool,
    /// Whether the worker's queue is so much deeper than those of the others that new connections avoid it.
    pub overloaded: bool,
    /// What a worker does not do that it should: one that is not ready, or is and was never seen to use its sockets, has
    /// bound one and does not listen on it, or stalls at some; `null` if that is not known.
    #[serde(default)]
    pub lacks: Option<String>,
    /// The file that the output goes into; `null`: where the daemon's log goes, or the process joined.
    #[serde(default)]
    pub log: Option<String>,
    /// Lines of output that were dropped because nobody took them in time, and their bytes.
    #[serde(default)]
    pub dropped_lines: u64,
    /// Bytes of these lines.
    #[serde(default)]
    pub dropped_bytes: u64,
    /// Last lines of output of the last process that ended by its own fault.
    pub last_words: Vec<String>,
    /// One socket per listener, in their order.
    pub sockets: Vec<SocketStatus>,
}

impl ServiceStatus {
    /// How many workers are `ready`, without further sockets of their processes.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.whole_workers().filter(|worker| worker.state == "ready").count()
    }

    /// Why not all is adopted that the service adopts.
    #[must_use]
    pub fn not_adopted(&self) -> Option<&String> {
        self.adopts.as_ref()?.lacks.as_ref()
    }

    /// All workers that have a process of their own, without further sockets of these.
    pub fn whole_workers(&self) -> impl Iterator<Item = &WorkerStatus> {
        self.workers.iter().filter(|worker| !worker.is_part())
    }
}

impl WorkerStatus {
    /// What waits in all of its queues: connections of TCP, and bytes of UDP.
    #[must_use]
    pub fn queue(&self) -> u64 {
        self.sockets.iter().map(|socket| u64::from(socket.queue)).sum()
    }

    /// Live connections of all of its sockets; `None` if they are not counted.
    #[must_use]
    pub fn connections(&self) -> Option<u64> {
        let counted = self.sockets.iter().filter_map(|socket| socket.connections);
        counted.map(u64::from).reduce(|sum, connections| sum + connections)
    }

    /// Decisions for all of its sockets so far.
    #[must_use]
    pub fn selected(&self) -> u64 {
        self.sockets.iter().map(|socket| socket.selected).sum()
    }

    /// Whether it is a further socket of the process of another worker, as `web/2.1` is of `web/2`.
    #[must_use]
    pub fn is_part(&self) -> bool {
        self.name.rsplit('/').next().is_some_and(|number| number.contains('.'))
    }

    /// Whether the worker is one of those that its service wants: it is not about to take over from another one, and does
    /// not leave.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        !self.successor && self.state != "draining"
    }
}

/// What a process has used, without its children.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// When it was started, in seconds since 1970.
    pub start_time: f64,
    /// CPU time of all its threads, in seconds.
    pub cpu_seconds: f64,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
}

/// Status of a worker's socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SocketStatus {
    /// Address, like `tcp://127.0.0.1:8080`.
    pub listen: String,
    /// SO_COOKIE, as `ss -e` shows it (`sk:`).
    pub cookie: u64,
    /// Decisions for the socket so far.
    pub selected: u64,
    /// Connections in the accept queue; for UDP bytes of queued datagrams.
    pub queue: u32,
    /// Limit of the queue, in the same unit.
    pub backlog: u32,
    /// Live connections that it has accepted, or that wait in the queue; `null` if they are not counted.
    #[serde(default)]
    pub connections: Option<u32>,
    /// When counting began, in seconds since 1970, if connections from before are not in `connections`.
    #[serde(default)]
    pub connections_since: Option<u64>,
    /// What the kernel dropped because the queue was full: handshakes of TCP, datagrams of UDP.
    #[serde(default)]
    pub drops: u32,
}

/// What a service adopts: sockets of a server that others have started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopts {
    /// Whose sockets, in words.
    pub whose: String,
    /// Whether the command `adopt` made the service; else it is in the configuration.
    #[serde(default)]
    pub by_command: bool,
    /// Why no socket is found for a listener, or one is not adopted; `null` if all is well.
    #[serde(default)]
    pub lacks: Option<String>,
}
