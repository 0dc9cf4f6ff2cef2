//! Starting a service, and the processes of its workers, and being told what becomes of them.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use anyhow::Result;
use tokio::task::JoinHandle;
use tracing::warn;

use super::door::Door;
use super::workers::{Id, Running, Worker};
use super::{AT_ONCE, Happening, Service, Surroundings, Whom};
use crate::config;
use crate::domain::listener::Listener;
use crate::domain::worker::{Event, Origin, State};
use crate::kernel::cgroup::Cgroup;
use crate::kernel::output::Output;
use crate::kernel::process::{self, Exit, Launch, Process};
use crate::kernel::strangers::Census;
use crate::offload::{Slices, in_thread};
use crate::service::sd_notify::{self, Notify};

impl Service {
    /// Loads a program for each listener and opens the sockets of all workers; starts no process.
    pub async fn open(config: config::Service, surroundings: Rc<Surroundings>) -> Result<Self> {
        let mut service = Self::empty(config, surroundings).await?;
        service.surroundings.starting.begun();
        if let Err(error) = service.open_doors().await {
            let name = service.config.name.clone();
            service.discard().await;
            return Err(error.context(format!("service {name}")));
        }
        Ok(service)
    }

    /// Takes back what [`Service::open`] made.
    pub async fn discard(mut self) {
        let ids: Vec<Id> = self.workers.keys().copied().collect();
        let mut slices = Slices::begin();
        for id in ids {
            self.release(id);
            slices.turn().await;
        }
        self.came_up();
        self.pull_down().await;
    }

    async fn open_doors(&mut self) -> Result<()> {
        for listener in &self.config.listen {
            self.count += 1;
            let made = Door::make(&self.config, listener, self.count, &self.surroundings, &self.tracer);
            self.doors.push(made.await?);
        }
        let mut slices = Slices::begin();
        for number in 0..self.config.workers {
            self.add(number, Origin::Started, 1)?;
            slices.turn().await;
        }
        if !self.workers.is_empty() {
            let listeners: Vec<Listener> = self.doors.iter().map(|door| *door.group.listener()).collect();
            let taken = listeners.clone();
            if let Ok(census) = in_thread("sockets", move || Census::take(&taken)).await? {
                listeners.iter().for_each(|listener| self.look_for_strangers(listener, &census));
            }
        }
        Ok(())
    }

    fn look_for_strangers(&self, listener: &Listener, census: &Census) {
        if self.surroundings.claims.holder(listener).is_some_and(|holder| holder != self.config.name) {
            // They have it for now.
            return;
        }
        if let strangers @ 1.. = census.count(listener, &self.surroundings.ours.borrow()) {
            warn!(
                "{strangers} other sockets are on the port of {listener} (`ss -ltunp sport = :{}`): those in its \
                 group get nothing from now on",
                listener.address.port()
            );
        }
    }

    /// Starts every worker that has no process, in its turn.
    pub(super) fn start_workers(&mut self) {
        let idle = self.workers.values().filter(|worker| is_idle(worker)).map(|worker| worker.id);
        self.starts.extend(idle);
    }

    /// Starts some of those whose turn it is: with hundreds to start, others do not wait for all.
    pub(super) fn start_some(&mut self, slices: &Slices) {
        for at in 0..AT_ONCE {
            if at > 0 && slices.is_over() {
                break;
            }
            let Some(id) = self.starts.pop_front() else { break };
            // It may have been told to leave again.
            if self.workers.get(&id).is_some_and(is_idle) {
                self.happen(id, Event::Start);
            }
        }
    }

