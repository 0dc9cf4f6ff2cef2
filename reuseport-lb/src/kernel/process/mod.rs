//! Worker processes as the daemon sees them: started, signalled and watched through a pidfd, so that
//! a reused process id can never be mistaken for a worker.

mod identity;
mod spawn;

use std::cell::Cell;
use std::collections::HashMap;
use std::io::{self, PipeWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, pidfd_send_signal, waitid,
};
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

/// How often the rest of a worker is looked at that is ending, at first and later.
const LOOK: Duration = Duration::from_millis(5);
const LOOK_AT_MOST: Duration = Duration::from_millis(100);

/// How often what is left of a worker that was killed is killed again.
const KILLS: usize = 50;

/// Without cgroups processes are looked for one worker after the other: others get their turn between.
static SEARCH: Mutex<()> = Mutex::const_new(());

/// A process that the daemon watches. Dropping it ends the watching, not the process.
pub struct Process {
    pid: Pid,
    pidfd: AsyncFd<OwnedFd>,
    kin: Kin,
    /// What it and all that it starts are in, if it is there (see `entered`).
    cgroup: Option<Cgroup>,
    entered: Cell<bool>,
    /// Its notification socket. Who has that in its environment was started by it.
    mark: Option<PathBuf>,
    /// Clock ticks from boot to its start: tells it from a later process with the same id.
    started: u64,
    /// Asked to end: what it started may finish as well.
    ending: Cell<bool>,
    /// Killed, and what is left of it need not be waited for.
    killed: Cell<bool>,
    /// Reaped, and nothing of it is left.
    gone: Cell<bool>,
    /// It waits for a byte of this before it becomes the worker.
    go: Cell<Option<PipeWriter>>,
}

