//! Whether a service is up, PURE: all of its workers have been started. Before that the end of one is a failed start;
//! later it is a crash like any other.

use std::time::{Duration, Instant};

use super::pool::{Pool, Worker};
use super::worker::State;
use crate::config::{Ready, Service};

/// A worker that counts as ready at once must also run for this long before the start is a success.
const SETTLING: Duration = Duration::from_secs(1);

/// After this time without `READY=1` the log says what may be wrong.
pub(super) const NAG_AFTER: Duration = Duration::from_secs(5);

/// How far a service is.
#[derive(Debug)]
pub(super) enum Startup {
    /// Its workers are being started.
    Starting {
        /// When the log says that nobody has said `READY=1` yet.
        nag_at: Option<Instant>,
        /// What went wrong meanwhile.
        failure: Option<String>,
    },
    /// It is up, or something else was done with it meanwhile.
    Up,
}

impl Startup {
    pub(super) fn new(config: &Service, now: Instant) -> Self {
        Self::Starting { nag_at: (config.ready == Ready::Notify).then(|| now + NAG_AFTER), failure: None }
    }

    pub(super) fn is_over(&self) -> bool {
        !matches!(self, Self::Starting { .. })
    }

    /// Whether it is to be said now what may be wrong.
    pub(super) fn nags(&mut self, now: Instant) -> bool {
        match self {
            Self::Starting { nag_at, .. } => nag_at.take_if(|at| *at <= now).is_some(),
            _ => false,
        }
    }

    /// An error before the service is up ends the start.
    pub(super) fn fail(&mut self, service: &str, why: &str) {
        if let Self::Starting { failure, .. } = self {
            let hint = "its own output, if any, is above; `ready` says when a worker counts as started";
            *failure = Some(format!("service {service} does not start: {why} ({hint})"));
        }
    }

    /// What went wrong since this was last asked.
    pub(super) fn take_failure(&mut self) -> Option<String> {
        match self {
            Self::Starting { failure, .. } => failure.take(),
            Self::Up => None,
        }
    }

    /// Whether a worker has never served: its end is then part of the start, not a crash.
    pub(super) fn is_first_of(worker: &Worker, config: &Service, now: Instant) -> bool {
        let settles = |since| config.ready == Ready::Immediate && now - since < SETTLING;
        worker.is_started() && worker.life.restarts() == 0 && worker.life.ready_since().is_none_or(settles)
    }

    /// Whether all workers have been started.
    pub(super) fn is_complete(pool: &Pool, config: &Service, now: Instant) -> bool {
        pool.started().all(|worker| match (config.ready, worker.life.ready_since()) {
            (_, None) => false,
            (Ready::Immediate, Some(since)) => now - since >= SETTLING,
            _ => true,
        })
    }

    /// When to look again.
    pub(super) fn deadline(&self, pool: &Pool, config: &Service, now: Instant) -> Option<Instant> {
        let Self::Starting { nag_at, .. } = self else { return None };
        let settled = if config.ready == Ready::Immediate {
            let last = pool.started().filter_map(|worker| worker.life.ready_since()).max();
            // A moment that has passed without settling is nothing to wait for.
            last.map(|at| at + SETTLING).filter(|at| *at > now)
        } else {
            None
        };
        [*nag_at, settled].into_iter().flatten().min()
    }

    /// Those who have not said anything yet.
    pub(super) fn silent(pool: &Pool) -> impl Iterator<Item = &Worker> {
        pool.iter().filter(|worker| worker.life.state() == State::Starting)
    }
}
