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

/// The hidden command of a process that is tried for [`Answering`].
pub const TRIAL: &str = "try-calls";

/// Outcome of answering a call of bind(2) of another process, as `sockets = "bind"` does; numbers are those of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answering {
    /// The process had another socket in place of its own afterwards.
    Works {
        /// Whether the process cannot get rights by executing a file any more.
        no_new_privs: bool,
        /// Whether the kernel wakes up who answers on the CPU of the caller.
        synchronous: bool,
    },
    /// The process has a filter already whose calls somebody else answers.
    Occupied,
    /// The kernel did not take the filter.
    NoFilter(i32),
    /// The process could not be found below /proc.
    Unseen,
    /// What the process had called could not be read from its memory.
    Unread,
    /// The socket that the process had called about could not be taken.
    NotTaken(i32),
    /// The process got no other socket.
    NotReplaced(i32),
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
