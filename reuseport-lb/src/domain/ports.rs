//! What the engine commands and asks: the kernel's side of a service's listeners and sockets ([`Dataplane`]), and the
//! processes of its workers ([`Processes`]). `service/` has both over `kernel/`; the engine's tests have fakes.

use std::collections::BTreeMap;

use reuseport_lb_common::layout::Fitness;

use super::bucket_move::Constraint;
use super::listener::Listener;
use super::observed::{Pulse, Queue};
use super::reconfigure::Settings;
use super::slots::SlotSet;
use super::table::Change;

/// Which worker. A successor has the number of the worker that it is to replace, and both are there for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId {
    /// The number in the worker's name.
    pub number: usize,
    /// A serial number: of two workers of one number the later one has the higher one.
    pub instance: u64,
}

/// Which process of which worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessKey {
    /// The worker.
    pub worker: WorkerId,
    /// A serial number.
    pub incarnation: u64,
}

/// Which listener of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub u64);

/// The descriptor of a worker's first socket (LISTEN_FDS).
pub const FIRST_DESCRIPTOR: usize = 3;

/// Which socket: its SO_COOKIE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cookie(pub u64);

/// A socket that was opened for a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenedSocket {
    /// Which.
    pub cookie: Cookie,
    /// What its slot had been selected for before.
    pub selected_before: u64,
}

/// Which process has a socket that is looked at for what may have been done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// None has had it yet, and one is about to get it.
    New,
    /// One has had it, and another is about to get it.
    Successor,
    /// One has it.
    Living,
}

/// What became of a socket that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Nothing was wrong with it.
    Sound,
    /// It is back in service, perhaps as another socket.
    Repaired(Cookie),
    /// It is not; why.
    Failed(String),
}

/// What came of attaching a listener's program to its group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    /// Sockets that take no program any more (SO_LOCK_FILTER).
    pub locked: Vec<Cookie>,
    /// Why it is not attached.
    pub error: Option<String>,
}

/// Who decides for a listener, as its service sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// This service.
    Held,
    /// Another one, until the workers of this one are ready.
    Wanted,
    /// Another one, which has taken it from this one.
    Lost,
}

/// The kernel's side: groups, slots, sockets and buckets. What fails is said in words.
pub trait Dataplane {
    /// The address of a listener, with the port that the kernel chose.
    fn address(&self, listener: ListenerId) -> Listener;

    /// Opens a socket of a listener, with the given backlog; with `enter`, into `slot`. `first`: nobody has any other.
    fn open(
        &mut self,
        listener: ListenerId,
        slot: u16,
        enter: bool,
        first: bool,
        backlog: u32,
    ) -> Result<OpenedSocket, String>;
    /// Gives up the daemon's duplicate; the last one to close a socket empties its slot.
    fn close(&mut self, socket: Cookie);
    /// What waits in a socket; nothing in one that cannot be asked any more.
    fn queue(&self, socket: Cookie) -> Queue;
    /// Stops listening: the kernel hands what is queued to whom the program picks.
    fn shut_down(&mut self, socket: Cookie) -> Result<(), String>;
    /// Puts a socket that does not listen any more back into service and into its slot.
    fn listen_again(&mut self, socket: Cookie, slot: u16, backlog: u32) -> Result<(), String>;
    /// Changes the backlog of a TCP socket that listens.
    fn set_backlog(&mut self, socket: Cookie, backlog: u32);
    /// Puts right what a process may have done to a socket that has `slot`.
    fn repair(&mut self, socket: Cookie, slot: u16, holder: Holder, backlog: u32) -> Repair;
    /// Whether somebody waits for work on a socket; `None` where that cannot be seen, or of one that is closed or shut
    /// down.
    fn waits(&self, socket: Cookie) -> Option<bool>;
    /// Whether it can be seen at all who waits for work.
    fn sees_waits(&self) -> bool;

    /// Puts a socket into a slot, in place of what is there.
    fn insert(&mut self, socket: Cookie, slot: u16) -> Result<(), String>;
    /// Puts a socket into its slot unless it is there, and makes it listen if it does not.
    fn put_back(&mut self, socket: Cookie, slot: u16, backlog: u32) -> Result<(), String>;
    /// Empties a slot of a listener.
    fn clear(&mut self, listener: ListenerId, slot: u16) -> Result<(), String>;
    /// Says whose decisions for a slot are from now on; `None`: nobody's.
    fn name_slot(&mut self, slot: u16, worker: Option<&str>);

