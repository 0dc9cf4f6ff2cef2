//! The engine's port to the processes of one service's workers: started, signalled, heard and watched.

mod joined;
mod port;

use std::cell::Cell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result};
use socket2::Socket;
use tokio::task::JoinHandle;
use tracing::warn;

use super::Surroundings;
use super::calls::{Events, PendingCalls};
use super::dataplane::tags::variables;
use super::dataplane::{Groups, Opened, Sockets};
use super::joining::Joining;
use super::sd_notify::{self, Notify};
use super::state_file;
use crate::config::process::LogTo;
use crate::config::{self, SocketSource};
use crate::domain::engine::{Engine, ProcessEvent};
use crate::domain::listener::Listener;
use crate::domain::observed::{Exit, Said};
use crate::domain::ports::{Cookie, ProcessKey, Spawn};
use crate::domain::worker::Origin;
use crate::kernel::calls::Calls;
use crate::kernel::cgroup::Cgroup;
use crate::kernel::output::{Amount, KeeperArguments, Output};
use crate::kernel::process::{self, Launch, Process};
use crate::logging;

/// The engine of a service over the kernel.
pub(super) type OwnEngine = Engine<Groups, ProcessTable>;

/// The processes of a service.
pub(super) struct ProcessTable {
    service: String,
    running: HashMap<ProcessKey, Running>,
    /// New processes that wait before their `exec` until the state file has them.
    blocked: Vec<ProcessKey>,
    /// Processes that others have started.
    adopted: HashMap<ProcessKey, i32>,
    /// The process whose request to join is being handled.
    joining: Option<Joining>,
    /// Output of processes that have ended which was dropped, by the workers' numbers.
    dropped: HashMap<usize, Amount>,
    sockets: Sockets,
    opened: Opened,
    /// What the tags of workers in connection ids of QUIC are made with.
    word: u64,
    events: Events,
    /// How often another process became the main one of its worker, or keeps its output.
    changed: Rc<Cell<u64>>,
    surroundings: Rc<Surroundings>,
}

/// A process that is watched.
pub(super) struct Running {
    pub(super) process: Rc<Process>,
    /// The notification socket; dropping it closes and removes the socket.
    pub(super) notify: Notify,
    /// The output of the process; `None` for one that joined.
    output: Option<Rc<Output>>,
    calls: Option<PendingCalls>,
    /// Waits for the end of the process, and reports it.
    watching: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // A child that ends later must be reaped; a process that has joined is not the daemon's child.
        if !self.process.is_leader() {
            self.watching.abort();
        }
    }
}

impl ProcessTable {
    pub(super) fn new(
        service: &str,
        (sockets, opened): (Sockets, Opened),
        word: u64,
        events: Events,
        surroundings: &Rc<Surroundings>,
    ) -> Self {
        Self {
            service: service.to_owned(),
            running: HashMap::new(),
            blocked: Vec::new(),
            adopted: HashMap::new(),
            joining: None,
            dropped: HashMap::new(),
            sockets,
            opened,
            word,
            events,
            changed: Rc::default(),
            surroundings: surroundings.clone(),
        }
    }

    pub(super) fn get(&self, key: ProcessKey) -> Option<&Running> {
        self.running.get(&key)
    }

    /// Whether any new process waits until the state file has it.
    pub(super) fn has_blocked(&self) -> bool {
        !self.blocked.is_empty()
    }

    /// How often another process became the main one of a worker, or keeps its output: what [`ProcessTable::describe`] tells has changed.
    pub(super) fn changed(&self) -> u64 {
        self.changed.get()
    }

    /// How much of a worker's output was dropped.
    pub(super) fn dropped(&self, number: usize, running: Option<ProcessKey>) -> Amount {
        let mut all = self.dropped.get(&number).copied().unwrap_or_default();
        if let Some(output) = running.and_then(|key| self.get(key)?.output.as_ref()) {
            all += output.dropped();
        }
        all
    }

    /// Sets the process whose request to join is being handled.
    pub(super) fn set_joining(&mut self, joining: Option<Joining>) {
        self.joining = joining;
    }

    /// A sender of process events, for tasks that live longer than a call.
    pub(super) fn events(&self) -> Events {
        self.events.clone()
    }

    /// Opens a notification socket whose messages become events of the process.
    fn listen_to(
        &self,
        key: ProcessKey,
        name: &str,
        path: PathBuf,
        owner: Option<(u32, u32)>,
    ) -> Result<Notify> {
        let said = self.events.clone();
        let changed = self.changed.clone();
        let hear = move |what| {
            changed.update(|times| times + u64::from(matches!(what, Said::Main(_))));
            drop(said.send((key, ProcessEvent::Said(what))));
        };
        Notify::open(path, owner, name.to_owned(), hear)
    }

