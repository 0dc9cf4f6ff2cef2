//! The two ports of the engine: groups and sockets of a service ([`Dataplane`]), and processes of its workers
//! ([`Processes`]). `service/` implements both over `kernel/`; the engine's tests have fakes.

use std::collections::BTreeMap;

use reuseport_lb_common::load::Fitness;

use super::bucket_move::Constraint;
use super::listener::Listener;
use super::number::Number;
use super::observed::{CallId, Head, LiveConnections, Pulse, Queue};
use super::reconfigure::Settings;
use super::slots::SlotSet;
use super::table::BucketChange;
use crate::config::StopSettings;

/// Identifies a worker. A successor has the number of the worker that it is to replace, and both exist for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId {
    /// Number in the worker's name.
    pub number: usize,
    /// Serial number: higher for the later one of two workers with the same number.
    pub instance: u64,
    /// 0 for the worker itself; further ones are members that have sockets which its process has bound besides.
    pub part: usize,
}

impl WorkerId {
    /// The worker whose process has this one's sockets.
    #[must_use]
    pub fn leader(self) -> Self {
        Self { part: 0, ..self }
    }
}

impl From<WorkerId> for Number {
    fn from(id: WorkerId) -> Self {
        Self { worker: id.number, part: id.part }
    }
}

/// Identifies a process of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessKey {
    /// The worker that the process belongs to.
    pub worker: WorkerId,
    /// Serial number: a worker's next process has a higher one.
    pub incarnation: u64,
}

/// Identifies a listener of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub u64);

/// The descriptor of a worker's first socket (LISTEN_FDS).
pub const FIRST_DESCRIPTOR: usize = 3;

/// Identifies a socket: its SO_COOKIE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cookie(pub u64);

/// A socket that was opened for a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenedSocket {
    /// Identifies the socket.
    pub cookie: Cookie,
    /// Value of the slot's counter of decisions at that time.
    pub selected_before: u64,
}

/// The process that has, or gets, a socket that is checked and repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The first process is about to get the socket.
    New,
    /// A process has had the socket, and another one is about to get it.
    Successor,
    /// A running process has the socket.
    Living,
}

/// Outcome of checking and repairing a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repair {
    /// The socket was in order.
    Sound,
    /// The socket, or a new one in its place, serves again.
    Repaired(Cookie),
    /// The socket does not serve; the text says why.
    Failed(String),
}

/// How a socket that a process has opened itself can serve a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It becomes a member of the group.
    Itself,
    /// The process gets another one in its place: with UDP the worker's.
    Replaced,
    /// It is of another protocol.
    Not,
}

/// The answer to a call of bind(2) or listen(2) that has waited for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// The kernel does what was called.
    GoOn,
    /// It is done.
    Done,
    /// It fails with this error number.
    Fails(i32),
    /// The process gets this socket in place of its own.
    Instead(Cookie),
}

/// Outcome of attaching a listener's program to its group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    /// Sockets that take no program any more (SO_LOCK_FILTER).
    pub locked: Vec<Cookie>,
    /// Why the program is not attached.
    pub error: Option<String>,
}

/// Which service's program decides for a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// This service's.
    Held,
    /// Another service's, until the workers of this one are ready.
    Wanted,
    /// That of another service, which has taken the listener from this one.
    Lost,
}

/// Slots for a purpose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rosters {
    /// Of workers that are ready.
    pub ready: Vec<u16>,
    /// The weights of those, in their order; empty where they make no difference to the program.
    pub weights: Vec<u32>,
    /// Those in which connections wait if no socket of a ready worker can be selected.
    pub waiting: Vec<u16>,
    /// For each CPU the one of its worker, or none; empty where CPUs make no difference.
    pub by_cpu: Vec<u16>,
}

/// Groups, slots, sockets and buckets of a service. Errors are one line of text.
pub trait Dataplane {
    /// The address of a listener, with the port that the kernel chose.
    fn address(&self, listener: ListenerId) -> Listener;

    /// Opens a socket of a listener, with the given backlog; with `enter`, puts it into `slot`. `first`: the service
    /// has no other socket of that listener.
    fn open(
        &mut self,
        listener: ListenerId,
        slot: u16,
        enter: bool,
        first: bool,
        backlog: u32,
    ) -> Result<OpenedSocket, String>;
    /// Gives all sockets, also those that are opened from now on, to this user; `None`: the daemon's.
    fn set_owner(&mut self, uid: Option<u32>);
    /// Closes the daemon's duplicate; a socket without any duplicate leaves its slot.
    fn close(&mut self, socket: Cookie);
    /// Closes the daemon's duplicate of a socket that a process has and goes on with, outside of the service.
    fn let_go(&mut self, socket: Cookie);

