//! A server that replaces itself: its next generation is its child, and gets its sockets.

use std::process::Command;

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::notify;

/// The process id of the generation before.
const BEFORE: &str = "SERVER_BEFORE";

/// Starts the next generation with the same flags. A shell knows the process id that `LISTEN_PID` must be.
pub(crate) fn begin() -> Result<()> {
    let mut next = Command::new("sh");
    next.args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\""]).arg(std::env::current_exe()?);
    next.args(std::env::args_os().skip(1)).env(BEFORE, std::process::id().to_string()).spawn()?;
    Ok(())
}

/// Takes the place of the generation before, if there is one: says so, and ends it.
pub(crate) fn finish() -> Result<()> {
    let Ok(before) = std::env::var(BEFORE) else { return Ok(()) };
    notify::say(&format!("MAINPID={}\nREADY=1", std::process::id()))?;
    kill(Pid::from_raw(before.parse()?), Signal::SIGTERM)?;
    Ok(())
}
