//! The sockets of a group. The daemon makes them and keeps a duplicate of each, so that a socket and its queue
//! outlive the worker. Not: the user that they belong to (`owner.rs`).

use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use socket2::{Domain, Protocol as Ip, SockAddr, Socket, Type};
use tracing::warn;

use super::group::PinnedGroup;
use super::options;
use super::owner::{self, Siblings, bind_to_missing_device, bindable, unbound};
use crate::domain::listener::{Listener, Protocol};
use crate::domain::observed::Queue;

/// Says why an IPv6 address cannot be bound on a machine without IPv6, and what to do.
pub const NO_IPV6: &str = "IPv6 is off on this machine; listen on IPv4 addresses only (all are 0.0.0.0), or switch it on \
                           (net.ipv6.conf.all.disable_ipv6=0, no ipv6.disable=1 for the kernel)";

/// Opens another socket of `group`: bound to the listener's address and, for TCP, listening.
///
/// The program is attached to the `first` socket before it can receive anything, so that the group
/// never decides without it; later sockets get it from the group. A socket that has a program already may not
/// join a group that exists (`inet_csk_bind_conflict`, `udp_lib_lport_inuse`: EADDRINUSE), so if
/// strangers made the group, the program is attached as soon as the socket is in.
pub fn open(group: &PinnedGroup, backlog: u32, first: bool, siblings: &Siblings) -> Result<Socket> {
    let listener = group.listener();
    let make = |attach| make(listener, group, backlog, attach, siblings.owner);
    let is_in_use = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
    let is_beside = siblings.member.is_some();
    let opened = if is_beside && !listener.address.ip().is_unspecified() {
        owner::bind_beside(listener, group.freebind.get(), siblings).or_else(|error| {
            // Only if others have sockets there as well, or in a user namespace without such users.
            warn!("the kernel may give a new socket of {listener} nothing: {error}");
            make(false)
        })
    } else {
        match make(first) {
            Err(error) if first && is_in_use(&error) => make(false),
            // Those that workers have bound and connected are in the way only if they belong to another user.
            Err(error) if is_beside && is_in_use(&error) => {
                owner::bind_beside(listener, group.freebind.get(), siblings)
            }
            opened => opened,
        }
    };
    let socket = opened.map_err(|error| explain(error, listener))?;
    group.attach(&socket).with_context(|| format!("cannot take over the group of {listener}"))?;
    Ok(socket)
}

/// Lets the kernel choose a port for a listener with port 0. Bound to port 0, each socket would get another port.
pub fn choose_port(listener: &Listener, freebind: bool) -> Result<Listener> {
    let chosen = bindable(listener, freebind, None).and_then(|socket| {
        socket.bind(&SockAddr::from(listener.address))?;
        socket.local_addr()
    });
    let address = chosen.map_err(|error| explain(error, listener))?;
    let address = address.as_socket().with_context(|| format!("{listener} has no IP address"))?;
    Ok(Listener { address, ..*listener })
}

/// Fails if sockets of `owner` cannot be bound to the address of `group`; receives nothing meanwhile.
pub fn probe(group: &PinnedGroup, owner: Option<u32>) -> Result<()> {
    let listener = group.listener();
    let bound = bindable(listener, group.freebind.get(), owner).and_then(|socket| {
        // A bound UDP socket is part of the group at once, a TCP one only when it listens.
        let bind = || socket.bind(&SockAddr::from(listener.address));
        if listener.protocol == Protocol::Tcp { bind() } else { group.attach(&socket).and_then(|()| bind()) }
    });
    match bound {
        // A socket with a program may not join a UDP group that exists; without one it may.
        Err(error) if listener.protocol == Protocol::Udp && error.kind() == io::ErrorKind::AddrInUse => {
            bindable(listener, group.freebind.get(), owner)
                .and_then(|socket| socket.bind(&SockAddr::from(listener.address)))
                .map_err(|error| explain(error, listener))
        }
        bound => bound.map_err(|error| explain(error, listener)),
    }
}

