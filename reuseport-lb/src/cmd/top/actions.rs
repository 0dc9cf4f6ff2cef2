//! What `top` asks the daemon to do, each in a thread of its own, with a line for each step.

use reuseport_lb_client::api::{Drain, Progress, Restart, Wait, Weight};
use reuseport_lb_client::control::{ControlClient, ControlError};

use super::app::Action;
use crate::cmd::{drain, render, restart};
use crate::printable::inline;

/// What is told of an action.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) text: String,
    /// The action has ended.
    pub(super) is_last: bool,
}

/// Does it, and tells of it until it has ended, or nobody listens.
pub(super) fn act(client: &ControlClient, action: &Action, tell: impl Fn(Told) -> bool) {
    let say = |text: &str, is_last| {
        // Steps are lines; here they are parts of one.
        tell(Told { text: inline(text.trim_end()).into_owned(), is_last })
    };
    let last = match action {
        Action::Drain { worker } => leave(client, worker, &say),
        Action::Restart { worker } => replace(client, worker, &say),
        Action::Weigh { worker, weight } => client
            .weight(worker, Weight { weight: *weight })
            .map(|Weight { weight }| format!("{worker}: weight {weight}")),
    };
    let (Action::Drain { worker } | Action::Restart { worker } | Action::Weigh { worker, .. }) = action;
    say(&last.unwrap_or_else(|error| format!("{worker}: {error}")), true);
}

type Say<'a> = &'a dyn Fn(&str, bool) -> bool;

fn leave(client: &ControlClient, worker: &str, say: Say<'_>) -> Result<String, ControlError> {
    for line in client.drain_and_wait(worker, &Drain::default())? {
        match line?.value {
            Wait::Waiting(waiting) => drop(say(&render::waiting(worker, &waiting), false)),
            Wait::Refused(body) => return Ok(format!("{worker}: {}", body.error)),
            Wait::Done(drained) => return Ok(drain::told(drained)),
        }
    }
    Ok(format!("{worker}: the daemon ended during the drain"))
}

fn replace(client: &ControlClient, worker: &str, say: Say<'_>) -> Result<String, ControlError> {
    for line in client.restart(worker, &Restart::default())? {
        match line?.value {
            Progress::Done { error: Some(error), .. } => return Ok(format!("{worker}: {error}")),
            progress @ Progress::Done { error: None, .. } => return Ok(restart::render(worker, &progress)),
            progress => drop(say(&restart::render(worker, &progress), false)),
        }
    }
    Ok(format!("{worker}: the daemon ended during the restart"))
}
