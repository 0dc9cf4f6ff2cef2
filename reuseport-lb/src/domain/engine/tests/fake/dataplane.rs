//! The fake kernel behind `Dataplane`.

use std::collections::BTreeMap;

use reuseport_lb_common::entry::Entry;
use reuseport_lb_common::load::Fitness;
use reuseport_lb_common::slots::NO_SLOT;

use super::{Broken, Fake, Socket, Stage, World};
use crate::domain::bucket_move::{Constraint, constraint, moved};
use crate::domain::listener::{Listener, Protocol};
use crate::domain::observed::{Head, LiveConnections, Queue};
use crate::domain::ports::*;
use crate::domain::slots::SlotSet;
use crate::domain::table::BucketChange;

impl Dataplane for Fake {
    fn address(&self, listener: ListenerId) -> Listener {
        self.0.borrow().groups[&listener].listener
    }

    fn open(
        &mut self,
        listener: ListenerId,
        slot: u16,
        enter: bool,
        _first: bool,
        _backlog: u32,
    ) -> Result<OpenedSocket, String> {
        let mut world = self.0.borrow_mut();
        world.fails(Broken::Open)?;
        if enter && !world.names.contains_key(&slot) {
            let used = world.groups.values().any(|group| World::points_to(group, |it| it == slot));
            if used {
                world.wrong.push(format!("slot {slot} is used again while buckets or flows refer to it"));
            }
        }
        let cookie = Cookie(world.next());
        let socket = Socket::new(listener);
        world.sockets.insert(cookie, socket);
        let group = world.groups.get_mut(&listener).expect("a listener that is there");
        if enter {
            group.slots.insert(slot, cookie);
        }
        Ok(OpenedSocket { cookie, selected_before: group.selected[usize::from(slot)] })
    }

    fn set_owner(&mut self, uid: Option<u32>) {
        self.0.borrow_mut().owner = uid;
    }

    fn close(&mut self, socket: Cookie) {
        let mut world = self.0.borrow_mut();
        if let Some(socket) = world.sockets.get_mut(&socket) {
            socket.ours = false;
        }
        world.collect(socket);
    }

    fn let_go(&mut self, socket: Cookie) {
        self.close(socket);
    }

    fn fits(&self, opened: Cookie, listener: ListenerId) -> Fit {
        let world = self.0.borrow();
        let own = world.opened.get(&opened).map(|it| it.protocol);
        match (own, world.groups[&listener].listener.protocol) {
            (Some(Protocol::Tcp), Protocol::Tcp) => Fit::Itself,
            (Some(Protocol::Udp), Protocol::Udp) => Fit::Replaced,
            _ => Fit::Not,
        }
    }

    fn is_bound_to(&self, opened: Cookie, listener: ListenerId) -> bool {
        self.0.borrow().opened.get(&opened).is_some_and(|it| it.bound == Some(listener))
    }

    fn bind(&mut self, opened: Cookie, listener: ListenerId) -> Result<Cookie, i32> {
        let mut world = self.0.borrow_mut();
        world.opened.get_mut(&opened).into_iter().for_each(|it| it.bound = Some(listener));
        Ok(opened)
    }

    fn replace(
        &mut self,
        old: Cookie,
        opened: Cookie,
        slot: u16,
        enter: bool,
        _backlog: u32,
    ) -> Result<(), String> {
        let mut world = self.0.borrow_mut();
        let listener = world.sockets.get(&old).ok_or("it is gone")?.listener;
        let key = world.opened.remove(&opened).ok_or("the process has closed it")?.process;
        let socket = Socket::new(listener);
        world.sockets.insert(opened, socket);
        world.give(key, opened);
        world.unseat(old);
        if enter {
            world.groups.get_mut(&listener).ok_or("no group")?.slots.insert(slot, opened);
        }
        if let Some(old) = world.sockets.get_mut(&old) {
            (old.listens, old.ours) = (false, false);
        }
        world.migrate(old);
        world.collect(old);
        Ok(())
    }

