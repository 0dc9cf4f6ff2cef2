//! Why a request to the daemon has failed.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::api::Refusal;

/// How long an answer is waited for; usually it takes milliseconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Why a request has failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ControlError {
    /// No daemon listens on the control socket.
    #[error(
        "cannot reach {path}: no daemon runs there; start one with `reuseport-lb run`, or give its --runtime-dir"
    )]
    NoDaemon {
        /// The control socket.
        path: PathBuf,
        /// Error of the kernel.
        source: io::Error,
    },
    /// This user may not use the control socket.
    #[error(
        "cannot reach {path}: only root may, and to ask what changes nothing a group that `monitors` names; run it with sudo"
    )]
    NotPermitted {
        /// The control socket.
        path: PathBuf,
        /// Error of the kernel.
        source: io::Error,
    },
    /// Connecting to the control socket failed for another reason.
    #[error("cannot reach {path}: the connection failed")]
    Unreachable {
        /// The control socket.
        path: PathBuf,
        /// Error of the kernel.
        source: io::Error,
    },
    /// No answer came in time.
    #[error("the daemon does not answer within {patience:?}; is it stopped?")]
    Silent {
        /// How long the answer was waited for.
        patience: Duration,
    },
    /// The daemon ended before its answer was complete.
    #[error("the daemon went away")]
    Gone(#[source] io::Error),
    /// The daemon refuses the request.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No service and no worker can have this name.
    #[error("{0:?} is no name of a service or a worker: write it like web or web/2")]
    NotAName(String),
    /// This version does not understand the answer.
    #[error("the daemon's answer is not what this version expects")]
    Unexpected(#[source] io::Error),
}

/// What an error on the connection means.
pub(super) fn broken_off(error: io::Error) -> ControlError {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ControlError::Silent { patience: PATIENCE },
        io::ErrorKind::InvalidData => ControlError::Unexpected(error),
        _ => ControlError::Gone(error),
    }
}

/// The value that JSON stands for.
pub(super) fn parsed<T: DeserializeOwned>(text: &[u8]) -> Result<T, ControlError> {
    serde_json::from_slice(text).map_err(|error| ControlError::Unexpected(error.into()))
}
