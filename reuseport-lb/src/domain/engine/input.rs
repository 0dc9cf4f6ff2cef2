//! Inputs of an engine, and what it reports of its work.

use std::time::Duration;

use super::super::Reply;
use super::super::denied::Denied;
use super::super::listener::Listener;
use super::super::monitor::CheckKind;
use super::super::number::Number;
use super::super::observed::{CallId, CallKind, Exit, ForeignSocket, Said};
use super::super::pool::Departure;
use super::super::ports::{Cookie, ListenerId, ProcessKey};
use super::super::reconfigure::Settings;
use super::super::rollout::{RestartOptions, RolloutEvent};

/// A request to a service, or an event of one of its processes.
pub enum Input {
    /// Change the number of workers.
    Scale(Target, Reply<Result<Scaling, Denied>>),
    /// Give the worker with this number this weight; answered when buckets have moved.
    Weight(Number, u32, Reply<Result<(), Denied>>),
    /// Let the worker with this number leave, within this time (`None`: `drain_timeout`); answered when it is removed.
    Drain(Number, Option<Duration>, Reply<Result<Departure, Denied>>),
    /// Replace workers, and report the progress; a refusal is reported as an error at the end.
    Restart(RestartOptions, Box<dyn Fn(RolloutEvent)>),
    /// Make a process that asks to join a worker.
    Join(JoinRequest, Reply<Result<ProcessKey, Denied>>),
    /// Apply prepared settings, or end the preparation if there are none; answered with what has changed.
    Reconfigure(Option<Box<Reconfiguration>>, Reply<Result<String, String>>),
    /// Answer when the service decides for all of its listeners: those of other services are taken over when its
    /// workers are ready.
    Decides(Reply<()>),
    /// These are the sockets that others have open, of a service that adopts them.
    Sighted(Vec<Sighted>),
    /// Drain all workers, then end.
    Stop,
    /// Kill all workers, and end.
    Kill,
    /// An event of this process.
    Process(ProcessKey, ProcessEvent),
}

/// A socket that others have opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighted {
    /// The listener whose address it has.
    pub listener: ListenerId,
    /// Identifies the socket.
    pub cookie: Cookie,
    /// Id of the process that serves, as far as that is known.
    pub pid: i32,
}

/// An event of a worker's process.
#[derive(Clone, Debug, PartialEq)]
pub enum ProcessEvent {
    /// The process sent a message (sd_notify(3)).
    Said(Said),
    /// The process ended.
    Ended(Exit),
    /// The process was found to have opened this socket itself.
    Opened(ForeignSocket),
    /// The process, which opens its sockets itself, waits for the answer to a call.
    Called(Called),
    /// The process joined, but its connection was gone before it got the answer.
    Lost,
}

/// A call of a process that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Called {
    /// Identifies the call.
    pub id: CallId,
    /// What is called.
    pub kind: CallKind,
    /// The socket that it is about, of which the daemon has a duplicate until it has answered.
    pub socket: Cookie,
}

/// The kind of a part of the work, for measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A periodic check, or a part of one.
    Check(CheckKind),
    /// Anything else.
    Other,
}

/// The number of workers that `scale` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// This number.
    Exactly(usize),
    /// So many more than the service wants now; fewer if negative.
    More(i64),
}

/// Outcome of a change of the number of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scaling {
    /// Number of workers before, without leaving ones.
    pub before: usize,
    /// Number of workers after the change.
    pub after: usize,
}

/// The request of a process to join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinRequest {
    /// The worker's number; `None`: any free one.
    pub number: Option<usize>,
    /// Share of all buckets, over the sum of all weights.
    pub weight: u32,
    /// User id of the process.
    pub uid: u32,
    /// Whether the process opens its sockets itself.
    pub opens: bool,
}

/// Other settings, and groups that were made for them.
#[derive(Clone, Debug, PartialEq)]
pub struct Reconfiguration {
    /// The new settings.
    pub settings: Settings,
    /// Prepared groups: of new listeners, and of those that decide in another way from now on.
    pub groups: Vec<NewGroup>,
}

/// A group that was made for other settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewGroup {
    /// The listener, which may be a known one.
    pub id: ListenerId,
    /// Address as the configuration says, perhaps with port 0.
    pub asked: Listener,
}
