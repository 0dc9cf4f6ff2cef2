//! `restart`: new processes for workers, and how that goes.

use anyhow::{Context, Result, bail};

use super::client::Client;
use super::names;
use super::print::{print, print_json};
use crate::api::control;
use crate::cli;
use crate::daemon::Paths;
use crate::service::Progress;

pub(super) fn run(arguments: &cli::Restart, paths: &Paths) -> Result<()> {
    let what = &arguments.what;
    let path = match what.contains('/') {
        true => names::worker_path(what, "restart")?,
        false => format!("/v1/services/{}/restart", names::service(what, "restart")?),
    };
    let body = control::Restart {
        parallel: arguments.parallel.into(),
        timeout_ms: arguments.timeout.map(|timeout| timeout.as_millis() as u64),
        trial_ms: arguments.trial.as_millis() as u64,
    };
    let mut end = None;
    Client::new(paths)?.post_lines(&path, &body, |line| {
        let progress = serde_json::from_str(line).with_context(|| format!("the daemon said {line:?}"))?;
        let text = match &progress {
            Progress::Starting { worker, pid: Some(pid) } => format!("{worker}: process {pid} starts\n"),
            Progress::Starting { worker, pid: None } => format!("{worker}: a new process starts\n"),
            Progress::Ready { worker } => format!("{worker}: ready\n"),
            Progress::Replaced { worker } => format!("{worker}: replaced\n"),
            Progress::Done { replaced, error: None } => format!("{what}: {replaced} replaced\n"),
            Progress::Done { .. } => String::new(),
        };
        if arguments.json {
            print_json(line)?
        } else {
            print(&text)?
        }
        let done = matches!(progress, Progress::Done { .. });
        if done {
            end = Some(progress);
        }
        Ok(!done)
    })?;
    match end {
        Some(Progress::Done { error: None, .. }) => Ok(()),
        Some(Progress::Done { replaced, error: Some(error) }) => {
            bail!("{error} ({replaced} replaced)")
        }
        _ => bail!("the daemon ended; `reuseport-lb status` of the next one shows how far it came"),
    }
}
