//! Which process: its id, what tells it from a later one with that id, and what it is to the daemon.

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::kernel::liveness::Stat;

/// What a process is known by, to find it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The process id.
    pub pid: i32,
    /// Clock ticks from boot to its start.
    pub started: u64,
}

/// What a process is to the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kin {
    /// Its child, with a process group of its own.
    Child,
    /// The child of an earlier daemon, with a process group of its own.
    Orphan,
    /// A process of somebody else: nothing but itself is ours.
    Joined,
}

/// To a process that may have ended, and somebody else may have its id.
pub(super) fn signal_same(pid: i32, stat: &Stat, signal: Signal) {
    let opened = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    if let Some(pidfd) = opened
        && is_same(pid, stat)
    {
        let _ = pidfd_send_signal(&pidfd, signal);
    }
}

/// Whether the process `pid` is still the one that it was, and has not ended.
pub(super) fn is_same(pid: i32, stat: &Stat) -> bool {
    Stat::read(pid).is_some_and(|now| now.started == stat.started && !now.is_zombie())
}
