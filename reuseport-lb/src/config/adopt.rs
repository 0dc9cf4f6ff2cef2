//! `adopt`: a service whose sockets others have opened.

use std::ops::Range;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::domain::whose::Whose;

/// Whose sockets a service adopts, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adoption {
    /// Whose.
    #[serde(flatten)]
    pub whose: Whose,
    /// A program of the server's own is replaced.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replace_program: bool,
    /// The service was made by the command `adopt`, and is in no file.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_command: bool,
}

/// [`Adoption`] as it is written in a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    pid: Option<i32>,
    pid_file: Option<PathBuf>,
    unit: Option<String>,
    any: Option<bool>,
    #[serde(default)]
    replace_program: bool,
}

impl Adoption {
    /// What the command `adopt` asks for: exactly one of `pid`, `pid_file`, `unit` and `any`.
    pub fn by_command(
        (pid, pid_file, unit, any): (Option<i32>, Option<String>, Option<String>, bool),
        replace_program: bool,
    ) -> Result<Self, String> {
        let pid_file = pid_file.map(PathBuf::from);
        let written = Written { pid, pid_file, unit, any: any.then_some(true), replace_program };
        Ok(Self { by_command: true, ..written.validated()? })
    }
}

impl Written {
    pub(super) fn validated(self) -> Result<Adoption, String> {
        let Self { pid, pid_file, unit, any, replace_program } = self;
        let whose = match (pid, pid_file, unit, any) {
            (Some(pid), None, None, None) => Whose::Pid { pid, started: None },
            (None, Some(path), None, None) => Whose::PidFile(path),
            (None, None, Some(unit), None) => Whose::Unit(unit),
            (None, None, None, Some(true)) => Whose::Any,
            _ => {
                return Err("`adopt` says whose sockets are meant by one of `pid_file`, `unit`, `pid` and `any = true`"
                    .into());
            }
        };
        check(&whose)?;
        Ok(Adoption { whose, replace_program, by_command: false })
    }
}

/// Fails if this can be nobody's.
pub fn check(whose: &Whose) -> Result<(), String> {
    match whose {
        Whose::Pid { pid, .. } if *pid < 1 => Err(format!("`adopt`: {pid} is no process id")),
        Whose::PidFile(path) if !path.is_absolute() => {
            Err(format!("`adopt`: {} is not an absolute path", path.display()))
        }
        Whose::Unit(unit) if unit.contains('/') || !unit.contains('.') => {
            Err(format!("`adopt`: {unit:?} is no unit: write its whole name, like \"nginx.service\""))
        }
        _ => Ok(()),
    }
}

/// Fails if a key is `given` that a service cannot keep which adopts sockets: its processes are others' to start and to
/// end, and their sockets close when they close them.
pub(super) fn exclude<'a>(
    given: impl IntoIterator<Item = (&'a str, Option<Range<usize>>)>,
) -> Result<(), (Range<usize>, String)> {
    let Some((key, at)) = given.into_iter().find_map(|(key, at)| Some((key, at?))) else { return Ok(()) };
    let why = match key {
        "command" | "workers" | "sockets" | "ready" | "user" | "group" | "env" | "env_file" | "cwd"
        | "umask" | "nice" | "open_files" | "cpus" | "log" | "stop_signal" | "stop_mode" | "watchdog"
        | "replace" | "start_timeout" => "others start and end its processes",
        "on_crash" | "hold_timeout" => {
            "when a process closes its socket the kernel hands the queue to another at once, and nothing is held"
        }
        "on_stall" => "others start and end its processes; a stalled one is avoided",
        "when_empty" => "where nobody is found the kernel chooses",
        "backlog" | "socket_owner" => "the sockets are others', and stay as they are",
        _ => "processes do not join it",
    };
    Err((at, format!("`{key}` cannot be kept by a service with `adopt`: {why}")))
}
