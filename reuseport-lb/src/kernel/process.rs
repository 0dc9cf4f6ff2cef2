//! Worker processes as the daemon sees them: started, signalled and watched through a pidfd, so that
//! a reused process id can never be mistaken for a worker.

use std::cell::Cell;
use std::io::{self, PipeWriter, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Rlimit, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open,
    pidfd_send_signal, waitid,
};
use serde::{Deserialize, Serialize};
use socket2::Socket;
use tokio::io::unix::AsyncFd;

use super::host::{self, User};
use super::output::Output;
use super::signs::{self, Stat};
use super::watch;

/// How a new worker is to be started.
pub struct Launch<'a> {
    /// Like `web/2`; the worker finds it in `REUSEPORT_LB_WORKER`.
    pub name: &'a str,
    /// Its sockets and their names, in the order of the service's listeners.
    pub sockets: Vec<(&'a Socket, String)>,
    /// The socket that hears its `READY=1`.
    pub notify: &'a Path,
    /// Whom it runs as; `None`: as the daemon.
    pub user: Option<&'a User>,
    /// Program and arguments; empty: the embedded worker.
    pub command: &'a [String],
    /// The limit of open files that the daemon was started with.
    pub open_files: Rlimit,
    /// How often it must say `WATCHDOG=1`.
    pub watchdog: Option<Duration>,
    /// Where its output goes; `None`: where the daemon's goes.
    pub output: Option<&'a Output>,
}

/// The highest number of a signal (signal(7)).
const MAX_SIGNAL: i32 = 64;

/// How often the rest of a process group is looked at that is ending, at first and later.
const LOOK: Duration = Duration::from_millis(5);
const LOOK_AT_MOST: Duration = Duration::from_millis(100);

/// A process that the daemon watches. Dropping it ends the watching, not the process.
pub struct Process {
    pid: Pid,
    pidfd: AsyncFd<OwnedFd>,
    kin: Kin,
    /// Clock ticks from boot to its start: tells it from a later process with the same id.
    started: u64,
    /// Asked to end: what it started may finish as well.
    ending: Cell<bool>,
    /// Ended, and its group need not be waited for.
    killed: Cell<bool>,
    /// Reaped, and nothing of its group is left.
    gone: Cell<bool>,
    /// It waits for a byte of this before it becomes the worker.
    go: Cell<Option<PipeWriter>>,
}

/// What a process is to the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kin {
    /// Its child, with a process group of its own.
    Child,
    /// The child of an earlier daemon, with a process group of its own.
    Orphan,
    /// A process of somebody else: nothing but itself is ours.
    Guest,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Only its parent knows how.
    Unknown,
    /// By itself, with this status.
    Status(i32),
    /// By this signal.
    Signal(i32),
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown => f.write_str("ended"),
            Self::Status(status) => write!(f, "exited with status {status}"),
            Self::Signal(signal) => match nix::sys::signal::Signal::try_from(*signal) {
                Ok(name) => write!(f, "was killed by {name}"),
                Err(_) => write!(f, "was killed by signal {signal}"),
            },
        }
    }
}

/// Starts a worker: this program again, as `launch`, which inherits the sockets, arranges them as
/// the worker expects and becomes the command (see [`super::launch`]). Must be called in a tokio runtime.
pub fn spawn(launch: &Launch<'_>) -> Result<Process> {
    let fds: Vec<RawFd> = launch.sockets.iter().map(|(socket, _)| socket.as_raw_fd()).collect();
    let (wait, go) = std::io::pipe().context("cannot make a pipe")?;
    let open_files = launch.open_files;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("reuseport-lb").args(super::launch::arguments(launch, &fds)).stdin(wait);
    if let Some(output) = launch.output {
        command.stdout(output.stdio()?).stderr(output.stdio()?);
    }
    // What the daemon's own service manager wants to hear is not the worker's to say.
    for variable in crate::supervisor::OURS.iter().chain(&crate::supervisor::DAEMONS) {
        command.env_remove(variable);
    }
    // SAFETY: between fork and exec only setsid, signal, sigprocmask, fcntl and setrlimit run, which are
    // async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            // A session and a group of its own: the daemon's terminal is not the worker's, nor are its
            // Ctrl-C and its hang-up, and what the worker leaves behind can be ended with it.
            rustix::process::setsid()?;
            host::reset_signals(1..=MAX_SIGNAL);
            for fd in &fds {
                if libc::fcntl(*fd, libc::F_SETFD, 0) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            rustix::process::setrlimit(rustix::process::Resource::Nofile, open_files)?;
            Ok(())
        });
    }
    let mut child = command.spawn().with_context(|| format!("cannot start worker {}", launch.name))?;
    let pid = Pid::from_child(&child);
    watched(pid).and_then(|pidfd| Process::new(pid, pidfd, Kin::Child, Some(go))).inspect_err(|_| {
        // Nobody would watch it.
        let _ = child.kill();
        let _ = child.wait();
    })
}

/// What a process is known by, to find it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The process id.
    pub pid: i32,
    /// Clock ticks from boot to its start.
    pub started: u64,
}

