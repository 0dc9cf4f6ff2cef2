//! The request of a process that wants to be a worker, and the ticket that it gets. Not: which processes may join
//! (`domain/engine/joining.rs`), nor making it one (`admitting.rs`), nor the protocol of `join.sock` (`api/join`).

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use socket2::Socket;
use tokio::sync::oneshot;

use crate::kernel::fd_passing::Peer;

/// The request of a process that wants to be a worker.
#[derive(Debug)]
pub struct Request {
    /// Name of the service that the process wants to join.
    pub service: String,
    /// Number of the worker that the process wants to be; `None`: any.
    pub number: Option<usize>,
    /// Weight of the worker, at most [`crate::config::MAX_WEIGHT`].
    pub weight: u32,
    /// The process at the other end of the connection, as the kernel tells.
    pub peer: Peer,
    /// The descriptor by which its calls of bind(2) and listen(2) are answered, if it opens its sockets itself.
    pub calls: Option<OwnedFd>,
    /// Where the answer goes; the text of an error names the fix.
    pub answer: oneshot::Sender<Result<Ticket, String>>,
    /// Resolves when the answer has been sent, and fails if that was impossible: then the worker is lost, though the
    /// process may live on.
    pub delivered: oneshot::Receiver<()>,
}

/// The process whose request is being handled, and the descriptor by which its calls are answered, if it opens its sockets
/// itself.
pub(super) type Joining = (Peer, Option<OwnedFd>);

/// What a process that has joined gets.
#[derive(Debug)]
pub struct Ticket {
    /// Name of the worker, like `web/7`.
    pub worker: String,
    /// Path of the notification socket where the process sends `READY=1`.
    pub notify: PathBuf,
    /// Names of `sockets`, for LISTEN_FDNAMES.
    pub names: Vec<String>,
    /// The worker's sockets, in the order of the service's listeners; none if it opens its own.
    pub sockets: Vec<Socket>,
    /// The process must send `WATCHDOG=1` more often than this.
    pub watchdog: Option<Duration>,
    /// Variables that the process is to have besides.
    pub env: BTreeMap<String, String>,
}
