//! What the kernel and /proc show of sockets and processes, as plain values. Not: looking (`kernel/`).

use std::fmt;
use std::net::SocketAddr;

use serde::Serialize;

/// How much waits in a socket and how much can: connections for TCP, bytes for UDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Queue {
    /// Accept queue (`tcpi_unacked`), or memory of queued datagrams (`SK_MEMINFO_RMEM_ALLOC`).
    pub queue: u32,
    /// Backlog (`tcpi_sacked`), or receive buffer (`SK_MEMINFO_RCVBUF`).
    pub backlog: u32,
}

/// Signs of life of a process, or of a group of them, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulse {
    /// It is stopped: by a signal (`T`) or a debugger (`t`). A group is when all of it is.
    pub stopped: bool,
    /// How often its threads gave up the processor by themselves, so far. A thread that ends takes
    /// its part with it, so any change is a sign of life, not only a rise.
    pub switches: u64,
}

/// A socket that a process has opened by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignSocket {
    /// A process that has it.
    pub pid: i32,
    /// That one's name (/proc/PID/comm), fit for a terminal.
    pub process: String,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Where it is bound.
    pub address: SocketAddr,
    /// It takes what is meant for one of the listeners.
    pub instead: bool,
}

impl fmt::Display for ForeignSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, process, protocol, address, .. } = self;
        write!(f, "pid {pid} ({process}) opened {protocol}://{address} by itself")
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Only its parent knows how.
    Unknown,
    /// By itself, with this status.
    Status(i32),
    /// By this signal, whose name is empty if it has none.
    Signal(i32, &'static str),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("ended"),
            Self::Status(status) => write!(f, "exited with status {status}"),
            Self::Signal(signal, "") => write!(f, "was killed by signal {signal}"),
            Self::Signal(_, name) => write!(f, "was killed by {name}"),
        }
    }
}

/// What a worker says of itself (sd_notify(3)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Said {
    /// `READY=1`
    Ready,
    /// `STOPPING=1`
    Stopping,
    /// `WATCHDOG=1`
    Alive,
}

/// A user, as in the password database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
}