/// Fails if a socket of `owner` cannot be bound to the address of `listener`; receives nothing, and changes nothing for
/// other sockets there.
pub fn try_address(listener: &Listener, freebind: bool, owner: Option<u32>) -> io::Result<()> {
    let socket = bindable(listener, freebind, owner)?;
    let mut address = listener.address;
    if listener.protocol == Protocol::Udp {
        // A UDP socket receives as soon as it is bound. Bound to a device that does not exist, it receives nothing,
        // and the kernel still refuses it on a conflict.
        bind_to_missing_device(&socket)?;
        if address.is_ipv6() && !address.ip().is_unspecified() {
            // With a single IPv6 address the kernel looks the device up. Bound to all addresses, the socket conflicts
            // with sockets on other addresses as well, which the caller has to rule out.
            bindable(listener, freebind, None)?.bind(&SockAddr::from(SocketAddr::new(address.ip(), 0)))?;
            address.set_ip(Ipv6Addr::UNSPECIFIED.into());
        }
    }
    socket.bind(&SockAddr::from(address))
}

/// Whether this network namespace has IPv6: whether `::1` can be bound.
#[must_use]
pub fn has_ipv6() -> bool {
    let loopback = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let bound = unbound(&Listener::new(Protocol::Tcp, loopback), None)
        .and_then(|socket| socket.bind(&SockAddr::from(loopback)));
    // Other errors say nothing about IPv6.
    !bound.is_err_and(|error| {
        matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT | libc::EPFNOSUPPORT))
    })
}

/// How much a socket that a server has opened itself has in common with those of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kinship {
    /// It can be bound into their group.
    Close,
    /// Only one of theirs can serve in its place: it is of another family or network namespace, or of MPTCP.
    Distant,
    /// Another transport, or an IPv6 socket that does not serve IPv4.
    None,
}

/// The network namespace of a socket (SO_NETNS_COOKIE).
fn network_of(socket: &Socket) -> Option<u64> {
    let (mut cookie, mut length) = (0u64, size_of::<u64>() as libc::socklen_t);
    let (fd, value) = (socket.as_raw_fd(), (&raw mut cookie).cast());
    // SAFETY: the kernel writes at most `length` bytes, which `cookie` has.
    let failed =
        unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, value, &raw mut length) };
    (failed == 0).then_some(cookie)
}

/// The network namespace of this thread.
fn own_network() -> Option<u64> {
    Socket::new(Domain::UNIX, Type::DGRAM, None).ok().and_then(|socket| network_of(&socket))
}

/// How much a socket that is not bound yet, or is, has in common with those of `listener`.
#[must_use]
pub fn kinship(socket: &Socket, listener: &Listener) -> Kinship {
    let (Ok(domain), Ok(kind), Ok(protocol)) = (socket.domain(), socket.r#type(), socket.protocol()) else {
        return Kinship::None;
    };
    let (wanted, plain) = match listener.protocol {
        Protocol::Tcp => (Type::STREAM, Ip::TCP),
        Protocol::Udp => (Type::DGRAM, Ip::UDP),
    };
    let related = protocol == Some(plain) || (wanted == Type::STREAM && protocol == Some(Ip::MPTCP));
    let own = Domain::for_address(listener.address);
    // An IPv6 socket may serve IPv4, but not the other way round.
    let may_serve = domain == own || (domain == Domain::IPV6 && !socket.only_v6().unwrap_or(true));
    let here = network_of(socket) == own_network();
    match (kind == wanted && related && may_serve, domain == own && protocol == Some(plain) && here) {
        (false, _) => Kinship::None,
        (true, true) => Kinship::Close,
        (true, false) => Kinship::Distant,
    }
}

/// Binds a socket that a server has opened itself to the address of `listener`, as one of its group; its options stay.
pub fn bind_opened(
    socket: &Socket,
    listener: &Listener,
    freebind: bool,
    owner: Option<u32>,
) -> io::Result<()> {
    owner::give(socket, owner)?;
    owner::make_bindable(socket, listener, freebind)?;
    socket.bind(&SockAddr::from(listener.address))
}

