//! What `probe` finds out about this machine, as plain values, so that `doctor` needs no system call.

use std::time::Duration;

/// The memory limit of a cgroup, in bytes.
pub struct Memory {
    /// Directory of the cgroup.
    pub cgroup: String,
    /// `memory.max`, or `memory.limit_in_bytes` of version 1.
    pub limit: u64,
    /// Bytes in use.
    pub used: u64,
}

/// Outcome of handing a queued connection from one listening socket to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandOver {
    /// A thread that waited in epoll for the other socket woke up after this time.
    Woken(Duration),
    /// The connection arrived, but the waiting thread was not woken.
    Silent,
    /// The connection was lost.
    Lost,
}
