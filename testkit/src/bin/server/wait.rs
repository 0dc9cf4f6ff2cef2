//! Servers that serve one client after the other, and how they wait for the next.

use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Socket, Type};

use crate::answer::Speaker;
use crate::flags::{Flags, Term, Wait};
use crate::signals::Signals;
use crate::{deeds, notify};

/// Serves until it is ended.
pub(crate) fn serve(flags: &Flags, speaker: &Speaker, sockets: Vec<Socket>, signals: &Signals) -> Result<()> {
    let mut sockets: Vec<Option<Socket>> = sockets.into_iter().map(Some).collect();
    if flags.wait == Wait::Poll {
        sockets.iter().flatten().try_for_each(|socket| socket.set_nonblocking(true))?;
    }
    let mut waiter = Waiter::new(flags, &sockets)?;
    let mut at_accept = flags.at_accept.as_deref();
    loop {
        let ready = waiter.wait(&sockets, signals)?;
        let heard = signals.next();
        match (heard, flags.term) {
            (Some(Signal::SIGTERM), Term::Abrupt) => return Ok(()),
            (Some(Signal::SIGTERM), _) => notify::say("STOPPING=1")?,
            _ => {}
        }
        let place = flags.deeds.as_deref().unwrap_or("/".as_ref());
        if let Some(deeds) = flags.deeds.as_deref().and_then(taken) {
            deeds::perform(&deeds, &mut sockets, place)?;
        }
        for at in ready {
            let Some(socket) = &sockets[at] else { continue };
            if socket.r#type()? != Type::STREAM {
                datagram(speaker, socket);
                continue;
            }
            match socket.accept() {
                Ok((stream, _)) if at_accept.is_some() => {
                    deeds::perform(at_accept.take().unwrap_or_default(), &mut sockets, place)?;
                    drop(stream);
                }
                // A client that has gone is its own problem.
                Ok((stream, peer)) => {
                    drop(speaker.converse(stream.into(), peer.as_socket().context("an address")?));
                }
                // The daemon has shut it down: this worker has left; or it will listen again.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    if flags.term == Term::Polite {
                        return Ok(());
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(_) => {}
            }
        }
    }
}

/// One datagram and its answer; whether there was one.
pub(crate) fn datagram(speaker: &Speaker, socket: &Socket) -> bool {
    let mut buffer = [MaybeUninit::uninit(); 2048];
    let Ok((length, peer)) = socket.recv_from(&mut buffer) else { return false };
    let Some(address) = peer.as_socket() else { return true };
    // SAFETY: the kernel has filled so many of them.
    let received = unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), length) };
    // A client that cannot be reached is its own problem.
    let _ = socket.send_to(&speaker.datagram(received, address), &peer);
    true
}

/// What is in a file, which is removed; nothing while somebody writes it.
fn taken(file: &std::path::Path) -> Option<String> {
    let text = std::fs::read_to_string(file).ok().filter(|text| !text.is_empty())?;
    std::fs::remove_file(file).ok()?;
    Some(text)
}

/// Does not accept for a while, but runs; writes down what its poll object sees of a hang-up.
pub(crate) fn spin(flags: &Flags, time: Duration, sockets: &[Socket]) -> Result<()> {
    let object = epoll::create(CreateFlags::CLOEXEC)?;
    for socket in sockets {
        epoll::add(&object, socket, EventData::new_u64(0), EventFlags::IN | EventFlags::ET)?;
    }
    let (begun, mut events) = (Instant::now(), Vec::with_capacity(16));
    while begun.elapsed() < time {
        let at_once = Some(&Timespec { tv_sec: 0, tv_nsec: 0 });
        epoll::wait(&object, rustix::buffer::spare_capacity(&mut events), at_once)?;
        for event in events.drain(..) {
            if let (true, Some(file)) = ({ event.flags }.contains(EventFlags::HUP), &flags.hang_ups) {
                std::fs::OpenOptions::new().append(true).open(file)?.write_all(b"hang-up\n")?;
            }
        }
    }
    Ok(())
}

