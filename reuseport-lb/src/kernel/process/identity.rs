//! Which process: its id, its start, which tells it from a later process with that id, and its relation to the daemon.

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::kernel::liveness::Stat;

/// What a process is found again by, also by the next daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Process id.
    pub pid: i32,
    /// Start of the process, in clock ticks since boot.
    pub started: u64,
}

/// The relation of a process to the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kin {
    /// A child of this daemon, with a process group of its own.
    Child,
    /// A child of an earlier daemon, with a process group of its own.
    Orphan,
    /// A process that joined: the processes that it has started are not the worker's.
    Joined,
}

/// Sends `signal` to the process `pid` that `stat` was read of, unless it has ended; never to a later process with
/// that id.
pub(super) fn signal_same(pid: i32, stat: &Stat, signal: Signal) {
    let opened = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    if let Some(pidfd) = opened
        && is_same(pid, stat)
    {
        let _ = pidfd_send_signal(&pidfd, signal);
    }
}

/// Whether the process `pid` is still the one that `stat` was read of, and has not ended.
pub(super) fn is_same(pid: i32, stat: &Stat) -> bool {
    Stat::read(pid).is_some_and(|now| now.started == stat.started && !now.is_zombie())
}
