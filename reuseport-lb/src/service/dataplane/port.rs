//! The engine's [`Dataplane`] port, implemented by [`Groups`].

use std::collections::BTreeMap;

use anyhow::Result;
use reuseport_lb_common::load::{CPUS, Fitness};
use tracing::warn;

use super::Groups;
use crate::domain::bucket_move::Constraint;
use crate::domain::buckets;
use crate::domain::listener::Listener;
use crate::domain::observed::{Head, LiveConnections, Queue};
use crate::domain::ports::{
    Attachment, Claim, Cookie, Dataplane, Fit, Holder, ListenerId, OpenedSocket, Repair, Rosters, WorkerId,
};
use crate::domain::slots::SlotSet;
use crate::domain::table::BucketChange;
use crate::kernel::{attributes, peek, socket};

fn words<T>(result: Result<T>) -> Result<T, String> {
    result.map_err(|error| format!("{error:#}"))
}

impl Dataplane for Groups {
    fn address(&self, listener: ListenerId) -> Listener {
        *self.group(listener).listener()
    }

    fn open(
        &mut self,
        listener: ListenerId,
        slot: u16,
        enter: bool,
        first: bool,
        backlog: u32,
    ) -> Result<OpenedSocket, String> {
        words(self.try_open(listener, slot, enter, first, backlog))
    }

    fn set_owner(&mut self, uid: Option<u32>) {
        self.give_all(uid);
    }

    fn close(&mut self, socket: Cookie) {
        self.forget_socket(socket);
    }

    fn let_go(&mut self, socket: Cookie) {
        // It stays known as one of the service's: no stranger.
        let left = self.sockets.borrow_mut().remove(&socket);
        self.leaves(socket, left.as_ref().map(|own| &*own.socket));
    }

    fn fits(&self, opened: Cookie, listener: ListenerId) -> Fit {
        self.fit_of(opened, listener)
    }

    fn is_bound_to(&self, opened: Cookie, listener: ListenerId) -> bool {
        self.is_at(opened, listener)
    }

    fn bind(&mut self, opened: Cookie, listener: ListenerId) -> Result<Cookie, i32> {
        self.try_bind(opened, listener)
    }

    fn replace(
        &mut self,
        old: Cookie,
        opened: Cookie,
        slot: u16,
        enter: bool,
        backlog: u32,
    ) -> Result<(), String> {
        words(self.try_replace(old, opened, slot, enter, backlog))
    }

    fn enter(
        &mut self,
        listener: ListenerId,
        socket: Cookie,
        slot: u16,
    ) -> Result<Option<OpenedSocket>, String> {
        words(self.try_enter(listener, socket, slot))
    }

    fn resemble(&mut self, socket: Cookie, opened: Cookie) {
        let all = self.opened.borrow();
        let (Ok(own), Some(it)) = (self.own(socket), all.get(&opened)) else { return };
        self.liken(&own.socket, &it.socket, &own.listener);
    }

    fn queue(&self, socket: Cookie) -> Queue {
        let queue = self.own(socket).and_then(|it| Ok(socket::queue(&it.socket, it.listener.protocol)?));
        queue.unwrap_or_default()
    }

    fn connections(&self, socket: Cookie) -> Option<LiveConnections> {
        self.live(socket)
    }

    fn head(&self, socket: Cookie) -> Head {
        self.own(socket).map_or(Head::Unseen, |it| peek::head(&it.socket))
    }

    fn shut_down(&mut self, socket: Cookie) -> Result<(), String> {
        words(self.own(socket).and_then(|own| socket::shut_down(&own.socket)))
    }

    fn listen_again(&mut self, socket: Cookie, slot: u16, backlog: u32) -> Result<(), String> {
        words(self.try_listen_again(socket, slot, backlog))
    }

