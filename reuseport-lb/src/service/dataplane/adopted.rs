//! Sockets of servers that others have started: how they become members of a group. The daemon has a duplicate of one only
//! while it does something with it.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};

use super::{Groups, OwnSocket};
use crate::domain::engine::Sighted;
use crate::domain::listener::Protocol;
use crate::domain::ports::{Cookie, ListenerId, OpenedSocket};
use crate::kernel::adopt::{Sighting, SocketLocation};
use crate::kernel::attached::Attached;
use crate::kernel::group::PinnedGroup;

impl Groups {
    /// Notes where the sockets are that were found; returns them for the engine.
    pub(in crate::service) fn sighted(&mut self, sighting: &Sighting) -> Vec<Sighted> {
        let listener = |place: &SocketLocation| {
            let at =
                |(_, group): &(&ListenerId, &super::ListenerGroup)| *group.group.listener() == place.listener;
            self.all.iter().find(at).map(|(id, _)| *id)
        };
        let found: Vec<(ListenerId, SocketLocation)> =
            sighting.places.iter().filter_map(|place| Some((listener(place)?, *place))).collect();
        self.adopted.sockets =
            found.iter().map(|(id, place)| (Cookie(place.cookie), (*id, *place))).collect();
        let sighted = |(listener, place): (ListenerId, SocketLocation)| Sighted {
            listener,
            cookie: Cookie(place.cookie),
            pid: place.pid(),
        };
        found.into_iter().map(sighted).collect()
    }

    /// Where a socket of others is.
    pub(in crate::service) fn place(&self, cookie: Cookie) -> Option<&SocketLocation> {
        self.adopted.sockets.get(&cookie).map(|(_, place)| place)
    }

    /// Notes a socket that an earlier daemon has adopted; `slot`: that of the worker that it is for.
    pub(in crate::service) fn found_adopted(&mut self, cookie: Cookie, slot: Option<u16>) {
        self.begin();
        self.surroundings.ours.borrow_mut().insert(cookie.0);
        if let (Some(slot), Some(own)) = (slot, self.duplicate(cookie)) {
            self.places(own.id, cookie, slot, &own.socket, true);
        }
    }

    /// A duplicate of a socket of others, for a moment.
    pub(super) fn duplicate(&self, cookie: Cookie) -> Option<OwnSocket> {
        let (id, place) = self.adopted.sockets.get(&cookie)?;
        Some(OwnSocket { id: *id, listener: place.listener, socket: Arc::new(place.duplicate()?) })
    }

    pub(super) fn try_enter(
        &mut self,
        id: ListenerId,
        cookie: Cookie,
        slot: u16,
    ) -> Result<Option<OpenedSocket>> {
        let Some(own) = self.duplicate(cookie) else { return Ok(None) };
        if !own.socket.reuse_port().unwrap_or(false) {
            bail!("it was bound without SO_REUSEPORT, and so is no group (nginx: `reuseport` in `listen`)");
        }
        let it = self.all.get(&id).context("the listener is gone")?;
        self.require_free(&it.group, &own)?;
        let it = self.all.get_mut(&id).context("the listener is gone")?;
        let selected_before = it.counted(slot)?;
        self.places(id, cookie, slot, &own.socket, true);
        let it = self.all.get_mut(&id).context("the listener is gone")?;
        let entered = it.group.insert_if_free(slot, &own.socket)?;
        if !entered {
            bail!(
                "it is in a socket array already: a program of its server's own, or another daemon's, picks it"
            );
        }
        if let Err(error) = it.group.attach(&own.socket) {
            it.group.remove(slot)?;
            return Err(error).context("the program cannot be attached to its group");
        }
        it.group.settle()?;
        self.surroundings.ours.borrow_mut().insert(cookie.0);
        self.is_fresh = false;
        Ok(Some(OpenedSocket { cookie, selected_before }))
    }

    /// Puts an adopted socket back that has left its slot: its process has shut it down, and listened again.
    pub(super) fn try_enter_again(&mut self, own: &OwnSocket, slot: u16) -> Result<bool> {
        let it = self.all.get_mut(&own.id).context("the listener is gone")?;
        let listens = own.listener.protocol == Protocol::Udp || own.socket.is_listener().unwrap_or(false);
        if !listens || !it.group.occupied([slot])?.is_empty() {
            return Ok(false);
        }
        it.group.insert_if_free(slot, &own.socket)
    }

    /// Fails if the group of a socket of others has a program of theirs, which is not to be replaced.
    pub(super) fn require_free(&self, group: &PinnedGroup, own: &OwnSocket) -> Result<()> {
        if self.adopted.replaces_programs {
            return Ok(());
        }
        let programs = self.surroundings.sight.programs();
        let programs = programs.map_err(|error| {
            anyhow!("{error}; so it is not known whether its group has a program already: `replace_program` adopts it all the same")
        })?;
        match programs.of(&own.socket).context("cannot see which program its group has")? {
            Attached::Nothing | Attached::Own => Ok(()),
            Attached::Other(which) => bail!(
                "the group of {} has {which} of its server's own: --replace-program, or `replace_program = true`, puts this \
                 one in its place",
                group.listener()
            ),
        }
    }
}
