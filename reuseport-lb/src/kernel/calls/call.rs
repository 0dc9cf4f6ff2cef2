//! What daemon and keeper both know of calls: their values, and the places of a keeper's descriptors.

use std::os::fd::RawFd;

use serde::{Deserialize, Serialize};
use socket2::Socket;

use crate::domain::observed::{CallId, CallKind};

/// Descriptors of a keeper: its own end of the channel, the daemon's, and that by which calls are answered.
pub(super) const KEEPERS_END: RawFd = 3;
pub(super) const DAEMONS_END: RawFd = 4;
pub(super) const NOTIFIER: RawFd = 5;

/// A call that waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Identifies the call among those of its worker's process.
    pub id: CallId,
    /// The thread that calls.
    pub(super) thread: i32,
    /// Its descriptor of the socket.
    pub(super) fd: RawFd,
    /// What is called.
    pub kind: CallKind,
}

/// The answer to a call.
#[derive(Clone, Copy, Debug)]
pub enum CallAnswer<'a> {
    /// The kernel does what was called.
    GoOn,
    /// It is done: the call returns 0.
    Done,
    /// The call fails with this error number.
    Fails(i32),
    /// The process gets this socket in place of its own, and the call returns 0.
    Instead(&'a Socket),
}
