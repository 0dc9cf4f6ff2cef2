//! What a connection of the daemon's own is known by, VALUES. Not: how it gets to its worker (`directed.rs`).

use socket2::Socket;

use crate::domain::listener::Listener;
use crate::domain::ports::ListenerId;

/// A connection of the daemon's own that has begun. Its worker gets it until `Command::Undirect`.
pub struct Directed {
    /// The socket, which does not block, and may still be connecting.
    pub socket: Socket,
    /// Name of the worker.
    pub worker: String,
    /// Where it was connected to.
    pub listener: Listener,
    /// What it is known by.
    pub at: DirectedAt,
}

/// What a connection of the daemon's own is known by: the listener, and its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectedAt {
    /// The listener.
    pub(super) id: ListenerId,
    /// The port of the loopback address.
    pub(super) port: u16,
}
