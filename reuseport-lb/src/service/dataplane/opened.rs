//! Sockets that processes of workers have opened themselves: how they become members of a group.

use std::sync::Arc;

use anyhow::{Context, Result};
use socket2::Socket;
use tracing::warn;

use super::{Groups, OpenedSocket, OwnSocket};
use crate::domain::listener::{Listener, Protocol};
use crate::domain::ports::{Cookie, Fit, ListenerId};
use crate::kernel::socket::{self, Kinship};

/// ECANCELED of asm-generic/errno.h: the socket is not there any more.
const CANCELED: i32 = 125;

impl Groups {
    pub(super) fn fit_of(&self, opened: Cookie, id: ListenerId) -> Fit {
        let all = self.opened.borrow();
        let (Some(it), Some(group)) = (all.get(&opened), self.all.get(&id)) else { return Fit::Not };
        let listener = group.group.listener();
        match (socket::kinship(&it.socket, listener), listener.protocol) {
            (Kinship::None, _) => Fit::Not,
            (Kinship::Close, Protocol::Tcp) => Fit::Itself,
            // What waits in the worker's socket cannot be handed over. But a socket that is waited for with epoll cannot be
            // replaced unnoticed.
            (Kinship::Close, Protocol::Udp) if it.polled => Fit::Itself,
            _ => Fit::Replaced,
        }
    }

    pub(super) fn try_bind(&self, opened: Cookie, id: ListenerId) -> Result<Cookie, i32> {
        let mut all = self.opened.borrow_mut();
        let (Some(it), Some(group)) = (all.get(&opened), self.all.get(&id)) else { return Err(CANCELED) };
        let (listener, freebind) = (group.group.listener(), group.group.freebind.get());
        let number = |error: std::io::Error| error.raw_os_error().unwrap_or(CANCELED);
        if socket::kinship(&it.socket, listener) == Kinship::Close {
            return socket::bind_opened(&it.socket, listener, freebind, self.owner)
                .map(|()| opened)
                .map_err(number);
        }
        let socket = socket::bound(listener, freebind, self.owner).map_err(number)?;
        self.liken(&socket, &it.socket, listener);
        let (cookie, process) = (Cookie(socket.cookie().map_err(number)?), it.process);
        all.insert(cookie, OpenedSocket { socket, process, polled: false });
        Ok(cookie)
    }

    /// Gives a socket that a process is to get the options of its own one.
    pub(super) fn liken(&self, socket: &Socket, opened: &Socket, listener: &Listener) {
        if let Err(error) = socket::resemble(socket, opened) {
            warn!(service = self.service, "a socket of {listener} does not get all options: {error}");
        }
    }

    pub(super) fn try_replace(
        &mut self,
        old: Cookie,
        opened: Cookie,
        slot: u16,
        enter: bool,
        backlog: u32,
    ) -> Result<()> {
        let before = self.own(old)?;
        let it = self.opened.borrow_mut().remove(&opened).context("the process has closed it")?;
        let group = &mut self.all.get_mut(&before.id).context("the listener is gone")?.group;
        let tcp = before.listener.protocol == Protocol::Tcp;
        if tcp {
            it.socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX)).context("cannot listen")?;
        }
        group.attach(&it.socket).context("cannot attach the program")?;
        self.places(before.id, opened, slot, &it.socket, false);
        let group = &mut self.all.get_mut(&before.id).context("the listener is gone")?.group;
        if enter {
            group.insert(slot, &it.socket)?;
        }
        self.surroundings.ours.borrow_mut().insert(opened.0);
        let own = OwnSocket { socket: Arc::new(it.socket), ..before.clone() };
        self.sockets.borrow_mut().insert(opened, own);
        // What waits there goes to the new one, or to others.
        if tcp && let Err(error) = socket::shut_down(&before.socket) {
            warn!(service = self.service, "{}: {error:#}", before.listener);
        }
        self.surroundings.ours.borrow_mut().remove(&old.0);
        self.sockets.borrow_mut().remove(&old);
        self.leaves(old, Some(&before.socket));
        Ok(())
    }

    pub(super) fn is_at(&self, opened: Cookie, id: ListenerId) -> bool {
        let all = self.opened.borrow();
        let (Some(it), Some(group)) = (all.get(&opened), self.all.get(&id)) else { return false };
        let listener = group.group.listener();
        let bound = it.socket.local_addr().ok().and_then(|address| address.as_socket());
        bound == Some(listener.address) && socket::kinship(&it.socket, listener) == Kinship::Close
    }
}
