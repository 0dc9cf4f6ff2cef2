//! The engine's port to the kernel: groups, slots, sockets and buckets of one service.

mod accounts;
mod adopted;
mod connections;
mod opened;
mod port;
mod quic;
mod sockets;
pub(super) mod tags;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, Result};
use socket2::Socket;
use tracing::{info, warn};

use accounts::{Accounts, Counted};
pub(super) use sockets::{Adopted, Opened, OpenedSocket, OwnSocket, Sockets};
use tags::Tags;

use super::Surroundings;
use super::groups::ListenerGroup;
use super::trace::Tracer;
use crate::domain::engine::Settings;
use crate::domain::listener::{Listener, Protocol};
use crate::domain::ports::{self, Cookie, Holder, ListenerId, Rosters};
use crate::kernel::connections::Connections;
use crate::kernel::group::PinnedGroup;
use crate::kernel::host;
use crate::kernel::owner::{self, Siblings};
use crate::kernel::socket;
use crate::kernel::strangers::Census;

/// The groups of a service.
pub(super) struct Groups {
    service: String,
    all: BTreeMap<ListenerId, ListenerGroup>,
    /// Groups made for new settings: of new listeners, or with another policy.
    prepared: BTreeMap<ListenerId, ListenerGroup>,
    sockets: Sockets,
    opened: Opened,
    adopted: Adopted,
    counted: Counted,
    tags: Tags,
    /// The user that they belong to; `None`: the daemon's.
    owner: Option<u32>,
    /// No process has had a socket yet.
    is_fresh: bool,
    surroundings: Rc<Surroundings>,
    tracer: Tracer,
}

impl Groups {
    /// `connections`: counts live connections, if the service wants that. `word`: that of the daemon before.
    pub(super) fn new(
        settings: &Settings,
        surroundings: &Rc<Surroundings>,
        tracer: &Tracer,
        connections: Option<Rc<Connections>>,
        word: Option<u64>,
    ) -> Self {
        Self {
            service: settings.config.name.clone(),
            all: BTreeMap::new(),
            prepared: BTreeMap::new(),
            sockets: Sockets::default(),
            opened: Opened::default(),
            adopted: Adopted {
                sockets: HashMap::new(),
                replaces_programs: settings.config.adopt.as_ref().is_some_and(|adopt| adopt.replace_program),
            },
            counted: Counted { accounts: connections.map(Accounts::new), ..Counted::default() },
            tags: Tags::new(word.unwrap_or_else(host::random)),
            owner: settings.socket_owner().map(|user| user.uid),
            is_fresh: true,
            surroundings: surroundings.clone(),
            tracer: tracer.clone(),
        }
    }

    pub(super) fn sockets(&self) -> Sockets {
        self.sockets.clone()
    }

    pub(super) fn opened(&self) -> Opened {
        self.opened.clone()
    }

    pub(super) fn add(&mut self, id: ListenerId, group: ListenerGroup) {
        self.all.insert(id, group);
    }

    /// Keeps groups that were made for new settings, and what counts connections for them.
    pub(super) fn prepare(
        &mut self,
        groups: BTreeMap<ListenerId, ListenerGroup>,
        connections: Option<Rc<Connections>>,
    ) {
        self.prepared = groups;
        self.counted.prepared = connections;
    }

    /// Drops the groups that were made for new settings, and their pins.
    pub(super) fn forget_prepared(&mut self) {
        if let Some(connections) = self.counted.prepared.take() {
            self.surroundings.ends_counting(connections);
        }
        for (id, group) in std::mem::take(&mut self.prepared) {
            let pins = &self.surroundings.pins;
            if self.all.contains_key(&id) {
                pins.forget_unattached(&self.service, &group.name);
            } else {
                pins.forget(&self.service, &group.name);
            }
        }
    }

    pub(super) fn get(&self, id: ListenerId) -> Option<&ListenerGroup> {
        self.all.get(&id)
    }