impl Process {
    fn new(pid: Pid, pidfd: OwnedFd, kin: Kin, go: Option<PipeWriter>) -> Result<Self> {
        let started = Stat::read(pid.as_raw_nonzero().get()).and_then(|stat| stat.started);
        let started = started.context("cannot read when a process was started")?;
        let pidfd = watch::readable(pidfd)?;
        let [ending, killed, gone] = [false; 3].map(Cell::new);
        Ok(Self { pid, pidfd, kin, started, ending, killed, gone, go: Cell::new(go) })
    }

    /// A process that joined by itself.
    pub fn guest(pid: i32, pidfd: OwnedFd) -> Result<Self> {
        let pid = Pid::from_raw(pid).context("a process without an id")?;
        Self::new(pid, pidfd, Kin::Guest, None)
    }

    /// A process that an earlier daemon watched; `None` if it is gone.
    #[must_use]
    pub fn find(identity: Identity, kin: Kin) -> Option<Self> {
        let pid = Pid::from_raw(identity.pid)?;
        let found = Self::new(pid, watched(pid).ok()?, kin, None).ok()?;
        // One that has ended and waits for its parent counts as gone.
        (found.identity() == identity && !ended(found.pidfd.get_ref())).then_some(found)
    }

    /// Whether it leads a process group, all of which is the worker.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.kin != Kin::Guest
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

    /// Asks it and what it started in its process group to end (SIGTERM).
    pub fn terminate(&self) {
        self.ending.set(true);
        self.signal(Signal::TERM);
    }

    /// Ends it and what it started in its process group (SIGKILL).
    pub fn kill(&self) {
        self.killed.set(true);
        self.signal(Signal::KILL);
    }

    /// Lets it become the worker. If the daemon dies before that, it ends.
    pub fn let_go(&self) {
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
        if self.kin == Kin::Guest {
            let _ = pidfd_send_signal(self.pidfd.get_ref(), signal);
        } else if self.has_id() {
            let _ = kill_process_group(self.pid, signal);
        } else {
            self.others().into_iter().for_each(|pid| self.signal_other(pid, signal));
        }
    }

    /// Whether its id, and so its group's, is its own: nobody has it before its parent has reaped it.
    fn has_id(&self) -> bool {
        !self.gone.get() && (self.kin == Kin::Child || !ended(self.pidfd.get_ref()))
    }

    /// To a process that may end meanwhile, and whose id somebody else may get.
    fn signal_other(&self, pid: i32, signal: Signal) {
        let opened = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        if let Some(pidfd) = opened
            && self.has(pid)
        {
            let _ = pidfd_send_signal(&pidfd, signal);
        }
    }

    /// All processes that are the worker: its own, and what it started.
    #[must_use]
    pub fn all(&self) -> Vec<i32> {
        let own = self.has_id().then(|| self.pid());
        own.into_iter().chain(self.others()).collect()
    }

    /// Those that it started and that have not ended. Reads the whole of /proc.
    fn others(&self) -> Vec<i32> {
        if self.kin == Kin::Guest || self.gone.get() || self.is_replaced() {
            return Vec::new();
        }
        let others = signs::everybody().filter(|(pid, stat)| *pid != self.pid() && self.owns(stat));
        others.map(|(pid, _)| pid).collect()
    }

    /// Whether the process that has the id `pid` now is one of the worker.
    fn has(&self, pid: i32) -> bool {
        !self.is_replaced() && Stat::read(pid).is_some_and(|stat| self.owns(&stat))
    }

    fn owns(&self, stat: &Stat) -> bool {
        stat.group == self.pid() && !stat.is_zombie()
    }

    /// Whether somebody else has its id by now: then nobody was left in its group, and whoever is in the
    /// group of that id is not of the worker.
    fn is_replaced(&self) -> bool {
        let started = || Stat::read(self.pid()).and_then(|stat| stat.started);
        !self.has_id() && started().is_some_and(|started| started != self.started)
    }

    /// Whether the process `pid`, which has just said something in its name, may be one of the worker: it is,
    /// or has ended since, like a helper that does nothing else.
    #[must_use]
    pub fn may_be_spoken_for_by(&self, pid: i32) -> bool {
        let Some(stat) = Stat::read(pid) else { return true };
        let own = self.has_id() && (pid == self.pid() || signs::descends(&stat, self.pid()));
        own || (!self.is_replaced() && self.owns(&stat))
    }

    /// Waits until the process ends, and reaps it. What is left of its process group is killed; or,
    /// if it was asked to end, waited for.
    pub async fn wait(&self) -> io::Result<Exit> {
        let exit = self.leader_ended().await?;
        if self.kin != Kin::Guest {
            if !self.ending.get() {
                self.kill();
            }
            let mut look = LOOK;
            while !self.killed.get() && !self.others().is_empty() {
                tokio::time::sleep(look).await;
                look = (look * 2).min(LOOK_AT_MOST);
            }
            self.reap();
        }
        self.gone.set(true);
        Ok(exit)
    }

    /// From here on its id, and its group's, may be somebody else's.
    fn reap(&self) {
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
                (None, signal) => Exit::Signal(signal.unwrap_or_default()),
            });
        }
    }
}

fn watched(pid: Pid) -> Result<OwnedFd> {
    pidfd_open(pid, PidfdFlags::NONBLOCK).context("cannot watch a process (pidfd_open)")
}

fn ended(pidfd: &OwnedFd) -> bool {
    let mut wanted = [PollFd::new(pidfd, PollFlags::IN)];
    poll(&mut wanted, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}
