//! One daemon for an address: of two, each would give the group its own program, each second. Who serves an address
//! has an abstract socket of that name (unix(7)), which is the network namespace's, like the address itself, whatever
//! files each daemon sees; and it goes with its process.

use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use nix::sys::socket::{getsockopt, sockopt};
use rustix::process::geteuid;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::domain::listener::Listener;

/// An address that no other daemon may serve, as long as this is there.
#[derive(Debug)]
pub struct Held(Option<UnixListener>);

/// So many are let go at once.
const AT_ONCE: usize = 100;

impl Held {
    /// Lets those go who have asked whose it is; what they leave would fill the queue.
    pub fn look(&self) {
        let Some(socket) = &self.0 else { return };
        (0..AT_ONCE).take_while(|_| socket.accept().is_ok()).for_each(drop);
    }
}

/// Another daemon has the address.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken {
    /// Its process id; `None` in another PID namespace.
    pub pid: Option<i32>,
}

/// Takes an address, unless something has its name.
#[must_use]
pub fn try_hold(listener: &Listener) -> Option<Held> {
    let Ok(address) = SocketAddr::from_abstract_name(name_of(listener)) else { return Some(Held(None)) };
    match UnixListener::bind_addr(&address) {
        Ok(socket) => {
            let socket = socket.set_nonblocking(true).map(|()| socket);
            Some(Held(socket.ok()))
        }
        Err(error) if error.kind() == ErrorKind::AddrInUse => None,
        // Nothing depends on it but that two daemons are not confused.
        Err(_) => Some(Held(None)),
    }
}

/// Takes an address, or says which daemon has it. Anybody may have a socket of its name: one of another user than root
/// and this process's does not count.
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

/// The process of the daemon that has this name; `None` if it is not a daemon's.
fn holder(name: &str) -> io::Result<Option<i32>> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Whoever has it may let nobody in.
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
        let held = hold(&listener).expect("nobody has it");
        let own = std::process::id().cast_signed();
        // More often than its queue has room.
        for _ in 0..10_000 {
            assert_eq!(hold(&listener).expect_err("it is held"), Taken { pid: Some(own) });
            held.look();
        }
        drop(held);
        assert!(hold(&listener).is_ok());
    }
}
