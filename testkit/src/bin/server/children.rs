//! A server that answers each client of datagrams from a connected socket on the listener's own address, as DTLS, QUIC and
//! TURN servers do; or, where that cannot be had, says why from the socket that it was given.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use nix::errno::Errno;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use socket2::{Domain, Socket, Type};

use crate::signals::Signals;

/// Serves until SIGTERM is heard.
pub(crate) fn serve(name: &str, mut sockets: Vec<Socket>, signals: &Signals) -> Result<()> {
    let own: UdpSocket = sockets.pop().context("no socket")?.into();
    let address = own.local_addr()?;
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
            let (_, peer) = own.recv_from(&mut received)?;
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

fn child(address: SocketAddr, peer: SocketAddr) -> io::Result<UdpSocket> {
    let child = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    child.set_reuse_address(true)?;
    child.set_reuse_port(true)?;
    child.bind(&address.into())?;
    child.connect(&peer.into())?;
    Ok(child.into())
}
