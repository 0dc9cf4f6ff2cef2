//! The kernel's side of one listener: program and maps. They are pinned, so they outlive the
//! daemon; the program is attached to the SO_REUSEPORT group and lives as long as one of its sockets.

mod decides;
mod making;
mod memory;
mod occupied;
mod totals;

use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{MapData, ReusePortSockArray};
use aya::programs::sk_reuseport::SkReuseportError;
use aya::programs::{ProgramError, SkReuseport};
use aya_log::EbpfLogger;
use reuseport_lb_common::connections::Tag;
use reuseport_lb_common::entry::Entry;
use reuseport_lb_common::quic::Format;
use reuseport_lb_common::slots::NO_SLOT;
use reuseport_lb_common::table::BUCKETS;
use socket2::Socket;

use super::bpffs::UNATTACHED;
use super::loading::errno;
pub use super::policy::Policy;
use crate::domain::listener::Listener;

pub use decides::Decides;
pub use memory::GroupMemory;
use memory::mapped;
use totals::GroupCounters;
pub use totals::Totals;

/// Names of pins; of maps they are those in the object as well, but for those of globals.
const PROGRAM: &str = "program";
pub(super) const TABLE: &str = "TABLE";
const LOAD: &str = "LOAD";
pub(super) const ACTIVITY: &str = "ACTIVITY";
pub(super) const COUNTERS: &str = "COUNTERS";
pub(super) const SOCKETS: &str = "SOCKETS";

/// What every program has anew. The socket array keeps its shape for ever, and the counters as long
/// as the layout does. (Globals cannot be kept: aya fills what it finds with zeros.)
const RENEWED: [&str; 5] = [PROGRAM, TABLE, LOAD, COUNTERS, ACTIVITY];

/// Program and maps of one listener. Dropping it leaves pins, attachment and sockets as they are.
pub struct PinnedGroup {
    listener: Listener,
    pins: PathBuf,
    /// What the program came from, until its log is read: all other programs are in it as well, and take megabytes.
    ebpf: Option<Ebpf>,
    program: SkReuseport,
    sockets: ReusePortSockArray<MapData>,
    memory: GroupMemory,
    /// Map `ACTIVITY` of the program that decides, until this one does.
    activity_before: RefCell<Option<MapData>>,
    counters: GroupCounters,
    program_id: u32,
    /// How connection ids of QUIC name workers, if they do.
    quic: Option<Format>,
    /// Whether this program is attached to the kernel's group; else that of another service is.
    pub decides: Decides,
    /// Whether sockets may be bound to an address that the machine does not have yet.
    pub freebind: Cell<bool>,
    merges: Cell<u64>,
    settled: Cell<bool>,
}

impl PinnedGroup {
    /// Takes over the flows that the program marked which decides, or decided until now.
    fn take_flows(&self) {
        let Some(before) = self.activity_before.borrow().as_ref().and_then(mapped) else { return };
        if let Some(activity) = self.memory.activity() {
            activity.merge(&before);
            self.merges.update(|merges| merges + 1);
        }
    }

    /// How often flows were taken over. A count of flows from before the last time is out of date.
    #[must_use]
    pub fn merges(&self) -> u64 {
        self.merges.get()
    }

    /// The structures that the daemon shares with the program.
    #[must_use]
    pub fn memory(&self) -> &GroupMemory {
        &self.memory
    }

