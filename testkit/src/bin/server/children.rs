//! A server that answers each client of datagrams from a connected socket on the address that was asked, as DTLS, QUIC and
//! TURN servers do; or, where that cannot be had, says why from the socket that it was given.

use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SetSockOpt, SockaddrStorage, recvmsg, sockopt};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use socket2::{Domain, Socket, Type};

use crate::signals::Signals;

/// Serves until SIGTERM is heard.
pub(crate) fn serve(name: &str, mut sockets: Vec<Socket>, signals: &Signals) -> Result<()> {
    // Others stay open, and are not used.
    let datagrams = sockets.iter().position(|it| it.r#type().is_ok_and(|kind| kind == Type::DGRAM));
    let own: UdpSocket = sockets.remove(datagrams.context("no socket")?).into();
    if own.local_addr()?.is_ipv4() {
        sockopt::Ipv4PacketInfo.set(&own, &true)?;
    } else {
        sockopt::Ipv6RecvPacketInfo.set(&own, &true)?;
    }
    let poll = epoll::create(CreateFlags::CLOEXEC)?;
    let key = |fd: &dyn AsRawFd| fd.as_raw_fd() as u64;
    epoll::add(&poll, &own, EventData::new_u64(key(&own)), EventFlags::IN)?;
    epoll::add(&poll, signals, EventData::new_u64(key(&signals.as_raw_fd())), EventFlags::IN)?;
    let mut children: BTreeMap<u64, UdpSocket> = BTreeMap::new();
    let (mut events, mut received) = (Vec::with_capacity(16), [0; 64]);
    let answer = format!("child of {name}");
    loop {
        rustix::io::retry_on_intr(|| epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None))?;
        for event in events.drain(..) {
            let of = event.data.u64();
            if of == key(&signals.as_raw_fd()) {
                return Ok(());
            }
            if let Some(child) = children.get(&of) {
                // A client that has gone is its own problem.
                let _ = child.recv(&mut received).and_then(|_| child.send(answer.as_bytes()));
                continue;
            }
            let (peer, address) = next(&own)?;
            match child(address, peer) {
                Ok(child) => {
                    epoll::add(&poll, &child, EventData::new_u64(key(&child)), EventFlags::IN)?;
                    let _ = child.send(answer.as_bytes());
                    children.insert(key(&child), child);
                }
                Err(error) => {
                    let name = format!("{:?}", Errno::from_raw(error.raw_os_error().unwrap_or_default()));
                    own.send_to(name.as_bytes(), peer)?;
                }
            }
        }
    }
}

/// Who sent the next datagram, and to which address. Datagrams that came before the socket was told to say that have it as
/// well.
fn next(own: &UdpSocket) -> Result<(SocketAddr, SocketAddr)> {
    let (mut bytes, mut space) = ([0; 64], nix::cmsg_space!(libc::in6_pktinfo));
    let mut room = [IoSliceMut::new(&mut bytes)];
    let received =
        recvmsg::<SockaddrStorage>(own.as_raw_fd(), &mut room, Some(&mut space), MsgFlags::empty())?;
    let port = own.local_addr()?.port();
    let to = received.cmsgs()?.find_map(|it| match it {
        ControlMessageOwned::Ipv4PacketInfo(it) => {
            Some(SocketAddr::from((u32::from_be(it.ipi_addr.s_addr).to_be_bytes(), port)))
        }
        ControlMessageOwned::Ipv6PacketInfo(it) => Some(SocketAddr::from((it.ipi6_addr.s6_addr, port))),
        _ => None,
    });
    let from = received.address.context("a datagram of nobody")?;
    let v4 = from.as_sockaddr_in().map(|it| SocketAddr::from(SocketAddrV4::from(*it)));
    let from = v4.or_else(|| from.as_sockaddr_in6().map(|it| SocketAddrV6::from(*it).into()));
    Ok((from.context("no address")?, to.context("a datagram to nobody")?))
}

fn child(address: SocketAddr, peer: SocketAddr) -> io::Result<UdpSocket> {
    let child = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    child.set_reuse_address(true)?;
    child.set_reuse_port(true)?;
    child.bind(&address.into())?;
    child.connect(&peer.into())?;
    Ok(child.into())
}
