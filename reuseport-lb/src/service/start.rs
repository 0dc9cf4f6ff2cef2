//! Starting a worker's process, and being told what becomes of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use tokio::sync::mpsc;
use tracing::warn;

use super::{Happening, Running, Surroundings, Whom, Worker};
use crate::config;
use crate::kernel::host::User;
use crate::kernel::process::{self, Exit, Launch};
use crate::listener::Listener;
use crate::notify::{self, Notify};

pub(super) fn start(
    worker: &Worker,
    whom: Whom,
    config: &config::Service,
    user: Option<&User>,
    surroundings: &Surroundings,
    happenings: &mpsc::UnboundedSender<(Whom, Happening)>,
) -> Result<Running> {
    let path = notify::path(&surroundings.runtime_dir, &worker.name, whom.incarnation);
    let ready = happenings.clone();
    let notify = Notify::open(path, user, move || drop(ready.send((whom, Happening::SaidReady))))?;
    let sockets = worker.sockets.iter().zip(config.listen.iter().map(Listener::plain_name)).collect();
    let process = Arc::new(process::spawn(&Launch {
        name: &worker.name,
        sockets,
        notify: notify.path(),
        user,
        command: &config.command,
        open_files: surroundings.open_files,
    })?);
    let (watched, ended) = (process.clone(), happenings.clone());
    tokio::task::spawn_local(async move {
        let exit = watched.wait().await.unwrap_or_else(|error| {
            warn!("cannot watch process {}: {error}", watched.pid());
            Exit::Status(0)
        });
        let _ = ended.send((whom, Happening::Ended(exit)));
    });
    Ok(Running { incarnation: whom.incarnation, process, _notify: notify })
}

/// Checks that `command` can be found, before anything is started for it.
pub fn find_command(service: &config::Service) -> Result<(), String> {
    let Some(program) = service.command.first() else { return Ok(()) };
    which::which(program).map(drop).map_err(|_| {
        let where_to = if program.contains('/') {
            format!("there is no executable file {program}, seen from {}", current_directory().display())
        } else {
            format!("no executable {program} in the directories of PATH")
        };
        format!("service {}: command not found: {where_to}", service.name)
    })
}

fn current_directory() -> PathBuf {
    std::env::current_dir().unwrap_or_else(|_| Path::new(".").into())
}
