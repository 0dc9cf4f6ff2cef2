//! What happens to a service and its workers, PURE, for those who watch it: each incident with its reason and with who
//! asked for it. Not: keeping and showing them (`service/event_log.rs`).

use std::fmt;
use std::time::Duration;

use tracing::{info, warn};

use super::listener::Listener;
use super::worker::State;

/// Who asked for a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A process, as it was when it connected.
    Process {
        /// Process id.
        pid: i32,
        /// User id.
        uid: u32,
        /// Name of its program; empty if that is not known.
        command: String,
    },
    /// Whoever sent the daemon this signal, like `SIGHUP`.
    Signal(String),
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { pid, uid, command } if command.is_empty() => write!(f, "pid {pid}, uid {uid}"),
            Self::Process { pid, uid, command } => write!(f, "{command}, pid {pid}, uid {uid}"),
            Self::Signal(signal) => f.write_str(signal),
        }
    }
}

/// Why something happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// The reason; `None`: there is none to tell.
    pub reason: Option<String>,
    /// Who asked for it; `None`: the daemon did it by itself.
    pub by: Option<Asker>,
}

impl Cause {
    /// What the daemon did by itself for this reason.
    #[must_use]
    pub fn own(reason: impl Into<String>) -> Self {
        Self { reason: Some(reason.into()), by: None }
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Incident {
    /// The worker that it happened to; `None`: to the whole service.
    pub worker: Option<String>,
    /// What happened.
    pub kind: IncidentKind,
    /// Why.
    pub cause: Cause,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum IncidentKind {
    /// All workers became ready for the first time.
    Up,
    /// This daemon goes on with the workers of an earlier one.
    TakenOver {
        /// How many of their processes run.
        workers: usize,
    },
    /// A worker was added.
    Added,
    /// A worker is in another state.
    State {
        /// The slot in the socket arrays.
        slot: u16,
        /// Whether the worker is a successor that has not taken over yet.
        successor: bool,
        /// State before.
        from: State,
        /// State now.
        to: State,
    },
    /// The process of a worker has ended; the reason says how.
    Ended {
        /// Whether the worker is a successor that has not taken over yet.
        successor: bool,
        /// Whether that was expected: the worker was leaving.
        expected: bool,
    },
    /// A successor serves in the place of its predecessor.
    Serves,
    /// A worker was removed.
    Removed {
        /// Time since its buckets moved.
        took: Duration,
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
    /// The service wants another number of workers.
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
    /// The replacement has ended; the reason says why it did not replace all, if so.
    Replaced {
        /// How many workers were replaced.
        workers: usize,
        /// Whether all were.
        all: bool,
    },
    /// A worker does not accept: others get what waits for it.
    Stalled {
        /// The listener that it does not accept on.
        listener: Listener,
    },
    /// A worker accepts again.
    Recovered {
        /// The listener that it accepts on.
        listener: Listener,
    },
    /// Buckets changed their worker.
    Moved {
        /// How many buckets.
        buckets: usize,
        /// How many workers own buckets now.
        members: usize,
    },
    /// The service is to end.
    Ending,
}

impl Incident {
    /// Logs it, unless that is done where it happens.
    pub(super) fn log(&self, service: &str) {
        let reason = self.cause.reason.as_deref();
        let by = self.cause.by.as_ref().map(ToString::to_string);
        let (worker, by) = (self.worker.as_deref(), by.as_deref());
        let said = reason.unwrap_or_default();
        match &self.kind {
            // Logged where it is known how.
            IncidentKind::Up | IncidentKind::Stalled { .. } => {}
            IncidentKind::Recovered { listener } => {
                info!(worker, "stall on {listener} over: it gets connections again");
            }
            IncidentKind::TakenOver { workers } => {
                info!(service, workers, "taken over from the daemon before");
            }
            IncidentKind::Added => info!(worker, by, "added: {said}"),
            IncidentKind::State { slot, from, to, .. } => {
                info!(worker, slot, %from, %to, reason, by, "state changed");
            }
            IncidentKind::Ended { successor: true, .. } => warn!(worker, "its successor {said}"),
            IncidentKind::Ended { expected: true, .. } => info!(worker, "it {said}"),
            IncidentKind::Ended { .. } => warn!(worker, "it {said}"),
            IncidentKind::Serves => info!(worker, "successor serves"),
            IncidentKind::Removed { .. } => info!(worker, reason, "worker removed"),
            IncidentKind::Weight { to, .. } => info!(worker, weight = to, by, "weight changed"),
            IncidentKind::Scaled { from, to } => info!(service, from, to, by, "scaled"),
            IncidentKind::Replacing { workers } => info!(service, workers, reason, by, "replacing"),
            IncidentKind::Replaced { workers, all: true } => info!(service, "{workers} workers replaced"),
            IncidentKind::Replaced { workers, all: false } => {
                warn!(service, "{workers} workers replaced, then: {said}");
            }
            IncidentKind::Moved { buckets, members } => info!(service, members, buckets, "buckets moved"),
            IncidentKind::Ending => info!(service, reason, by, "ending"),
        }
    }
}
