//! Calls of bind(2) and listen(2) by processes of a worker that open their sockets themselves (`sockets = "bind"`): a
//! filter makes them wait, the worker's keeper lets all pass that do not concern a listener, and the daemon answers the
//! rest. Not: what an answer is (`domain/engine/calls.rs`).
//!
//! ```text
//!   bind(2), listen(2) ──▶ kernel ──▶ keeper ── no listener's address ──▶ go on
//!                             ▲          └──── a listener's ──▶ daemon ──┐
//!                             └──────────────────────────────────────────┘ done | fails | another socket instead
//! ```
//!
//! The keeper outlives the daemon, so that a process that binds other addresses notices nothing of its end. It has both
//! ends of the channel between them, as descriptors for the next daemon to take, and says again what was not answered.

mod call;
mod channel;
mod filter;
mod notifier;
mod sorting;
mod trial;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use socket2::Socket;
use tokio::io::unix::AsyncFd;

use super::fd_passing::descriptor_of;
use super::watch;
use crate::domain::listener::Listener;
use crate::domain::observed::CallId;
pub use call::{Call, CallAnswer};
use call::{DAEMONS_END, KEEPERS_END, NOTIFIER};
use channel::Message;
use notifier::Notifier;
pub use sorting::{reserve, sort};
pub use trial::{answering, be_tried};

/// The daemon's side: the calls of one process of a worker, and of all that it starts.
pub struct Calls {
    /// The daemon's end of the channel.
    channel: AsyncFd<OwnedFd>,
    /// The keeper's end, for the next keeper.
    other: OwnedFd,
    notifier: RefCell<Option<Notifier>>,
    /// Calls that were heard of, and wait for their answers.
    heard: RefCell<BTreeSet<CallId>>,
    /// What the keeper was told last.
    told: RefCell<Option<Vec<Listener>>>,
}

impl Calls {
    /// Makes a channel for a new keeper.
    pub fn start() -> Result<Self> {
        let (own, other) = channel::pair().context("cannot make a channel to a keeper (socketpair)")?;
        Self::with(own, other)
    }

    /// For a process that has its filter already, and has sent the descriptor by which its calls are answered.
    pub fn of(notifier: OwnedFd) -> Result<Self> {
        let calls = Self::start()?;
        calls.notifier.replace(Some(Notifier::new(notifier)));
        Ok(calls)
    }

    /// Goes on with the channel of the keeper `pid`; `None` if it has none.
    #[must_use]
    pub fn find(pid: i32) -> Option<Self> {
        let (own, other) = (descriptor_of(pid, DAEMONS_END)?, descriptor_of(pid, KEEPERS_END)?);
        let found = Self::with(own, other).ok()?;
        // That of one whose worker has not been launched yet is none: the keeper says so later.
        found.notifier.replace(descriptor_of(pid, NOTIFIER).filter(notifier::is_one).map(Notifier::new));
        Some(found)
    }

    fn with(own: OwnedFd, other: OwnedFd) -> Result<Self> {
        let channel = watch::readable(own).context("cannot wait for calls")?;
        Ok(Self {
            channel,
            other,
            notifier: RefCell::default(),
            heard: RefCell::default(),
            told: RefCell::default(),
        })
    }

    /// The end by which a new process of the worker gives its filter to the keeper.
    pub fn for_worker(&self) -> BorrowedFd<'_> {
        self.channel.get_ref().as_fd()
    }

    /// What a new keeper inherits, as duplicates that [`sort`] knows by their places in this order.
    pub(super) fn for_keeper(&self) -> io::Result<Vec<OwnedFd>> {
        let notifier = self.notifier.borrow();
        let all = [Some(self.other.as_fd()), Some(self.for_worker()), notifier.as_ref().map(Notifier::fd)];
        all.into_iter().flatten().map(|fd| fd.try_clone_to_owned()).collect()
    }

    /// Tells the keeper which addresses are those of listeners. It then says again which calls wait.
    pub fn tell(&self, listeners: &[Listener]) -> Result<()> {
        self.told.replace(Some(listeners.to_vec()));
        channel::send(self.for_worker(), &Message::Listeners(listeners.to_vec()), None)
            .context("cannot tell a keeper the listeners")
    }

    /// Tells a keeper that takes the place of another one what that was told.
    pub(super) fn tell_again(&self) -> Result<()> {
        let told = self.told.borrow().clone();
        told.map_or(Ok(()), |listeners| self.tell(&listeners))
    }

    /// Whether no process has the filter any more.
    pub(super) fn are_over(&self) -> bool {
        self.notifier.borrow().as_ref().is_some_and(Notifier::is_over)
    }

    /// Waits for the next call that concerns a listener. Fails only if the channel cannot be waited for.
    pub async fn next(&self) -> io::Result<Call> {
        loop {
            let mut guard = self.channel.readable().await?;
            match channel::receive(self.for_worker()) {
                Ok((Message::Notifier, Some(fd))) => drop(self.notifier.replace(Some(Notifier::new(fd)))),
                Ok((Message::Call(call), _)) if self.is_news(call.id) => return Ok(call),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                Err(error) => return Err(error),
            }
        }
    }

    /// A duplicate of the socket that a call is about.
    pub fn socket_of(&self, call: &Call) -> io::Result<Socket> {
        let socket = notifier::socket_of(call)?;
        // If the call has been answered meanwhile, by whom ever, the thread's id may be another's by now.
        let waits = self.notifier.borrow().as_ref().is_some_and(|notifier| notifier.waits(call.id));
        if waits { Ok(socket) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
    }

    /// Whether the caller waits for events of the call's socket with epoll already: it could not be replaced.
    #[must_use]
    pub fn is_polled(&self, call: &Call) -> bool {
        notifier::is_polled(call.thread, call.fd)
    }

    /// Answers a call. No error if the caller has gone.
    pub fn answer(&self, call: &Call, answer: CallAnswer<'_>) -> Result<()> {
        let notifier = self.notifier.borrow();
        let notifier = notifier.as_ref().context("a call of a process without a filter")?;
        let answered = notifier.answer(call, answer).context("cannot answer a call of bind or listen");
        self.heard.borrow_mut().remove(&call.id);
        answered
    }

    /// Whether a call still waits and was not heard of before: the keeper may say one twice.
    fn is_news(&self, id: CallId) -> bool {
        let waits = self.notifier.borrow().as_ref().is_some_and(|notifier| notifier.waits(id));
        waits && self.heard.borrow_mut().insert(id)
    }
}

/// Whether a descriptor is one by which calls are answered.
#[must_use]
pub fn is_notifier(fd: &OwnedFd) -> bool {
    notifier::is_one(fd)
}

/// Puts the filter on this process; the descriptor by which its calls are answered. It is closed at exec.
pub fn filter() -> Result<OwnedFd> {
    filter::install().context(
        "cannot make bind and listen wait for an answer (seccomp): another filter of that kind may be there, as in some containers",
    )
}

/// Puts the filter on this process, and gives the keeper at the other end of `channel` the descriptor by which calls are
/// answered.
pub fn begin(channel: impl AsFd) -> Result<()> {
    let notifier = filter()?;
    channel::send(channel, &Message::Notifier, Some(notifier.as_fd()))
        .context("the keeper cannot be told how to answer")
}
