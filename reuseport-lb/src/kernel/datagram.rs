//! Answering a datagram from the address that it was sent to, which a socket that is bound to all addresses
//! does not do by itself (IP_PKTINFO, ip(7); IPV6_PKTINFO, RFC 3542).

use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use socket2::Socket;

/// The addresses of a datagram: source and destination.
pub struct Path {
    /// The source.
    pub peer: SocketAddr,
    peer_raw: SockaddrStorage,
    to: Option<To>,
}

enum To {
    V4(libc::in_pktinfo),
    V6(libc::in6_pktinfo),
}

/// Makes the kernel tell the destination of each datagram on `socket`.
pub fn want_destination(socket: &Socket) -> io::Result<()> {
    if socket.local_addr()?.is_ipv6() {
        setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    } else {
        setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?;
    }
    Ok(())
}

/// Receives one datagram; content beyond the buffer is cut off.
pub fn receive(socket: &impl AsRawFd, buffer: &mut [u8]) -> io::Result<(usize, Path)> {
    let mut space = nix::cmsg_space!(libc::in6_pktinfo);
    let mut slices = [IoSliceMut::new(buffer)];
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::empty())?;
    let mut to = None;
    for control in message.cmsgs()? {
        match control {
            ControlMessageOwned::Ipv4PacketInfo(mut info) => {
                // The reply's route decides the interface.
                info.ipi_ifindex = 0;
                to = Some(To::V4(info));
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => to = Some(To::V6(info)),
            _ => {}
        }
    }
    let peer_raw = message.address.ok_or_else(|| io::Error::other("a datagram without a sender"))?;
    let peer = match (peer_raw.as_sockaddr_in(), peer_raw.as_sockaddr_in6()) {
        (Some(v4), _) => SocketAddr::V4((*v4).into()),
        (_, Some(v6)) => SocketAddr::V6((*v6).into()),
        _ => return Err(io::Error::other("a datagram from an unknown address family")),
    };
    Ok((message.bytes, Path { peer, peer_raw, to }))
}

/// Sends `answer` to the source of `path`, from its destination.
pub fn answer(socket: &impl AsRawFd, path: &Path, answer: &[u8]) -> io::Result<()> {
    let control = path.to.as_ref().map(|to| match to {
        To::V4(info) => ControlMessage::Ipv4PacketInfo(info),
        To::V6(info) => ControlMessage::Ipv6PacketInfo(info),
    });
    let slices = [IoSlice::new(answer)];
    sendmsg(socket.as_raw_fd(), &slices, control.as_slice(), MsgFlags::empty(), Some(&path.peer_raw))?;
    Ok(())
}
