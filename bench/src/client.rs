//! The client of all measurements. Closed loop (so many clients, each with one request at a time, on a
//! thread with an epoll for each core, so that no server waits for its client) or open loop (so many
//! requests a second, whatever the server does, on one thread; the time of each counts from when it was
//! due, so nothing is hidden by waiting).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use socket2::{Domain, Socket, Type};
use testkit::cpus::keep_to;

use crate::worker::{ANSWER, BURN};

/// A request fails that takes longer.
const TIMEOUT: Duration = Duration::from_secs(8);

/// Requests of an open loop that may be on their way at once.
const MOST: usize = 16_384;

/// What to do.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) to: SocketAddr,
    pub(crate) requests: usize,
    pub(crate) pace: Pace,
    /// Connections are kept for the next request.
    pub(crate) keep: bool,
    /// Each so many-th request costs the worker so much CPU time, in µs.
    pub(crate) burn: Option<(usize, u32)>,
}

impl Load {
    /// What a request costs its worker, in µs.
    fn burns(&self, id: usize) -> Option<u32> {
        self.burn.filter(|(each, _)| id.is_multiple_of(*each)).map(|(_, micros)| micros)
    }
}

/// How requests follow each other.
#[derive(Clone, Copy)]
pub(crate) enum Pace {
    /// So many clients.
    Closed(usize),
    /// So many requests a second.
    Open(u32),
}

/// What became of it.
#[derive(Default)]
pub(crate) struct Outcome {
    /// Times of answered requests that cost no extra CPU, with the client's address, sorted.
    pub(crate) times: Vec<(Duration, SocketAddr)>,
    pub(crate) answered: usize,
    /// Why requests failed, and how many.
    pub(crate) failed: BTreeMap<String, usize>,
    pub(crate) took: Duration,
}

impl Outcome {
    /// In milliseconds.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let at = (part * self.times.len() as f64).ceil() as usize;
        self.times.get(at.max(1) - 1).map_or(0.0, |(time, _)| time.as_secs_f64() * 1000.0)
    }

    /// Requests per second.
    pub(crate) fn rate(&self) -> f64 {
        self.answered as f64 / self.took.as_secs_f64()
    }

    pub(crate) fn failures(&self) -> usize {
        self.failed.values().sum()
    }

    /// Both, one after the other; all times in order.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.times.extend(other.times);
        self.times.sort_by_key(|(time, _)| *time);
        self.answered += other.answered;
        for (why, count) in other.failed {
            *self.failed.entry(why).or_default() += count;
        }
        self.took += other.took;
        self
    }

    /// A run counts only if every request was answered.
    pub(crate) fn whole(self, requests: usize) -> Result<Self> {
        let Self { answered, failed, .. } = &self;
        ensure!(*answered == requests, "void: {answered} of {requests} requests were answered: {failed:?}");
        Ok(self)
    }
}

/// One request on its way, on a connection that may have had others before.
struct Talk {
    id: usize,
    stream: TcpStream,
    local: SocketAddr,
    due: Instant,
    sent: bool,
    /// What the request costs its worker, in µs.
    burns: Option<u32>,
    received: usize,
}

/// How far all threads are.
#[derive(Default)]
struct Progress {
    started: AtomicUsize,
    stopped: AtomicBool,
}

impl Progress {
    /// The number of the next request, from 1, if there is one.
    fn next(&self, load: &Load) -> Option<usize> {
        if self.is_over(load) {
            return None;
        }
        Some(self.started.fetch_add(1, Relaxed) + 1).filter(|id| *id <= load.requests)
    }

    fn is_over(&self, load: &Load) -> bool {
        self.stopped.load(Relaxed) || self.started.load(Relaxed) >= load.requests
    }
}

/// Runs it to its end, or until `stop` says so, which is asked about every millisecond.
pub(crate) fn run(load: Load, stop: impl FnMut() -> bool) -> Result<Outcome> {
    run_on(load, &[], stop)
}

/// As [`run`], each thread on one of these CPUs if there are any; the calling one stays there.
pub(crate) fn run_on(load: Load, cpus: &[usize], stop: impl FnMut() -> bool) -> Result<Outcome> {
    let threads = match load.pace {
        Pace::Closed(clients) => thread::available_parallelism()?.get().min(clients),
        Pace::Open(_) => 1,
    };
    let part = |nth: usize| match load.pace {
        Pace::Closed(clients) => Pace::Closed((clients + nth) / threads),
        open @ Pace::Open(_) => open,
    };
    let place = |nth: usize| cpus.get(nth).copied().into_iter().for_each(keep_to);
    let progress = Progress::default();
    let begun = Instant::now();
    let (parts, took) = thread::scope(|scope| {
        let others: Vec<_> = (1..threads)
            .map(|nth| {
                let (load, progress) = (Load { pace: part(nth), ..load }, &progress);
                scope.spawn(move || {
                    place(nth);
                    drive(load, progress, begun, || false)
                })
            })
            .collect();
        place(0);
        let mut parts = vec![drive(Load { pace: part(0), ..load }, &progress, begun, stop)];
        let joined = others.into_iter().map(thread::ScopedJoinHandle::join);
        parts.extend(joined.map(|part| part.unwrap_or_else(|_| bail!("a thread of the load panicked"))));
        (parts, begun.elapsed())
    });
    let all = parts.into_iter().try_fold(Outcome::default(), |all, part| anyhow::Ok(all.and(part?)))?;
    Ok(Outcome { took, ..all })
}

