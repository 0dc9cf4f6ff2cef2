//! What the kernel and /proc show of sockets and processes, as plain values. Not: reading it (`kernel/`).

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Length and limit of a socket's queue: connections for TCP, bytes for UDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Queue {
    /// Accept queue (`tcpi_unacked`), or memory of queued datagrams (`SK_MEMINFO_RMEM_ALLOC`).
    pub queue: u32,
    /// Backlog (`tcpi_sacked`), or receive buffer (`SK_MEMINFO_RCVBUF`).
    pub backlog: u32,
}

/// What waits first in the queue of a UDP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// The queue is empty.
    Empty,
    /// It was not looked at: that could change what the socket's process sees.
    Unseen,
    /// A datagram: hash of its sender, length and content.
    Datagram(u64),
}

/// Signs of life of a process, or of a group of them, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulse {
    /// All processes are stopped, by a signal (`T`) or a debugger (`t`).
    pub stopped: bool,
    /// Voluntary context switches of all threads so far. A thread that ends takes its part with it, so any change is a
    /// sign of life, not only a rise.
    pub switches: u64,
    /// CPU time of all threads so far, in clock ticks.
    pub ticks: u64,
}

/// A socket that a worker's process has opened itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignSocket {
    /// Id of a process that has the socket.
    pub pid: i32,
    /// Name of that process (/proc/PID/comm), fit for a terminal.
    pub process: String,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Local address of the socket.
    pub address: SocketAddr,
    /// The socket receives what is meant for one of the listeners.
    pub instead: bool,
}

impl fmt::Display for ForeignSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, process, protocol, address, .. } = self;
        write!(f, "pid {pid} ({process}) opened {protocol}://{address} by itself")
    }
}

/// Identifies a call that waits for an answer among those of its process (seccomp_unotify(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CallId(pub u64);

/// A call that waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CallKind {
    /// bind(2) to this address.
    Bind(SocketAddr),
    /// listen(2).
    Listen,
    /// bind(2) to something else than an IP address.
    Other,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The process was no child of this daemon, so only its end is known.
    Unknown,
    /// It exited with this status.
    Status(i32),
    /// It was killed by this signal, whose name is empty if it has none.
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

/// A message of a worker (sd_notify(3)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Said {
    /// `READY=1`.
    Ready,
    /// `STOPPING=1`.
    Stopping,
    /// `WATCHDOG=1`.
    Alive,
    /// `MAINPID=`, the id of the process that is the worker's main one from now on.
    Main(i32),
}

/// A user that workers run as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Login name; of one who is not in the password database the number.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Whether the password database has the user, and so perhaps supplementary groups.
    pub is_listed: bool,
}

/// Live connections of a listening socket, from the end of the handshake until they are closed for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveConnections {
    /// How many there are.
    pub count: u32,
    /// When counting began, in seconds since 1970, if the socket had been there before: its connections of that time are not
    /// counted.
    pub since: Option<u64>,
}
