//! What an engine hears, and what it says of its work.

use std::time::Duration;

use super::super::Reply;
use super::super::denied::Denied;
use super::super::listener::Listener;
use super::super::monitor::Check;
use super::super::observed::{Exit, ForeignSocket, Said};
use super::super::pool::Departure;
use super::super::ports::{ListenerId, ProcessKey};
use super::super::reconfigure::Settings;
use super::super::rollout::{RestartOptions, RolloutEvent};

/// What a service is told, or asked to do.
pub enum Input {
    /// Have this many workers.
    Scale(Target, Reply<Result<Scaling, Denied>>),
    /// Give the worker with this number this weight.
    Weight(usize, u32, Reply<Result<(), Denied>>),
    /// Let the worker with this number leave, with so much patience; answered when nothing of it is left.
    Drain(usize, Option<Duration>, Reply<Result<Departure, Denied>>),
    /// Replace workers, and tell how it goes; what is refused is an error at the end.
    Restart(RestartOptions, Box<dyn Fn(RolloutEvent)>),
    /// Let a process in that has come by itself.
    Join(JoinRequest, Reply<Result<ProcessKey, Denied>>),
    /// Other settings, for which everything is prepared, or none; answered, with what changed, when that is done.
    Reconfigure(Option<Box<Reconfiguration>>, Reply<Result<String, String>>),
    /// Tell when the service decides for all of its listeners: those that others had are taken over when its workers
    /// are ready.
    Decides(Reply<()>),
    /// Let nothing new in, let the workers finish, end.
    Stop,
    /// End now.
    Kill,
    /// Something happened to a process.
    Process(ProcessKey, ProcessEvent),
}

/// What happened to a process.
#[derive(Clone, Debug, PartialEq)]
pub enum ProcessEvent {
    /// It said something.
    Said(Said),
    /// It ended.
    Ended(Exit),
    /// It was found out what it opened by itself.
    Opened(ForeignSocket),
    /// It joined, but was not there any more to hear it.
    Lost,
}

/// What a part of the work was, for those who measure it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// One look, or a part of one.
    Check(Check),
    /// Anything else.
    Other,
}

/// How many workers a service shall have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// So many.
    Exactly(usize),
    /// So many more than are wanted now, or fewer.
    More(i64),
}

/// What a change of the number of workers has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scaling {
    /// Workers before, without those that are leaving.
    pub before: usize,
    /// Workers to come.
    pub after: usize,
}

/// A process that wants to be a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinRequest {
    /// Which worker; `None`: any.
    pub number: Option<usize>,
    /// Its part of all buckets.
    pub weight: u32,
    /// Of its user.
    pub uid: u32,
}

/// Other settings, and groups that were made for them.
#[derive(Clone, Debug, PartialEq)]
pub struct Reconfiguration {
    /// From now on.
    pub settings: Settings,
    /// Of new listeners, and of listeners that decide in another way from now on.
    pub groups: Vec<NewGroup>,
}

/// A group that was made for other settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewGroup {
    /// Of which listener; perhaps of one that is there.
    pub id: ListenerId,
    /// As the configuration says.
    pub asked: Listener,
}