/// One thread of it.
fn drive(load: Load, all: &Progress, begun: Instant, mut stop: impl FnMut() -> bool) -> Result<Outcome> {
    let poll = epoll::create(CreateFlags::CLOEXEC)?;
    let mut outcome = Outcome::default();
    let mut talks: Vec<Option<Talk>> = Vec::new();
    let mut free = Vec::new();
    let mut old = VecDeque::new();
    let mut events = Vec::with_capacity(256);
    let mut running = 0;
    let mut asked = begun;
    loop {
        let now = Instant::now();
        if now - asked > Duration::from_millis(1) {
            if stop() {
                all.stopped.store(true, Relaxed);
            }
            asked = now;
        }
        // Those that are due.
        while !all.is_over(&load) {
            let due = match load.pace {
                Pace::Closed(clients) if running < clients => now,
                Pace::Open(rate) if running < MOST => {
                    let before = all.started.load(Relaxed) as f64;
                    begun + Duration::from_secs_f64(before / f64::from(rate))
                }
                _ => break,
            };
            if due > now {
                break;
            }
            let Some(id) = all.next(&load) else { break };
            match begin(load.to, id, due, load.burns(id)) {
                Ok(talk) => {
                    let at = free.pop().unwrap_or_else(|| {
                        talks.push(None);
                        talks.len() - 1
                    });
                    let wanted = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
                    epoll::add(&poll, &talk.stream, EventData::new_u64(at as u64), wanted)?;
                    old.push_back((now, at, id));
                    talks[at] = Some(talk);
                    running += 1;
                }
                Err(error) => {
                    *outcome.failed.entry(format!("connect: {}", error.kind())).or_default() += 1;
                }
            }
        }
        if running == 0 && all.is_over(&load) {
            return Ok(outcome);
        }
        events.clear();
        let nap = Timespec {
            tv_sec: 0,
            tv_nsec: if matches!(load.pace, Pace::Open(_)) { 200_000 } else { 5_000_000 },
        };
        match epoll::wait(&poll, spare_capacity(&mut events), Some(&nap)) {
            Err(rustix::io::Errno::INTR) => {}
            waited => {
                waited?;
            }
        }
        let now = Instant::now();
        for event in &events {
            let at = event.data.u64() as usize;
            let Some(talk) = &mut talks[at] else { continue };
            let failure = match advance(talk) {
                Ok(false) => continue,
                Ok(true) => None,
                Err(error) => Some(error.kind().to_string()),
            };
            let failed = failure.is_some();
            match failure {
                Some(why) => *outcome.failed.entry(why).or_default() += 1,
                None => {
                    outcome.answered += 1;
                    if talk.burns.is_none() {
                        outcome.times.push((now - talk.due, talk.local));
                    }
                }
            }
            if load.keep
                && !failed
                && let Some(id) = all.next(&load)
            {
                (talk.id, talk.due, talk.received, talk.burns) = (id, now, 0, load.burns(id));
                // A connection that is closed now is an event again, and a failure.
                let _ = talk.stream.write_all(&request(talk.burns));
                continue;
            }
            talks[at] = None;
            free.push(at);
            running -= 1;
        }
        // Those that have waited for too long.
        while let Some((_, at, id)) = old.pop_front_if(|(since, ..)| now - *since > TIMEOUT) {
            if talks[at].take_if(|talk| talk.id == id).is_some() {
                free.push(at);
                running -= 1;
                *outcome.failed.entry("timed out".into()).or_default() += 1;
            }
        }
        ensure!(now - begun < Duration::from_secs(120), "void: the load does not end");
    }
}

fn request(burns: Option<u32>) -> Cow<'static, [u8]> {
    match burns {
        None => Cow::Borrowed(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"),
        Some(micros) => format!("GET {BURN}{micros} HTTP/1.1\r\nHost: bench\r\n\r\n").into_bytes().into(),
    }
}

fn begin(to: SocketAddr, id: usize, due: Instant, burns: Option<u32>) -> io::Result<Talk> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), None)?;
    // Closing resets: no port stays in TIME_WAIT.
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    let local = socket.local_addr()?.as_socket().ok_or(ErrorKind::AddrNotAvailable)?;
    Ok(Talk { id, stream: socket.into(), local, due, sent: false, burns, received: 0 })
}

/// Whether the whole answer is there.
fn advance(talk: &mut Talk) -> io::Result<bool> {
    if !talk.sent {
        if let Some(error) = talk.stream.take_error()? {
            return Err(error);
        }
        match talk.stream.write_all(&request(talk.burns)) {
            Err(error) if [ErrorKind::NotConnected, ErrorKind::WouldBlock].contains(&error.kind()) => {
                return Ok(false);
            }
            written => written?,
        }
        talk.sent = true;
        // Its answer is an event of its own.
        return Ok(false);
    }
    let mut answer = [0; 1024];
    loop {
        match talk.stream.read(&mut answer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) if talk.received == 0 && !answer[..length].starts_with(&ANSWER[..length.min(12)]) => {
                return Err(ErrorKind::InvalidData.into());
            }
            Ok(length) => {
                talk.received += length;
                // Of the workers' answers; nginx's own are longer, and come in one piece.
                if talk.received >= ANSWER.len() {
                    return Ok(true);
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}
