//! Why something that a service was asked for is not done: what, where, and how to mend it. Nothing has changed then.

use thiserror::Error;

/// Why a service refuses.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Denied {
    /// There is no such worker.
    #[error("there is no worker {worker}; there is {}", if known.is_empty() { "nobody".into() } else { known.join(", ") })]
    UnknownWorker {
        /// As asked.
        worker: String,
        /// Those that are there.
        known: Vec<String>,
    },
    /// The service is ending.
    #[error("service {service} is ending")]
    Ending {
        /// Its name.
        service: String,
    },
    /// Workers are being replaced.
    #[error("workers of service {service} are being replaced already")]
    Replacing {
        /// Its name.
        service: String,
    },
    /// Workers are being replaced, and another configuration is to be applied.
    #[error("workers of service {service} are being replaced right now: try again when that is done")]
    ReplacingNow {
        /// Its name.
        service: String,
    },
    /// It came by itself, and cannot be started again from here.
    #[error("worker {worker} came by itself (`exec`): restart it where it was started")]
    Joined {
        /// Its name.
        worker: String,
    },
    /// It leaves already.
    #[error("worker {worker} is leaving or ending")]
    Leaving {
        /// Its name.
        worker: String,
    },
    /// Its name is not free yet.
    #[error("worker {worker} is leaving: try again when it is gone")]
    NameLeaving {
        /// Its name.
        worker: String,
    },
    /// Its name is another's.
    #[error(
        "there is a worker {worker} already{}: take another --name, or none",
        pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
    )]
    NameTaken {
        /// Its name.
        worker: String,
        /// That one's process.
        pid: Option<i32>,
    },
    /// No worker can have this number.
    #[error("worker {worker} cannot be: numbers go from 0 to {most}")]
    NumberTooHigh {
        /// As asked.
        worker: String,
        /// The highest.
        most: usize,
    },
    /// Its user may not join.
    #[error("user id {uid} may not join service {service}: only {allowed} may")]
    MayNotJoin {
        /// Who asks.
        uid: u32,
        /// Where.
        service: String,
        /// Who may, in words.
        allowed: String,
    },
    /// Its workers come by themselves.
    #[error(
        "service {service} has no command: its workers come by themselves, with `reuseport-lb exec {service}`"
    )]
    NoCommand {
        /// Its name.
        service: String,
    },
    /// Fewer than none.
    #[error("service {service} wants {now} workers, and cannot have {fewer} fewer")]
    TooFew {
        /// Its name.
        service: String,
        /// So many it wants now.
        now: usize,
        /// So many fewer it was to have.
        fewer: u64,
    },
    /// A value is out of range, or the kernel refused; in words.
    #[error("{0}")]
    Other(String),
}

impl Denied {
    /// Whether it names something that is not there.
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
