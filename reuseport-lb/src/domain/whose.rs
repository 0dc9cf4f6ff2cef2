//! Whose sockets a service adopts, as a plain value. Not: finding them (`kernel/adopt/`).

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Whose sockets a service adopts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Whose {
    /// A process and its descendants.
    Pid {
        /// Process id.
        pid: i32,
        /// Clock ticks from boot to the start of the process, so that no later process with its id is taken for it;
        /// `None`: any.
        started: Option<u64>,
    },
    /// The process whose id is in this file, and its descendants.
    PidFile(PathBuf),
    /// The processes in the cgroup of a unit of systemd.
    Unit(String),
    /// Any process.
    Any,
}

impl FromStr for Whose {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("{text:?} is not pid=NUMBER, pid_file=PATH, unit=NAME or any, like unit=nginx.service")
        };
        if text == "any" {
            return Ok(Self::Any);
        }
        match text.split_once('=').ok_or_else(wrong)? {
            ("pid", pid) => Ok(Self::Pid { pid: pid.parse().map_err(|_| wrong())?, started: None }),
            ("pid_file", path) => Ok(Self::PidFile(path.into())),
            ("unit", unit) => Ok(Self::Unit(unit.into())),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pid { pid, .. } => write!(f, "process {pid}"),
            Self::PidFile(path) => write!(f, "the process in {}", path.display()),
            Self::Unit(unit) => write!(f, "unit {unit}"),
            Self::Any => f.write_str("any process"),
        }
    }
}
