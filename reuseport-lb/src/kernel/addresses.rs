//! One daemon for an address: two daemons would each give the group its own program, again each second. The daemon
//! that serves an address holds an abstract UNIX socket (unix(7)) named after it. Such names belong to the network
//! namespace, as the address does, whatever file systems the daemons see; and the socket ends with its process.

use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use nix::sys::socket::{getsockopt, sockopt};
use rustix::process::geteuid;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::domain::listener::Listener;

/// A claim on an address: no other daemon serves it while this value lives. `None` inside: the socket could not be
/// made, and nothing keeps other daemons away.
#[derive(Debug)]
pub struct Held(Option<UnixListener>);

/// Most connections that one call of [`Held::look`] accepts.
const AT_ONCE: usize = 100;

impl Held {
    /// Accepts and closes connections of daemons that have asked for the holder ([`hold`]), which would otherwise
    /// fill the socket's queue.
    pub fn look(&self) {
        let Some(socket) = &self.0 else { return };
        (0..AT_ONCE).take_while(|_| socket.accept().is_ok()).for_each(drop);
    }
}

/// Another daemon holds the address.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken {
    /// Process id of the other daemon; `None` if it is in another PID namespace.
    pub pid: Option<i32>,
}

/// Takes an address; `None` if a socket has its name already.
#[must_use]
pub fn try_hold(listener: &Listener) -> Option<Held> {
    let Ok(address) = SocketAddr::from_abstract_name(name_of(listener)) else { return Some(Held(None)) };
    match UnixListener::bind_addr(&address) {
        Ok(socket) => {
            let socket = socket.set_nonblocking(true).map(|()| socket);
            Some(Held(socket.ok()))
        }
        Err(error) if error.kind() == ErrorKind::AddrInUse => None,
        // The claim is a safeguard against mistakes: the daemon serves without it.
        Err(_) => Some(Held(None)),
    }
}

/// Takes an address, or says which daemon holds it. Any program can bind a socket of that name: only those of root and
/// of this process's user count.
pub fn hold(listener: &Listener) -> Result<Held, Taken> {
    if let Some(held) = try_hold(listener) {
        return Ok(held);
    }
    match holder(&name_of(listener)) {
        Ok(Some(pid)) => Err(Taken { pid: Some(pid).filter(|pid| *pid > 0) }),
        _ => Ok(Held(None)),
    }
}

fn name_of(listener: &Listener) -> String {
    format!("reuseport-lb/{listener}")
}

/// Process id of the daemon whose socket has this name; `None` if the socket is no daemon's.
fn holder(name: &str) -> io::Result<Option<i32>> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // The queue of the socket may be full: connecting would block.
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(format!("\0{name}"))?)?;
    let them = getsockopt(&UnixStream::from(socket), sockopt::PeerCredentials)?;
    let daemons = [0, geteuid().as_raw()].contains(&them.uid());
    Ok(daemons.then(|| them.pid()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_daemons_until_that_ends() {
        let listener: Listener = "udp://[::1]:65535".parse().expect("a listener");
        let held = hold(&listener).expect("no daemon has it");
        let own = std::process::id().cast_signed();
        // More often than the socket's queue has room.
        for _ in 0..10_000 {
            assert_eq!(hold(&listener).expect_err("it is held"), Taken { pid: Some(own) });
            held.look();
        }
        drop(held);
        assert!(hold(&listener).is_ok());
    }
}