    /// Starts the process of a worker. If that fails, the machine lacks something: what the worker itself lacks
    /// shows when its process runs.
    pub(super) fn spawn(&mut self, id: Id) {
        self.repair(id, false);
        let whom = self.next_whom(id);
        let Some(worker) = self.workers.get(&id) else { return };
        match self.start(worker, whom) {
            Ok(running) => {
                let release = self.release;
                self.has_spawned = true;
                if let Some(worker) = self.workers.get_mut(&id) {
                    worker.process = Some(running);
                    worker.started = Some(Instant::now());
                    worker.unready_said = false;
                    worker.not_started = None;
                    worker.seen_waiting = false;
                    worker.opened = None;
                    worker.release = release;
                }
            }
            Err(error) => {
                let why = format!("{error:#}");
                if let Some(worker) = self.workers.get_mut(&id)
                    && worker.not_started.replace(why.clone()).is_none()
                {
                    warn!(worker = worker.name, "{why}; it is tried again each second");
                }
                self.fail_start(&why);
                self.rollout_saw_end(id, "could not be started");
                self.happen(id, Event::NotStarted);
            }
        }
    }

    fn start(&self, worker: &Worker, whom: Whom) -> Result<Running> {
        let user = self.user.as_ref();
        let path = sd_notify::path(&self.surroundings.runtime_dir);
        let notify = self.listen_to(whom, path, user.map(|user| (user.uid, user.gid)))?;
        let output = if worker.life.is_suspect() { Some(Output::new()?) } else { None };
        let cgroup = self.surroundings.cgroups.make(&worker.name);
        let spawned = process::spawn(&Launch {
            name: &worker.name,
            sockets: worker
                .places
                .iter()
                .map(|place| (&*place.socket, place.listener.plain_name()))
                .collect(),
            notify: notify.path(),
            cgroup: cgroup.as_ref(),
            user,
            command: &self.config.command,
            open_files: self.surroundings.open_files,
            watchdog: self.config.watchdog,
            output: output.as_ref(),
        });
        let process = spawned.inspect_err(|_| {
            cgroup.iter().for_each(Cgroup::remove);
        })?;
        Ok(self.running(whom, process, notify, output))
    }

    /// Another process of a worker.
    pub(super) fn next_whom(&mut self, id: Id) -> Whom {
        self.count += 1;
        Whom { id, incarnation: self.count }
    }

    /// A process that is watched from now on.
    pub(super) fn running(
        &self,
        whom: Whom,
        process: Process,
        notify: Notify,
        output: Option<Output>,
    ) -> Running {
        let process = Rc::new(process);
        notify.only_from(process.clone());
        let watching = self.watch(whom, process.clone());
        Running { incarnation: whom.incarnation, process, notify, output, watching }
    }

    /// Hears what a process says.
    pub(super) fn listen_to(&self, whom: Whom, path: PathBuf, owner: Option<(u32, u32)>) -> Result<Notify> {
        let (said, name) = (self.sender.clone(), self.name_of(whom.id.number));
        Notify::open(path, owner, name, move |what| drop(said.send((whom, Happening::Said(what)))))
    }

    /// Notices the end of a process.
    fn watch(&self, whom: Whom, process: Rc<Process>) -> JoinHandle<()> {
        let ended = self.sender.clone();
        tokio::task::spawn_local(async move {
            let exit = process.wait().await.unwrap_or_else(|error| {
                warn!("cannot watch process {}: {error}", process.pid());
                Exit::Unknown
            });
            let _ = ended.send((whom, Happening::Ended(exit)));
            process.clean_up().await;
        })
    }

    /// Lets processes begin that were started: now that they are written down, another daemon would
    /// find them.
    pub(super) fn let_go(&self) {
        for running in self.workers.values().filter_map(|worker| worker.process.as_ref()) {
            running.process.let_go();
        }
    }
}

/// Where there is such a program, by path or in PATH.
pub fn find_program(program: &str) -> Result<PathBuf, String> {
    which::which(program).map_err(|_| {
        let where_to = if program.contains('/') {
            format!("there is no executable file {program}, seen from {}", current_directory().display())
        } else {
            format!("no executable {program} in the directories of PATH")
        };
        format!("command not found: {where_to}")
    })
}

fn current_directory() -> PathBuf {
    std::env::current_dir().unwrap_or_else(|_| Path::new(".").into())
}

fn is_idle(worker: &Worker) -> bool {
    worker.process.is_none() && worker.life.state() == State::Starting
}