    /// To be called once the program is attached: makes the pins this program's, and takes over the flows that the
    /// program before it has marked meanwhile.
    pub fn settle(&self) -> Result<()> {
        if self.settled.get() {
            return Ok(());
        }
        self.take_flows();
        self.activity_before.take();
        for name in RENEWED {
            match std::fs::rename(self.pins.join(renewed(name)), self.pins.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| {
                        format!("cannot rename the pin of {name} in {}", self.pins.display())
                    });
                }
                _ => {}
            }
        }
        if !self.memory.tracks() {
            // Of a program that tracked flows; else none.
            let _ = std::fs::remove_file(self.pins.join(ACTIVITY));
        }
        self.settled.set(true);
        Ok(())
    }

    /// The listener that it decides for; with port 0 until a socket was bound.
    #[must_use]
    pub fn listener(&self) -> &Listener {
        &self.listener
    }

    /// Sets the port that the kernel chose.
    pub fn bound(&mut self, listener: Listener) {
        self.listener = listener;
    }

    /// The directory of its pins.
    #[must_use]
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// The slot of each bucket.
    #[must_use]
    pub fn owners(&self) -> Vec<u16> {
        (0..BUCKETS as u32).map(|bucket| self.memory.table().entry(bucket).slot()).collect()
    }

    /// Makes the program decide for the kernel's group that `socket` is in, or will be in; unless that of another
    /// service decides there ([`Decides`]).
    pub fn attach(&self, socket: &Socket) -> io::Result<()> {
        if !self.decides.get() {
            return Ok(());
        }
        self.program.attach(socket).map_err(|error| match error {
            ProgramError::SkReuseportError(SkReuseportError::SetsockoptError { io_error, .. }) => io_error,
            other => io::Error::other(other),
        })
    }

    /// Detaches any program from the kernel's group that `socket` is in: the kernel's own hash decides again. No error if
    /// there is none.
    pub fn detach(&self, socket: &Socket) -> io::Result<()> {
        match SkReuseport::detach(socket) {
            Err(ProgramError::SkReuseportError(SkReuseportError::SetsockoptError { io_error, .. }))
                if io_error.raw_os_error() == Some(libc::ENOENT) =>
            {
                Ok(())
            }
            detached => detached.map_err(io::Error::other),
        }
    }

    /// Puts a listening (TCP) or bound (UDP) socket of this group into `slot`.
    pub fn insert(&mut self, slot: u16, socket: &Socket) -> Result<()> {
        self.sockets
            .set(slot.into(), socket, 0)
            .with_context(|| format!("cannot put a socket into slot {slot} of the socket array"))
    }

    /// Puts a socket into `slot`. If it is in this array already, or in another one, changes nothing and returns
    /// `false`.
    pub fn insert_if_free(&mut self, slot: u16, socket: &Socket) -> Result<bool> {
        match self.insert(slot, socket) {
            Err(error) if error.downcast_ref().and_then(errno) == Some(libc::EBUSY) => Ok(false),
            inserted => inserted.map(|()| true),
        }
    }

    /// Empties `slot`; no error if it is empty already.
    pub fn remove(&mut self, slot: u16) -> Result<()> {
        match self.sockets.clear_index(&slot.into()) {
            Err(error) if errno(&error) != Some(libc::ENOENT) => {
                Err(error).with_context(|| format!("cannot empty slot {slot} of the socket array"))
            }
            _ => Ok(()),
        }
    }

    /// Takes over all buckets and flows of `other`, which is for the same listener.
    pub fn copy(&self, other: &Self) {
        self.fill((0..BUCKETS as u32).map(|bucket| other.memory.table().entry(bucket)));
        self.take_flows();
    }

    /// Replaces all entries, for a program whose decisions are not traced yet and whose slots are all fit. Where no
    /// flows are tracked, none stay with the previous worker of a bucket.
    pub(super) fn fill(&self, entries: impl IntoIterator<Item = Entry>) {
        let table = self.memory.table();
        for (bucket, entry) in (0..=u16::MAX).zip(entries) {
            let entry = if self.memory.tracks() { entry } else { entry.with_previous(NO_SLOT) };
            table.set_entry(bucket, entry.with_slow(false));
        }
    }

    /// Sets the rosters: slots of ready workers, slots for when no socket of those is there, and those of the CPUs.
    pub fn set_rosters(&self, ready: &[u16], waiting: &[u16], by_cpu: &[u16]) {
        let load = self.memory.load();
        load.ready.set(ready);
        load.waiting.set(waiting);
        load.by_cpu.set(by_cpu);
    }

    /// Sets the weights of workers, by their slots, for programs that compare what workers have.
    pub fn set_weights(&self, slots: &[u16], weights: &[u32]) {
        let load = self.memory.load();
        slots.iter().zip(weights).for_each(|(slot, weight)| load.line(*slot).weight.set(*weight));
        load.shares.weights.set(weights.iter().sum());
    }

    /// Whether connection ids of QUIC name workers.
    #[must_use]
    pub fn routes(&self) -> bool {
        self.quic.is_some()
    }

    /// Sets the tag of the worker in `slot` in connection ids of QUIC, as much of it as they have room for; 0: none.
    pub fn set_tag(&self, slot: u16, tag: u64) {
        let Some(format) = &self.quic else { return };
        let load = self.memory.load();
        let line = load.line(slot);
        line.routed.set(0);
        line.tag.set(format.cut(tag));
    }

    /// Whether datagrams have come by connection ids of the worker in `slot` since it was asked last.
    pub fn was_routed(&self, slot: u16) -> bool {
        let routed = self.is_routed(slot);
        if routed {
            self.memory.load().line(slot).routed.set(0);
        }
        routed
    }

    /// Whether datagrams have come by connection ids of the worker in `slot` since [`PinnedGroup::was_routed`] was asked last.
    pub fn is_routed(&self, slot: u16) -> bool {
        self.memory.load().line(slot).routed.get() != 0
    }

    /// Sets in which accounts connections are counted that go to the socket in `slot`.
    pub fn set_accounts(&self, slot: u16, tag: Tag) {
        let load = self.memory.load();
        let line = load.line(slot);
        load.shares.service.set(tag.service);
        line.worker.set(tag.worker);
        line.socket.set(tag.socket);
    }

    /// The reader of the program's log ring, which hands each line to `sink`. There is only one.
    pub fn take_log<T: log::Log>(&mut self, sink: T) -> Result<EbpfLogger<T>> {
        let mut ebpf = self.ebpf.take().context("the log ring of the program is read already")?;
        EbpfLogger::init_with_logger(&mut ebpf, sink).context("cannot read the log ring of the program")
    }

    /// The program's id, as `bpftool prog` shows it.
    #[must_use]
    pub fn program_id(&self) -> u32 {
        self.program_id
    }

    /// What has been counted since the group was made.
    pub fn totals(&self) -> Result<Totals> {
        self.counters.totals()
    }
}

/// The name of a pin until its program is attached.
fn renewed(name: &str) -> String {
    format!("{name}{UNATTACHED}")
}