    fn enter(
        &mut self,
        listener: ListenerId,
        socket: Cookie,
        slot: u16,
    ) -> Result<Option<OpenedSocket>, String> {
        Ok(self.0.borrow_mut().enter(listener, socket, slot))
    }

    fn resemble(&mut self, _socket: Cookie, _opened: Cookie) {}

    fn queue(&self, socket: Cookie) -> Queue {
        let world = self.0.borrow();
        let Some(socket) = world.sockets.get(&socket) else { return Queue::default() };
        let bytes = socket.datagrams.len() as u32 * 768;
        Queue { queue: socket.queue + bytes, backlog: if bytes > 0 { 212_992 } else { 1024 } }
    }

    fn connections(&self, socket: Cookie) -> Option<LiveConnections> {
        let count = self.0.borrow().sockets.get(&socket).map(|socket| socket.queue + socket.live)?;
        Some(LiveConnections { count, since: None })
    }

    fn head(&self, socket: Cookie) -> Head {
        let world = self.0.borrow();
        let first = world.sockets.get(&socket).and_then(|socket| socket.datagrams.front());
        first.map_or(Head::Empty, |datagram| Head::Datagram(*datagram))
    }

    fn shut_down(&mut self, socket: Cookie) -> Result<(), String> {
        let mut world = self.0.borrow_mut();
        if let Some(it) = world.sockets.get_mut(&socket) {
            let ours = it.ours;
            it.listens = false;
            if !ours {
                world.wrong.push(format!("{socket:?} is shut down, which others have opened"));
            }
            world.unseat(socket);
            world.migrate(socket);
        }
        Ok(())
    }

    fn listen_again(&mut self, socket: Cookie, slot: u16, _backlog: u32) -> Result<(), String> {
        let mut world = self.0.borrow_mut();
        let it = world.sockets.get_mut(&socket).ok_or("it is gone")?;
        it.listens = true;
        let listener = it.listener;
        world.groups.get_mut(&listener).ok_or("no group")?.slots.insert(slot, socket);
        Ok(())
    }

    fn set_backlog(&mut self, _socket: Cookie, _backlog: u32) {}

    fn repair(&mut self, socket: Cookie, slot: u16, holder: Holder, backlog: u32) -> Repair {
        let listens = self.0.borrow().sockets.get(&socket).is_none_or(|socket| socket.listens);
        if holder == Holder::Successor
            && let Some(socket) = self.0.borrow_mut().sockets.get_mut(&socket)
        {
            socket.locked = false;
        }
        if listens {
            return Repair::Sound;
        }
        self.listen_again(socket, slot, backlog).map_or_else(Repair::Failed, |()| Repair::Repaired(socket))
    }

    fn waits(&self, socket: Cookie) -> Option<bool> {
        let world = self.0.borrow();
        let socket = world.sockets.get(&socket).filter(|socket| socket.listens)?;
        let waits = |key: &ProcessKey| {
            let process = world.processes.get(key);
            process.is_some_and(|it| it.stage == Stage::Runs && it.waits && !it.hangs)
        };
        Some(socket.holders.iter().any(waits))
    }

    fn sees_waits(&self) -> bool {
        true
    }

    fn insert(&mut self, socket: Cookie, slot: u16) -> Result<(), String> {
        let mut world = self.0.borrow_mut();
        world.fails(Broken::Insert)?;
        let listener = world.sockets.get(&socket).ok_or("it is gone")?.listener;
        world.unseat(socket);
        world.groups.get_mut(&listener).ok_or("no group")?.slots.insert(slot, socket);
        Ok(())
    }

    fn put_back(&mut self, socket: Cookie, slot: u16, backlog: u32) -> Result<(), String> {
        self.listen_again(socket, slot, backlog)
    }

