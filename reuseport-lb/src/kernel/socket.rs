//! The sockets of a group: made by the daemon, which keeps a duplicate of each, so that a socket
//! outlives its worker, with its queue.

use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use socket2::{Domain, Protocol as Ip, SockAddr, Socket, Type};

use super::group::Group;
use super::options;
use crate::domain::listener::{Listener, Protocol};
use crate::domain::observed::Queue;

/// Why an IPv6 address cannot be had where there is none, and what to do.
pub const NO_IPV6: &str = "IPv6 is off on this machine; listen on IPv4 addresses only, or switch it on \
                           (net.ipv6.conf.all.disable_ipv6=0, no ipv6.disable=1 for the kernel)";

/// Opens another socket of `group`: bound to the listener's address and, for TCP, listening.
///
/// The program is attached to the `first` one before it can receive anything, so that the group
/// never decides without it; the others inherit it. A socket that has a program already may not
/// join a group that exists (`inet_csk_bind_conflict`, `udp_lib_lport_inuse`: EADDRINUSE), so if
/// strangers made the group, the program is attached as soon as the socket is in.
pub fn open(group: &Group, backlog: u32, first: bool) -> Result<Socket> {
    let listener = group.listener();
    let opened = match make(listener, group, backlog, first) {
        Err(error) if first && error.kind() == io::ErrorKind::AddrInUse => {
            make(listener, group, backlog, false)
        }
        opened => opened,
    };
    let socket = opened.map_err(|error| explain(error, listener))?;
    group.attach(&socket).with_context(|| format!("cannot take over the group of {listener}"))?;
    Ok(socket)
}

/// The address of a listener whose port the kernel chooses. Bound to port 0 itself, a socket would
/// get another port each time that it listens again.
pub fn choose_port(listener: &Listener) -> Result<Listener> {
    let chosen = unbound(listener).and_then(|socket| {
        socket.bind(&SockAddr::from(listener.address))?;
        socket.local_addr()
    });
    let address = chosen.map_err(|error| explain(error, listener))?;
    let address = address.as_socket().with_context(|| format!("{listener} has no IP address"))?;
    Ok(Listener { address, ..*listener })
}

/// Fails if the address of `group` cannot be had; nothing is received meanwhile.
pub fn probe(group: &Group) -> Result<()> {
    let listener = group.listener();
    let bound = unbound(listener).and_then(|socket| {
        // Only a TCP socket can be bound without taking part in the group.
        let bind = || socket.bind(&SockAddr::from(listener.address));
        if listener.protocol == Protocol::Tcp { bind() } else { group.attach(&socket).and_then(|()| bind()) }
    });
    match bound {
        // A UDP group that is there already: then the address can be had.
        Err(error) if listener.protocol == Protocol::Udp && error.kind() == io::ErrorKind::AddrInUse => {
            unbound(listener)
                .and_then(|socket| socket.bind(&SockAddr::from(listener.address)))
                .map_err(|error| explain(error, listener))
        }
        bound => bound.map_err(|error| explain(error, listener)),
    }
}

/// Fails if the address of `listener` cannot be had; leaves whoever has it alone, and takes nothing
/// from anybody.
pub fn try_address(listener: &Listener) -> io::Result<()> {
    let socket = unbound(listener)?;
    let mut address = listener.address;
    if listener.protocol == Protocol::Udp {
        // A UDP socket takes part as soon as it is bound. This one would receive what comes in through
        // a device that is not there; for conflicts it counts all the same.
        bind_to_missing_device(&socket)?;
        if address.is_ipv6() && !address.ip().is_unspecified() {
            // The kernel looks the device up for an IPv6 address. Bound to all of them it conflicts with
            // sockets on others as well, which the caller has to rule out.
            unbound(listener)?.bind(&SockAddr::from(SocketAddr::new(address.ip(), 0)))?;
            address.set_ip(Ipv6Addr::UNSPECIFIED.into());
        }
    }
    socket.bind(&SockAddr::from(address))
}

/// Whether this network namespace has IPv6 at all: its loopback has an address.
#[must_use]
pub fn has_ipv6() -> bool {
    let loopback = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let bound = unbound(&Listener { protocol: Protocol::Tcp, address: loopback })
        .and_then(|socket| socket.bind(&SockAddr::from(loopback)));
    // Any other error says nothing about it.
    !bound.is_err_and(|error| {
        matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT | libc::EPFNOSUPPORT))
    })
}

fn bind_to_missing_device(socket: &Socket) -> io::Result<()> {
    options::set(socket, (libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX), &i32::MAX.to_ne_bytes())
}

