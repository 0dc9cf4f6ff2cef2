//! One daemon for an address: of two, each would give the group its own program, each second. Who serves an address
//! has an abstract socket of that name (unix(7)), which is the network namespace's, like the address itself, whatever
//! files each daemon sees; and it goes with its process.

use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use nix::sys::socket::{getsockopt, sockopt};
use rustix::process::geteuid;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::listener::Listener;

/// An address that no other daemon may serve, as long as this is there.
#[derive(Debug)]
pub struct Held(#[expect(dead_code, reason = "it is there, and nobody connects to it")] Option<UnixListener>);

/// Another daemon has the address.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken {
    /// Its process id; `None` in another PID namespace.
    pub pid: Option<i32>,
}

/// Takes an address. Anybody may have a socket of the same name: that one of another user than root and this
/// process's has it does not count.
pub fn hold(listener: &Listener) -> Result<Held, Taken> {
    let name = format!("reuseport-lb/{listener}");
    let Ok(address) = SocketAddr::from_abstract_name(&name) else { return Ok(Held(None)) };
    match UnixListener::bind_addr(&address) {
        Ok(socket) => Ok(Held(Some(socket))),
        Err(error) if error.kind() == ErrorKind::AddrInUse => match holder(&name) {
            Ok(Some(pid)) => Err(Taken { pid: Some(pid).filter(|pid| *pid > 0) }),
            _ => Ok(Held(None)),
        },
        // Nothing depends on it but that two daemons are not confused.
        Err(_) => Ok(Held(None)),
    }
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
        assert_eq!(hold(&listener).expect_err("it is held"), Taken { pid: Some(own) });
        drop(held);
        assert!(hold(&listener).is_ok());
    }
}
