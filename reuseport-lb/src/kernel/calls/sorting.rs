//! The keeper's side: lets calls go on that concern no listener, and tells the daemon of the others, again and again until
//! they are answered. While no daemon runs, those wait.

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};
use socket2::Socket;

use super::call::{Call, CallAnswer, DAEMONS_END, KEEPERS_END, NOTIFIER};
use super::channel::{self, Message};
use super::notifier::{Notifier, socket_of};
use crate::domain::listener::Listener;
use crate::domain::observed::CallKind;

/// Sorts the calls of a worker until its last process has ended, in a process whose descriptors from 3 on are those that the
/// daemon gives to a keeper; `inherited`: how many these are.
pub fn sort(inherited: usize) -> Result<()> {
    // SAFETY: the caller has these descriptors, and nothing else owns them.
    let (channel, notifier) = unsafe {
        let notifier = (inherited > 2).then(|| OwnedFd::from_raw_fd(NOTIFIER));
        (OwnedFd::from_raw_fd(KEEPERS_END), notifier)
    };
    debug_assert_eq!(DAEMONS_END, KEEPERS_END + 1);
    Sorter { channel, notifier: notifier.map(Notifier::new), listeners: None, unanswered: Vec::new() }.run()
}

/// Keeps the place of the descriptor by which calls are answered, until there is one: nothing else may get its number.
pub fn reserve(inherited: usize) -> Result<()> {
    if inherited > 0 && inherited < 3 {
        // SAFETY: the caller has this descriptor, and keeps it open.
        let channel = unsafe { BorrowedFd::borrow_raw(KEEPERS_END) };
        let mut place = std::mem::ManuallyDrop::new(place_of_notifier());
        rustix::io::dup2(channel, &mut place).context("cannot reserve a descriptor")?;
    }
    Ok(())
}

struct Sorter {
    channel: OwnedFd,
    notifier: Option<Notifier>,
    /// `None` until the daemon has told them.
    listeners: Option<Vec<Listener>>,
    unanswered: Vec<Call>,
}

impl Sorter {
    fn run(mut self) -> Result<()> {
        loop {
            let mut wanted = vec![PollFd::new(&self.channel, PollFlags::IN)];
            let notifier = self.notifier.as_ref().filter(|_| self.listeners.is_some()).map(Notifier::fd);
            wanted.extend(notifier.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
            match poll(&mut wanted, None) {
                Err(rustix::io::Errno::INTR) => continue,
                ready => ready.context("cannot wait for calls (poll)")?,
            };
            let seen = |at: usize| wanted.get(at).map_or(PollFlags::empty(), PollFd::revents);
            let (told, called) = (!seen(0).is_empty(), seen(1));
            drop(wanted);
            if told {
                self.hear()?;
            } else if called.contains(PollFlags::IN) {
                self.take();
            } else if called.intersects(PollFlags::HUP | PollFlags::ERR) {
                // No process has the filter any more.
                return Ok(());
            }
        }
    }

    fn hear(&mut self) -> Result<()> {
        match channel::receive(&self.channel) {
            Ok((Message::Listeners(listeners), _)) => {
                self.listeners = Some(listeners);
                self.say_again();
            }
            Ok((Message::Notifier, Some(fd))) => {
                // At this number the next daemon looks for it.
                let mut place = std::mem::ManuallyDrop::new(place_of_notifier());
                rustix::io::dup2(&fd, &mut place).context("cannot keep a descriptor")?;
                let _ = channel::send(&self.channel, &Message::Notifier, Some(fd.as_fd()));
                self.notifier = Some(Notifier::new(fd));
            }
            // Nothing that can be heard, or nothing that is understood: then it is as if it had not been said.
            _ => {}
        }
        Ok(())
    }

    fn take(&mut self) {
        let Some(notifier) = &self.notifier else { return };
        let Ok(Some(call)) = notifier.receive() else { return };
        if self.concerns(&call) {
            self.unanswered.retain(|call| notifier.waits(call.id));
            self.unanswered.push(call);
            // If there is no room, or no daemon, it is said again.
            let _ = channel::send(&self.channel, &Message::Call(call), None);
        } else {
            let _ = notifier.answer(&call, CallAnswer::GoOn);
        }
    }

    /// Whether a call is about the address of a listener.
    fn concerns(&self, call: &Call) -> bool {
        let Some(listeners) = &self.listeners else { return true };
        match call.kind {
            CallKind::Bind(address) => listeners.iter().any(|it| it.is_bound_by(address)),
            CallKind::Listen => {
                let bound = socket_of(call).and_then(|socket: Socket| socket.local_addr());
                let bound = bound.ok().and_then(|address| address.as_socket());
                bound.is_some_and(|address| listeners.iter().any(|it| it.address == address))
            }
            CallKind::Other => false,
        }
    }

    fn say_again(&mut self) {
        let Some(notifier) = &self.notifier else { return };
        self.unanswered.retain(|call| notifier.waits(call.id));
        if self.listeners.as_ref().is_some_and(Vec::is_empty) {
            // The process has left the service, and goes on without it.
            for call in self.unanswered.drain(..) {
                let _ = notifier.answer(&call, CallAnswer::GoOn);
            }
        }
        for call in &self.unanswered {
            let _ = channel::send(&self.channel, &Message::Call(*call), None);
        }
    }
}

/// The place of the descriptor by which calls are answered, which may be free.
fn place_of_notifier() -> OwnedFd {
    // SAFETY: the caller never drops it, and puts another descriptor there before it is used.
    unsafe { OwnedFd::from_raw_fd(NOTIFIER) }
}