/// Stops listening: the kernel hands what is queued to whom the program picks. No error if it does
/// not listen any more.
pub fn shut_down(socket: &Socket) -> Result<()> {
    match socket.shutdown(std::net::Shutdown::Both) {
        Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(error).context("shutdown failed"),
        _ => Ok(()),
    }
}

/// Puts a socket that does not listen any more back into service and into its slot.
pub fn listen_again(socket: &Socket, group: &mut Group, slot: u16, backlog: u32) -> Result<()> {
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX)).context("listen failed")?;
    // If nobody else listened, the group is a new one. (Attached before, it could not listen again.)
    group.attach(socket).context("cannot attach the program again")?;
    group.remove(slot)?;
    group.insert(slot, socket)
}

/// Puts a socket of `listener` back to what a new one has; what waits in it stays. An error names what
/// cannot be put back: then only a new socket helps.
pub fn reset(socket: &Socket, listener: &Listener) -> io::Result<()> {
    options::reset(socket, || unbound(listener))
}

/// A new socket for `listener`, not bound yet.
pub(super) fn unbound(listener: &Listener) -> io::Result<Socket> {
    let (kind, ip) = match listener.protocol {
        Protocol::Tcp => (Type::STREAM, Ip::TCP),
        Protocol::Udp => (Type::DGRAM, Ip::UDP),
    };
    let socket = Socket::new(Domain::for_address(listener.address), kind, Some(ip))?;
    if listener.address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if listener.protocol == Protocol::Tcp {
        // Connections of an earlier server in TIME_WAIT do not keep us out.
        socket.set_reuse_address(true)?;
    }
    socket.set_reuse_port(true)?;
    Ok(socket)
}

fn make(listener: &Listener, group: &Group, backlog: u32, attach: bool) -> io::Result<Socket> {
    let socket = unbound(listener)?;
    let attach = || if attach { group.attach(&socket) } else { Ok(()) };
    match listener.protocol {
        Protocol::Tcp => {
            socket.bind(&SockAddr::from(listener.address))?;
            attach()?;
            socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
        }
        Protocol::Udp => {
            attach()?;
            socket.bind(&SockAddr::from(listener.address))?;
        }
    }
    Ok(socket)
}

fn explain(error: io::Error, listener: &Listener) -> anyhow::Error {
    let port = listener.address.port();
    let v6 = listener.address.is_ipv6();
    let meaning = match error.raw_os_error() {
        Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT | libc::EPFNOSUPPORT) if v6 && !has_ipv6() => {
            NO_IPV6.into()
        }
        Some(libc::EADDRINUSE) => format!(
            "the address is in use by a socket without SO_REUSEPORT, or of another user; `ss -ltunp sport = :{port}` \
             shows which"
        ),
        Some(libc::EADDRNOTAVAIL) => {
            "no interface of this machine has that address; `ip address` lists them".into()
        }
        Some(libc::EACCES) => format!("port {port} needs root or CAP_NET_BIND_SERVICE"),
        Some(libc::EAFNOSUPPORT) => "this kernel does not speak that address family".into(),
        Some(libc::EMFILE) => "too many open files; raise the hard limit (ulimit -Hn, LimitNOFILE=)".into(),
        _ => "the kernel refused".into(),
    };
    anyhow::Error::new(error).context(format!("cannot listen on {listener}: {meaning}"))
}

/// What waits in `socket`.
pub fn queue(socket: &Socket, protocol: Protocol) -> io::Result<Queue> {
    match protocol {
        Protocol::Tcp => {
            // SAFETY: `tcp_info` is plain integers; any bytes the kernel writes are valid.
            let info: libc::tcp_info = unsafe { option(socket, libc::IPPROTO_TCP, libc::TCP_INFO) }?;
            Ok(Queue { queue: info.tcpi_unacked, backlog: info.tcpi_sacked })
        }
        Protocol::Udp => {
            // SAFETY: as above. SO_MEMINFO gives SK_MEMINFO_VARS words (linux/sock_diag.h).
            let words: [u32; 9] = unsafe { option(socket, libc::SOL_SOCKET, libc::SO_MEMINFO) }?;
            Ok(Queue { queue: words[0], backlog: words[1] })
        }
    }
}

/// Reads a socket option; bytes that the kernel does not write are zero.
///
/// # Safety
/// Every bit pattern must be a valid `T`.
unsafe fn option<T>(socket: &Socket, level: i32, name: i32) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut size = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` has room for `size` bytes, and the kernel writes no more than that.
    let failed = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut size)
    };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: initialised with zeros, and any bit pattern is valid (the caller's promise).
    Ok(unsafe { value.assume_init() })
}