    /// Watches a process from now on: its end becomes an event.
    fn watch(
        &mut self,
        key: ProcessKey,
        process: Process,
        notify: Notify,
        output: Option<Rc<Output>>,
        calls: Option<PendingCalls>,
    ) {
        let process = Rc::new(process);
        notify.only_from(process.clone());
        let (ended, watched, last) = (self.events.clone(), process.clone(), output.clone());
        let watching = tokio::task::spawn_local(async move {
            let exit = watched.wait().await.unwrap_or_else(|error| {
                warn!("cannot watch process {}: {error}", watched.pid());
                Exit::Unknown
            });
            if let Some(last) = last {
                last.is_read_soon().await;
            }
            let _ = ended.send((key, ProcessEvent::Ended(exit)));
            watched.clean_up().await;
        });
        self.running.insert(key, Running { process, notify, output, calls, watching });
    }

    /// Keeps the output from being held up by a keeper that is killed, until nobody can write it any more.
    fn look_after(&self, output: Output) -> Rc<Output> {
        let output = Rc::new(output);
        self.surroundings.outputs.add(&output);
        let (looked_after, replaced) = (output.clone(), self.changed.clone());
        tokio::task::spawn_local(async move { looked_after.look_after(&replaced).await });
        output
    }

    fn start(&mut self, spawn: &Spawn<'_>) -> Result<()> {
        let Spawn { key, name, .. } = *spawn;
        let path = sd_notify::path(&self.surroundings.runtime_dir);
        let user = spawn.settings.user.as_ref();
        let owner = user.map(|user| (user.uid, user.gid));
        let notify = self.listen_to(key, name, path, owner)?;
        let opens = spawn.settings.config.sockets == SocketSource::Bind;
        let calls = if opens { Some(Calls::start()?) } else { None };
        let kept = Output::start(kept(name, &spawn.settings.config.process.log), calls);
        let (output, written) = kept.with_context(|| format!("cannot start worker {name}"))?;
        let output = self.look_after(output);
        let calls = PendingCalls::hear(key, name, &output, spawn.listeners, &self.opened, &self.events);
        let cgroup = self.surroundings.cgroups.make(name);
        let own = self.sockets.borrow();
        let socket = |(cookie, name): &(Cookie, String)| {
            let own = own.get(cookie).context("a socket of it is gone")?;
            Ok((&*own.socket, name.clone()))
        };
        let sockets = spawn.sockets.iter().map(socket).collect::<Result<Vec<(&Socket, String)>>>()?;
        let config::ServiceConfig { command, watchdog, .. } = &spawn.settings.config;
        let mut process = spawn.settings.config.process.clone();
        process.env.extend(variables(&spawn.settings.config, self.word, spawn.slot, key.worker));
        let spawned = process::spawn(&Launch {
            name,
            sockets,
            nginx: spawn.settings.config.sockets == SocketSource::Nginx,
            calls: output.calls().map(Calls::for_worker),
            notify: notify.path(),
            cgroup: cgroup.as_ref(),
            user,
            command,
            process: &process,
            open_files: self.surroundings.open_files,
            watchdog: *watchdog,
            output: written,
        });
        drop(own);
        let process = spawned.inspect_err(|_| {
            cgroup.iter().for_each(Cgroup::remove);
        })?;
        self.blocked.push(key);
        self.watch(key, process, notify, Some(output), calls);
        Ok(())
    }

    /// Goes on with a running process of an earlier daemon; false if its notification socket cannot be made again.
    pub(super) fn find(
        &mut self,
        key: ProcessKey,
        name: &str,
        process: Process,
        written: &state_file::SavedWorker,
        (log, listeners): (&LogTo, &[Listener]),
    ) -> bool {
        let Some((path, owner)) = written.process.notify.clone() else { return false };
        match self.listen_to(key, name, path, owner) {
            Ok(notify) => {
                let known = written.process.output;
                let joined = written.life.origin == Origin::Joined;
                let kept = KeeperArguments { only_calls: joined, ..kept(name, log) };
                let output = known.and_then(|known| Output::find(kept, known, process.pid()));
                let output = output.map(|output| self.look_after(output));
                let calls = output.as_ref().and_then(|output| {
                    PendingCalls::hear(key, name, output, listeners, &self.opened, &self.events)
                });
                self.watch(key, process, notify, output, calls);
                true
            }
            Err(error) => {
                warn!(worker = name, "it cannot be heard: {error:#}");
                if written.life.origin == Origin::Started {
                    process.terminate(written.stop);
                }
                false
            }
        }
    }

    fn process(&self, key: ProcessKey) -> Option<&Process> {
        self.running.get(&key).map(|running| &*running.process)
    }

    /// What the next daemon must know of a process: its identity, cgroup and notification socket.
    pub(super) fn describe(&self, key: ProcessKey) -> Option<state_file::SavedProcess> {
        let running = self.running.get(&key)?;
        Some(state_file::SavedProcess {
            identity: Some(running.process.identity()),
            leader: Some(running.process.leader()).filter(|leader| *leader != running.process.identity()),
            cgroup: running.process.cgroup().map(Path::to_owned),
            notify: Some((running.notify.path().to_owned(), running.notify.owner())),
            output: running.output.as_ref().map(|output| output.identity()),
        })
    }
}

/// How the output of the worker `name` is kept.
fn kept(name: &str, log: &LogTo) -> KeeperArguments {
    let (name, log, json) = (name.to_owned(), log.clone(), logging::is_json());
    KeeperArguments { name, log, json, calls: Vec::new(), only_calls: false }
}
