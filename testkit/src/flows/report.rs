//! What became of the datagrams of some flows.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::client::Tally;

/// Who answered: a name may pass to another process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Who {
    /// Like `web/2`.
    pub worker: String,
    pub pid: i32,
}

/// Another worker, or another process of the same name, answered than the time before.
#[derive(Clone, Debug)]
pub struct Move {
    pub flow: SocketAddr,
    /// Who answered before.
    pub from: Who,
    /// Who answers now.
    pub to: Who,
    /// How long the flow had sent nothing before the datagram that went elsewhere.
    pub silent: Duration,
    /// When that datagram was sent; if the answer was late, the one after it.
    pub sent: Instant,
}

/// A datagram that was not answered.
#[derive(Clone, Debug)]
pub struct Lost {
    pub flow: SocketAddr,
    /// Who had answered before.
    pub with: Option<Who>,
    /// When it was sent.
    pub sent: Instant,
    /// What is known about it.
    pub why: String,
}

/// One round of some flows, or several.
#[derive(Clone, Debug)]
pub struct Round {
    /// How many flows there were.
    pub flows: usize,
    /// How many rounds.
    pub rounds: usize,
    /// Datagrams that were answered in time.
    pub answered: usize,
    /// Flows that moved, each as often as it did.
    pub moved: Vec<Move>,
    /// Datagrams that were not answered in time.
    pub lost: Vec<Lost>,
    /// Answers to those that came after all.
    pub late: usize,
    /// The longest time that any flow sent nothing.
    pub silence: Duration,
    /// How many flows each worker has at the end.
    pub tally: Tally,
    begun: Instant,
    /// How long it took.
    pub took: Duration,
}

impl Round {
    pub(super) fn new(flows: usize) -> Self {
        Self {
            flows,
            rounds: 1,
            answered: 0,
            moved: Vec::new(),
            lost: Vec::new(),
            late: 0,
            silence: Duration::ZERO,
            tally: Tally::new(),
            begun: Instant::now(),
            took: Duration::ZERO,
        }
    }

    pub(super) fn finish(self, tally: Tally) -> Self {
        Self { took: self.begun.elapsed(), tally, ..self }
    }

    /// This one and the next one.
    #[must_use]
    pub fn then(mut self, next: Self) -> Self {
        self.moved.extend(next.moved);
        self.lost.extend(next.lost);
        Self {
            flows: next.flows,
            rounds: self.rounds + next.rounds,
            answered: self.answered + next.answered,
            moved: self.moved,
            lost: self.lost,
            late: self.late + next.late,
            silence: self.silence.max(next.silence),
            tally: next.tally,
            begun: self.begun,
            took: self.took + next.took,
        }
    }

    /// Who lost flows to whom, by the names of workers, and how many.
    #[must_use]
    pub fn ways(&self) -> BTreeMap<(&str, &str), usize> {
        let mut ways = BTreeMap::new();
        for it in &self.moved {
            *ways.entry((it.from.worker.as_str(), it.to.worker.as_str())).or_default() += 1;
        }
        ways
    }

    /// Asserts that each flow stayed where it was and each datagram was answered, while no flow was
    /// silent for `idle`, after which it may move.
    ///
    /// # Panics
    /// If not.
    pub fn assert_kept(&self, idle: Duration) {
        assert!(self.moved.is_empty(), "{self}: {:?}; the first: {:?}", self.ways(), self.moved[0]);
        assert!(self.lost.is_empty(), "{self}: the first: {:?}", self.lost[0]);
        self.assert_lively(idle);
    }

    /// Asserts that no flow was silent for `idle`.
    ///
    /// # Panics
    /// If one was: then nothing can be said about it.
    pub fn assert_lively(&self, idle: Duration) {
        assert!(self.silence < idle, "{self}: this machine is too busy to keep flows live");
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { flows, rounds, answered, moved, lost, late, silence, took, .. } = self;
        write!(f, "{flows} flows, {answered} answers in {rounds} rounds and {took:.2?}: ")?;
        write!(
            f,
            "{} moved, {} lost ({late} late), silent for at most {silence:.2?}",
            moved.len(),
            lost.len()
        )
    }
}
