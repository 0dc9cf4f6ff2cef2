//! A fake kernel and fake processes: sockets with queues, groups with slots and buckets, flows with marks. They
//! outlive an engine, as the real ones outlive a daemon.

mod dataplane;
mod processes;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque, btree_map};
use std::rc::Rc;

use reuseport_lb_common::entry::Entry;
use reuseport_lb_common::load::Fitness;
use reuseport_lb_common::slots::{MAX_SLOTS, NO_SLOT};

use crate::config::StopSettings;
use crate::domain::engine::{Found, Snapshot, WorkerRecord};
use crate::domain::listener::{Listener, Protocol};
use crate::domain::observed::CallId;
use crate::domain::ports::{CallOutcome, Claim, Cookie, ListenerId, OpenedSocket, ProcessKey, Rosters};
use crate::domain::worker::Origin;

/// Number of buckets of a fake group.
pub(super) const BUCKETS: usize = 48;

/// Number of flows that a bucket tells apart.
pub(super) const FLOWS: u32 = 4;

/// The fake world, shared by both ports and the test.
#[derive(Clone, Default)]
pub(super) struct Fake(pub(super) Rc<RefCell<World>>);

/// A socket that a process has opened itself.
pub(super) struct ProcessSocket {
    pub(super) protocol: Protocol,
    pub(super) process: ProcessKey,
    /// The listener whose address it is bound to.
    pub(super) bound: Option<ListenerId>,
}

#[derive(Default)]
pub(super) struct World {
    /// The user that the sockets belong to; `None`: the daemon's.
    pub(super) owner: Option<u32>,
    pub(super) groups: BTreeMap<ListenerId, Group>,
    pub(super) sockets: BTreeMap<Cookie, Socket>,
    pub(super) processes: BTreeMap<ProcessKey, Process>,
    /// The worker that decisions for each slot are counted for.
    pub(super) names: BTreeMap<u16, String>,
    /// Groups that were made anew at a takeover, because they were removed before that was saved.
    pub(super) anew: BTreeSet<ListenerId>,
    /// Sockets that processes have opened themselves, while no listener has them.
    pub(super) opened: BTreeMap<Cookie, ProcessSocket>,
    /// Answers to calls of processes.
    pub(super) answers: BTreeMap<CallId, CallOutcome>,
    /// Ids of processes that others have started.
    pub(super) noted: BTreeMap<ProcessKey, i32>,
    /// Operations that fail next.
    pub(super) broken: BTreeSet<Broken>,
    serial: u64,
    /// Violations of what must hold in any history.
    pub(super) wrong: Vec<String>,
}

/// An operation that can be made to fail, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Broken {
    Spawn,
    Open,
    Insert,
    Adopt,
    Install,
}

pub(super) struct Group {
    pub(super) listener: Listener,
    pub(super) slots: BTreeMap<u16, Cookie>,
    pub(super) entries: Vec<Entry>,
    /// Marks of live flows, for each side of each bucket.
    pub(super) marks: Vec<[u64; 2]>,
    pub(super) rosters: Rosters,
    pub(super) fitness: BTreeMap<u16, Fitness>,
    pub(super) selected: Vec<u64>,
    pub(super) claim: Claim,
    pub(super) decides: bool,
    /// The program was taken off: the sockets are others', and the kernel chooses.
    pub(super) left: bool,
}

pub(super) struct Socket {
    pub(super) listener: ListenerId,
    /// The daemon has a duplicate.
    pub(super) ours: bool,
    pub(super) holders: BTreeSet<ProcessKey>,
    pub(super) listens: bool,
    /// Connections that no process has accepted.
    pub(super) queue: u32,
    /// Connections that processes have accepted and not closed.
    pub(super) live: u32,
    /// Datagrams that no process has read; each has a number of its own.
    pub(super) datagrams: VecDeque<u64>,
    pub(super) locked: bool,
}

