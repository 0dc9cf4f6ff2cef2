//! The commands that a service takes, and their queue. Not: how they are carried out (`service/mod.rs`).

use std::collections::VecDeque;
use std::time::Duration;

use reuseport_lb_client::api::{
    Drained, Explainable, Explained, Progress, Refusal, Requester, Restart, Scale, Scaled, TracedDecision,
};
use tokio::sync::{broadcast, mpsc, oneshot};

use super::direction::{Directed, DirectedAt};
use super::joining::Request;
use super::report::ServiceReport;
use crate::config;
use crate::domain::Reply;
use crate::domain::denied::Denied;
use crate::domain::engine::{Departure, RestartOptions, RolloutEvent, Scaling, TRIAL, Target};
use crate::domain::incident::Asker;
use crate::domain::listener::Listener;
use crate::domain::number::Number;

impl From<Scaling> for Scaled {
    fn from(Scaling { before, after }: Scaling) -> Self {
        Self { before, after }
    }
}

impl From<Departure> for Drained {
    fn from(departure: Departure) -> Self {
        let Departure { worker, took, queue, handed_over, flows, flows_cut, connections, end } = departure;
        Self { worker, seconds: took.as_secs_f64(), queue, handed_over, flows, flows_cut, connections, end }
    }
}

impl From<RolloutEvent> for Progress {
    fn from(event: RolloutEvent) -> Self {
        match event {
            RolloutEvent::Stopping { worker } => Self::Stopping { worker },
            RolloutEvent::Starting { worker, pid } => Self::Starting { worker, pid },
            RolloutEvent::Ready { worker } => Self::Ready { worker },
            RolloutEvent::Replaced { worker } => Self::Replaced { worker },
            RolloutEvent::Done { replaced, error } => Self::Done { replaced, error },
        }
    }
}

impl From<Requester> for Asker {
    fn from(requester: Requester) -> Self {
        match requester {
            Requester::Process { pid, uid, command } => Self::Process { pid, uid, command },
            Requester::Signal { signal } => Self::Signal(signal),
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

/// A reply that sends the engine's outcome to `answer`; dropped if the client has gone away.
pub(super) fn answering<T: 'static, U: From<T> + 'static>(
    answer: oneshot::Sender<Result<U, Refusal>>,
) -> Reply<Result<T, Denied>> {
    Reply::new(move |outcome: Result<T, Denied>| {
        drop(answer.send(outcome.map(U::from).map_err(Refusal::from)));
    })
}

/// New settings for a service.
pub struct Prepare {
    /// The settings as the configuration file says.
    pub config: config::ServiceConfig,
    /// Change nothing if the same was configured before: what `scale` and `drain` did since then stays.
    pub if_changed: bool,
}

/// Flag of a bucket's owner: live flows stay with another worker.
pub const MOVING: u16 = 0x8000;

/// A request to a service, and who asks.
pub struct Asked {
    /// The request.
    pub command: Command,
    /// Who asks; `None`: the daemon by itself.
    pub by: Option<Requester>,
}

/// A request to a service; answers go into the channels that it carries.
pub enum Command {
    /// Report the service's state.
    Status(oneshot::Sender<Result<ServiceReport, Refusal>>),
    /// Tell the slot that owns each bucket, with [`MOVING`].
    Buckets(oneshot::Sender<Result<Vec<u16>, Refusal>>),
    /// Have this many workers.
    Scale(Target, oneshot::Sender<Result<Scaled, Refusal>>),
    /// Give the worker with this number this weight.
    Weight(Number, u32, oneshot::Sender<Result<(), Refusal>>),
    /// Drain the worker with this number; after the given time it is ended with what it still has. Answered when the
    /// worker is gone.
    Drain(Number, Option<Duration>, oneshot::Sender<Result<Drained, Refusal>>),
    /// Replace workers, and tell how it goes.
    Restart(RestartOptions, mpsc::UnboundedSender<Progress>),
    /// Make a process a worker.
    Join(Request),
    /// Make everything that new settings need, so that [`Command::Commit`] cannot fail for lack of it.
    Prepare(Box<Prepare>, oneshot::Sender<Result<(), String>>),
    /// Apply what was prepared; answered, with what changed, when it is done.
    Commit(oneshot::Sender<Result<String, String>>),
    /// Answer what [`Command::Commit`] would change.
    Preview(oneshot::Sender<String>),
    /// Forget what was prepared.
    Abort,
    /// Answer when the service decides for all of its listeners: those of other services are taken over when its
    /// workers are ready.
    Decides(oneshot::Sender<()>),
    /// Say where a client's next connection or datagram would go, or one with a key, to this listener or to any.
    Explain(Explainable, Option<Listener>, oneshot::Sender<Result<Explained, Refusal>>),
    /// Begin a connection to the worker with this number, at this listener or its first one.
    Direct(Number, Option<Listener>, oneshot::Sender<Result<Directed, Refusal>>),
    /// Say whether such a connection has come to its worker; see `directed.rs`.
    Directed(DirectedAt, oneshot::Sender<Result<Option<bool>, Refusal>>),
    /// Such a connection was made, or is over.
    Undirect(DirectedAt),
    /// Report single decisions.
    Trace(oneshot::Sender<broadcast::Receiver<TracedDecision>>),
    /// A subscriber of [`Command::Trace`] is gone.
    TraceEnded,
    /// The daemon is to end: [`Command::Stop`] after this time, or after `lame_duck`.
    Retire(Option<Duration>),
    /// Drain all workers, then end.
    Stop,
    /// Kill all workers and end.
    Kill,
    /// End, and leave everything to the next daemon.
    Keep,
}

impl Command {
    /// The command for a request to scale. Refused unless exactly one of `workers` and `add` is there.
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

    /// The command for a request to replace all workers, or `only` the one with this number. Refused if `parallel`
    /// is 0.
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

/// The queue of commands, in their order; but status requests can be taken out between the parts of a long step.
pub(super) struct Commands {
    receiver: mpsc::UnboundedReceiver<Asked>,
    later: VecDeque<Asked>,
}

impl Commands {
    pub(super) fn new(receiver: mpsc::UnboundedReceiver<Asked>) -> Self {
        Self { receiver, later: VecDeque::new() }
    }

    /// The next command; `None` if all senders are gone. Cancelling the future loses no command.
    pub(super) async fn next(&mut self) -> Option<Asked> {
        match self.later.pop_front() {
            Some(command) => Some(command),
            None => self.receiver.recv().await,
        }
    }

    /// Takes the status requests out of the queue; other commands wait.
    pub(super) fn questions(&mut self) -> Vec<oneshot::Sender<Result<ServiceReport, Refusal>>> {
        let mut asked = Vec::new();
        while let Ok(Asked { command, by }) = self.receiver.try_recv() {
            match command {
                // A report is not worth making for a client that has given up.
                Command::Status(answer) if answer.is_closed() => {}
                Command::Status(answer) => asked.push(answer),
                command => self.later.push_back(Asked { command, by }),
            }
        }
        asked
    }
}