    /// How a socket that a process has opened itself can serve a listener.
    fn fits(&self, opened: Cookie, listener: ListenerId) -> Fit;
    /// Whether a socket that a process has opened itself is bound to the address of a listener.
    fn is_bound_to(&self, opened: Cookie, listener: ListenerId) -> bool;
    /// Binds a socket that a process has opened itself to the address of a listener, or makes one of TCP with its options
    /// that is bound there, for the process to get in place of its own; returns which. Errors are error numbers.
    fn bind(&mut self, opened: Cookie, listener: ListenerId) -> Result<Cookie, i32>;
    /// Lets a socket that was bound serve in place of `old`, which is closed; others get what waits there. With `enter`,
    /// puts it into `slot`.
    fn replace(
        &mut self,
        old: Cookie,
        opened: Cookie,
        slot: u16,
        enter: bool,
        backlog: u32,
    ) -> Result<(), String>;
    /// Puts a socket that others have opened into `slot` of a listener, and lets the program decide for its group;
    /// `None`: they have closed it meanwhile.
    fn enter(
        &mut self,
        listener: ListenerId,
        socket: Cookie,
        slot: u16,
    ) -> Result<Option<OpenedSocket>, String>;
    /// Gives the worker's socket that a process is to get the options that its own one has.
    fn resemble(&mut self, socket: Cookie, opened: Cookie);
    /// The queue of a socket; empty for one that is closed.
    fn queue(&self, socket: Cookie) -> Queue;
    /// Live connections that a TCP socket has accepted; `None` if they are not counted.
    fn connections(&self, socket: Cookie) -> Option<LiveConnections>;
    /// What waits first in the queue of a UDP socket; leaves it there.
    fn head(&self, socket: Cookie) -> Head;
    /// Stops listening: the kernel hands queued connections to the sockets that the program picks.
    fn shut_down(&mut self, socket: Cookie) -> Result<(), String>;
    /// Makes a socket that was shut down listen again, and puts it into its slot.
    fn listen_again(&mut self, socket: Cookie, slot: u16, backlog: u32) -> Result<(), String>;
    /// Changes the backlog of a TCP socket that listens.
    fn set_backlog(&mut self, socket: Cookie, backlog: u32);
    /// Repairs what a process may have done to a socket that has `slot`.
    fn repair(&mut self, socket: Cookie, slot: u16, holder: Holder, backlog: u32) -> Repair;
    /// Whether a thread waits for work on a socket; `None` if this kernel does not show that, or the socket is closed
    /// or shut down.
    fn waits(&self, socket: Cookie) -> Option<bool>;
    /// Whether this kernel shows which threads wait for work.
    fn sees_waits(&self) -> bool;

    /// Puts a socket into a slot, in place of what is there.
    fn insert(&mut self, socket: Cookie, slot: u16) -> Result<(), String>;
    /// Puts a socket into its slot unless it is there, and makes it listen if it does not.
    fn put_back(&mut self, socket: Cookie, slot: u16, backlog: u32) -> Result<(), String>;
    /// Empties a slot of a listener.
    fn clear(&mut self, listener: ListenerId, slot: u16) -> Result<(), String>;
    /// Names the worker that decisions for a slot are counted for from now on, and whose connection ids lead there; `None`: no
    /// worker.
    fn name_slot(&mut self, slot: u16, worker: Option<(WorkerId, &str)>);

    /// Attaches the program of a listener to its group, through one of its `sockets`, unless another service decides.
    fn attach(&mut self, listener: ListenerId, sockets: &[Cookie]) -> Attachment;
    /// Takes the program off the groups of these sockets, the last ones of the service, as far as strangers are in a
    /// group: the kernel then chooses among them.
    fn leave_to_others(&mut self, last: &[(ListenerId, Cookie)]);
    /// Whether a group was made anew at the takeover: its buckets have no owners yet.
    fn is_new(&self, listener: ListenerId) -> bool;
    /// Which service's program decides for a listener.
    fn claim(&self, listener: ListenerId) -> Claim;
    /// Whether listeners may be taken from other services now.
    fn may_take(&self) -> bool;
    /// Takes a listener over; returns the service whose program decided until now.
    fn take(&mut self, listener: ListenerId) -> Option<String>;
    /// Notes that the configuration gives the service this listener: it may take back a lost one.
    fn want(&mut self, listener: ListenerId);
    /// Replaces the group that decides, if there is one, by a prepared one, which gets its buckets, flows and avoided
    /// slots; with these rosters, and attached through one of these sockets.
    fn install(&mut self, listener: ListenerId, rosters: &Rosters, sockets: &[Cookie]) -> Result<(), String>;
    /// Notes whether sockets may be opened on an address that the machine does not have yet.
    fn set_freebind(&mut self, listener: ListenerId, freebind: bool);
    /// Removes a listener with its group and pins.
    fn remove(&mut self, listener: ListenerId);

