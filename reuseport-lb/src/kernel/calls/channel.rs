//! The channel between a daemon and a keeper: messages that are whole or not there (SOCK_SEQPACKET), some with a
//! descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde::{Deserialize, Serialize};

use super::call::Call;
use crate::domain::listener::Listener;
use crate::kernel::fd_passing;

/// Longest message: all listeners of a service.
const LONGEST: usize = 16 << 10;

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Message {
    /// To the keeper: which addresses are those of listeners.
    Listeners(Vec<Listener>),
    /// From a new process to the keeper, and from there to the daemon: the descriptor by which calls are answered.
    Notifier,
    /// To the daemon: a call that concerns a listener.
    Call(Call),
    /// From a process of a trial: its filter was refused with this error number.
    Refused(i32),
    /// From a process of a trial, after its call of bind: the port of the socket that it has, or the number of an error.
    Bound(Result<u16, i32>),
}

/// Two ends, which do not wait.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

pub(super) fn send(to: impl AsFd, message: &Message, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    fd_passing::send(to, &serde_json::to_vec(message)?, fd.as_slice()).map(drop)
}

pub(super) fn receive(from: impl AsFd) -> io::Result<(Message, Option<OwnedFd>)> {
    let mut buffer = vec![0; LONGEST];
    let (length, fds) = fd_passing::receive(from, &mut buffer)?;
    Ok((serde_json::from_slice(&buffer[..length])?, fds.into_iter().next()))
}
