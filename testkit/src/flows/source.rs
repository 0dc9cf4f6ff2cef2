//! A socket that sends from many addresses of this machine (IP_PKTINFO, ip(7); IPV6_PKTINFO, RFC 3542).

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
use socket2::{Domain, Socket, Type};

use crate::world::run;

/// The addresses: 127.1.0.1 and so on, to other machines 198.18.0.1 and so on (RFC 2544: for such tests), and those of a
/// private network. Loopback is given the latter two.
const V4: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 0);
const V4_FAR: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x1b, 0, 0, 0, 0, 0, 0);

/// A port of its own on all addresses.
pub(super) struct Source {
    socket: Socket,
    to: SocketAddr,
    to_raw: SockaddrStorage,
    port: u16,
}

/// Makes every address of [`V4_FAR`] and [`V6`] one of this namespace; those of 127/8 are anyway.
pub(super) fn make_room() {
    run("ip", &["route", "replace", "local", &format!("{V4_FAR}/16"), "dev", "lo"]);
    run("ip", &["-6", "route", "replace", "local", &format!("{V6}/64"), "dev", "lo"]);
}

impl Source {
    /// A port that nobody has.
    pub(super) fn open(to: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::DGRAM, None)?;
        let any: IpAddr = match to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        if to.is_ipv6() {
            socket.set_only_v6(true)?;
            // The addresses are routed here but assigned nowhere (ip(7), IP_FREEBIND).
            socket.set_freebind_v6(true)?;
        }
        socket.bind(&SocketAddr::new(any, 0).into())?;
        socket.set_nonblocking(true)?;
        let bound = socket.local_addr()?.as_socket();
        let port = bound.map(|bound| bound.port()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { socket, to, to_raw: to.into(), port })
    }

    /// Where the `nth` of its flows comes from.
    pub(super) fn local(&self, nth: usize) -> SocketAddr {
        let host = 1 + nth as u32;
        let address: IpAddr = match self.to {
            SocketAddr::V4(to) => {
                let network = if to.ip().is_loopback() { V4 } else { V4_FAR };
                Ipv4Addr::from(u32::from(network) + host).into()
            }
            SocketAddr::V6(_) => Ipv6Addr::from(u128::from(V6) + u128::from(host)).into(),
        };
        SocketAddr::new(address, self.port)
    }

    /// Sends a datagram from one of them.
    pub(super) fn send(&self, from: IpAddr) -> io::Result<()> {
        let (v4, v6);
        let from = match from {
            IpAddr::V4(address) => {
                let address = libc::in_addr { s_addr: u32::from(address).to_be() };
                let nothing = libc::in_addr { s_addr: 0 };
                v4 = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address, ipi_addr: nothing };
                ControlMessage::Ipv4PacketInfo(&v4)
            }
            IpAddr::V6(address) => {
                let address = libc::in6_addr { s6_addr: address.octets() };
                v6 = libc::in6_pktinfo { ipi6_addr: address, ipi6_ifindex: 0 };
                ControlMessage::Ipv6PacketInfo(&v6)
            }
        };
        let fd = self.socket.as_raw_fd();
        sendmsg(fd, &[IoSlice::new(b"?")], &[from], MsgFlags::empty(), Some(&self.to_raw))?;
        Ok(())
    }

    /// Receives one datagram, if there is any.
    pub(super) fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        match nix::sys::socket::recv(self.socket.as_raw_fd(), buffer, MsgFlags::empty()) {
            Ok(length) => Ok(Some(&buffer[..length])),
            Err(nix::errno::Errno::EAGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
