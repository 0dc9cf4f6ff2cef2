//! The kernel's side of one listener: program and maps. They are pinned, so they outlive the
//! daemon; the program is attached to the SO_REUSEPORT group and lives as long as one of its sockets.

mod decides;
mod memory;
mod occupied;
mod totals;

use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use aya::Ebpf;
use aya::maps::{Map, MapData, MapError, ReusePortSockArray};
use aya::programs::sk_reuseport::SkReuseportError;
use aya::programs::{ProgramError, SkReuseport};
use aya_log::EbpfLogger;
use reuseport_lb_common::LAYOUT_VERSION;
use reuseport_lb_common::activity::Activity;
use reuseport_lb_common::entry::Entry;
use reuseport_lb_common::load::{CPUS, Load};
use reuseport_lb_common::offsets::Offsets;
use reuseport_lb_common::program::{self, Kind, OFFSETS};
use reuseport_lb_common::slots::NO_SLOT;
use reuseport_lb_common::table::{BUCKETS, Table};
use socket2::Socket;
use tracing::warn;

use super::bpffs::UNATTACHED;
use super::loading::{OBJECT, explained, loader, make_map, open_map, replace};
use super::mapped::Mapped;
use super::offsets::offsets;
pub use super::policy::Policy;
use crate::config::WhenBusy;
use crate::domain::listener::{Listener, Protocol};

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

/// The sections that the program's globals `TABLE` and `ACTIVITY` are in, alone.
const TABLE_SECTION: &str = ".bss";
const ACTIVITY_SECTION: &str = ".bss.activity";

/// The size of map `ACTIVITY` in bytes where no flows are tracked (the object has the map, but no program reads it),
/// and while the object is loaded.
const UNUSED: usize = 64;

/// Program and maps of one listener. Dropping it leaves pins, attachment and sockets as they are.
pub struct PinnedGroup {
    listener: Listener,
    pins: PathBuf,
    ebpf: Ebpf,
    program: &'static str,
    sockets: ReusePortSockArray<MapData>,
    memory: GroupMemory,
    /// Map `ACTIVITY` of the program that decides, until this one does.
    activity_before: RefCell<Option<MapData>>,
    counters: GroupCounters,
    program_id: u32,
    /// Whether this program is attached to the kernel's group; else that of another service is.
    pub decides: Decides,
    /// Whether sockets may be bound to an address that the machine does not have yet.
    pub freebind: Cell<bool>,
    merges: Cell<u64>,
    settled: Cell<bool>,
}

impl PinnedGroup {
    /// Loads a program for `listener` with every bucket empty, and pins it and its maps in the
    /// directory `pins`, which must exist on a bpffs and be empty.
    pub fn load(listener: &Listener, policy: Policy, pins: &Path) -> Result<Self> {
        let group = Self::make(listener, policy, pins, None)?;
        group.fill(vec![Entry::steady(NO_SLOT); BUCKETS]);
        group.settle()?;
        Ok(group)
    }

    /// Loads another program for a group whose pins are in `pins`, with its sockets and its buckets,
    /// and, if its maps have this `layout`, with its counters and flows. The program that is attached
    /// goes on with its own table until this one is attached; [`PinnedGroup::settle`] then makes this one
    /// the owner of the pins.
    pub fn take_over(listener: &Listener, policy: Policy, pins: &Path, layout: u32) -> Result<Self> {
        let same = layout == LAYOUT_VERSION;
        let entries = read_table(&pins.join(TABLE))?;
        let flows = pins.join(ACTIVITY);
        // There are none if the program before this one tracked no flows.
        let before = same && policy.tracks(listener) && flows.exists();
        let before = if before { Some(open_map(&flows)?) } else { None };
        let group = Self::make(listener, policy, pins, Some(same))?;
        let known = |entry: Entry| if same { entry } else { Entry::steady(entry.slot()) };
        group.fill(entries.into_iter().map(known));
        *group.activity_before.borrow_mut() = before;
        group.take_flows();
        Ok(group)
    }

