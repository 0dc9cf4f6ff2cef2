//! The lives of workers without a process of their own to start or to end: of one whose sockets the process of another
//! worker has bound, which leaves along with that, and of one whose sockets others have opened.

use std::time::Instant;

use super::super::events::{State, Step};
use super::super::leaving::Leaving;
use super::Life;
use crate::config::ServiceConfig;

impl Life {
    /// What is left of these steps without a process of its own.
    pub(super) fn steps_of_part(steps: Vec<Step>) -> Vec<Step> {
        let own = |step| match step {
            Step::Terminate => Some(Step::Remove),
            Step::HandOver | Step::Kill => None,
            step => Some(step),
        };
        steps.into_iter().filter_map(own).collect()
    }

    /// What is left of these steps if others have the process and the sockets: nothing is done to either.
    pub(super) fn steps_of_adopted(steps: Vec<Step>) -> Vec<Step> {
        let steps = Self::steps_of_part(steps).into_iter();
        steps.filter(|step| !matches!(step, Step::Rescue | Step::HandOn | Step::Spawn)).collect()
    }

    /// The process has ended: sockets and queues wait for the next one to bind as many.
    pub(super) fn held_as_part(&mut self, now: Instant, policy: &ServiceConfig) -> Vec<Step> {
        self.state = State::Held;
        if self.admitted { self.hold(now, policy) } else { vec![Step::Remove] }
    }

    /// The worker with the process leaves: it waits for the queues and flows of both.
    pub(super) fn leave_along(&mut self, now: Instant, policy: &ServiceConfig) -> Vec<Step> {
        self.stop_serving();
        if !self.running {
            return vec![Step::Withdraw, Step::Remove];
        }
        self.leaving = Some(Leaving::along(now, policy.drain_timeout));
        vec![Step::Withdraw]
    }

    /// Flows of the worker with the process, and so of this one, are not waited for any longer.
    pub(super) fn cut_along(&mut self) -> Vec<Step> {
        self.leaving.iter_mut().for_each(Leaving::cut);
        Vec::new()
    }
}