/// How much is asked of processes that may be a worker's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Search {
    /// What one look at each tells.
    Quick,
    /// Their environment as well.
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

    /// A process that joined by itself.
    pub fn joined(pid: i32, pidfd: OwnedFd) -> Result<Self> {
        let pid = Pid::from_raw(pid).context("a process without an id")?;
        Self::new(pid, pidfd, Kin::Joined)
    }

    /// A process that an earlier daemon watched; `None` if it is gone. It may be in `cgroup`, and `mark` is its
    /// notification socket.
    #[must_use]
    pub fn find(identity: Identity, kin: Kin, cgroup: Option<Cgroup>, mark: Option<PathBuf>) -> Option<Self> {
        let pid = Pid::from_raw(identity.pid)?;
        let found = Self { cgroup, mark, ..Self::new(pid, watched(pid).ok()?, kin).ok()? };
        // One that has ended and waits for its parent counts as gone.
        (found.identity() == identity && !ended(found.pidfd.get_ref())).then(|| {
            found.has_entered();
            found
        })
    }

    /// What it is in.
    #[must_use]
    pub fn cgroup(&self) -> Option<&Path> {
        self.cgroup.as_ref().map(Cgroup::path)
    }

    /// Whether all that it started is the worker as well.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.kin != Kin::Joined
    }

    /// What it is known by.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity { pid: self.pid(), started: self.started }
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Asks it and what it started to end (SIGTERM).
    pub fn terminate(&self) {
        self.ending.set(true);
        self.signal(Signal::TERM);
    }

    /// Ends it and what it started (SIGKILL).
    pub fn kill(&self) {
        self.killed.set(true);
        self.signal(Signal::KILL);
    }

    /// Lets it become the worker. If the daemon dies before that, it ends.
    pub fn unblock(&self) {
        if let Some(mut go) = self.go.take() {
            // It may have ended.
            let _ = go.write_all(&[1]);
        }
    }

    /// Keeps it from running (SIGSTOP) until [`Process::resume`]. It may still finish what it is just
    /// doing in the kernel.
    pub fn suspend(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it run again (SIGCONT).
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// It is to end by itself; what it started may finish as well.
    pub fn expect_end(&self) {
        self.ending.set(true);
    }

    fn signal(&self, signal: Signal) {
        if self.gone.get() {
            return;
        }
        // It may just have ended by itself, which is what the caller wants; anything else that
        // could go wrong shows when it does not end.
        if self.kin == Kin::Joined {
            let _ = pidfd_send_signal(self.pidfd.get_ref(), signal);
            return;
        }
        // Before its group gets the signal: then it is still known who descends from whom.
        let others = self.others(Search::Thorough);
        let group = self.has_id();
        if group && kill_process_group(self.pid, signal).is_err() {
            // It leads no group: what is left of a worker whose first process is gone.
            let _ = pidfd_send_signal(self.pidfd.get_ref(), signal);
        }
        if signal == Signal::KILL
            && let Some(cgroup) = &self.cgroup
        {
            cgroup.kill();
        }
        // Nobody gets it twice: a second SIGTERM means something else to many.
        for (pid, stat) in others.iter().filter(|(_, stat)| !group || stat.group != self.pid()) {
            signal_same(*pid, stat, signal);
        }
    }

    /// Whether its id, and so its group's, is its own: nobody has it before its parent has reaped it.
    fn has_id(&self) -> bool {
        !self.gone.get() && (self.kin == Kin::Child || !ended(self.pidfd.get_ref()))
    }

    /// Whether it is in its cgroup, or was when it ended. It may have gone elsewhere, as root.
    fn has_entered(&self) -> bool {
        let Some(cgroup) = &self.cgroup else { return false };
        if self.has_id() {
            self.entered.set(cgroup.has(self.pid()));
        }
        self.entered.get()
    }

    /// All processes that are the worker: its own, and what it started.
    #[must_use]
    pub fn all(&self) -> Vec<i32> {
        let own = self.has_id().then(|| self.pid());
        own.into_iter().chain(self.others(Search::Quick).into_keys()).collect()
    }

    /// Those that it started and that have not ended.
    fn others(&self, search: Search) -> HashMap<i32, Stat> {
        if self.kin == Kin::Joined || self.gone.get() {
            return HashMap::new();
        }
        let mut others = if self.has_entered() { HashMap::new() } else { self.search(search) };
        if let Some(cgroup) = &self.cgroup {
            // Asked once more, because the id may be somebody else's by then.
            let stat = |pid: i32| Some((pid, Stat::read(pid).filter(|_| cgroup.has(pid))?));
            others.extend(cgroup.processes().into_iter().filter_map(stat));
        }
        others.retain(|pid, stat| *pid != self.pid() && !stat.is_zombie());
        others
    }

    /// Without a cgroup: those of its process group and session, its descendants, and those that it has
    /// marked. Reads the whole of /proc.
    fn search(&self, search: Search) -> HashMap<i32, Stat> {
        let mut rest: HashMap<i32, Stat> = liveness::everybody().collect();
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

    /// Whether it leads that one's group or session; to be asked only if nobody else has its id.
    fn leads(&self, stat: &Stat) -> bool {
        stat.group == self.pid() || stat.session == self.pid()
    }

    fn has_marked(&self, pid: i32, stat: &Stat) -> bool {
        self.mark.as_ref().is_some_and(|mark| is_marked(pid, stat, mark, self.started))
    }

    /// Whether somebody else has its id by now: then nobody was left in its group and session, and whoever is
    /// in those of that id is not of the worker.
    fn is_replaced(&self) -> bool {
        let started = || Stat::read(self.pid()).and_then(|stat| stat.started);
        !self.has_id() && started().is_some_and(|started| started != self.started)
    }

    /// Whether the process `pid`, which has just said something in its name, may be one of the worker: it is,
    /// or has ended since, like a helper that does nothing else.
    #[must_use]
    pub fn may_be_spoken_for_by(&self, pid: i32) -> bool {
        if self.has_id() && pid == self.pid() {
            return true;
        }
        let Some(stat) = Stat::read(pid) else { return true };
        self.cgroup.as_ref().is_some_and(|cgroup| cgroup.has(pid))
            || (self.has_id() && liveness::descends(&stat, self.pid()))
            || (!self.is_replaced() && self.leads(&stat))
    }

    /// Waits until the process ends. What is left of the worker is killed; or, if it was asked to end, waited
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

    /// Reaps it. Until then its id, and its group's, are nobody else's. Who was killed needs a moment to end, and
    /// who was just being started is killed as well; then its cgroup is removed.
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
        // Where this process is the init of a container, orphans are its to reap.
        while let Ok(Some(_)) = reap(WaitId::Pgid(Some(self.pid))) {}
    }

    /// Waits for its end. It is not reaped: as long as it is a zombie, nobody else gets its id.
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

/// Kills what is left of a worker whose process ended while nobody watched it.
pub fn kill_rest(identity: Identity, cgroup: Option<&Cgroup>, mark: &Path) {
    if let Some(cgroup) = cgroup {
        return cgroup.kill();
    }
    for (pid, stat) in
        liveness::everybody().filter(|(pid, stat)| is_marked(*pid, stat, mark, identity.started))
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
