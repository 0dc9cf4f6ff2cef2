//! Live UDP flows: a source address and port each, which send again and again, and who answers them.
//! Nothing is sent twice: a datagram without an answer is reported as lost.

mod live;
mod report;
pub mod scene;
mod source;

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};

use crate::client::{Answer, Tally};
use source::Source;

pub use live::Live;
pub use report::{Lost, Move, Round, Who};

/// Datagrams that may be on their way at once. A socket's default receive buffer holds 256 of them,
/// so none is lost for want of room, even where two sets of flows ask the same worker.
const WINDOW: usize = 96;

/// When nothing has been answered for this long, what is on its way is lost.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Flows of one socket, each with an address of its own: so ten thousand of them need no more
/// descriptors than a process may have anywhere.
const PER_SOCKET: usize = 100;

/// Some flows, all of them live as long as [`Flows::round`] is called often enough.
pub struct Flows {
    flows: Vec<Flow>,
    sources: Vec<Source>,
    /// Where each flow is, by its own address.
    index: HashMap<SocketAddr, usize>,
    /// Tells which of the sources have something to read; the data is the index.
    epoll: OwnedFd,
    /// How many flows are waiting.
    waiting: usize,
}

struct Flow {
    /// Its place in [`Flows::sources`].
    source: usize,
    local: SocketAddr,
    /// Who answered last.
    met: Option<Who>,
    /// When it sent last.
    sent: Instant,
    /// How long it had been silent then.
    silent: Duration,
    /// Whether its last datagram may still be answered.
    waiting: bool,
}

impl Flows {
    /// Opens `count` flows, alternately to each of the addresses, from ports that no others have, in
    /// this thread's namespace; sends once on each.
    ///
    /// # Panics
    /// If that is not possible, or one is not answered.
    #[must_use]
    pub fn open(to: &[SocketAddr], count: usize) -> Self {
        source::make_room();
        let mut sources: Vec<Source> = Vec::new();
        let mut flows: Vec<Flow> = Vec::new();
        for at in 0..count {
            let (turn, nth) = (at % to.len(), at / to.len());
            if nth % PER_SOCKET == 0 {
                sources.push(Source::open(to[turn]).expect("cannot open a socket"));
            }
            let source = nth / PER_SOCKET * to.len() + turn;
            let local = sources[source].local(nth % PER_SOCKET);
            let sent = Instant::now();
            flows.push(Flow { source, local, met: None, sent, silent: Duration::ZERO, waiting: false });
        }
        let mut flows = Self::of(flows, sources);
        let round = flows.round();
        assert!(round.lost.is_empty(), "flows that have just begun: {round}; the first: {:?}", round.lost[0]);
        flows
    }

