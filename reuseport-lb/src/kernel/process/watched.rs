//! One process, with the descriptor by which it is watched and signalled: a later process with its id is never taken for
//! it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use tokio::io::unix::AsyncFd;

use super::identity::Identity;
use crate::domain::observed::Exit;
use crate::kernel::liveness::Stat;
use crate::kernel::watch;

/// A process that is watched. Dropping this ends the watching, not the process.
pub(super) struct Watched {
    pid: Pid,
    started: u64,
    pidfd: AsyncFd<OwnedFd>,
}

impl Watched {
    /// Watches the process with this id.
    pub(super) fn open(pid: Pid) -> Result<Self> {
        let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK).context("cannot watch a process (pidfd_open)")?;
        Self::by(pid, pidfd)
    }

    /// Watches the process with this id and descriptor.
    pub(super) fn by(pid: Pid, pidfd: OwnedFd) -> Result<Self> {
        let started = Stat::read(pid.as_raw_nonzero().get()).and_then(|stat| stat.started);
        let started = started.context("cannot read when a process was started")?;
        Ok(Self { pid, started, pidfd: watch::readable(pidfd)? })
    }

    /// Watches a process that was known to an earlier daemon; `None` if it has ended, be it a zombie.
    pub(super) fn find(identity: Identity) -> Option<Self> {
        let found = Self::open(Pid::from_raw(identity.pid)?).ok()?;
        (found.identity() == identity && !found.has_ended()).then_some(found)
    }

    pub(super) fn identity(&self) -> Identity {
        Identity { pid: self.pid.as_raw_nonzero().get(), started: self.started }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.pidfd.get_ref().as_fd()
    }

    pub(super) fn has_ended(&self) -> bool {
        let mut wanted = [PollFd::new(self.pidfd.get_ref(), PollFlags::IN)];
        poll(&mut wanted, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
    }

    /// Errors are ignored: the process may just have ended, and of any other error the caller notices that it goes on.
    pub(super) fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }

    /// Waits for the end of the process without reaping it: as long as it is a zombie, no other process gets its id. How
    /// it ended is only known of a `child`.
    pub(super) async fn ended(&self, child: bool) -> io::Result<Exit> {
        loop {
            let mut guard = self.pidfd.readable().await?;
            if !child {
                if self.has_ended() {
                    return Ok(Exit::Unknown);
                }
                guard.clear_ready();
                continue;
            }
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            let Some(status) = waitid(WaitId::PidFd(self.fd()), options)? else {
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