    pub(super) fn group_mut(&mut self, id: ListenerId) -> Option<&mut ListenerGroup> {
        self.all.get_mut(&id)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (ListenerId, &mut ListenerGroup)> {
        self.all.iter_mut().map(|(id, group)| (*id, group))
    }

    /// Turns tracing on if there are subscribers, else off.
    pub(super) fn trace(&self) {
        let wanted = self.tracer.wanted();
        self.all.values().for_each(|it| it.buckets.trace(it.memory(), wanted));
    }

    /// Takes all groups out; removing their pins is left to the caller.
    pub(super) fn take_all(&mut self) -> Vec<ListenerGroup> {
        std::mem::take(&mut self.all).into_values().collect()
    }

    /// Notes that processes get sockets from now on.
    pub(super) fn begin(&mut self) {
        self.is_fresh = false;
    }

    /// Adds a socket that was found in a worker of an earlier daemon.
    pub(super) fn found(&mut self, id: ListenerId, cookie: Cookie, slot: u16, socket: Socket) {
        self.begin();
        self.give(&socket);
        self.surroundings.ours.borrow_mut().insert(cookie.0);
        self.places(id, cookie, slot, &socket, true);
        let Some(listener) = self.all.get(&id).map(|it| *it.group.listener()) else { return };
        self.sockets.borrow_mut().insert(cookie, OwnSocket { id, listener, socket: Arc::new(socket) });
    }

    fn give(&self, socket: &Socket) {
        if let Err(error) = owner::give(socket, self.owner) {
            warn!(service = self.service, "{error}");
        }
    }

    /// Gives all sockets to another user.
    fn give_all(&mut self, uid: Option<u32>) {
        if std::mem::replace(&mut self.owner, uid) != uid {
            self.sockets.borrow().values().for_each(|own| self.give(&own.socket));
        }
    }

    /// What a new socket of this listener has in common with the others.
    fn siblings(&self, id: ListenerId) -> Siblings {
        let listener = self.group(id).listener();
        let by_workers = !self.is_fresh && listener.protocol == Protocol::Udp && listener.address.is_ipv4();
        let member = by_workers.then(|| {
            let sockets = self.sockets.borrow();
            // One that a worker has connected is in no group.
            let mut of = sockets.values().filter(|own| own.id == id && own.socket.peer_addr().is_err());
            of.next().map(|own| own.socket.clone())
        });
        Siblings { owner: self.owner, member: member.flatten() }
    }

    fn own(&self, cookie: Cookie) -> Result<OwnSocket> {
        let own = self.sockets.borrow().get(&cookie).cloned();
        own.or_else(|| self.duplicate(cookie)).context("the socket is gone")
    }

    fn group(&self, id: ListenerId) -> &PinnedGroup {
        // Each listener of the engine has a group here.
        &self.all[&id].group
    }

    /// Acts on the group of a listener; a listener that is being removed may have none.
    fn with<T: Default>(&mut self, id: ListenerId, act: impl FnOnce(&mut ListenerGroup) -> T) -> T {
        self.all.get_mut(&id).map(act).unwrap_or_default()
    }

    /// Notes a socket that was opened for the worker in `slot`.
    fn note(&mut self, id: ListenerId, slot: u16, socket: Socket) -> Cookie {
        let cookie = Cookie(socket.cookie().unwrap_or_default());
        self.surroundings.ours.borrow_mut().insert(cookie.0);
        self.places(id, cookie, slot, &socket, false);
        let listener = *self.group(id).listener();
        let own = OwnSocket { id, listener, socket: Arc::new(socket) };
        self.sockets.borrow_mut().insert(cookie, own);
        cookie
    }

    fn try_open(
        &mut self,
        id: ListenerId,
        slot: u16,
        enter: bool,
        first: bool,
        backlog: u32,
    ) -> Result<ports::OpenedSocket> {
        let siblings = self.siblings(id);
        let it = self.all.get_mut(&id).context("the listener is gone")?;
        // The counter of a free slot does not change, so one reading serves for many workers.
        let selected_before =
            if enter { it.counted(slot)? } else { it.group.totals()?.selected[usize::from(slot)] };
        let socket = it.open(backlog, first, &siblings)?;
        let cookie = self.note(id, slot, socket);
        if enter && let Err(error) = self.enter_slot(cookie, slot) {
            self.forget_socket(cookie);
            return Err(error);
        }
        Ok(ports::OpenedSocket { cookie, selected_before })
    }

    /// Drops the daemon's duplicate of a socket.
    fn forget_socket(&mut self, cookie: Cookie) {
        self.surroundings.ours.borrow_mut().remove(&cookie.0);
        let own = self.sockets.borrow_mut().remove(&cookie);
        let reached = own.clone().or_else(|| self.duplicate(cookie));
        self.leaves(cookie, reached.as_ref().map(|own| &*own.socket));
        if let Some(it) = own.and_then(|own| self.all.get_mut(&own.id)) {
            it.forget_counted();
        }
    }

    fn enter_slot(&mut self, cookie: Cookie, slot: u16) -> Result<()> {
        let own = self.own(cookie)?;
        let it = self.all.get_mut(&own.id).context("the listener is gone")?;
        it.group.insert(slot, &own.socket)
    }

    fn try_listen_again(&mut self, cookie: Cookie, slot: u16, backlog: u32) -> Result<()> {
        let own = self.own(cookie)?;
        let it = self.all.get_mut(&own.id).context("the listener is gone")?;
        socket::listen_again(&own.socket, &mut it.group, slot, backlog)
    }

    fn try_put_back(&mut self, cookie: Cookie, slot: u16, backlog: u32) -> Result<()> {
        let own = self.own(cookie)?;
        let adopted = self.adopted.sockets.contains_key(&cookie);
        if !adopted && own.listener.protocol == Protocol::Tcp && !own.socket.is_listener().unwrap_or(true) {
            return self.try_listen_again(cookie, slot, backlog);
        }
        let it = self.all.get_mut(&own.id).context("the listener is gone")?;
        it.group.insert_if_free(slot, &own.socket).map(drop)
    }

    /// Repairs a socket that a process may have spoiled. A TCP socket that was shut down and a UDP socket that was
    /// connected have lost their slots. Such a UDP socket can only be replaced, which does not help a process that has
    /// the old one.
    fn try_repair(
        &mut self,
        cookie: Cookie,
        slot: u16,
        holder: Holder,
        backlog: u32,
    ) -> Result<Option<Cookie>> {
        let own = self.own(cookie)?;
        if self.adopted.sockets.contains_key(&cookie) {
            return Ok(self.try_enter_again(&own, slot)?.then_some(cookie));
        }
        // A first process gets new sockets, which need no reset.
        let spoiled = match holder {
            Holder::Successor => socket::reset(&own.socket, &own.listener).err(),
            Holder::New | Holder::Living => None,
        };
        let is_tcp = own.listener.protocol == Protocol::Tcp;
        if let Some(why) = spoiled {
            info!(service = self.service, slot, "{} gets a new socket: {why}", own.listener);
        } else if is_tcp && !own.socket.is_listener().unwrap_or(true) {
            self.try_listen_again(cookie, slot, backlog)?;
            return Ok(Some(cookie));
        } else if is_tcp || holder == Holder::Living || own.socket.peer_addr().is_err() {
            return Ok(None);
        }
        // Replaces the socket; connections that wait in the old one go to other workers.
        let siblings = self.siblings(own.id);
        let it = self.all.get_mut(&own.id).context("the listener is gone")?;
        let socket = socket::open(&it.group, backlog, false, &siblings)?;
        it.group.remove(slot)?;
        let renewed = self.note(own.id, slot, socket);
        if let Err(error) = self.enter_slot(renewed, slot) {
            self.forget_socket(renewed);
            return Err(error);
        }
        self.forget_socket(cookie);
        Ok(Some(renewed))
    }

    fn try_attach(&mut self, id: ListenerId, sockets: &[Cookie], locked: &mut Vec<Cookie>) -> Result<()> {
        let Some(it) = self.all.get(&id) else { return Ok(()) };
        let listener = it.group.listener();
        let mut attached = Ok(());
        for cookie in sockets {
            let Ok(own) = self.own(*cookie) else { continue };
            // A program attached through a socket that was shut down would get a group of its own.
            if listener.protocol == Protocol::Tcp && !own.socket.is_listener().unwrap_or(false) {
                continue;
            }
            if self.adopted.sockets.contains_key(cookie) {
                self.require_free(&it.group, &own)?;
            }
            attached = it.group.attach(&own.socket);
            match &attached {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => locked.push(*cookie),
                _ => break,
            }
        }
        attached.with_context(|| format!("cannot take over the group of {listener}"))?;
        it.group.settle()
    }

    fn try_install(&mut self, id: ListenerId, rosters: &Rosters, sockets: &[Cookie]) -> Result<()> {
        let mut new = self.prepared.remove(&id).context("nothing was prepared")?;
        self.count_as_prepared();
        let wanted = self.tracer.wanted();
        let Some(old) = self.all.get(&id) else {
            new.buckets.trace(new.group.memory(), wanted);
            self.tags.write(&new.group);
            self.all.insert(id, new);
            return Ok(());
        };
        new.group.copy(&old.group);
        for (slot, fitness) in old.buckets.unfit() {
            new.buckets.set_fitness(new.group.memory(), slot, fitness);
        }
        new.buckets.trace(new.group.memory(), wanted);
        new.set_rosters(rosters);
        self.write_accounts(id, &new.group);
        self.tags.write(&new.group);
        let old = self.all.insert(id, new);
        let attached = self.try_attach(id, sockets, &mut Vec::new());
        if attached.is_err()
            && let Some(old) = old
        {
            self.all.insert(id, old);
        }
        attached
    }

    fn try_leave(&self, last: &[(ListenerId, Cookie)]) -> Result<()> {
        let deciding =
            last.iter().filter(|(id, _)| self.all.get(id).is_some_and(|it| it.group.decides.get()));
        let deciding: Vec<OwnSocket> = deciding.filter_map(|(_, cookie)| self.own(*cookie).ok()).collect();
        if deciding.is_empty() {
            return Ok(());
        }
        let listeners: Vec<Listener> = deciding.iter().map(|own| own.listener).collect();
        let census = Census::take(&listeners);
        for own in deciding {
            // The sockets of others stay, and are in the kernel's hands again.
            let adopted = self.adopted.sockets.values().any(|(id, _)| *id == own.id);
            let alone = !adopted
                && census
                    .as_ref()
                    .is_ok_and(|census| census.count(&own.listener, &self.surroundings.ours.borrow()) == 0);
            if !alone && let Err(error) = self.group(own.id).detach(&own.socket) {
                warn!("cannot leave the group of {} to others: {error}", own.listener);
            }
        }
        Ok(())
    }
}
