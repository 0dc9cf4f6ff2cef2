//! The life of a worker from one daemon to the next.

use std::time::Instant;

use super::super::crashes::Crashes;
use super::super::events::{Left, Origin, State};
use super::super::leaving::Leaving;
use super::super::readiness::Readiness;
use super::Life;
use crate::config::ServiceConfig;

impl Life {
    /// Goes on with the life of a worker that an earlier daemon left.
    #[must_use]
    pub fn taken_over(left: &Left, now: Instant, policy: &ServiceConfig) -> Self {
        let Left { origin, state, admitted, running, restarts, kills, told, returns, opens } = *left;
        let leaving = match (state, told || returns) {
            (State::Draining, _) if origin == Origin::Bound => {
                Some(Leaving::along(now, policy.drain_timeout))
            }
            (State::Draining, true) => {
                Some(Leaving::by_itself(now, policy.drain_timeout, origin).returning(returns))
            }
            (State::Draining, false) => Some(Leaving::asked(now, policy.drain_timeout)),
            _ => None,
        };
        Self {
            state,
            opens,
            admitted,
            running,
            crashes: Crashes::of(restarts, kills),
            ready_since: matches!(state, State::Ready | State::Draining).then_some(now),
            restart_at: (!running && origin == Origin::Started).then_some(now),
            hold_until: (admitted && state != State::Ready).then(|| now + policy.hold_timeout),
            leaving,
            readiness: Readiness::taken_over(state, running),
            ..Self::new(origin)
        }
    }

    /// What is saved for the next daemon.
    #[must_use]
    pub fn left(&self) -> Left {
        Left {
            origin: self.origin,
            state: self.state,
            admitted: self.admitted,
            running: self.running,
            restarts: self.crashes.restarts(),
            kills: self.crashes.kills(),
            told: self.told(),
            returns: self.returns(),
            opens: self.opens,
        }
    }
}
