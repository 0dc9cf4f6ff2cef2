//! Refusals of a service: what was asked of what, and what to do. A refused request has changed nothing.

use thiserror::Error;

/// Why a service refuses a request.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Denied {
    /// No worker has the name that was asked for.
    #[error("there is no worker {worker}; there is {}", if known.is_empty() { "none".into() } else { known.join(", ") })]
    UnknownWorker {
        /// The name that was asked for.
        worker: String,
        /// Names of the workers that exist.
        known: Vec<String>,
    },
    /// The service is ending.
    #[error("service {service} is ending")]
    Ending {
        /// Name of the service.
        service: String,
    },
    /// A restart while workers are being replaced.
    #[error("workers of service {service} are being replaced already")]
    Replacing {
        /// Name of the service.
        service: String,
    },
    /// Another configuration while workers are being replaced.
    #[error("workers of service {service} are being replaced right now: try again when that is done")]
    ReplacingNow {
        /// Name of the service.
        service: String,
    },
    /// A restart of a joined worker, which the daemon cannot start.
    #[error("worker {worker} came by itself (`exec`): restart it where it was started")]
    Joined {
        /// Name of the worker.
        worker: String,
    },
    /// A change of what others have started.
    #[error("service {service} adopts the sockets of a server that others have started (`adopt`): {instead}")]
    Adopted {
        /// Name of the service.
        service: String,
        /// Where what was asked for can be done.
        instead: &'static str,
    },
    /// The worker leaves already.
    #[error("worker {worker} is leaving or ending")]
    Leaving {
        /// Name of the worker.
        worker: String,
    },
    /// A process wants the name of a worker that is leaving.
    #[error("worker {worker} is leaving: try again when it is gone")]
    NameLeaving {
        /// Name of the worker.
        worker: String,
    },
    /// A process wants the name of another worker.
    #[error(
        "there is a worker {worker} already{}: take another --name, or none",
        pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
    )]
    NameTaken {
        /// Name of the worker.
        worker: String,
        /// Process id of the worker that has the name.
        pid: Option<i32>,
    },
    /// No worker can have this number.
    #[error("worker {worker} cannot be: numbers go from 0 to {most}")]
    NumberTooHigh {
        /// The name that was asked for.
        worker: String,
        /// The highest number.
        most: usize,
    },
    /// A process of this user may not join.
    #[error("user id {uid} may not join service {service}: only {allowed} may")]
    MayNotJoin {
        /// User id of the process.
        uid: u32,
        /// Name of the service.
        service: String,
        /// The users that may join, in words.
        allowed: String,
    },
    /// The service has no command to start workers with.
    #[error(
        "service {service} has no command: its workers come by themselves, with `reuseport-lb exec {service}`"
    )]
    NoCommand {
        /// Name of the service.
        service: String,
    },
    /// A number of workers below 0.
    #[error("service {service} wants {now} workers, and cannot have {fewer} fewer")]
    TooFew {
        /// Name of the service.
        service: String,
        /// Number of workers that the service wants now.
        now: usize,
        /// How many fewer it was asked to have.
        fewer: u64,
    },
    /// A value is out of range, or the kernel refused; the text says which.
    #[error("{0}")]
    Other(String),
}

impl Denied {
    /// Whether the request named a worker that does not exist (`404`).
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::UnknownWorker { .. })
    }
}

impl From<String> for Denied {
    fn from(what: String) -> Self {
        Self::Other(what)
    }
}