/// Those of `fds` that are ready, by select(2), of which there is no safe one here.
fn select(fds: impl Iterator<Item = RawFd>, tick: Option<Timespec>) -> io::Result<Vec<RawFd>> {
    let fds: Vec<RawFd> = fds.collect();
    let mut tick = tick.map(|it| libc::timeval { tv_sec: it.tv_sec, tv_usec: it.tv_nsec / 1000 });
    let tick = tick.as_mut().map_or(std::ptr::null_mut(), std::ptr::from_mut);
    let most = fds.iter().max().map_or(0, |fd| fd + 1);
    let none = std::ptr::null_mut();
    // SAFETY: a set of zeroes is empty, and what few descriptors a server has are below FD_SETSIZE.
    unsafe {
        let mut set: libc::fd_set = std::mem::zeroed();
        fds.iter().for_each(|fd| libc::FD_SET(*fd, &raw mut set));
        if libc::select(most, &raw mut set, none, none, tick) < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(Vec::new()) } else { Err(error) };
        }
        Ok(fds.into_iter().filter(|fd| libc::FD_ISSET(*fd, &raw const set)).collect())
    }
}

/// How it waits, with what it needs for that.
struct Waiter {
    way: Wait,
    tick: Option<Timespec>,
    objects: Vec<OwnedFd>,
}

impl Waiter {
    fn new(flags: &Flags, sockets: &[Option<Socket>]) -> Result<Self> {
        let mut objects = Vec::new();
        if matches!(flags.wait, Wait::Epoll | Wait::EpollInEpoll) {
            let inner = epoll::create(CreateFlags::CLOEXEC)?;
            for (at, socket) in (0..).zip(sockets.iter().flatten()) {
                epoll::add(&inner, socket, EventData::new_u64(at), EventFlags::IN)?;
            }
            objects.push(inner);
        }
        if flags.wait == Wait::EpollInEpoll {
            let outer = epoll::create(CreateFlags::CLOEXEC)?;
            epoll::add(&outer, &objects[0], EventData::new_u64(0), EventFlags::IN)?;
            objects.push(outer);
        }
        let tick = flags.tick.map(Timespec::try_from).transpose()?;
        Ok(Self { way: flags.wait, tick, objects })
    }

    /// The sockets at which somebody is.
    fn wait(&mut self, sockets: &[Option<Socket>], signals: &Signals) -> Result<Vec<usize>> {
        let open = || sockets.iter().enumerate().filter_map(|(at, socket)| Some((at, socket.as_ref()?)));
        match self.way {
            Wait::Accept => Ok(vec![0]),
            Wait::Select => {
                let fds: Vec<_> = open().map(|(at, socket)| (at, socket.as_raw_fd())).collect();
                let ready = select(fds.iter().map(|(_, fd)| *fd), self.tick)?;
                Ok(fds.into_iter().filter(|(_, fd)| ready.contains(fd)).map(|(at, _)| at).collect())
            }
            Wait::Poll => {
                let mut list: Vec<PollFd> = open().map(|(_, it)| PollFd::new(it, PollFlags::IN)).collect();
                if signals.any() {
                    list.push(PollFd::new(signals, PollFlags::IN));
                }
                rustix::io::retry_on_intr(|| poll(&mut list, self.tick.as_ref()))?;
                let ready = open().zip(&list).filter(|(_, it)| !it.revents().is_empty());
                Ok(ready.map(|((at, _), _)| at).collect())
            }
            Wait::Epoll => self.events(0, self.tick),
            Wait::EpollInEpoll => {
                self.events(1, self.tick)?;
                self.events(0, Some(Timespec { tv_sec: 0, tv_nsec: 0 }))
            }
            Wait::Keep => unreachable!("it has a loop of its own"),
        }
    }

    /// One at most: what waits at another is still there next time.
    fn events(&self, object: usize, tick: Option<Timespec>) -> Result<Vec<usize>> {
        let mut events = Vec::with_capacity(1);
        let object = self.objects[object].as_fd();
        rustix::io::retry_on_intr(|| {
            epoll::wait(object, rustix::buffer::spare_capacity(&mut events), tick.as_ref())
        })?;
        Ok(events.iter().map(|event| event.data.u64() as usize).collect())
    }
}
