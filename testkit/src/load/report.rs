//! What became of the requests of a load.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::MOST;
use crate::client::{Answer, Tally};

/// What became of the requests of a load.
#[derive(Clone, Debug)]
pub struct Report {
    /// Requests on new connections, with those that opened a kept one: as many as were answered or
    /// failed.
    pub requests: u64,
    /// The answered ones of them, by worker.
    pub answered: Tally,
    /// How long these took, from before the connection to the whole answer.
    pub latencies: Latencies,
    /// Those of them that took longer than [`SLOW`].
    pub slow: Vec<Slow>,
    /// Further requests on kept connections that were answered.
    pub kept_messages: u64,
    /// How long these took.
    pub kept_latencies: Latencies,
    /// Requests that failed, of both kinds, in their order.
    pub failed: Vec<Failure>,
    /// Kept connections that the server ended as HTTP allows, each followed by a new one.
    pub ended: Vec<Ended>,
    /// How long it went on.
    pub lasted: Duration,
    begun: Instant,
    kept: usize,
}

/// A request on a new connection that takes longer is slow.
pub const SLOW: Duration = Duration::from_millis(200);

#[derive(Clone, Debug, PartialEq)]
pub struct Slow {
    /// The client's address.
    pub local: Option<SocketAddr>,
    /// How long it took.
    pub took: Duration,
    /// The process that answered.
    pub pid: i32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// When the request began.
    pub started: Instant,
    /// When it failed.
    pub at: Instant,
    /// What it was about to do.
    pub stage: Stage,
    /// The kind of the error; `TimedOut` when it took too long.
    pub kind: io::ErrorKind,
    pub text: String,
    /// The client's address, once it had one.
    pub local: Option<SocketAddr>,
    /// Of a kept connection: the worker that had answered on it before, with its process.
    pub kept: Option<(String, i32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Opening the connection.
    Connect,
    /// Sending the request.
    Send,
    /// Waiting for the answer or the rest of it.
    Answer,
    /// The answer came and was wrong: not the expected words, another process than before, or more
    /// than was asked for.
    Wrong,
}

/// A kept connection that the server ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// The worker that had answered on it.
    pub worker: String,
    pub pid: i32,
    /// When the client saw it.
    pub at: Instant,
    /// In which way.
    pub how: Ending,
    /// How long a request had been waiting; nothing unless it raced.
    pub waited: Duration,
}

/// The ways in which a server ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// Closed between two requests.
    Idle,
    /// Announced in the last answer.
    Said,
    /// Closed or reset with a request on the way and no byte of an answer: clients may ask again.
    Raced,
    /// Reset between two requests, which is not what a server does that ends in order.
    Reset,
}

impl Report {
    pub(super) fn new(kept: usize) -> Self {
        Self {
            requests: 0,
            answered: Tally::new(),
            latencies: Latencies::default(),
            slow: Vec::new(),
            kept_messages: 0,
            kept_latencies: Latencies::default(),
            failed: Vec::new(),
            ended: Vec::new(),
            lasted: Duration::ZERO,
            begun: Instant::now(),
            kept,
        }
    }

    /// Requests on new connections per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.requests as f64 / self.lasted.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// The mean time from one answer to the next on a kept connection, as it really was.
    #[must_use]
    pub fn pace(&self) -> Duration {
        if self.kept_messages == 0 {
            return Duration::ZERO;
        }
        self.lasted.mul_f64(self.kept as f64 / self.kept_messages as f64)
    }

    /// How long a request on a new connection took that was slower than this part of all.
    #[must_use]
    pub fn quantile(&self, part: f64) -> Duration {
        self.latencies.quantile(part)
    }

    /// The longest time that an answer took, on a new connection or a kept one.
    #[must_use]
    pub fn slowest(&self) -> Duration {
        self.latencies.slowest().max(self.kept_latencies.slowest())
    }

    /// Requests that failed in a way that the test does not expect.
    #[must_use]
    pub fn failed_except(&self, expected: impl Fn(&Failure) -> bool) -> Vec<&Failure> {
        self.failed.iter().filter(|failure| !expected(failure)).collect()
    }

    /// A line for the test's output.
    #[must_use]
    pub fn summary(&self) -> String {
        self.to_string()
    }

