//! What a service is asked to do. Not: how it does that.

use std::time::Duration;

use anyhow::Result;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::{Drained, Prepare, Progress, Report, Scaled, Target, Wish};
use crate::join;
use crate::trace::Decision;

/// What a service is asked to do.
pub enum Command {
    /// Tell everything.
    Status(oneshot::Sender<Result<Report>>),
    /// Have this many workers.
    Scale(Target, oneshot::Sender<Result<Scaled, String>>),
    /// Give the worker with this number this weight.
    Weight(usize, u32, oneshot::Sender<Result<(), String>>),
    /// Let the worker with this number leave, with so much patience; answered when it is gone.
    Drain(usize, Option<Duration>, oneshot::Sender<Result<Drained, String>>),
    /// Replace workers, and tell how it goes.
    Restart(Wish, mpsc::UnboundedSender<Progress>),
    /// Let a process in.
    Join(join::Request),
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
    Trace(oneshot::Sender<broadcast::Receiver<Decision>>),
    /// A subscriber of [`Command::Trace`] is gone.
    TraceEnded,
    /// Let nothing new in, let the workers finish, end.
    Stop,
    /// End now.
    Kill,
    /// End, and leave everything to the next daemon.
    Keep,
}