    fn set_backlog(&mut self, socket: Cookie, backlog: u32) {
        // listen(2) on a listening socket changes its backlog; on any other it would begin to listen.
        if let Some(own) = self.sockets.borrow().get(&socket)
            && own.socket.is_listener().unwrap_or(false)
        {
            let _ = own.socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX));
        }
    }

    fn repair(&mut self, socket: Cookie, slot: u16, holder: Holder, backlog: u32) -> Repair {
        match self.try_repair(socket, slot, holder, backlog) {
            Ok(None) => Repair::Sound,
            Ok(Some(repaired)) => Repair::Repaired(repaired),
            Err(error) => Repair::Failed(format!("{error:#}")),
        }
    }

    fn waits(&self, socket: Cookie) -> Option<bool> {
        self.surroundings.waits_on(&self.own(socket).ok()?.socket)
    }

    fn sees_waits(&self) -> bool {
        self.surroundings.sight.waits.is_some()
    }

    fn insert(&mut self, socket: Cookie, slot: u16) -> Result<(), String> {
        let own = words(self.own(socket))?;
        self.places(own.id, socket, slot, &own.socket, true);
        words(self.enter_slot(socket, slot))
    }

    fn put_back(&mut self, socket: Cookie, slot: u16, backlog: u32) -> Result<(), String> {
        words(self.try_put_back(socket, slot, backlog))
    }

    fn clear(&mut self, listener: ListenerId, slot: u16) -> Result<(), String> {
        match self.all.get_mut(&listener) {
            Some(it) => words(it.group.remove(slot)),
            None => Ok(()),
        }
    }

    fn name_slot(&mut self, slot: u16, worker: Option<(WorkerId, &str)>) {
        self.tracer.rename(slot, worker.map(|(_, name)| name));
        self.tag_slot(slot, worker.map(|(id, _)| id));
    }

    fn attach(&mut self, listener: ListenerId, sockets: &[Cookie]) -> Attachment {
        let mut locked = Vec::new();
        let error = self.try_attach(listener, sockets, &mut locked).err();
        Attachment { locked, error: error.map(|error| format!("{error:#}")) }
    }

    fn leave_to_others(&mut self, last: &[(ListenerId, Cookie)]) {
        if let Err(error) = self.try_leave(last) {
            warn!("{error:#}");
        }
    }

    fn is_new(&self, listener: ListenerId) -> bool {
        self.all.get(&listener).is_some_and(|it| it.is_new)
    }

    fn claim(&self, listener: ListenerId) -> Claim {
        let Some(it) = self.all.get(&listener) else { return Claim::Held };
        if it.group.decides.get() {
            Claim::Held
        } else if self.surroundings.claims.is_lost(&it.asked, &self.service) {
            Claim::Lost
        } else {
            Claim::Wanted
        }
    }

    fn may_take(&self) -> bool {
        self.surroundings.claims.may_take()
    }

    fn take(&mut self, listener: ListenerId) -> Option<String> {
        self.surroundings.claims.take(&self.all.get(&listener)?.asked, &self.service)
    }

    fn want(&mut self, listener: ListenerId) {
        if let Some(it) = self.all.get(&listener).or_else(|| self.prepared.get(&listener)) {
            self.surroundings.claims.want(&it.asked, &self.service);
        }
    }

    fn install(&mut self, listener: ListenerId, rosters: &Rosters, sockets: &[Cookie]) -> Result<(), String> {
        words(self.try_install(listener, rosters, sockets))
    }

    fn set_freebind(&mut self, listener: ListenerId, freebind: bool) {
        self.with(listener, |it| it.group.freebind.set(freebind));
    }

    fn remove(&mut self, listener: ListenerId) {
        if let Some(it) = self.all.remove(&listener) {
            self.surroundings.pins.forget(&self.service, &it.name);
        }
    }

    fn publish(&mut self, listener: ListenerId, changes: &[BucketChange], pinned: &SlotSet) {
        self.with(listener, |it| {
            let pinned = |slot| pinned.contains(slot);
            it.buckets.publish(it.group.memory(), changes.iter().copied(), pinned);
        });
    }

    fn owners(&self, listener: ListenerId) -> Vec<u16> {
        self.group(listener).owners()
    }

    fn cut(&mut self, listener: ListenerId, pinned: &SlotSet) -> BTreeMap<u16, u64> {
        self.with(listener, |it| it.buckets.cut(it.group.memory(), |slot| pinned.contains(slot)))
    }

    fn constraints(&self, listener: ListenerId, pinned: &SlotSet) -> Vec<(u16, Constraint)> {
        buckets::constraints(self.group(listener).memory(), |slot| pinned.contains(slot))
    }

    fn points_to(&self, listener: ListenerId, slots: &SlotSet) -> bool {
        buckets::points_to(self.group(listener).memory(), |slot| slots.contains(slot))
    }

    fn sweep(&mut self, listener: ListenerId) -> usize {
        self.with(listener, |it| it.buckets.sweep(it.group.memory()))
    }

    fn rotate(&mut self, listener: ListenerId) {
        self.with(listener, |it| it.buckets.rotate(it.group.memory()));
        self.rotate_tags(listener);
    }

    fn add_flows(&self, listener: ListenerId, flows: &mut [u64]) {
        if let Some(counted) = buckets::count(self.group(listener).memory()) {
            flows.iter_mut().zip(&counted.by_slot).for_each(|(sum, n)| *sum += n);
        }
    }

    fn add_staying(&self, listener: ListenerId, flows: &mut [u64]) {
        buckets::add_staying(self.group(listener).memory(), flows);
        self.add_routed(listener, flows);
    }

    fn selected(&self, listener: ListenerId) -> Option<Box<[u64]>> {
        self.group(listener).totals().ok().map(|totals| totals.selected)
    }

    fn set_fitness(&mut self, listener: ListenerId, slot: u16, fitness: Fitness) {
        self.with(listener, |it| it.buckets.set_fitness(it.group.memory(), slot, fitness));
    }

    fn set_rosters(&mut self, listener: ListenerId, rosters: &Rosters) {
        self.with(listener, |it| it.set_rosters(rosters));
    }

    fn cpus(&self) -> Vec<usize> {
        // Where the kernel does not tell, on a machine of more than 1,024, all are taken to be there.
        attributes::cpus().unwrap_or_else(|_| (0..CPUS).collect())
    }
}
