//! The accounts of one service's live connections.

use std::collections::HashMap;
use std::rc::Rc;

use reuseport_lb_common::connections::{NO_ACCOUNT, Tag};
use socket2::Socket;
use tracing::warn;

use crate::domain::observed::LiveConnections;
use crate::domain::ports::{Cookie, ListenerId};
use crate::kernel::connections::Connections;

/// What a service counts.
#[derive(Default)]
pub(super) struct Counted {
    /// Slots of all its sockets, whether their connections are counted or not.
    pub(super) slots: HashMap<Cookie, (ListenerId, u16)>,
    /// Its accounts, where connections are counted.
    pub(super) accounts: Option<Accounts>,
    /// What counts connections for groups that are prepared for new settings, if they need it.
    pub(super) prepared: Option<Rc<Connections>>,
}

/// The accounts of a service whose connections are counted.
pub(super) struct Accounts {
    pub(super) connections: Rc<Connections>,
    /// Account of the service; [`NO_ACCOUNT`] until it has a socket.
    service: u32,
    /// Accounts of the workers, by slot, and how many sockets have each.
    workers: HashMap<u16, (u32, usize)>,
    /// Tags and slots of the sockets.
    pub(super) sockets: HashMap<Cookie, (Tag, u16)>,
}

impl Accounts {
    pub(super) fn new(connections: Rc<Connections>) -> Self {
        Self { connections, service: NO_ACCOUNT, workers: HashMap::new(), sockets: HashMap::new() }
    }

    /// Counts the connections of a listening socket whose worker has `slot`; `older`: it may have some already. A socket
    /// that an earlier daemon has counted keeps its accounts.
    pub(super) fn add(&mut self, cookie: Cookie, slot: u16, socket: &Socket, older: bool) -> Tag {
        if let Some((known, _)) = self.sockets.get(&cookie) {
            return *known;
        }
        let before = self.connections.tag(socket);
        let take = |before: Option<u32>| match before {
            Some(account) => self.connections.keep(account),
            None => self.connections.give(),
        };
        if self.service == NO_ACCOUNT {
            self.service = take(before.map(|tag| tag.service));
        }
        let (worker, sockets) =
            self.workers.entry(slot).or_insert_with(|| (take(before.map(|tag| tag.worker)), 0));
        *sockets += 1;
        let own = take(before.map(|tag| tag.socket));
        let tag = Tag { socket: own, worker: *worker, service: self.service, counted: 0 };
        if before != Some(tag)
            && let Err(error) = self.connections.set_tag(socket, tag, older)
        {
            warn!("connections of a socket are not counted: {error:#}");
        }
        self.sockets.insert(cookie, (tag, slot));
        tag
    }

    pub(super) fn live(&self, cookie: Cookie) -> Option<LiveConnections> {
        let (tag, _) = self.sockets.get(&cookie)?;
        let (count, since) = (self.connections.live(tag.socket), self.connections.since(tag.socket));
        Some(LiveConnections { count, since })
    }

    pub(super) fn forget(&mut self, cookie: Cookie) {
        let Some((tag, slot)) = self.sockets.remove(&cookie) else { return };
        self.connections.take_back(tag.socket);
        if let Some((_, sockets)) = self.workers.get_mut(&slot) {
            *sockets -= 1;
            if *sockets == 0 {
                self.workers.remove(&slot);
                self.connections.take_back(tag.worker);
            }
        }
    }

    /// Gives all accounts back.
    pub(super) fn end(self) -> Rc<Connections> {
        let sockets = self.sockets.values().map(|(tag, _)| tag.socket);
        let workers = self.workers.values().map(|(account, _)| *account);
        sockets.chain(workers).chain([self.service]).for_each(|account| self.connections.take_back(account));
        self.connections
    }
}