    fn of(flows: Vec<Flow>, sources: Vec<Source>) -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("cannot make an epoll");
        for (at, source) in sources.iter().enumerate() {
            epoll::add(&epoll, source, epoll::EventData::new_u64(at as u64), epoll::EventFlags::IN)
                .expect("cannot watch a socket");
        }
        let index = flows.iter().enumerate().map(|(at, flow)| (flow.local, at)).collect();
        let waiting = flows.iter().filter(|flow| flow.waiting).count();
        Self { flows, sources, index, epoll, waiting }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// How many of them each worker answered last.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::new();
        for who in self.flows.iter().filter_map(|flow| flow.met.as_ref()) {
            *tally.entry(who.worker.clone()).or_default() += 1;
        }
        tally
    }

    /// How many this worker answered last.
    #[must_use]
    pub fn with(&self, worker: &str) -> usize {
        self.flows.iter().filter(|flow| is_with(flow, worker)).count()
    }

    /// Takes these in as well.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        let before = self.sources.len();
        self.sources.extend(others.sources);
        let others = others.flows.into_iter().map(|flow| Flow { source: before + flow.source, ..flow });
        self.flows.extend(others);
        Self::of(self.flows, self.sources)
    }

    /// Ends those of a worker: they send nothing any more. Returns the others.
    #[must_use]
    pub fn without(mut self, worker: &str) -> Self {
        self.flows.retain(|flow| !is_with(flow, worker));
        Self::of(self.flows, self.sources)
    }

    /// Each flow sends a datagram and reads its answer, no more of them at once than fit anywhere.
    pub fn round(&mut self) -> Round {
        let mut round = Round::new(self.len());
        let mut next = 0;
        let mut progress = Instant::now();
        while next < self.len() || self.waiting > 0 {
            while next < self.len() && self.waiting < WINDOW {
                self.send_on(next, &mut round);
                next += 1;
            }
            self.progress(&mut progress, PATIENCE, &mut round);
        }
        round.finish(self.tally())
    }

    /// Each flow sends a datagram, all at once, which is more than fits anywhere; what was not answered
    /// for `patience` is lost. It keeps flows live where answers cannot be relied upon.
    pub fn volley(&mut self, patience: Duration) -> Round {
        let mut round = Round::new(self.len());
        for at in 0..self.len() {
            self.send_on(at, &mut round);
        }
        self.finish(round, patience)
    }

    /// At most so many flows of a worker send a datagram each; [`Flows::receive`] gets the answers.
    /// Returns how many did.
    ///
    /// # Panics
    /// If one cannot.
    pub fn send(&mut self, worker: &str, most: usize) -> usize {
        let theirs = (0..self.len()).filter(|at| is_with(&self.flows[*at], worker));
        let chosen: Vec<usize> = theirs.take(most).collect();
        let mut round = Round::new(0);
        chosen.iter().for_each(|at| self.send_on(*at, &mut round));
        assert!(round.lost.is_empty(), "{:?}", round.lost);
        chosen.len()
    }

    /// Waits for answers until there are all, or none came for `patience`.
    pub fn receive(&mut self, patience: Duration) -> Round {
        self.finish(Round::new(self.waiting), patience)
    }

    fn finish(&mut self, mut round: Round, patience: Duration) -> Round {
        let mut progress = Instant::now();
        while self.waiting > 0 {
            self.progress(&mut progress, patience, &mut round);
        }
        round.finish(self.tally())
    }

    fn send_on(&mut self, at: usize, round: &mut Round) {
        let flow = &mut self.flows[at];
        let now = Instant::now();
        flow.silent = now - flow.sent;
        flow.sent = now;
        round.silence = round.silence.max(flow.silent);
        self.waiting += usize::from(!flow.waiting);
        flow.waiting = true;
        if let Err(error) = self.sources[flow.source].send(flow.local.ip()) {
            self.lose(at, &error.to_string(), round);
        }
    }

    /// Takes what has come, and gives up on the rest if that is nothing for too long.
    fn progress(&mut self, last: &mut Instant, patience: Duration, round: &mut Round) {
        let mut events = [MaybeUninit::uninit(); WINDOW];
        let rest = patience.saturating_sub(last.elapsed());
        let timeout = Timespec { tv_sec: rest.as_secs() as i64, tv_nsec: rest.subsec_nanos().into() };
        let ready: Vec<usize> = match epoll::wait(&self.epoll, &mut events, Some(&timeout)) {
            Ok((ready, _)) => ready.iter().map(|event| event.data.u64() as usize).collect(),
            Err(rustix::io::Errno::INTR) => return,
            Err(error) => panic!("cannot wait for answers: {error}"),
        };
        for source in &ready {
            self.read(*source, round);
        }
        if !ready.is_empty() {
            *last = Instant::now();
        } else if last.elapsed() >= patience {
            for at in 0..self.len() {
                if self.flows[at].waiting {
                    self.lose(at, &format!("no answer, and nobody had one for {patience:?}"), round);
                }
            }
        }
    }

    fn read(&mut self, source: usize, round: &mut Round) {
        let mut buffer = [0; 256];
        while let Some(answer) = self.sources[source].receive(&mut buffer).expect("cannot read an answer") {
            let answer =
                Answer::parse(&String::from_utf8_lossy(answer)).expect("an embedded worker's answer");
            // It may be for a flow that has ended.
            if let Some(at) = self.index.get(&answer.peer) {
                self.take(*at, answer, round);
            }
        }
    }

    fn take(&mut self, at: usize, answer: Answer, round: &mut Round) {
        let flow = &mut self.flows[at];
        let who = Who { worker: answer.worker, pid: answer.pid };
        match &flow.met {
            Some(met) if *met != who => round.moved.push(Move {
                flow: flow.local,
                from: met.clone(),
                to: who.clone(),
                silent: flow.silent,
                sent: flow.sent,
            }),
            _ => {}
        }
        flow.met = Some(who);
        if flow.waiting {
            flow.waiting = false;
            self.waiting -= 1;
            round.answered += 1;
        } else {
            round.late += 1;
        }
    }

    fn lose(&mut self, at: usize, why: &str, round: &mut Round) {
        let flow = &mut self.flows[at];
        self.waiting -= usize::from(flow.waiting);
        flow.waiting = false;
        round.lost.push(Lost { flow: flow.local, with: flow.met.clone(), sent: flow.sent, why: why.into() });
    }
}

fn is_with(flow: &Flow, worker: &str) -> bool {
    flow.met.as_ref().is_some_and(|met| met.worker == worker)
}