    pub(super) fn answered(&mut self, answer: &Answer, local: Option<SocketAddr>, took: Duration) {
        if took > SLOW && self.slow.len() < MOST {
            self.slow.push(Slow { local, took, pid: answer.pid });
        }
        self.requests += 1;
        self.latencies.add(took);
        // Without a copy of the name for each answer.
        match self.answered.get_mut(&answer.worker) {
            Some(count) => *count += 1,
            None => drop(self.answered.insert(answer.worker.clone(), 1)),
        }
    }

    pub(super) fn refused(&mut self, failure: Failure) {
        self.requests += 1;
        self.failed.push(failure);
    }

    pub(super) fn lasted(&self) -> Duration {
        self.begun.elapsed()
    }

    pub(super) fn is_full(&self) -> bool {
        self.failed.len() >= MOST || self.ended.len() >= MOST
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let times = |latencies: &Latencies| {
            let [half, most, max] =
                [latencies.quantile(0.5), latencies.quantile(0.99), latencies.slowest()].map(milliseconds);
            format!("p50 {half} p99 {most} max {max} ms")
        };
        write!(
            f,
            "{} requests, {:.0}/s, {}; {} messages on {} kept, every {} ms, {}; {} failed, {} ended",
            self.requests,
            self.rate(),
            times(&self.latencies),
            self.kept_messages,
            self.kept,
            milliseconds(self.pace()),
            times(&self.kept_latencies),
            self.failed.len(),
            self.ended.len()
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stage, text, .. } = self;
        write!(f, "{stage}: {text} after {} ms", milliseconds(self.at - self.started))?;
        if let Some(local) = self.local {
            write!(f, ", from {local}")?;
        }
        if let Some((worker, pid)) = &self.kept {
            write!(f, ", kept by {worker} with pid {pid}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Send => "send",
            Self::Answer => "answer",
            Self::Wrong => "wrong",
        })
    }
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1000.0)
}

/// Times counted in classes: 32 for each power of two of nanoseconds, so that a quantile is at most
/// 3 % too long.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    classes: Vec<u64>,
    count: u64,
    slowest: Duration,
}

impl Latencies {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest one, exactly.
    #[must_use]
    pub fn slowest(&self) -> Duration {
        self.slowest
    }

    /// The time that this part of all did not exceed, such as 0.99; nothing if there are none.
    #[must_use]
    pub fn quantile(&self, part: f64) -> Duration {
        let wanted = (part * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (class, count) in self.classes.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return longest_of(class).min(self.slowest);
            }
        }
        self.slowest
    }

    pub(super) fn add(&mut self, took: Duration) {
        let class = class_of(took);
        if class >= self.classes.len() {
            self.classes.resize(class + 1, 0);
        }
        self.classes[class] += 1;
        self.count += 1;
        self.slowest = self.slowest.max(took);
    }
}

/// Below 64 ns each has its own class; then the highest six bits tell.
fn class_of(took: Duration) -> usize {
    let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    let shift = nanos.checked_ilog2().unwrap_or(0).saturating_sub(5);
    shift as usize * 32 + (nanos >> shift) as usize
}

/// The longest time of a class.
fn longest_of(class: usize) -> Duration {
    let shift = (class / 32).saturating_sub(1);
    let highest = (class - shift * 32) as u64;
    Duration::from_nanos((((u128::from(highest) + 1) << shift) - 1) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_follow_each_other_without_gaps() {
        for class in 0..1_000 {
            let longest = longest_of(class);
            assert_eq!(class_of(longest), class);
            assert_eq!(class_of(longest + Duration::from_nanos(1)), class + 1);
        }
        assert_eq!(class_of(Duration::MAX), class_of(Duration::from_nanos(u64::MAX)));
    }

    #[test]
    fn quantiles_are_right_to_three_percent() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile(0.5), Duration::ZERO);
        (1..=10_000).for_each(|micros| latencies.add(Duration::from_micros(micros)));
        for part in [0.0001, 0.1, 0.5, 0.99, 1.0] {
            let ratio = latencies.quantile(part).as_secs_f64() / (part * 0.01);
            assert!((1.0..1.04).contains(&ratio), "{part}: {ratio}");
        }
        assert_eq!(latencies.quantile(1.0), latencies.slowest());
        assert_eq!(latencies.count(), 10_000);
    }
}