    fn clear(&mut self, listener: ListenerId, slot: u16) -> Result<(), String> {
        if let Some(group) = self.0.borrow_mut().groups.get_mut(&listener) {
            group.slots.remove(&slot);
        }
        Ok(())
    }

    fn name_slot(&mut self, slot: u16, worker: Option<(WorkerId, &str)>) {
        let mut world = self.0.borrow_mut();
        match worker {
            Some((_, name)) => drop(world.names.insert(slot, name.to_owned())),
            None => {
                world.names.remove(&slot);
                // The slot is free from now on, so no bucket may point to it.
                let mut deciding = world.groups.values().filter(|group| !group.left);
                let used = deciding.any(|group| World::points_to(group, |it| it == slot));
                if used {
                    world.wrong.push(format!("slot {slot} is freed while buckets or flows refer to it"));
                }
            }
        }
    }

    fn attach(&mut self, listener: ListenerId, sockets: &[Cookie]) -> Attachment {
        let mut world = self.0.borrow_mut();
        let locked = |cookie: &&Cookie| world.sockets.get(*cookie).is_some_and(|socket| socket.locked);
        let locked: Vec<Cookie> = sockets.iter().filter(locked).copied().collect();
        let group = world.groups.get_mut(&listener).expect("a listener that is there");
        group.decides |= group.claim == Claim::Held && !sockets.is_empty();
        group.left &= sockets.is_empty();
        Attachment { locked, error: None }
    }

    fn leave_to_others(&mut self, last: &[(ListenerId, Cookie)]) {
        self.0.borrow_mut().leave(last);
    }

    fn is_new(&self, listener: ListenerId) -> bool {
        self.0.borrow().anew.contains(&listener)
    }

    fn claim(&self, listener: ListenerId) -> Claim {
        self.0.borrow().groups[&listener].claim
    }

    fn may_take(&self) -> bool {
        true
    }

    fn take(&mut self, listener: ListenerId) -> Option<String> {
        self.0.borrow_mut().groups.get_mut(&listener)?.claim = Claim::Held;
        Some("another".into())
    }

    fn want(&mut self, listener: ListenerId) {
        let mut world = self.0.borrow_mut();
        if let Some(group) = world.groups.get_mut(&listener)
            && group.claim == Claim::Lost
        {
            group.claim = Claim::Wanted;
        }
    }

    fn install(&mut self, listener: ListenerId, rosters: &Rosters, _: &[Cookie]) -> Result<(), String> {
        self.0.borrow_mut().fails(Broken::Install)?;
        self.set_rosters(listener, rosters);
        Ok(())
    }

    fn set_freebind(&mut self, _: ListenerId, _: bool) {}

    fn remove(&mut self, listener: ListenerId) {
        let mut world = self.0.borrow_mut();
        if world.sockets.values().any(|socket| socket.listener == listener && socket.ours) {
            world.wrong.push(format!("{listener:?} is removed while workers have sockets of it"));
        }
        world.groups.remove(&listener);
    }

    fn publish(&mut self, listener: ListenerId, changes: &[BucketChange], pinned: &SlotSet) {
        let mut world = self.0.borrow_mut();
        let group = world.groups.get_mut(&listener).expect("a listener that is there");
        let tracked = !group.is_tcp();
        for (bucket, slot) in changes {
            let at = usize::from(*bucket);
            let before = group.entries[at];
            group.entries[at] = if tracked {
                let begun = group.marks[at][before.side()] != 0;
                let entry = moved(before, *slot, |slot| pinned.contains(slot), || begun);
                if entry.is_moving() && !before.is_moving() {
                    group.marks[at][entry.side()] = 0;
                }
                entry
            } else {
                Entry::steady(*slot)
            };
        }
    }

    fn owners(&self, listener: ListenerId) -> Vec<u16> {
        self.0.borrow().groups[&listener].entries.iter().map(|entry| entry.slot()).collect()
    }