impl Socket {
    /// A socket that the daemon has just opened.
    fn new(listener: ListenerId) -> Self {
        Self {
            listener,
            ours: true,
            holders: BTreeSet::new(),
            listens: true,
            queue: 0,
            live: 0,
            datagrams: VecDeque::new(),
            locked: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Waits for `unblock`; ends with the daemon.
    Blocked,
    Runs,
    Gone,
}

pub(super) struct Process {
    pub(super) stage: Stage,
    pub(super) joined: bool,
    /// The process was told to end.
    pub(super) told: bool,
    /// How it was told to.
    pub(super) stop: Option<StopSettings>,
    pub(super) killed: bool,
    /// The process accepts nothing and shows no sign of life.
    pub(super) hangs: bool,
    /// The process waits for work.
    pub(super) waits: bool,
    pub(super) switches: u64,
    pub(super) suspended: bool,
    pub(super) sockets: Vec<Cookie>,
    /// The daemon knows the process.
    pub(super) known: bool,
}

impl Group {
    pub(super) fn new(listener: Listener) -> Self {
        Self {
            listener,
            slots: BTreeMap::new(),
            entries: vec![Entry::steady(NO_SLOT); BUCKETS],
            marks: vec![[0; 2]; BUCKETS],
            rosters: Rosters::default(),
            fitness: BTreeMap::new(),
            selected: vec![0; MAX_SLOTS],
            claim: Claim::Held,
            decides: false,
            left: false,
        }
    }

    fn is_tcp(&self) -> bool {
        self.listener.protocol == Protocol::Tcp
    }
}

impl World {
    fn fails(&mut self, what: Broken) -> Result<(), String> {
        if self.broken.remove(&what) { Err(format!("{what:?} fails")) } else { Ok(()) }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// The socket in a slot, if it listens.
    fn takes(&self, group: &Group, slot: u16) -> Option<Cookie> {
        let cookie = *group.slots.get(&slot)?;
        self.sockets.get(&cookie).filter(|socket| socket.listens).map(|_| cookie)
    }

    /// Decides as the program does: the owner, else a ready slot, else one in which connections wait.
    fn choose(&self, listener: ListenerId, bucket: usize) -> Option<(u16, Cookie)> {
        let group = &self.groups[&listener];
        let owner = group.entries[bucket].slot();
        let avoided = group.fitness.get(&owner).is_some_and(|fitness| *fitness != Fitness::Fit);
        let owner = Some(owner).filter(|_| !avoided);
        let rest = group.rosters.ready.iter().chain(&group.rosters.waiting).copied();
        owner.into_iter().chain(rest).find_map(|slot| Some((slot, self.takes(group, slot)?)))
    }

    /// A connection comes in; false if it is refused.
    pub(super) fn connect(&mut self, listener: ListenerId, bucket: usize) -> bool {
        let Some((slot, cookie)) = self.choose(listener, bucket) else { return false };
        if let Some(group) = self.groups.get_mut(&listener) {
            group.selected[usize::from(slot)] += 1;
        }
        if let Some(socket) = self.sockets.get_mut(&cookie) {
            socket.queue += 1;
        }
        true
    }

    /// A datagram of a flow comes in; returns the slot that it goes to.
    pub(super) fn send(&mut self, listener: ListenerId, bucket: usize, flow: u32) -> Option<u16> {
        let group = self.groups.get_mut(&listener)?;
        let (entry, bit) = (group.entries[bucket], 1u64 << flow);
        let side = entry.side();
        let marks = &mut group.marks[bucket];
        let stays = entry.is_moving() && marks[side] & bit == 0 && marks[1 - side] & bit != 0;
        let slot = if stays { entry.previous() } else { entry.slot() };
        let cookie = *group.slots.get(&slot).filter(|_| slot != NO_SLOT)?;
        if !stays {
            marks[side] |= bit;
        }
        group.selected[usize::from(slot)] += 1;
        let datagram = self.next();
        if let Some(socket) = self.sockets.get_mut(&cookie) {
            let reads = |key: &ProcessKey| {
                let process = self.processes.get(key);
                process.is_some_and(|it| it.stage == Stage::Runs && it.waits && !it.hangs)
            };
            socket.datagrams.push_back(datagram);
            if socket.holders.iter().any(reads) {
                socket.datagrams.clear();
            }
        }
        Some(slot)
    }

    /// Moves queued connections to other sockets.
    fn migrate(&mut self, cookie: Cookie) {
        let Some(socket) = self.sockets.get_mut(&cookie) else { return };
        let (queue, listener) = (std::mem::take(&mut socket.queue), socket.listener);
        for at in 0..queue {
            let bucket = at as usize * 7 % BUCKETS;
            if !self.groups.contains_key(&listener) || !self.connect(listener, bucket) {
                let group = self.groups.get(&listener);
                let there = |slot: &&u16| group.is_some_and(|group| self.takes(group, **slot).is_some());
                if group.is_some_and(|group| group.rosters.ready.iter().any(|slot| there(&slot))) {
                    self.wrong
                        .push(format!("a connection of {cookie:?} was lost while another worker was there"));
                }
            }
        }
    }

    fn unseat(&mut self, cookie: Cookie) {
        for group in self.groups.values_mut() {
            group.slots.retain(|_, seated| *seated != cookie);
        }
    }

    /// Removes a socket that neither the daemon nor a process has any more, and migrates its queue.
    fn collect(&mut self, cookie: Cookie) {
        let gone = self.sockets.get(&cookie).is_some_and(|it| !it.ours && it.holders.is_empty());
        if gone {
            if let Some(socket) = self.sockets.get_mut(&cookie) {
                socket.listens = false;
            }
            self.unseat(cookie);
            self.migrate(cookie);
            self.sockets.remove(&cookie);
        }
    }

    /// A process gets a socket.
    pub(super) fn give(&mut self, key: ProcessKey, cookie: Cookie) {
        let Some(process) = self.processes.get_mut(&key).filter(|it| it.stage != Stage::Gone) else { return };
        if let Some(socket) = self.sockets.get_mut(&cookie)
            && socket.holders.insert(key)
        {
            process.sockets.push(cookie);
        }
    }

    /// A process opens a socket.
    pub(super) fn open(&mut self, key: ProcessKey, protocol: Protocol) -> Cookie {
        let cookie = Cookie(self.next());
        self.opened.insert(cookie, ProcessSocket { protocol, process: key, bound: None });
        cookie
    }

    /// A process ends.
    pub(super) fn end(&mut self, key: ProcessKey) {
        let Some(process) = self.processes.get_mut(&key) else { return };
        process.stage = Stage::Gone;
        for cookie in process.sockets.clone() {
            if let Some(socket) = self.sockets.get_mut(&cookie) {
                socket.holders.remove(&key);
            }
            self.collect(cookie);
        }
    }

    /// The daemon dies: processes that it had not unblocked die as well, and its duplicates are closed.
    pub(super) fn lose_daemon(&mut self) {
        for key in self.processes.keys().copied().collect::<Vec<ProcessKey>>() {
            if self.processes[&key].stage == Stage::Blocked {
                self.end(key);
            }
        }
        for cookie in self.sockets.keys().copied().collect::<Vec<Cookie>>() {
            if let Some(socket) = self.sockets.get_mut(&cookie) {
                socket.ours = false;
            }
            self.collect(cookie);
        }
    }

    /// What the next daemon finds of what the one before has saved.
    pub(super) fn find(&mut self, snapshot: &Snapshot) -> Vec<Found> {
        // Groups that were prepared for a change that was not made are not taken over.
        self.groups.retain(|id, _| snapshot.listeners.iter().any(|record| record.id == *id));
        // Groups that were removed before that was saved are made anew.
        self.anew.clear();
        for record in &snapshot.listeners {
            if let btree_map::Entry::Vacant(free) = self.groups.entry(record.id) {
                free.insert(Group::new(record.asked));
                self.anew.insert(record.id);
            }
        }
        snapshot.workers.iter().map(|record| self.find_worker(record)).collect()
    }

    fn find_worker(&mut self, record: &WorkerRecord) -> Found {
        let cookies = record.sockets.iter().map(|(_, cookie, _)| *cookie);
        if record.life.origin == Origin::Adopted {
            let sockets = cookies.filter(|cookie| self.sockets.contains_key(cookie)).collect();
            return Found { runs: true, heard: true, sockets };
        }
        let process = record.process.and_then(|key| Some((key, self.processes.get_mut(&key)?)));
        let Some((key, process)) = process.filter(|(_, process)| process.stage == Stage::Runs) else {
            return Found::default();
        };
        process.known = true;
        let mut sockets = Vec::new();
        for cookie in cookies {
            let socket = self.sockets.get_mut(&cookie);
            if let Some(socket) = socket.filter(|socket| socket.holders.contains(&key)) {
                socket.ours = true;
                sockets.push(cookie);
            }
        }
        Found { runs: true, heard: true, sockets }
    }

    /// A server that others have started opens a socket of a listener, in one of its processes.
    pub(super) fn open_outside(&mut self, listener: ListenerId, process: ProcessKey) -> Cookie {
        let cookie = Cookie(self.next());
        let holders = BTreeSet::from([process]);
        self.sockets.insert(cookie, Socket { ours: false, holders, ..Socket::new(listener) });
        cookie
    }

    /// Puts a socket that others have opened into a slot, if it is still open.
    fn enter(&mut self, listener: ListenerId, cookie: Cookie, slot: u16) -> Option<OpenedSocket> {
        self.sockets.get(&cookie)?;
        let group = self.groups.get_mut(&listener)?;
        group.slots.insert(slot, cookie);
        Some(OpenedSocket { cookie, selected_before: group.selected[usize::from(slot)] })
    }

    /// Leaves the groups of sockets that others have opened to the kernel.
    fn leave(&mut self, last: &[(ListenerId, Cookie)]) {
        for (listener, cookie) in last {
            let adopted = self.sockets.get(cookie).is_some_and(|socket| !socket.ours);
            if let Some(group) = self.groups.get_mut(listener).filter(|_| adopted) {
                group.left = true;
            }
        }
    }

    /// A server that others have started closes a socket.
    pub(super) fn close_outside(&mut self, cookie: Cookie) {
        self.sockets.get_mut(&cookie).into_iter().for_each(|socket| socket.holders.clear());
        self.collect(cookie);
    }

    fn points_to(group: &Group, slot: impl Fn(u16) -> bool) -> bool {
        let points =
            |entry: &Entry| [entry.slot(), entry.previous()].into_iter().any(|it| it != NO_SLOT && slot(it));
        group.entries.iter().any(points)
    }
}
