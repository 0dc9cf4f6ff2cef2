//! `restart`: replaces processes of workers, and prints progress.

use anyhow::{Result, bail};
use reuseport_lb_client::api::{Progress, Restart};

use super::client::client;
use super::meanwhile::meanwhile;
use super::names;
use super::print::{print, print_json};
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
    if arguments.json {
        follow(arguments, &request, paths)
    } else {
        meanwhile(paths, service, || follow(arguments, &request, paths))
    }
}

/// Asks for the restart, and prints what comes of it.
fn follow(arguments: &cli::RestartArgs, request: &Restart, paths: &Paths) -> Result<()> {
    let what = &arguments.what;
    for line in client(paths).restart(what, request)? {
        let line = line?;
        if arguments.json {
            print_json(&line.text)?;
        } else {
            print(&render(what, &line.value))?;
        }
        match line.value {
            Progress::Done { error: None, .. } => return Ok(()),
            Progress::Done { replaced, error: Some(error) } => bail!("{error} ({replaced} replaced)"),
            _ => {}
        }
    }
    bail!("the daemon ended; `reuseport-lb status` of the next one shows how far it came")
}

fn render(what: &str, progress: &Progress) -> String {
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