    fn cut(&mut self, listener: ListenerId, pinned: &SlotSet) -> BTreeMap<u16, u64> {
        let mut world = self.0.borrow_mut();
        let mut cut = BTreeMap::new();
        let Some(group) = world.groups.get_mut(&listener).filter(|group| !group.is_tcp()) else { return cut };
        for (entry, marks) in group.entries.iter_mut().zip(&mut group.marks) {
            let (current, previous, side) = (entry.slot(), entry.previous(), entry.side());
            if current != NO_SLOT && !pinned.contains(current) {
                *cut.entry(current).or_default() += u64::from(marks[side].count_ones());
            }
            if previous != NO_SLOT && !pinned.contains(previous) {
                *cut.entry(previous).or_default() += u64::from(marks[1 - side].count_ones());
                *entry = entry.with_previous(NO_SLOT);
                marks[1 - side] = 0;
            }
        }
        cut
    }

    fn constraints(&self, listener: ListenerId, pinned: &SlotSet) -> Vec<(u16, Constraint)> {
        let world = self.0.borrow();
        let group = &world.groups[&listener];
        let moving =
            (0..).zip(group.entries.iter().zip(&group.marks)).filter(|(_, (entry, _))| entry.is_moving());
        moving
            .map(|(bucket, (entry, marks))| {
                (bucket, constraint(*entry, |slot| pinned.contains(slot), marks[entry.side()] != 0))
            })
            .collect()
    }

    fn points_to(&self, listener: ListenerId, slots: &SlotSet) -> bool {
        World::points_to(&self.0.borrow().groups[&listener], |slot| slots.contains(slot))
    }

    fn sweep(&mut self, listener: ListenerId) -> usize {
        let mut world = self.0.borrow_mut();
        let group = world.groups.get_mut(&listener).expect("a listener that is there");
        let mut ended = 0;
        for (entry, marks) in group.entries.iter_mut().zip(&group.marks) {
            if entry.is_moving() && marks[1 - entry.side()] == 0 {
                *entry = entry.with_previous(NO_SLOT);
                ended += 1;
            }
        }
        ended
    }

    fn rotate(&mut self, _listener: ListenerId) {}

    fn add_flows(&self, listener: ListenerId, flows: &mut [u64]) {
        let world = self.0.borrow();
        let group = &world.groups[&listener];
        for (entry, marks) in group.entries.iter().zip(&group.marks) {
            for (slot, side) in [(entry.slot(), entry.side()), (entry.previous(), 1 - entry.side())] {
                if let Some(flows) = flows.get_mut(usize::from(slot)) {
                    *flows += u64::from(marks[side].count_ones());
                }
            }
        }
    }

    fn add_staying(&self, listener: ListenerId, flows: &mut [u64]) {
        let world = self.0.borrow();
        let group = &world.groups[&listener];
        for (entry, marks) in group.entries.iter().zip(&group.marks).filter(|(entry, _)| entry.is_moving()) {
            if let Some(flows) = flows.get_mut(usize::from(entry.previous())) {
                *flows += u64::from(marks[1 - entry.side()].count_ones());
            }
        }
    }

    fn selected(&self, listener: ListenerId) -> Option<Box<[u64]>> {
        Some(self.0.borrow().groups[&listener].selected.clone().into())
    }

    fn set_fitness(&mut self, listener: ListenerId, slot: u16, fitness: Fitness) {
        if let Some(group) = self.0.borrow_mut().groups.get_mut(&listener) {
            group.fitness.insert(slot, fitness);
        }
    }

    fn set_rosters(&mut self, listener: ListenerId, rosters: &Rosters) {
        if let Some(group) = self.0.borrow_mut().groups.get_mut(&listener) {
            group.rosters = rosters.clone();
        }
    }

    fn cpus(&self) -> Vec<usize> {
        vec![0, 1]
    }
}