/// A new socket that is bound to the address of `listener`, and of TCP does not listen.
pub fn bound(listener: &Listener, freebind: bool, owner: Option<u32>) -> io::Result<Socket> {
    let socket = bindable(listener, freebind, owner)?;
    socket.bind(&SockAddr::from(listener.address))?;
    Ok(socket)
}

/// Gives `socket` the options and the mode of one that a server has opened itself, and is to get this one for.
pub fn resemble(socket: &Socket, opened: &Socket) -> io::Result<()> {
    options::reset(socket, || opened.try_clone())?;
    let waits = rustix::fs::fcntl_getfl(opened)?.contains(rustix::fs::OFlags::NONBLOCK);
    socket.set_nonblocking(waits)
}

/// Stops listening: the kernel hands queued connections to the sockets that the program picks. No error if the
/// socket does not listen any more.
pub fn shut_down(socket: &Socket) -> Result<()> {
    match socket.shutdown(std::net::Shutdown::Both) {
        Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(error).context("shutdown failed"),
        _ => Ok(()),
    }
}

/// Makes a socket that was shut down listen again, and puts it into its slot.
pub fn listen_again(socket: &Socket, group: &mut PinnedGroup, slot: u16, backlog: u32) -> Result<()> {
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX)).context("listen failed")?;
    // If no other socket listens, the group is a new one without a program. (Not attached before `listen`, which
    // would fail beside other sockets: see `open`.)
    group.attach(socket).context("cannot attach the program again")?;
    group.remove(slot)?;
    group.insert(slot, socket)
}

/// Gives a socket of `listener` the options, filter and mode of a new one; its queue stays. The error names what
/// cannot be changed back: then only a new socket helps.
pub fn reset(socket: &Socket, listener: &Listener) -> io::Result<()> {
    options::reset(socket, || unbound(listener, None))
}

fn make(
    listener: &Listener,
    group: &PinnedGroup,
    backlog: u32,
    attach: bool,
    owner: Option<u32>,
) -> io::Result<Socket> {
    let socket = bindable(listener, group.freebind.get(), owner)?;
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

/// What an error of opening a socket for `listener` means, and how to mend it.
pub fn explain(error: io::Error, listener: &Listener) -> anyhow::Error {
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
            "no interface of this machine has that address (`ip address` lists them); if it comes later, say freebind = \
             true"
                .into()
        }
        Some(libc::EACCES) => format!("port {port} needs root or CAP_NET_BIND_SERVICE"),
        Some(libc::EAFNOSUPPORT) => "this kernel does not speak that address family".into(),
        Some(libc::EMFILE) => "too many open files; raise the hard limit (ulimit -Hn, LimitNOFILE=)".into(),
        _ => "the kernel refused".into(),
    };
    anyhow::Error::new(error).context(format!("cannot listen on {listener}: {meaning}"))
}

/// How much the kernel dropped because a queue of `socket` was full: handshakes of TCP, datagrams of UDP (`sk_drops`).
pub fn drops(socket: &Socket) -> io::Result<u32> {
    memory(socket).map(|words| words[8])
}

/// The words of SO_MEMINFO (SK_MEMINFO_VARS, linux/sock_diag.h).
fn memory(socket: &Socket) -> io::Result<[u32; 9]> {
    // SAFETY: plain integers; any bytes the kernel writes are valid.
    unsafe { option(socket, libc::SOL_SOCKET, libc::SO_MEMINFO) }
}

/// The queue of `socket`: for TCP connections and their limit, for UDP bytes and their limit.
pub fn queue(socket: &Socket, protocol: Protocol) -> io::Result<Queue> {
    match protocol {
        Protocol::Tcp => {
            // SAFETY: `tcp_info` is plain integers; any bytes the kernel writes are valid.
            let info: libc::tcp_info = unsafe { option(socket, libc::IPPROTO_TCP, libc::TCP_INFO) }?;
            Ok(Queue { queue: info.tcpi_unacked, backlog: info.tcpi_sacked })
        }
        Protocol::Udp => {
            let words = memory(socket)?;
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
    // SAFETY: initialised with zeros, and any bit pattern is valid (required of the caller).
    Ok(unsafe { value.assume_init() })
}
