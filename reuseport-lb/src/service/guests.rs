//! Workers that come by themselves: `exec`, and the library's `Member`.

use std::time::Instant;

use anyhow::{Context, Result};
use tracing::{info, warn};

use super::workers::Id;
use super::{Happening, Service, Whom};
use crate::api::join::{Place, Request};
use crate::config;
use crate::domain::worker::{Event, Origin, State};
use crate::kernel::process::Process;
use crate::service::sd_notify;

impl Service {
    /// Lets a process in, or tells it why not.
    pub(super) fn join(&mut self, request: Request) {
        let Request { number, weight, peer, answer, delivered, .. } = request;
        let admitted = self.check_guest(peer.uid, number);
        let joined = admitted.and_then(|number| {
            let id = self.add(number, Origin::Joined, weight).map_err(|error| format!("{error:#}"))?;
            let owner = (peer.uid, peer.gid);
            self.seat(id, Process::guest(peer.pid, peer.pidfd), owner)
                .inspect_err(|_| self.release(id))
                .map_err(|error| format!("{error:#}"))
        });
        match joined {
            Ok((whom, place)) => {
                info!(worker = place.worker, uid = peer.uid, pid = peer.pid, "joins");
                let sender = self.sender.clone();
                let _ = answer.send(Ok(place));
                // A place that nobody got is nobody's, though the process may live on.
                tokio::task::spawn_local(async move {
                    if delivered.await.is_err() {
                        let _ = sender.send((whom, Happening::Lost));
                    }
                });
            }
            Err(error) => {
                // Anybody may ask as often as they like.
                if let Some(unsaid) = self.refused.again(peer.uid, Instant::now()) {
                    let more = if unsaid > 0 {
                        format!(" ({unsaid} more of that user since)")
                    } else {
                        String::new()
                    };
                    warn!(
                        service = self.config.name,
                        uid = peer.uid,
                        pid = peer.pid,
                        "may not join: {error}{more}"
                    );
                }
                // It may have gone away.
                let _ = answer.send(Err(error));
            }
        }
    }

    /// The number that it gets.
    fn check_guest(&self, uid: u32, number: Option<usize>) -> Result<usize, String> {
        let name = &self.config.name;
        let allowed = self.user.as_ref();
        if uid != 0 && allowed.is_none_or(|user| user.uid != uid) {
            let who = match allowed {
                Some(user) => format!("root and user {}", user.name),
                None => "root (the service has no `user`)".into(),
            };
            return Err(format!("user id {uid} may not join service {name}: only {who} may"));
        }
        if self.stopping {
            return Err(format!("service {name} is ending"));
        }
        config::check_workers(self.workers.len() + 1)?;
        let Some(number) = number else { return Ok(self.free_numbers().next().unwrap_or_default()) };
        // Numbers beyond the most workers would be names that nobody else can have.
        if number >= config::MAX_WORKERS {
            return Err(format!(
                "worker {} cannot be: numbers go from 0 to {}",
                self.name_of(number),
                config::MAX_WORKERS - 1
            ));
        }
        match self.id_of(number).and_then(|id| self.workers.get(&id)) {
            None => Ok(number),
            Some(worker) if worker.life.state() == State::Draining => {
                Err(format!("worker {} is leaving: try again when it is gone", worker.name))
            }
            Some(worker) => Err(format!(
                "there is a worker {} already{}: take another --name, or none",
                worker.name,
                worker
                    .process
                    .as_ref()
                    .map_or_else(String::new, |running| format!(" (process {})", running.process.pid()))
            )),
        }
    }

    /// Watches its process and hears what it says.
    fn seat(&mut self, id: Id, process: Result<Process>, owner: (u32, u32)) -> Result<(Whom, Place)> {
        let process = process?;
        let whom = self.next_whom(id);
        let path = sd_notify::path_of_guest(&self.surroundings.runtime_dir);
        let notify = self.listen_to(whom, path.clone(), Some(owner))?;
        let worker = self.workers.get(&id).context("the worker is gone")?;
        let sockets = worker
            .places
            .iter()
            .map(|place| place.socket.try_clone())
            .collect::<std::io::Result<Vec<_>>>()?;
        let names = worker.places.iter().map(|place| place.listener.plain_name()).collect();
        let place = Place {
            worker: worker.name.clone(),
            notify: path,
            names,
            sockets,
            watchdog: self.config.watchdog,
        };
        let running = self.running(whom, process, notify, None);
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.process = Some(running);
            worker.started = Some(Instant::now());
        }
        self.happen(id, Event::Start);
        Ok((whom, place))
    }
}
