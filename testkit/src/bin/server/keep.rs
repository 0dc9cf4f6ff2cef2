//! A server for all clients at the same time, which keeps their connections.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::signal::{Signal, raise};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use socket2::{Socket, Type};

use crate::answer::Speaker;
use crate::deeds;
use crate::flags::{Flags, Term};
use crate::signals::Signals;
use crate::upgrade;
use crate::wait::datagram;

/// Clients of a listener that are let in at a time.
const AT_A_TIME: usize = 64;

/// How long it goes on after SIGTERM with [`Term::Leave`].
const LEAVING: Duration = Duration::from_millis(500);

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    received: Vec<u8>,
}

/// Serves until it is ended.
pub(crate) fn serve(flags: &Flags, speaker: &Speaker, sockets: Vec<Socket>, signals: &Signals) -> Result<()> {
    let mut sockets: Vec<Option<Socket>> = sockets.into_iter().map(Some).collect();
    let poll = epoll::create(CreateFlags::CLOEXEC)?;
    let data = |fd: &dyn AsRawFd| EventData::new_u64(fd.as_raw_fd() as u64);
    for socket in sockets.iter().flatten() {
        socket.set_nonblocking(true)?;
        epoll::add(&poll, socket, data(socket), EventFlags::IN)?;
    }
    epoll::add(&poll, signals, data(signals), EventFlags::IN)?;
    let mut connections: BTreeMap<u64, Connection> = BTreeMap::new();
    let mut events = Vec::with_capacity(64);
    let mut leaving: Option<Instant> = None;
    while leaving.is_none_or(|since| since.elapsed() < LEAVING) {
        let tick = leaving.map(|_| Timespec { tv_sec: 0, tv_nsec: 100_000_000 });
        rustix::io::retry_on_intr(|| {
            epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), tick.as_ref())
        })?;
        for event in events.drain(..) {
            let key = event.data.u64();
            if let Some(connection) = connections.get_mut(&key) {
                if !converse(speaker, connection, leaving.is_some()) {
                    connections.remove(&key);
                }
                continue;
            }
            if key == signals.as_raw_fd() as u64 {
                match signals.next() {
                    Some(Signal::SIGUSR1) => misbehave(flags, &mut sockets)?,
                    Some(Signal::SIGUSR2) => upgrade::begin()?,
                    Some(Signal::SIGTERM) if flags.term == Term::Leave => {
                        leaving = leaving.or(Some(Instant::now()));
                        // The next generation accepts.
                        for socket in sockets.iter_mut().filter(|_| flags.upgrade) {
                            socket.take().map(|socket| epoll::delete(&poll, socket)).transpose()?;
                        }
                    }
                    _ => {}
                }
                continue;
            }
            let Some(socket) = sockets.iter().flatten().find(|it| it.as_raw_fd() as u64 == key) else {
                continue;
            };
            if socket.r#type()? != Type::STREAM {
                (0..AT_A_TIME).all(|_| datagram(speaker, socket));
                continue;
            }
            for _ in 0..AT_A_TIME {
                let Ok((stream, peer)) = socket.accept() else { break };
                let (Some(peer), stream) = (peer.as_socket(), TcpStream::from(stream)) else { continue };
                stream.set_nonblocking(true)?;
                let key = stream.as_raw_fd() as u64;
                epoll::add(&poll, &stream, data(&stream), EventFlags::IN)?;
                connections.insert(key, Connection { stream, peer, received: Vec::new() });
            }
        }
    }
    Ok(())
}

/// Stops, so that a test can look whom this process has accepted; then does what the file says.
fn misbehave(flags: &Flags, sockets: &mut [Option<Socket>]) -> Result<()> {
    let Some(file) = &flags.deeds else { return Ok(()) };
    raise(Signal::SIGSTOP)?;
    deeds::perform(&std::fs::read_to_string(file)?, sockets, file)
}

/// Answers all requests that have come; whether the connection is kept.
fn converse(speaker: &Speaker, connection: &mut Connection, leaving: bool) -> bool {
    let Connection { stream, peer, received } = connection;
    let mut part = [0; 16 * 1024];
    match stream.read(&mut part) {
        Ok(0) => return false,
        Ok(length) => received.extend_from_slice(&part[..length]),
        Err(error) => return error.kind() == ErrorKind::WouldBlock,
    }
    while let Some(end) = received.windows(4).position(|end| end == b"\r\n\r\n") {
        let request = received.drain(..end + 4).collect::<Vec<u8>>().to_ascii_lowercase();
        let last = request.windows(19).any(|header| header == b"\r\nconnection: close");
        if stream.write_all(&speaker.response(*peer, leaving)).is_err() || last || leaving {
            return false;
        }
    }
    true
}
