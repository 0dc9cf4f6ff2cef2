//! The sockets that a service knows of.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use socket2::Socket;

use crate::domain::listener::Listener;
use crate::domain::ports::{self, Cookie, ListenerId};
use crate::kernel::adopt::SocketLocation;

/// A socket that the daemon has a duplicate of.
#[derive(Clone)]
pub(in crate::service) struct OwnSocket {
    pub(in crate::service) id: ListenerId,
    pub(in crate::service) listener: Listener,
    /// Shared with the thread that completes reports.
    pub(in crate::service) socket: Arc<Socket>,
}

/// Sockets that processes of workers have opened themselves, as long as their calls wait for an answer, and those that they
/// get in place of their own.
pub(in crate::service) type Opened = Rc<RefCell<HashMap<Cookie, OpenedSocket>>>;

/// A socket that a process has opened itself.
pub(in crate::service) struct OpenedSocket {
    pub(in crate::service) socket: Socket,
    pub(in crate::service) process: ports::ProcessKey,
    /// The process waits for its events with epoll already.
    pub(in crate::service) polled: bool,
}

/// All sockets of a service, shared by its two ports.
pub(in crate::service) type Sockets = Rc<RefCell<HashMap<Cookie, OwnSocket>>>;

/// Sockets of others.
pub(in crate::service) struct Adopted {
    /// As found last, with their listeners.
    pub(in crate::service) sockets: HashMap<Cookie, (ListenerId, SocketLocation)>,
    /// Programs of others are replaced.
    pub(in crate::service) replaces_programs: bool,
}
