//! What was found out about this machine, as values: for who judges it, and touches nothing.

use std::time::Duration;

/// The memory limit of a cgroup, in bytes.
pub struct Memory {
    /// Which cgroup.
    pub cgroup: String,
    /// Its limit.
    pub limit: u64,
    /// What is used of it.
    pub used: u64,
}

/// What came of handing a queued connection from one listening socket to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandOver {
    /// Whoever waited in epoll for the other one woke up after this time.
    Woken(Duration),
    /// The connection was there, but nobody was told.
    Silent,
    /// The connection was lost.
    Lost,
}