    /// Points buckets to slots; live flows stay with the worker of a slot in `pinned`.
    fn publish(&mut self, listener: ListenerId, changes: &[BucketChange], pinned: &SlotSet);
    /// The owners of all buckets.
    fn owners(&self, listener: ListenerId) -> Vec<u16>;
    /// Takes flows from slots that are not in `pinned` any more; returns how many, by slot.
    fn cut(&mut self, listener: ListenerId, pinned: &SlotSet) -> BTreeMap<u16, u64>;
    /// The constraint of each moving bucket; all other buckets can move anywhere.
    fn constraints(&self, listener: ListenerId, pinned: &SlotSet) -> Vec<(u16, Constraint)>;
    /// Whether a bucket points to one of these slots, or has it as its previous one.
    fn points_to(&self, listener: ListenerId, slots: &SlotSet) -> bool;
    /// Ends the move of each bucket whose previous worker has no live flow; returns how many moves ended.
    fn sweep(&mut self, listener: ListenerId) -> usize;
    /// Begins another epoch: forgets flows that had no packet in all the others.
    fn rotate(&mut self, listener: ListenerId);
    /// Adds the live flows to `flows`, by slot.
    fn add_flows(&self, listener: ListenerId, flows: &mut [u64]);
    /// Adds to `flows`, by slot, the live flows that stay with a slot although their bucket has moved.
    fn add_staying(&self, listener: ListenerId, flows: &mut [u64]);
    /// Decisions for each slot so far; `None` if the counters cannot be read.
    fn selected(&self, listener: ListenerId) -> Option<Box<[u64]>>;
    /// Tells the program whether new connections avoid a slot.
    fn set_fitness(&mut self, listener: ListenerId, slot: u16, fitness: Fitness);
    /// Tells the program which slots are ready, in which ones connections wait if none is, and which one has a CPU.
    fn set_rosters(&mut self, listener: ListenerId, rosters: &Rosters);
    /// Numbers of the CPUs that workers run on, in ascending order.
    fn cpus(&self) -> Vec<usize>;
}

/// A process that is to be started.
pub struct Spawn<'a> {
    /// Identifies the process.
    pub key: ProcessKey,
    /// Name of the worker.
    pub name: &'a str,
    /// Its slot.
    pub slot: u16,
    /// The worker's sockets with what they are called (LISTEN_FDNAMES), in the listeners' order; none if its processes
    /// open their own.
    pub sockets: &'a [(Cookie, String)],
    /// The addresses of the service's listeners.
    pub listeners: &'a [Listener],
    /// Command, user and other settings of the start.
    pub settings: &'a Settings,
}

/// Processes of workers. A command to a process that has ended does nothing, without an error.
pub trait Processes {
    /// Starts a process, which does not run the worker before [`Processes::unblock`]. Errors are one line of text.
    fn spawn(&mut self, spawn: &Spawn<'_>) -> Result<(), String>;
    /// Gives the process that has just asked to join this key and name; `listeners` are those that it may open sockets for.
    fn adopt(&mut self, process: ProcessKey, name: &str, listeners: &[Listener]) -> Result<(), String>;
    /// Notes the process of an adopted worker, which others have started.
    fn note(&mut self, process: ProcessKey, pid: i32);
    /// Lets started processes run the worker: the next daemon would know of them.
    fn unblock(&mut self);
    /// Process id; `None` if the process is gone.
    fn pid(&self, process: ProcessKey) -> Option<i32>;
    /// Whether the daemon may end the process: not a joined one.
    fn is_ours(&self, process: ProcessKey) -> bool;
    /// Tells the process to end in order.
    fn terminate(&mut self, process: ProcessKey, stop: StopSettings);
    /// Sends SIGKILL.
    fn kill(&mut self, process: ProcessKey);
    /// Notes that the process ends by itself: its descendants get time to finish.
    fn expect_end(&mut self, process: ProcessKey);
    /// Stops the process, and waits until it has stopped; false if it was stopped already, or is a joined one.
    fn suspend(&mut self, process: ProcessKey) -> bool;
    /// Lets a stopped process go on.
    fn resume(&mut self, process: ProcessKey);
    /// Signs of life; `None` if the process has ended.
    fn pulse(&self, process: ProcessKey) -> Option<Pulse>;
    /// Makes the notification socket of the process again if it was removed; true if messages may have been lost.
    fn restore_notify(&mut self, process: ProcessKey) -> bool;
    /// Forgets a process that has ended; returns the last lines of its output, none of a joined one.
    fn forget(&mut self, process: ProcessKey) -> Vec<String>;
    /// Which of these sockets none of the worker's processes has any more.
    fn closed(&self, process: ProcessKey, sockets: &[Cookie]) -> Vec<Cookie>;
    /// Answers a call of bind(2) or listen(2).
    fn answer(&mut self, process: ProcessKey, call: CallId, answer: CallOutcome);
    /// Searches in a thread for sockets that these processes have opened themselves; finds come as inputs.
    fn look_for_foreign(&mut self, processes: &[ProcessKey], listeners: &[Listener]);
}
