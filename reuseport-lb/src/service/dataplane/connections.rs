//! Live connections of a service: which accounts its sockets have. Not: how they are counted (`kernel/connections`).

use std::rc::Rc;

use socket2::Socket;
use tracing::warn;

use super::Groups;
use super::accounts::Accounts;
use crate::domain::listener::Protocol;
use crate::domain::observed::LiveConnections;
use crate::domain::ports::{Cookie, ListenerId};
use crate::kernel::connections::Connections;
use crate::kernel::group::PinnedGroup;

impl Groups {
    /// Notes that a socket has a slot, or gets it now: its connections are counted from then on, if the service's are.
    pub(super) fn places(&mut self, id: ListenerId, cookie: Cookie, slot: u16, socket: &Socket, older: bool) {
        self.counted.slots.insert(cookie, (id, slot));
        let (Some(accounts), Some(it)) = (&mut self.counted.accounts, self.all.get(&id)) else { return };
        if it.group.listener().protocol == Protocol::Tcp {
            let tag = accounts.add(cookie, slot, socket, older);
            it.group.set_accounts(slot, tag);
        }
    }

    /// Notes that a socket is not the service's any more, or that its last duplicate is about to be closed.
    pub(super) fn leaves(&mut self, cookie: Cookie, socket: Option<&Socket>) {
        self.counted.slots.remove(&cookie);
        let Some(accounts) = &mut self.counted.accounts else { return };
        if let Some(socket) = socket
            && accounts.sockets.contains_key(&cookie)
            && let Err(error) = accounts.connections.remove_tag(socket)
        {
            warn!(service = self.service, "{error:#}");
        }
        accounts.forget(cookie);
    }

    /// Live connections of a socket, if they are counted.
    pub(in crate::service) fn live(&self, cookie: Cookie) -> Option<LiveConnections> {
        self.counted.accounts.as_ref()?.live(cookie)
    }

    /// What counts the connections of the service, if anything does.
    pub(in crate::service) fn connections(&self) -> Option<&Rc<Connections>> {
        self.counted.accounts.as_ref().map(|accounts| &accounts.connections)
    }

    /// Begins to count, or ends it, as the groups need that were prepared for new settings.
    pub(super) fn count_as_prepared(&mut self) {
        match (self.counted.accounts.is_some(), self.counted.prepared.clone()) {
            (false, Some(connections)) => self.begin_counting(connections),
            (true, None) => self.end_counting(),
            (true, Some(_)) | (false, None) => {}
        }
    }

    fn begin_counting(&mut self, connections: Rc<Connections>) {
        self.counted.accounts = Some(Accounts::new(connections));
        for (cookie, (id, slot)) in self.counted.slots.clone() {
            if let Ok(own) = self.own(cookie) {
                self.places(id, cookie, slot, &own.socket, true);
            }
        }
    }

    /// Ends counting: with other settings, or after the last worker's end.
    pub(in crate::service) fn end_counting(&mut self) {
        self.counted.prepared = None;
        let Some(accounts) = self.counted.accounts.take() else { return };
        for cookie in accounts.sockets.keys() {
            if let Ok(own) = self.own(*cookie)
                && let Err(error) = accounts.connections.remove_tag(&own.socket)
            {
                warn!(service = self.service, "{error:#}");
            }
        }
        self.surroundings.ends_counting(accounts.end());
    }

    /// Tells the program of a group in which accounts connections are counted that go to its slots.
    pub(super) fn write_accounts(&self, id: ListenerId, group: &PinnedGroup) {
        let Some(accounts) = &self.counted.accounts else { return };
        for (cookie, (listener, slot)) in &self.counted.slots {
            if let Some((tag, _)) = accounts.sockets.get(cookie).filter(|_| *listener == id) {
                group.set_accounts(*slot, *tag);
            }
        }
    }
}
