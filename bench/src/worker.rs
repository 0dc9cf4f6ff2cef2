//! The worker of all variants: one thread, one epoll, a constant HTTP answer. The very same program
//! serves under reuseport-lb, with plain SO_REUSEPORT, on a shared socket and behind a proxy.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::time::{ClockId, clock_gettime};
use socket2::{Domain, Socket, Type};
use testkit::cpus::keep_to;

/// What every answer is.
pub(crate) const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";

/// What a request for costs CPU time, so many µs as follow.
pub(crate) const BURN: &str = "/burn/";

const LISTENER: u64 = u64::MAX;
const END: u64 = u64::MAX - 1;

/// `fd` serves descriptor 3; an address is bound with SO_REUSEPORT, behind `/` the CPU to stay on, and `incoming` if
/// the kernel shall know that (SO_INCOMING_CPU). Ends at SIGTERM, when all that
/// waits to be accepted and all that has been asked is answered.
pub(crate) fn serve(place: &str) -> Result<()> {
    let listener = if place == "fd" {
        // SAFETY: whoever starts this with `fd` passes the listener as descriptor 3, to nobody else.
        TcpListener::from(unsafe { OwnedFd::from_raw_fd(3) })
    } else {
        let usage = "usage: bench worker fd|ADDRESS:PORT[/CPU[/incoming]]";
        let (at, cpu) = place.split_once('/').unwrap_or((place, ""));
        let socket = listen(at.parse().context(usage)?, true)?;
        if !cpu.is_empty() {
            let (cpu, how) = cpu.split_once('/').unwrap_or((cpu, ""));
            let cpu = cpu.parse().context(usage)?;
            keep_to(cpu);
            if how == "incoming" {
                socket.set_cpu_affinity(cpu)?;
            }
        }
        socket.into()
    };
    listener.set_nonblocking(true)?;
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGTERM);
    ends.thread_block()?;
    let end = SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC)?;

    let poll = epoll::create(CreateFlags::CLOEXEC)?;
    // Of several processes on one socket, one wakes up for each connection.
    let exclusive = EventFlags::IN | EventFlags::EXCLUSIVE;
    epoll::add(&poll, &listener, EventData::new_u64(LISTENER), exclusive)?;
    epoll::add(&poll, &end, EventData::new_u64(END), EventFlags::IN)?;
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(daemon) => drop(UnixDatagram::unbound()?.send_to(b"READY=1", daemon)?),
        None => println!("ready"),
    }

    let mut listener = Some(listener);
    let mut open: Vec<Option<Client>> = Vec::new();
    let mut events = Vec::with_capacity(64);
    while listener.is_some() || open.iter().any(Option::is_some) {
        events.clear();
        let _ready = match epoll::wait(&poll, spare_capacity(&mut events), None) {
            Err(rustix::io::Errno::INTR) => continue,
            waited => waited?,
        };
        for event in &events {
            match event.data.u64() {
                // One at a time: what is left is for whoever is free.
                LISTENER => {
                    if let Some(listener) = &listener {
                        accept(listener, &poll, &mut open)?;
                    }
                }
                END => {
                    if let Some(last) = listener.take() {
                        while accept(&last, &poll, &mut open)? {}
                        // The daemon may have a duplicate, which would keep it in the poll.
                        epoll::delete(&poll, &last)?;
                        epoll::delete(&poll, &end)?;
                    }
                }
                at => {
                    let slot = &mut open[at as usize];
                    if slot.as_mut().is_some_and(|client| !client.answer()) {
                        *slot = None;
                    }
                }
            }
        }
        if listener.is_none() {
            // What is silent now has been answered.
            open.iter_mut()
                .for_each(|slot| drop(slot.take_if(|client| client.answered && client.is_silent())));
        }
    }
    Ok(())
}

/// A listening socket at `at`, alone or together with others.
pub(crate) fn listen(at: SocketAddr, together: bool) -> Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
    socket.set_reuse_port(together)?;
    socket.set_reuse_address(true)?;
    socket.bind(&at.into()).with_context(|| format!("cannot bind {at}"))?;
    socket.listen(4096)?;
    Ok(socket)
}

/// Whether there was one.
fn accept(listener: &TcpListener, poll: &OwnedFd, open: &mut Vec<Option<Client>>) -> Result<bool> {
    let stream = match listener.accept() {
        Ok((stream, _)) => stream,
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
        Err(error) if error.kind() == ErrorKind::ConnectionAborted => return Ok(true),
        // Shut down: this worker has left, or it will be put back by who did it.
        Err(error) if error.kind() == ErrorKind::InvalidInput => return Ok(false),
        Err(error) => return Err(error).context("cannot accept"),
    };
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    let at = open.iter().position(Option::is_none).unwrap_or(open.len());
    epoll::add(poll, &stream, EventData::new_u64(at as u64), EventFlags::IN)?;
    if at == open.len() {
        open.push(None);
    }
    open[at] = Some(Client { stream, answered: false });
    Ok(true)
}

struct Client {
    stream: TcpStream,
    /// At least once.
    answered: bool,
}

impl Client {
    /// Whether the connection goes on. Clients send a request in one piece, and wait for its answer.
    fn answer(&mut self) -> bool {
        let mut request = [0; 1024];
        match self.stream.read(&mut request) {
            Ok(0) => false,
            Ok(length) => {
                if let Some(micros) = burns(&request[..length]) {
                    burn(micros);
                }
                self.answered = true;
                self.stream.write_all(ANSWER).is_ok()
            }
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }

    fn is_silent(&self) -> bool {
        self.stream.peek(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

/// What a request is to cost, in µs.
fn burns(request: &[u8]) -> Option<i64> {
    let rest = request.strip_prefix(b"GET ")?.strip_prefix(BURN.as_bytes())?;
    std::str::from_utf8(rest).ok()?.split(' ').next()?.parse().ok()
}

fn burn(micros: i64) {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec * 1_000_000_000 + time.tv_nsec
    };
    let end = now() + 1_000 * micros;
    while now() < end {
        std::hint::spin_loop();
    }
}
