//! Starting a worker's process, and being told what becomes of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use tracing::warn;

use super::{Happening, Running, Service, Whom, Worker};
use crate::config;
use crate::kernel::process::{self, Exit, Launch};
use crate::listener::Listener;
use crate::notify::{self, Notify};
use crate::worker::Event;

impl Service {
    /// Starts the process of a worker; if that fails, it is as if it had ended at once.
    pub(super) fn spawn(&mut self, number: usize) {
        self.repair(number);
        self.incarnations += 1;
        let whom = Whom { number, incarnation: self.incarnations };
        let Some(worker) = self.workers.get(&number) else { return };
        match self.start(worker, whom) {
            Ok(running) => {
                if let Some(worker) = self.workers.get_mut(&number) {
                    worker.process = Some(running);
                }
            }
            Err(error) => {
                let why = format!("{error:#}");
                warn!(worker = worker.name, "{why}");
                self.fail_start(&why);
                self.happen(number, Event::Ended { killed: false });
            }
        }
    }

    fn start(&self, worker: &Worker, whom: Whom) -> Result<Running> {
        let user = self.user.as_ref();
        let path = notify::path(&self.surroundings.runtime_dir);
        let ready = self.sender.clone();
        let notify = Notify::open(path, user, move || drop(ready.send((whom, Happening::SaidReady))))?;
        let names = self.listeners.iter().map(Listener::plain_name);
        let process = Arc::new(process::spawn(&Launch {
            name: &worker.name,
            sockets: worker.sockets.iter().zip(names).collect(),
            notify: notify.path(),
            user,
            command: &self.config.command,
            open_files: self.surroundings.open_files,
        })?);
        let (watched, ended) = (process.clone(), self.sender.clone());
        tokio::task::spawn_local(async move {
            let exit = watched.wait().await.unwrap_or_else(|error| {
                warn!("cannot watch process {}: {error}", watched.pid());
                Exit::Status(0)
            });
            let _ = ended.send((whom, Happening::Ended(exit)));
        });
        Ok(Running { incarnation: whom.incarnation, process, _notify: notify })
    }
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
