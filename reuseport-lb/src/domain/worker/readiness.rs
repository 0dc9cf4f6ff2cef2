//! When a process becomes ready, PURE: when it is seen to wait for work, or by time. Not: `READY=1`, which counts always.

use std::time::Instant;

use super::crashes::PROVEN;
use super::events::State;
use crate::config::{Ready, ServiceConfig};

/// What is known of the readiness of a process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Readiness {
    /// When the process becomes ready by time: if `ready` is a time, or after a crash.
    pub(super) at: Option<Instant>,
    /// `at` has passed.
    due: bool,
    /// The process was seen to wait for work.
    seen: bool,
    /// The process may have said `READY=1` while no daemon listened.
    word_lost: bool,
}

impl Readiness {
    /// That of a process which an earlier daemon has started, if the worker has one.
    pub(super) fn taken_over(state: State, running: bool) -> Self {
        let word_lost = running && Self::is_open(state);
        Self { due: state == State::Loading, word_lost, ..Self::default() }
    }

    /// Whether a worker in this state can become ready.
    pub(super) fn is_open(state: State) -> bool {
        matches!(state, State::Starting | State::Loading | State::Failed)
    }

    /// Forgets what was known of the process before.
    pub(super) fn begin(&mut self) {
        *self = Self { at: self.at, ..Self::default() };
    }

    /// Notes that the process was started, after a crash of the one before if that is `suspect`; returns whether it is
    /// ready.
    pub(super) fn spawned(&mut self, suspect: bool, now: Instant, policy: &ServiceConfig) -> bool {
        match policy.ready {
            Ready::Notify | Ready::Accepting | Ready::Listening => {}
            // After a crash the process must first run for a while.
            Ready::Immediate if suspect => self.at = Some(now + PROVEN),
            Ready::Immediate => return true,
            Ready::After(time) => self.at = Some(now + time),
        }
        false
    }

    /// Notes that messages of the process may have been lost, among them `READY=1`.
    pub(super) fn lose_word(&mut self) {
        self.word_lost = true;
    }

    /// Whether it matters whether the process waits for work.
    pub(super) fn wants_sight(&self, policy: &ServiceConfig) -> bool {
        let asked = match policy.ready {
            // Its calls of listen may have been heard by the daemon before.
            Ready::Accepting | Ready::Listening => true,
            Ready::After(_) => self.due || !self.seen,
            Ready::Notify | Ready::Immediate => false,
        };
        asked || self.word_lost
    }

    /// Whether only `READY=1` makes the process ready.
    pub(super) fn awaits_word(&self, policy: &ServiceConfig) -> bool {
        policy.ready == Ready::Notify && !self.word_lost
    }

    /// Notes that the process waits for work, on `all` of its sockets or on some; returns whether it is ready.
    pub(super) fn seen_waiting(&mut self, all: bool, policy: &ServiceConfig) -> bool {
        self.seen = true;
        match policy.ready {
            Ready::After(_) => self.due || self.word_lost,
            _ => all,
        }
    }

    /// Notes that the process does not use its sockets: it is ready again when it is seen to wait on them.
    pub(super) fn unused(&mut self) {
        (self.due, self.word_lost) = (true, true);
    }

    /// Notes that the time to become ready has come; returns whether the process is ready. One that was not seen to wait
    /// for work is not.
    pub(super) fn due(&mut self, policy: &ServiceConfig) -> bool {
        self.at = None;
        self.due = true;
        self.seen || policy.ready == Ready::Immediate
    }
}
