//! A process that asks to be a worker, and what it gets. Not: who may (`domain/engine/joining.rs`), nor what is said on
//! `join.sock` (`api/join`).

use std::path::PathBuf;
use std::time::Duration;

use socket2::Socket;
use tokio::sync::oneshot;

use crate::kernel::fd_passing::Peer;

/// A process that wants to be a worker.
#[derive(Debug)]
pub struct Request {
    /// Of which service.
    pub service: String,
    /// Which worker of it; `None`: any.
    pub number: Option<usize>,
    /// Up to [`crate::config::MAX_WEIGHT`].
    pub weight: u32,
    /// Who asks.
    pub peer: Peer,
    /// What it is told; the text of an error names the fix.
    pub answer: oneshot::Sender<Result<Ticket, String>>,
    /// Says that the answer has been sent; ends without a word if it could not be: then the place is
    /// nobody's, though the process may live on.
    pub delivered: oneshot::Receiver<()>,
}

/// The place of a worker that has joined.
#[derive(Debug)]
pub struct Ticket {
    /// Its name, like `web/7`.
    pub worker: String,
    /// The socket that hears its `READY=1`.
    pub notify: PathBuf,
    /// The names of its sockets.
    pub names: Vec<String>,
    /// Its sockets, in the order of the service's listeners.
    pub sockets: Vec<Socket>,
    /// It has to say `WATCHDOG=1` more often than this.
    pub watchdog: Option<Duration>,
}
