//! What a service is asked to do. Not: how it does that.

use std::collections::VecDeque;
use std::time::Duration;

use reuseport_lb_client::api::{Drained, Progress, Refusal, Restart, Scale, Scaled, TracedDecision};
use tokio::sync::{broadcast, mpsc, oneshot};

use super::joining::Request;
use super::report::ServiceReport;
use crate::config;
use crate::domain::Reply;
use crate::domain::denied::Denied;
use crate::domain::engine::{Departure, RestartOptions, RolloutEvent, Scaling, TRIAL, Target};

impl From<Scaling> for Scaled {
    fn from(Scaling { before, after }: Scaling) -> Self {
        Self { before, after }
    }
}

impl From<Departure> for Drained {
    fn from(departure: Departure) -> Self {
        let Departure { worker, took, queue, handed_over, flows, flows_cut, end } = departure;
        Self { worker, seconds: took.as_secs_f64(), queue, handed_over, flows, flows_cut, end }
    }
}

impl From<RolloutEvent> for Progress {
    fn from(event: RolloutEvent) -> Self {
        match event {
            RolloutEvent::Starting { worker, pid } => Self::Starting { worker, pid },
            RolloutEvent::Ready { worker } => Self::Ready { worker },
            RolloutEvent::Replaced { worker } => Self::Replaced { worker },
            RolloutEvent::Done { replaced, error } => Self::Done { replaced, error },
        }
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        if denied.is_unknown() {
            Self::Unknown(denied.to_string())
        } else {
            Self::Impossible(denied.to_string())
        }
    }
}

/// What an engine answers goes there; whoever asked may have gone away.
pub(super) fn answering<T: 'static, U: From<T> + 'static>(
    answer: oneshot::Sender<Result<U, Refusal>>,
) -> Reply<Result<T, Denied>> {
    Reply::new(move |outcome: Result<T, Denied>| {
        drop(answer.send(outcome.map(U::from).map_err(Refusal::from)));
    })
}

/// Other settings.
pub struct Prepare {
    /// As configured.
    pub config: config::ServiceConfig,
    /// Only if that is not what was configured before: what `scale` and `drain` did then stays.
    pub if_changed: bool,
}

/// What a service is asked to do.
pub enum Command {
    /// Tell everything.
    Status(oneshot::Sender<Result<ServiceReport, Refusal>>),
    /// Have this many workers.
    Scale(Target, oneshot::Sender<Result<Scaled, Refusal>>),
    /// Give the worker with this number this weight.
    Weight(usize, u32, oneshot::Sender<Result<(), Refusal>>),
    /// Let the worker with this number leave, with so much patience; answered when it is gone.
    Drain(usize, Option<Duration>, oneshot::Sender<Result<Drained, Refusal>>),
    /// Replace workers, and tell how it goes.
    Restart(RestartOptions, mpsc::UnboundedSender<Progress>),
    /// Let a process in.
    Join(Request),
    /// Make ready for other settings, so that nothing can fail any more.
    Prepare(Box<Prepare>, oneshot::Sender<Result<(), String>>),
    /// Apply what was prepared; answered, with what changed, when it is done.
    Commit(oneshot::Sender<Result<String, String>>),
    /// Forget what was prepared.
    Abort,
    /// Tell when the service decides for all of its listeners: those that others had are taken over when
    /// its workers are ready.
    Decides(oneshot::Sender<()>),
    /// Report single decisions.
    Trace(oneshot::Sender<broadcast::Receiver<TracedDecision>>),
    /// A subscriber of [`Command::Trace`] is gone.
    TraceEnded,
    /// Let nothing new in, let the workers finish, end.
    Stop,
    /// End now.
    Kill,
    /// End, and leave everything to the next daemon.
    Keep,
}

impl Command {
    /// Has as many workers as `scale` says.
    pub fn scale(scale: &Scale, answer: oneshot::Sender<Result<Scaled, Refusal>>) -> Result<Self, Refusal> {
        let target = match (scale.workers, scale.add) {
            (Some(workers), None) => Target::Exactly(workers),
            (None, Some(add)) => Target::More(add),
            (Some(_), Some(_)) => {
                return Err(Refusal::Malformed("`workers` and `add` exclude each other".into()));
            }
            (None, None) => return Err(Refusal::Malformed("missing field `workers`, or `add`".into())),
        };
        Ok(Self::Scale(target, answer))
    }

    /// Replaces all workers, or the one with this number, as `restart` says.
    pub fn restart(
        only: Option<usize>,
        restart: &Restart,
        progress: mpsc::UnboundedSender<Progress>,
    ) -> Result<Self, Refusal> {
        let Restart { parallel, timeout_ms, trial_ms } = *restart;
        if parallel == 0 {
            return Err(Refusal::Malformed("`parallel` must be at least 1".into()));
        }
        let timeout = timeout_ms.map(Duration::from_millis);
        let trial = trial_ms.map_or(TRIAL, Duration::from_millis);
        Ok(Self::Restart(RestartOptions { only, parallel, timeout, trial }, progress))
    }
}

/// What is to be done, in its order; but questions are answered between the parts of a long step as well.
pub(super) struct Commands {
    receiver: mpsc::UnboundedReceiver<Command>,
    later: VecDeque<Command>,
}

impl Commands {
    pub(super) fn new(receiver: mpsc::UnboundedReceiver<Command>) -> Self {
        Self { receiver, later: VecDeque::new() }
    }

    /// The next one; `None` if there will be none. May be cancelled.
    pub(super) async fn next(&mut self) -> Option<Command> {
        match self.later.pop_front() {
            Some(command) => Some(command),
            None => self.receiver.recv().await,
        }
    }

    /// Who asks how it is; other commands wait.
    pub(super) fn questions(&mut self) -> Vec<oneshot::Sender<Result<ServiceReport, Refusal>>> {
        let mut asked = Vec::new();
        while let Ok(command) = self.receiver.try_recv() {
            match command {
                // It may have been too late already.
                Command::Status(answer) if answer.is_closed() => {}
                Command::Status(answer) => asked.push(answer),
                other => self.later.push_back(other),
            }
        }
        asked
    }
}
