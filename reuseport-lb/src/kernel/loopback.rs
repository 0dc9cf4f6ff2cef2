//! Sockets by which the daemon itself comes to a listener, from the loopback address of its family. Not: to which worker
//! (`service/directed.rs`).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::domain::listener::{Listener, Protocol};

/// Opens a socket for `listener` that does not block, bound to `port` of the loopback address, or to any free one if that is
/// 0; returns the port. No other socket of this network namespace can be bound to it as long as this one is open.
pub fn bound(listener: &Listener, port: u16) -> io::Result<(Socket, u16)> {
    let kind = match listener.protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let own = SocketAddr::new(loopback(listener), port);
    let socket = Socket::new(Domain::for_address(own), kind, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(own))?;
    let bound = socket.local_addr()?.as_socket().map_or(port, |bound| bound.port());
    Ok((socket, bound))
}

/// Begins to connect a socket to the listener, at the loopback address if that has all of them.
pub fn connect(socket: &Socket, listener: &Listener) -> io::Result<()> {
    let mut to = listener.address;
    if to.ip().is_unspecified() {
        to.set_ip(loopback(listener));
    }
    match socket.connect(&SockAddr::from(to)) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        connected => connected,
    }
}

/// The loopback address of the listener's family.
fn loopback(listener: &Listener) -> IpAddr {
    match listener.address {
        SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}
