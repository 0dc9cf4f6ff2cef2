//! Worker processes: starting, signalling and watching them through a pidfd, so that a later process with the same
//! id is never taken for a worker.

mod identity;
mod signals;
mod spawn;

use std::cell::Cell;
use std::collections::HashMap;
use std::io::{self, PipeWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, waitid};
use tokio::io::unix::AsyncFd;
use tokio::sync::Mutex;

use super::cgroup::Cgroup;
use super::liveness::{self, Stat};
use super::marks::is_marked;
use super::watch;
use crate::domain::observed::Exit;

pub use identity::{Identity, Kin};
use identity::{is_same, signal_same};
pub use spawn::{Launch, spawn};

/// Interval between looks for the remaining processes of a worker that is ending: at first, and at most.
const LOOK: Duration = Duration::from_millis(5);
const LOOK_AT_MOST: Duration = Duration::from_millis(100);

/// How many times the remaining processes of a killed worker are killed again.
const KILLS: usize = 50;

/// Without cgroups, a search reads the whole of /proc: one worker's at a time, with a turn for other tasks between.
static SEARCH: Mutex<()> = Mutex::const_new(());

/// A worker's first process, which the daemon watches. Dropping this ends the watching, not the process.
pub struct Process {
    pid: Pid,
    pidfd: AsyncFd<OwnedFd>,
    kin: Kin,
    /// The cgroup that was made for this process and its descendants; `entered` says whether it is used.
    cgroup: Option<Cgroup>,
    entered: Cell<bool>,
    /// Path of the worker's notification socket: a process with that in its environment descends from this one.
    mark: Option<PathBuf>,
    /// Clock ticks from boot to the process's start: tells it from a later process with the same id.
    started: u64,
    /// The process was asked to end: its descendants get the time to finish as well.
    ending: Cell<bool>,
    /// The process was killed: its descendants are not waited for.
    killed: Cell<bool>,
    /// The process is reaped, and its descendants have ended.
    gone: Cell<bool>,
    /// The child waits for a byte from this pipe before it becomes the worker.
    go: Cell<Option<PipeWriter>>,
}

/// How thoroughly processes of a worker are searched for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Search {
    /// By /proc/PID/stat alone.
    Quick,
    /// By the environment of each process as well.
    Thorough,
}

impl Process {
    fn new(pid: Pid, pidfd: OwnedFd, kin: Kin) -> Result<Self> {
        let started = Stat::read(pid.as_raw_nonzero().get()).and_then(|stat| stat.started);
        let started = started.context("cannot read when a process was started")?;
        let pidfd = watch::readable(pidfd)?;
        let [ending, killed, gone, entered] = [false; 4].map(Cell::new);
        let (cgroup, mark, go) = (None, None, Cell::default());
        Ok(Self { pid, pidfd, kin, cgroup, entered, mark, started, ending, killed, gone, go })
    }

    /// Watches a process that joined.
    pub fn joined(pid: i32, pidfd: OwnedFd) -> Result<Self> {
        let pid = Pid::from_raw(pid).context("a process without an id")?;
        Self::new(pid, pidfd, Kin::Joined)
    }

    /// Watches a process that an earlier daemon has watched; `None` if it has ended. `cgroup` was made for it, and
    /// `mark` is its notification socket.
    #[must_use]
    pub fn find(identity: Identity, kin: Kin, cgroup: Option<Cgroup>, mark: Option<PathBuf>) -> Option<Self> {
        let pid = Pid::from_raw(identity.pid)?;
        let found = Self { cgroup, mark, ..Self::new(pid, watched(pid).ok()?, kin).ok()? };
        // A zombie has ended.
        (found.identity() == identity && !ended(found.pidfd.get_ref())).then(|| {
            found.has_entered();
            found
        })
    }

    /// The directory of the process's cgroup, if one was made for it.
    #[must_use]
    pub fn cgroup(&self) -> Option<&Path> {
        self.cgroup.as_ref().map(Cgroup::path)
    }