    /// Makes the program of a listener decide for its group, through one of its `sockets`, if the service does.
    fn attach(&mut self, listener: ListenerId, sockets: &[Cookie]) -> Attachment;
    /// Leaves the groups that these sockets, the last of ours, are in to others in them, if there are any.
    fn leave_to_others(&mut self, last: &[(ListenerId, Cookie)]);
    /// Whether a group was made anew at the takeover: its buckets are nobody's yet.
    fn is_new(&self, listener: ListenerId) -> bool;
    /// Who decides.
    fn claim(&self, listener: ListenerId) -> Claim;
    /// Whether anything may be taken from others now.
    fn may_take(&self) -> bool;
    /// Takes a listener over; the service that decided.
    fn take(&mut self, listener: ListenerId) -> Option<String>;
    /// The configuration gives the service this listener: it may take what it has lost.
    fn want(&mut self, listener: ListenerId);
    /// Puts a group that was prepared in place of the one that decides, with its buckets, flows and avoided slots, if
    /// there is one; with these slots that are ready, and those that wait, and through one of these sockets.
    fn install(
        &mut self,
        listener: ListenerId,
        rosters: (&[u16], &[u16]),
        sockets: &[Cookie],
    ) -> Result<(), String>;
    /// Nothing of a listener is left after this.
    fn remove(&mut self, listener: ListenerId);

    /// Points buckets to slots; live flows stay with the worker in a slot that is `pinned`.
    fn publish(&mut self, listener: ListenerId, changes: &[Change], pinned: &SlotSet);
    /// The owners of all buckets.
    fn owners(&self, listener: ListenerId) -> Vec<u16>;
    /// Takes flows from slots that are not `pinned` any more; how many, by slot.
    fn cut(&mut self, listener: ListenerId, pinned: &SlotSet) -> BTreeMap<u16, u64>;
    /// Where each moving bucket can move; all others can move anywhere.
    fn constraints(&self, listener: ListenerId, pinned: &SlotSet) -> Vec<(u16, Constraint)>;
    /// Whether any bucket points to one of these slots, or has flows of it.
    fn points_to(&self, listener: ListenerId, slots: &SlotSet) -> bool;
    /// Ends the move of each bucket whose old flows are quiet; how many those are.
    fn sweep(&mut self, listener: ListenerId) -> usize;
    /// Begins another epoch: forgets flows that were silent in all others.
    fn rotate(&mut self, listener: ListenerId);
    /// Adds the flows that live, by slot.
    fn add_flows(&self, listener: ListenerId, flows: &mut [u64]);
    /// Adds the flows that stay with a slot although others get the new ones of their bucket.
    fn add_staying(&self, listener: ListenerId, flows: &mut [u64]);
    /// What each slot was selected for; `None` if the counters cannot be read.
    fn selected(&self, listener: ListenerId) -> Option<Box<[u64]>>;
    /// Says whether new connections avoid a slot.
    fn set_fitness(&mut self, listener: ListenerId, slot: u16, fitness: Fitness);
    /// Says which slots are ready, and which there are for when none of those is.
    fn set_rosters(&mut self, listener: ListenerId, ready: &[u16], waiting: &[u16]);
}

/// A process that is to be started.
pub struct Spawn<'a> {
    /// Which.
    pub key: ProcessKey,
    /// The worker's name.
    pub name: &'a str,
    /// Its sockets with the addresses of their listeners, in their order.
    pub sockets: &'a [(Cookie, Listener)],
    /// The last one ended by its own fault: what this one writes is kept for the case that it does as well.
    pub suspect: bool,
    /// What it is started with.
    pub settings: &'a Settings,
}

/// Processes of workers. Whoever is gone already is told in vain, without an error.
pub trait Processes {
    /// Starts one. It begins when [`Processes::unblock`] says so. What cannot be is said in words.
    fn spawn(&mut self, spawn: &Spawn<'_>) -> Result<(), String>;
    /// The process that has just asked to join is this one from now on.
    fn adopt(&mut self, process: ProcessKey, name: &str) -> Result<(), String>;
    /// Lets those begin that were started: they are written down.
    fn unblock(&mut self);
    /// Its process id.
    fn pid(&self, process: ProcessKey) -> Option<i32>;
    /// Whether the daemon may end it: not one that joined.
    fn is_ours(&self, process: ProcessKey) -> bool;
    /// SIGTERM.
    fn terminate(&mut self, process: ProcessKey);
    /// SIGKILL.
    fn kill(&mut self, process: ProcessKey);
    /// It ends by itself, and what it started may finish.
    fn expect_end(&mut self, process: ProcessKey);
    /// Stops it, and waits until it has stopped; false if it was stopped already, or is not ours.
    fn suspend(&mut self, process: ProcessKey) -> bool;
    /// Lets it go on.
    fn resume(&mut self, process: ProcessKey);
    /// Signs of life; `None` if there is no process.
    fn pulse(&self, process: ProcessKey) -> Option<Pulse>;
    /// Makes the socket that it is heard at again if somebody has removed it; whether it could not be heard meanwhile.
    fn restore_hearing(&mut self, process: ProcessKey) -> bool;
    /// Whether what it writes is kept.
    fn is_recorded(&self, process: ProcessKey) -> bool;
    /// Passes on some of what it has written; when to go on if there is more.
    fn forward(&mut self, process: ProcessKey) -> Option<std::time::Duration>;
    /// It has ended: nothing of it is kept but what it wrote last, if that was kept.
    fn bury(&mut self, process: ProcessKey) -> Option<Vec<String>>;
    /// Looks in a thread for sockets that these opened by themselves; what is found comes as an input.
    fn look_for_foreign(&mut self, processes: &[ProcessKey], listeners: &[Listener]);
}
