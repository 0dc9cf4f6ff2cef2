//! New sockets of a listener and the user that they belong to, and a way into a group of UDP sockets past sockets that workers have bound and
//! connected on its address. Not: which user that is (`domain/reconfigure.rs`).

use std::io;
use std::sync::Arc;

use rustix::fs::{Uid, fchown};
use rustix::process::geteuid;
use socket2::{Domain, Protocol as Ip, SockAddr, Socket, Type};

use super::{options, strangers};
use crate::domain::listener::{Listener, Protocol};

/// Users that no process has, as far as can be known; the second one for user namespaces in which the first is not.
const APART: [u32; 2] = [u32::MAX - 2, 65_533];

/// How often a socket is tried to be bound past those that workers bind meanwhile.
const ATTEMPTS: usize = 50;

/// What a new socket has in common with the others of its group.
#[derive(Default)]
pub struct Siblings {
    /// The user that they belong to; `None`: the daemon's.
    pub owner: Option<u32>,
    /// One of the others, if they are of UDP over IPv4, and processes that have one may have bound further ones on their
    /// address.
    pub member: Option<Arc<Socket>>,
}

/// A new socket for `listener`, not bound yet, that belongs to `owner`.
pub(super) fn unbound(listener: &Listener, owner: Option<u32>) -> io::Result<Socket> {
    let (kind, ip) = match listener.protocol {
        Protocol::Tcp => (Type::STREAM, Ip::TCP),
        Protocol::Udp => (Type::DGRAM, Ip::UDP),
    };
    let socket = Socket::new(Domain::for_address(listener.address), kind, Some(ip))?;
    if owner.is_some() {
        give(&socket, owner)?;
    }
    share(&socket, listener)?;
    Ok(socket)
}

/// Lets a socket be bound beside others of `listener`.
fn share(socket: &Socket, listener: &Listener) -> io::Result<()> {
    if listener.address.is_ipv6() {
        socket.set_only_v6(!listener.dual_stack)?;
    }
    if listener.protocol == Protocol::Tcp {
        // Connections of an earlier server in TIME_WAIT do not make `bind` fail.
        socket.set_reuse_address(true)?;
    }
    socket.set_reuse_port(true)
}

/// An [`unbound`] socket; with `freebind` it may be bound to an address that the machine does not have yet.
pub(super) fn bindable(listener: &Listener, freebind: bool, owner: Option<u32>) -> io::Result<Socket> {
    let socket = unbound(listener, owner)?;
    set_freebind(&socket, listener, freebind)?;
    Ok(socket)
}

fn set_freebind(socket: &Socket, listener: &Listener, freebind: bool) -> io::Result<()> {
    match (freebind, listener.address.is_ipv6()) {
        (false, _) => Ok(()),
        (true, false) => socket.set_freebind_v4(true),
        (true, true) => socket.set_freebind_v6(true),
    }
}

/// Lets a socket that was made elsewhere be bound as [`bindable`] ones are.
pub(super) fn make_bindable(socket: &Socket, listener: &Listener, freebind: bool) -> io::Result<()> {
    share(socket, listener)?;
    set_freebind(socket, listener, freebind)
}

/// Gives a socket to a user; `None`: the daemon's. The kernel compares users of sockets when another one is bound to
/// their address, at this moment only.
pub fn give(socket: &Socket, owner: Option<u32>) -> io::Result<()> {
    let uid = owner.map_or_else(geteuid, Uid::from_raw);
    fchown(socket, Some(uid), None).map_err(|error| {
        let error = io::Error::from(error);
        io::Error::new(error.kind(), format!("cannot give a socket to user id {}: {error}", uid.as_raw()))
    })
}

/// Fails if sockets cannot be given to this user.
pub fn try_to_give(listener: &Listener, owner: Option<u32>) -> io::Result<()> {
    unbound(listener, owner).map(drop)
}

/// Binds a new UDP socket over IPv4 into the group of others, although there may be connected sockets on their address.
///
/// The kernel puts a new socket beside the newest one of the same user and address, also if that is connected and so
/// in no group (docs/KERNEL.md, 72). So the new socket and a member of the group belong to a user of their own while it
/// is bound. That alone would be refused, because the newest socket on the address must be of the same user as well:
/// before, a [`cover`] is bound, which becomes that user's. A socket that a worker binds between two of these calls is
/// refused (EADDRINUSE); if it has SO_REUSEADDR, as the cover has, then only between the last two.
pub(super) fn bind_beside(listener: &Listener, freebind: bool, siblings: &Siblings) -> io::Result<Socket> {
    let (new, apart) = unbound_apart(listener, freebind)?;
    let mut bound = Err(io::ErrorKind::AddrInUse.into());
    for _ in 0..ATTEMPTS {
        let cover = cover(listener, freebind, siblings.owner)?;
        let lent = Lent::to(apart, siblings.member.as_deref(), siblings.owner)?;
        give(&cover, Some(apart))?;
        bound = new.bind(&SockAddr::from(listener.address));
        give(&new, siblings.owner)?;
        drop(lent);
        match &bound {
            // A worker has bound a socket after the cover.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => give(&new, Some(apart))?,
            _ => break,
        }
    }
    bound.map(|()| new)
}

/// A new socket of a user that no other socket belongs to, and that user.
fn unbound_apart(listener: &Listener, freebind: bool) -> io::Result<(Socket, u32)> {
    let new = |uid| bindable(listener, freebind, Some(uid)).map(|socket| (socket, uid));
    new(APART[0]).or_else(|_| new(APART[1]))
}

/// A socket on the address of `listener` that receives nothing, and that the kernel takes for no socket of its group,
/// because its device does not exist.
fn cover(listener: &Listener, freebind: bool, owner: Option<u32>) -> io::Result<Socket> {
    let socket = bindable(listener, freebind, owner)?;
    bind_to_missing_device(&socket)?;
    socket.set_reuse_address(true)?;
    let bind = || socket.bind(&SockAddr::from(listener.address));
    let mut bound = bind();
    // The newest socket is that of a worker of the user before: the owner has changed.
    for uid in if bound.is_err() {
        strangers::users_on_port(listener).unwrap_or_default()
    } else {
        Default::default()
    } {
        give(&socket, Some(uid))?;
        bound = bind();
        if bound.is_ok() {
            break;
        }
    }
    bound.map(|()| socket)
}

pub(super) fn bind_to_missing_device(socket: &Socket) -> io::Result<()> {
    options::set(socket, (libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX), &i32::MAX.to_ne_bytes())
}

/// A socket that belongs to another user until this is dropped.
struct Lent<'a> {
    socket: Option<&'a Socket>,
    owner: Option<u32>,
}

impl<'a> Lent<'a> {
    fn to(uid: u32, socket: Option<&'a Socket>, owner: Option<u32>) -> io::Result<Self> {
        let lent = Self { socket, owner };
        lent.socket.map_or(Ok(()), |socket| give(socket, Some(uid)))?;
        Ok(lent)
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        // Cannot fail where the way there did not.
        let _ = self.socket.map(|socket| give(socket, self.owner));
    }
}
