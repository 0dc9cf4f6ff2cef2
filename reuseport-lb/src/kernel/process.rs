//! Worker processes as the daemon sees them: started, signalled and watched through a pidfd, so that
//! a reused process id can never be mistaken for a worker.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{
    Pid, PidfdFlags, Rlimit, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open,
    test_kill_process_group, waitid,
};
use socket2::Socket;
use tokio::io::unix::AsyncFd;

use super::host::User;
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
}

/// How often the rest of a process group is looked at that is ending.
const LOOK: Duration = Duration::from_millis(5);

/// A process that the daemon watches.
pub struct Process {
    pid: Pid,
    pidfd: AsyncFd<OwnedFd>,
    /// Asked to end: what it started may finish as well.
    ending: AtomicBool,
    /// Ended, and its group need not be waited for.
    killed: AtomicBool,
    /// Reaped, and nothing of its group is left.
    gone: AtomicBool,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this status.
    Status(i32),
    /// By this signal.
    Signal(i32),
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
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
    let open_files = launch.open_files;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("reuseport-lb").args(super::launch::arguments(launch, &fds)).stdin(Stdio::null());
    // A group of its own: Ctrl-C in the daemon's terminal is not for the worker, and what the
    // worker leaves behind can be ended with it.
    command.process_group(0);
    // SAFETY: between fork and exec only fcntl and setrlimit run, which are async-signal-safe.
    unsafe {
        command.pre_exec(move || {
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
    Process::open(Pid::from_child(&child)).inspect_err(|_| {
        // Nobody would watch it.
        let _ = child.kill();
        let _ = child.wait();
    })
}

impl Process {
    fn open(pid: Pid) -> Result<Self> {
        let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK).context("cannot watch a process (pidfd_open)")?;
        let pidfd = watch::readable(pidfd)?;
        let [ending, killed, gone] = [false; 3].map(AtomicBool::new);
        Ok(Self { pid, pidfd, ending, killed, gone })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Asks it and what it started in its process group to end (SIGTERM).
    pub fn terminate(&self) {
        self.ending.store(true, Ordering::Relaxed);
        self.signal_group(Signal::TERM);
    }

    /// Ends it and what it started in its process group (SIGKILL).
    pub fn kill(&self) {
        self.killed.store(true, Ordering::Relaxed);
        self.signal_group(Signal::KILL);
    }

    fn signal_group(&self, signal: Signal) {
        if !self.gone.load(Ordering::Relaxed) {
            // It may just have ended by itself, which is what the caller wants; anything else that
            // could go wrong shows when it does not end.
            let _ = kill_process_group(self.pid, signal);
        }
    }

    /// Waits until the process ends, and reaps it. What is left of its process group is killed; or,
    /// if it was asked to end, waited for.
    pub async fn wait(&self) -> io::Result<Exit> {
        let exit = self.leader_ended().await?;
        if !self.ending.load(Ordering::Relaxed) {
            self.kill();
        }
        // The group's id is not given to anybody else while it has a member.
        while test_kill_process_group(self.pid).is_ok() {
            // Where this process is the init of a container, orphans are its to reap.
            while let Ok(Some(_)) =
                waitid(WaitId::Pgid(Some(self.pid)), WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
            {
            }
            if self.killed.load(Ordering::Relaxed) {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        self.gone.store(true, Ordering::Relaxed);
        Ok(exit)
    }

    async fn leader_ended(&self) -> io::Result<Exit> {
        loop {
            let mut guard = self.pidfd.readable().await?;
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
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

impl Drop for Process {
    /// Nobody watches it any more, so it must not go on: this happens only when the start fails or
    /// a task panics.
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether there is a process with this id.
#[must_use]
pub fn exists(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}
