//! `restart`: replaces processes of workers, and prints progress.

use anyhow::{Result, bail};
use reuseport_lb_client::api::{Progress, Restart};
use reuseport_lb_client::control::Line;

use super::client::client;
use super::meanwhile::meanwhile;
use super::names;
use super::print::{Reported, print, print_json};
use crate::cli;
use crate::daemon::Paths;

pub(super) fn run(arguments: &cli::RestartArgs, paths: &Paths) -> Result<()> {
    let what = &arguments.what;
    if what.contains('/') {
        names::worker(what)?;
    } else {
        names::service(what, "restart")?;
    }
    let request = Restart {
        parallel: arguments.parallel.into(),
        timeout_ms: arguments.timeout.map(|timeout| timeout.as_millis() as u64),
        trial_ms: Some(arguments.trial.as_millis() as u64),
    };
    let service = what.split('/').next();
    let last = meanwhile(paths, service, arguments.json, || follow(arguments, &request, paths))?;
    // Nothing that is waited for is said after it.
    tell(arguments, &last)?;
    match last.value {
        Progress::Done { replaced, error: Some(error) } => {
            bail!(Reported(format!("{error} ({replaced} replaced)")))
        }
        _ => Ok(()),
    }
}

/// Asks for the restart, and prints what comes of it, but for the last line, which it returns.
fn follow(arguments: &cli::RestartArgs, request: &Restart, paths: &Paths) -> Result<Line<Progress>> {
    for line in client(paths).restart(&arguments.what, request)? {
        let line = line?;
        if matches!(line.value, Progress::Done { .. }) {
            return Ok(line);
        }
        tell(arguments, &line)?;
    }
    bail!("the daemon ended; `reuseport-lb status` of the next one shows how far it came")
}

fn tell(arguments: &cli::RestartArgs, line: &Line<Progress>) -> Result<()> {
    if arguments.json {
        return print_json(&line.text);
    }
    print(&render(&arguments.what, &line.value))
}

/// A step of a restart, in a line; empty for a failure.
pub(super) fn render(what: &str, progress: &Progress) -> String {
    match progress {
        Progress::Stopping { worker } => format!("{worker}: the old process is told to end\n"),
        Progress::Starting { worker, pid: Some(pid) } => format!("{worker}: process {pid} starts\n"),
        Progress::Starting { worker, pid: None } => format!("{worker}: a new process starts\n"),
        Progress::Ready { worker } => format!("{worker}: ready\n"),
        Progress::Replaced { worker } => format!("{worker}: replaced\n"),
        Progress::Done { replaced, error: None } => format!("{what}: {replaced} replaced\n"),
        Progress::Done { .. } => String::new(),
    }
}
