//! `exec`: joins a running daemon as a worker, and executes the command.

use std::os::fd::AsFd;

use anyhow::Result;
use reuseport_lb_client::join;
use reuseport_lb_client::worker::{JoinOptions, JoinedWorker};
use socket2::Socket;

use super::names;
use crate::cli;
use crate::config::{Invalid, SocketSource};
use crate::daemon::Paths;
use crate::kernel::calls;
use crate::kernel::executable;
use crate::kernel::launch::{self, Joined};

pub(super) fn run(arguments: &cli::ExecArgs, paths: &Paths) -> Result<()> {
    let cli::ExecArgs { service, weight, command, .. } = arguments;
    names::service(service, "exec")?;
    let worker =
        arguments.name.as_deref().map(|name| full_name(service, name)).transpose().map_err(Invalid)?;
    // Before joining: a worker without a command would be removed at once.
    let program = command.first().map_or("", String::as_str);
    let found = executable::find_program(program).map_err(anyhow::Error::msg)?;
    let path = if program.contains('/') { program.into() } else { found };
    executable::look(&path).map_err(|obstacle| anyhow::Error::msg(obstacle.to_string()))?;
    let options = JoinOptions {
        runtime_dir: paths.runtime_dir.clone(),
        service: service.clone(),
        worker,
        weight: *weight,
    };
    let mut joined = match arguments.sockets {
        SocketSource::Bind => JoinedWorker::join_opening(&options, calls::filter()?.as_fd())?,
        _ => JoinedWorker::join(&options)?,
    };
    let worker = Joined {
        name: joined.name().to_owned(),
        sockets: joined.take().into_iter().map(|(name, socket)| (name, Socket::from(socket))).collect(),
        notify: joined.notify().to_owned(),
        watchdog: joined.watchdog_interval(),
        env: joined.env().clone(),
    };
    // Closes descriptors that were not taken, before the command is executed.
    drop(joined);
    Err(launch::become_joined(worker, command))
}

/// The full name of a worker, `web/7`, from that or from `7`.
fn full_name(service: &str, name: &str) -> Result<String, String> {
    let full = if name.contains('/') { name.into() } else { format!("{service}/{name}") };
    join::number(service, &full).map_err(|error| format!("--name: {error}, or like 7"))?;
    Ok(full)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_named_in_full_or_by_number() {
        assert_eq!(full_name("web", "web/7").unwrap(), "web/7");
        assert_eq!(full_name("web", "7").unwrap(), "web/7");
        for wrong in ["api/7", "web/", "", "x", "web/07", "-1", "web/7/1"] {
            assert!(full_name("web", wrong).unwrap_err().contains("like web/7"), "{wrong}");
        }
    }
}