    /// `before`: whether there are pins already, and whether their layout is this one's.
    fn make(listener: &Listener, policy: Policy, pins: &Path, before: Option<bool>) -> Result<Self> {
        let tracked = policy.tracks(listener);
        let mut avoids_busy = policy.when_busy == WhenBusy::Next && listener.protocol == Protocol::Tcp;
        let offsets = match avoids_busy.then(offsets) {
            None => &Offsets::NONE,
            Some(Ok(offsets)) => offsets,
            // What serves already goes on, as far as it can.
            Some(Err(error)) if before.is_some() => {
                warn!("{listener}: connections wait for busy workers: {error:#}");
                avoids_busy = false;
                &Offsets::NONE
            }
            Some(Err(error)) => return Err(error),
        };
        let kind = match (tracked, avoids_busy) {
            (true, _) => Kind::Tracked,
            (false, true) => Kind::PreferWaiting,
            (false, false) => Kind::Plain,
        };
        let name = program::name(kind, policy.steering(listener)).with_context(|| {
            format!("affinity {} goes with no tracked flows: `flows = \"none\"`", policy.affinity)
        })?;
        // Left by a daemon that was killed right here.
        for name in RENEWED {
            let _ = std::fs::remove_file(pins.join(renewed(name)));
        }
        let counters = if before == Some(true) { COUNTERS.into() } else { renewed(COUNTERS) };
        let table_pin = pins.join(renewed(TABLE));
        // SAFETY: the one value of the map has the size of a `Table`, whose fields are all `Shared`.
        let table = unsafe { Mapped::new(make_map::<{ size_of::<Table>() }>(&table_pin)?.fd()) }?;
        let activity_pin = pins.join(renewed(ACTIVITY));
        make_map::<UNUSED>(&activity_pin)?;
        let mut loader = loader();
        let loaded = loader
            .map_pin_path(TABLE_SECTION, table_pin)
            .map_pin_path(ACTIVITY_SECTION, activity_pin.clone())
            .map_pin_path(LOAD, pins.join(renewed(LOAD)))
            .map_pin_path(COUNTERS, pins.join(counters))
            .map_pin_path(SOCKETS, pins.join(SOCKETS))
            .override_global(OFFSETS, offsets, true)
            .load(OBJECT);
        drop(loader);
        let mut ebpf = loaded.map_err(|error| explained(error.into(), "create its BPF maps"))?;
        std::fs::remove_file(&activity_pin).context("cannot unpin a map")?;
        let activity = if tracked {
            // Only now, because aya writes zeros over all of a map that it finds (2 ms for 4 MiB).
            let activity = make_map::<{ size_of::<Activity>() }>(&activity_pin)?;
            let unused = ebpf
                .map(ACTIVITY_SECTION)
                .with_context(|| format!("the object has no {ACTIVITY_SECTION}"))?;
            let Map::Array(unused) = unused else {
                bail!("{ACTIVITY_SECTION} of the object is not an array")
            };
            replace(unused.fd(), activity.fd()).context("cannot give the program its map of flows")?;
            Some(activity)
        } else {
            None
        };

        let program: &mut SkReuseport = ebpf
            .program_mut(name)
            .with_context(|| format!("the object has no program {name}"))?
            .try_into()?;
        let tried = if avoids_busy {
            "load its SK_REUSEPORT program for `when_busy = \"next\"` (which the kernel's lockdown may forbid)"
        } else {
            "load its SK_REUSEPORT program"
        };
        program.load().map_err(|error| explained(error.into(), tried))?;
        let program_id = program.info()?.id();
        program
            .pin(pins.join(renewed(PROGRAM)))
            .with_context(|| format!("cannot pin the program in {}", pins.display()))?;

        let mut take = |name: &str| -> Result<Map> {
            ebpf.take_map(name).with_context(|| format!("the object has no map {name}"))
        };
        let sockets = take(SOCKETS)?.try_into()?;
        let counters = take(COUNTERS)?.try_into()?;
        let Map::Array(load) = take(LOAD)? else { bail!("map LOAD of the object is not an array") };
        // SAFETY: maps.rs of the kernel program declares the map with this value of `Shared` fields.
        let load: Mapped<Load> = unsafe { Mapped::new(load.fd()) }?;
        load.by_cpu.set(&[NO_SLOT; CPUS]);
        Ok(Self {
            listener: *listener,
            pins: pins.to_owned(),
            ebpf,
            program: name,
            sockets,
            memory: GroupMemory::new(table, load, activity),
            activity_before: RefCell::new(None),
            counters: GroupCounters::new(counters),
            program_id,
            decides: Decides::new(true),
            freebind: Cell::new(false),
            merges: Cell::new(0),
            settled: Cell::new(false),
        })
    }

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
        let program =
            self.ebpf.program(self.program).ok_or_else(|| io::Error::other("the object has no program"))?;
        let attached = <&SkReuseport>::try_from(program).and_then(|program| program.attach(socket));
        attached.map_err(|error| match error {
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

    /// The reader of the program's log ring, which hands each line to `sink`. There is only one.
    pub fn take_log<T: log::Log>(&mut self, sink: T) -> Result<EbpfLogger<T>> {
        EbpfLogger::init_with_logger(&mut self.ebpf, sink).context("cannot read the log ring of the program")
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

/// All entries of a table that was pinned, by whatever version.
fn read_table(pin: &Path) -> Result<Vec<Entry>> {
    let map = open_map(pin)?;
    // SAFETY: a `Table` means the same in every version, and its fields are all `Shared`.
    let table: Mapped<Table> = unsafe { Mapped::new(map.fd()) }?;
    Ok((0..BUCKETS as u32).map(|bucket| table.entry(bucket)).collect())
}

fn errno(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}
