//! Whether a service is up, PURE: all of its workers have become ready. Before that the end of a worker is a failed
//! start of the service; later it is a crash.

use std::time::{Duration, Instant};

use super::pool::{Pool, Worker};
use super::worker::State;
use crate::config::{Ready, ServiceConfig};

/// How long workers with `ready = "immediate"` must run before the start of the service is a success.
const SETTLING: Duration = Duration::from_secs(1);

/// After this time without `READY=1` a line is logged about what may be wrong.
pub(super) const NAG_AFTER: Duration = Duration::from_secs(5);

/// Progress of a service's start.
#[derive(Debug)]
pub(super) enum Startup {
    /// Workers are being started.
    Starting {
        /// When missing `READY=1` are logged.
        nag_at: Option<Instant>,
        /// The last error since [`Startup::take_failure`].
        failure: Option<String>,
    },
    /// The service is up, or was scaled, restarted or ended during its start.
    Up,
}

impl Startup {
    pub(super) fn new(config: &ServiceConfig, now: Instant) -> Self {
        Self::Starting { nag_at: (config.ready == Ready::Notify).then(|| now + NAG_AFTER), failure: None }
    }

    pub(super) fn is_over(&self) -> bool {
        !matches!(self, Self::Starting { .. })
    }

    /// Whether missing `READY=1` are to be logged now; true once.
    pub(super) fn nags(&mut self, now: Instant) -> bool {
        match self {
            Self::Starting { nag_at, .. } => nag_at.take_if(|at| *at <= now).is_some(),
            _ => false,
        }
    }

    /// Notes an error, which ends the start unless the service is up.
    pub(super) fn fail(&mut self, service: &str, why: &str) {
        if let Self::Starting { failure, .. } = self {
            let hint = "its own output, if any, is above; `ready` says when a worker counts as started";
            *failure = Some(format!("service {service} does not start: {why} ({hint})"));
        }
    }

    /// The last error since the last call.
    pub(super) fn take_failure(&mut self) -> Option<String> {
        match self {
            Self::Starting { failure, .. } => failure.take(),
            Self::Up => None,
        }
    }

    /// Whether a worker has never served, so that its end is a failed start.
    pub(super) fn is_first_of(worker: &Worker, config: &ServiceConfig, now: Instant) -> bool {
        let settles = |since| config.ready == Ready::Immediate && now - since < SETTLING;
        worker.is_started() && worker.life.restarts() == 0 && worker.life.ready_since().is_none_or(settles)
    }

    /// Whether all workers have become ready.
    pub(super) fn is_complete(pool: &Pool, config: &ServiceConfig, now: Instant) -> bool {
        pool.started().all(|worker| match (config.ready, worker.life.ready_since()) {
            (_, None) => false,
            (Ready::Immediate, Some(since)) => now - since >= SETTLING,
            _ => true,
        })
    }

    /// When [`Startup::nags`] or [`Startup::is_complete`] may change by the passing of time alone.
    pub(super) fn deadline(&self, pool: &Pool, config: &ServiceConfig, now: Instant) -> Option<Instant> {
        let Self::Starting { nag_at, .. } = self else { return None };
        let settled = if config.ready == Ready::Immediate {
            let last = pool.started().filter_map(|worker| worker.life.ready_since()).max();
            // A time that has passed without completing the start is nothing to wait for.
            last.map(|at| at + SETTLING).filter(|at| *at > now)
        } else {
            None
        };
        [*nag_at, settled].into_iter().flatten().min()
    }

    /// Workers that have not become ready yet.
    pub(super) fn silent(pool: &Pool) -> impl Iterator<Item = &Worker> {
        pool.iter().filter(|worker| worker.life.state() == State::Starting)
    }
}