    /// Whether descendants of the process belong to the worker: not of a joined one.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.kin != Kin::Joined
    }

    /// What the next daemon finds this process by.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity { pid: self.pid(), started: self.started }
    }

    /// Process id of the worker's first process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Lets the child become the worker. If the daemon dies before that, the child ends.
    pub fn unblock(&self) {
        if let Some(mut go) = self.go.take() {
            // The child may have ended.
            let _ = go.write_all(&[1]);
        }
    }

    /// Gives the descendants time to finish when the process ends by itself, as after [`Process::terminate`].
    pub fn expect_end(&self) {
        self.ending.set(true);
    }

    /// Whether the process id, which is the group's id as well, still belongs to this process: no other process gets
    /// it before this one is reaped.
    fn has_id(&self) -> bool {
        !self.gone.get() && (self.kin == Kin::Child || !ended(self.pidfd.get_ref()))
    }

    /// Whether the process is in its cgroup, or was when it ended. As root it may have moved itself to another.
    fn has_entered(&self) -> bool {
        let Some(cgroup) = &self.cgroup else { return false };
        if self.has_id() {
            self.entered.set(cgroup.has(self.pid()));
        }
        self.entered.get()
    }

    /// All processes of the worker: this one and its descendants.
    #[must_use]
    pub fn all(&self) -> Vec<i32> {
        let own = self.has_id().then(|| self.pid());
        own.into_iter().chain(self.others(Search::Quick).into_keys()).collect()
    }

    /// Descendants of the process that have not ended.
    fn others(&self, search: Search) -> HashMap<i32, Stat> {
        if self.kin == Kin::Joined || self.gone.get() {
            return HashMap::new();
        }
        let mut others = if self.has_entered() { HashMap::new() } else { self.search(search) };
        if let Some(cgroup) = &self.cgroup {
            // `has` is asked after `read`: another process may have the id by then.
            let stat = |pid: i32| Some((pid, Stat::read(pid).filter(|_| cgroup.has(pid))?));
            others.extend(cgroup.processes().into_iter().filter_map(stat));
        }
        others.retain(|pid, stat| *pid != self.pid() && !stat.is_zombie());
        others
    }

    /// The worker's processes without a cgroup: of its process group and session, its descendants, and those with
    /// its mark. Reads the whole of /proc.
    fn search(&self, search: Search) -> HashMap<i32, Stat> {
        let mut rest: HashMap<i32, Stat> = liveness::all_processes().collect();
        let (has_id, replaced) = (self.has_id(), self.is_replaced());
        let mut found: HashMap<i32, Stat> = rest
            .extract_if(|pid, stat| {
                (has_id && *pid == self.pid())
                    || (!replaced && self.leads(stat))
                    || (search == Search::Thorough && self.has_marked(*pid, stat))
            })
            .collect();
        loop {
            let children: Vec<_> = rest.extract_if(|_, stat| found.contains_key(&stat.parent)).collect();
            if children.is_empty() {
                return found;
            }
            found.extend(children);
        }
    }

    /// Whether this process leads the group or session of the process that `stat` was read of; true only unless
    /// [`Process::is_replaced`].
    fn leads(&self, stat: &Stat) -> bool {
        stat.group == self.pid() || stat.session == self.pid()
    }

    fn has_marked(&self, pid: i32, stat: &Stat) -> bool {
        self.mark.as_ref().is_some_and(|mark| is_marked(pid, stat, mark, self.started))
    }

    /// Whether another process has this one's id by now. Then the group and session of the worker had become empty,
    /// and those that have the id now are not the worker's.
    fn is_replaced(&self) -> bool {
        let started = || Stat::read(self.pid()).and_then(|stat| stat.started);
        !self.has_id() && started().is_some_and(|started| started != self.started)
    }

    /// Whether a message of the process `pid` is taken as the worker's: the process is one of the worker's, or
    /// has ended since, like a helper that only sends one message.
    #[must_use]
    pub fn accepts_message_of(&self, pid: i32) -> bool {
        if self.has_id() && pid == self.pid() {
            return true;
        }
        let Some(stat) = Stat::read(pid) else { return true };
        self.cgroup.as_ref().is_some_and(|cgroup| cgroup.has(pid))
            || (self.has_id() && liveness::descends(&stat, self.pid()))
            || (!self.is_replaced() && self.leads(&stat))
    }

    /// Waits until the process ends. Its descendants are killed then, or, if the process was asked to end, waited
    /// for. To be followed by [`Process::clean_up`].
    pub async fn wait(&self) -> io::Result<Exit> {
        let exit = self.leader_ended().await?;
        if self.kin == Kin::Joined {
            return Ok(exit);
        }
        if !self.ending.get() {
            self.kill();
        }
        let mut look = LOOK;
        let mut left = HashMap::new();
        while !self.killed.get() {
            left.retain(|pid, stat: &mut Stat| is_same(*pid, stat));
            if left.is_empty() {
                left = self.look_for_others().await;
                if left.is_empty() {
                    break;
                }
            }
            tokio::time::sleep(look).await;
            look = (look * 2).min(LOOK_AT_MOST);
        }
        Ok(exit)
    }

    async fn look_for_others(&self) -> HashMap<i32, Stat> {
        if self.has_entered() {
            return self.others(Search::Thorough);
        }
        let turn = SEARCH.lock().await;
        let others = self.others(Search::Thorough);
        tokio::task::yield_now().await;
        drop(turn);
        others
    }

    /// Reaps the process and removes its cgroup; until then no other process gets its id, or its group's. Before,
    /// descendants of a killed process are killed until none is left: they need a moment to end, and may just have
    /// started further ones.
    pub async fn clean_up(&self) {
        let mut look = LOOK;
        for _ in 0..KILLS {
            if !self.killed.get() || self.look_for_others().await.is_empty() {
                break;
            }
            self.kill();
            tokio::time::sleep(look).await;
            look = (look * 2).min(LOOK_AT_MOST);
        }
        self.reap();
        self.gone.set(true);
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove();
        }
    }

    fn reap(&self) {
        if self.kin == Kin::Joined {
            return;
        }
        let reap = |whom| waitid(whom, WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        if self.kin == Kin::Child {
            let _ = reap(WaitId::PidFd(self.pidfd.get_ref().as_fd()));
        }
        // Where the daemon is the init of a container, orphans become its children.
        while let Ok(Some(_)) = reap(WaitId::Pgid(Some(self.pid))) {}
    }

    /// Waits for the end of the process without reaping it: as long as it is a zombie, no other process gets its id.
    async fn leader_ended(&self) -> io::Result<Exit> {
        loop {
            let mut guard = self.pidfd.readable().await?;
            if self.kin != Kin::Child {
                if ended(self.pidfd.get_ref()) {
                    return Ok(Exit::Unknown);
                }
                guard.clear_ready();
                continue;
            }
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            let Some(status) = waitid(WaitId::PidFd(self.pidfd.get_ref().as_fd()), options)? else {
                guard.clear_ready();
                continue;
            };
            return Ok(match (status.exit_status(), status.terminating_signal()) {
                (Some(status), _) => Exit::Status(status),
                (None, signal) => {
                    let signal = signal.unwrap_or_default();
                    let name =
                        nix::sys::signal::Signal::try_from(signal).map_or("", |signal| signal.as_str());
                    Exit::Signal(signal, name)
                }
            });
        }
    }
}

/// Kills the remaining processes of a worker whose first process ended while no daemon watched it.
pub fn kill_rest(identity: Identity, cgroup: Option<&Cgroup>, mark: &Path) {
    if let Some(cgroup) = cgroup {
        return cgroup.kill();
    }
    for (pid, stat) in
        liveness::all_processes().filter(|(pid, stat)| is_marked(*pid, stat, mark, identity.started))
    {
        signal_same(pid, &stat, Signal::KILL);
    }
}

fn watched(pid: Pid) -> Result<OwnedFd> {
    pidfd_open(pid, PidfdFlags::NONBLOCK).context("cannot watch a process (pidfd_open)")
}

fn ended(pidfd: &OwnedFd) -> bool {
    let mut wanted = [PollFd::new(pidfd, PollFlags::IN)];
    poll(&mut wanted, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}
