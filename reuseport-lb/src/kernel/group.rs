//! The kernel's side of one listener: program and maps. They are pinned, so they outlive the
//! daemon; the program is attached to the SO_REUSEPORT group and lives as long as one of its sockets.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use aya::maps::{Array, Map, MapData, MapError, PerCpuArray, ReusePortSockArray};
use aya::programs::sk_reuseport::SkReuseportError;
use aya::programs::{ProgramError, SkReuseport};
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use reuseport_lb_common::counters::complete;
use reuseport_lb_common::layout::{
    BUCKETS, Counters, EVENTS, Entry, Fitness, LAYOUT_VERSION, Load, MAX_SLOTS, NO_SLOT, Table, attention,
    constant,
};
use socket2::Socket;

use super::mapped::Mapped;
use crate::config::{Affinity, WhenEmpty};
use crate::listener::Listener;

/// The compiled kernel program, aligned for the ELF parser.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("REUSEPORT_LB_OBJECT"));

/// The program's name in the object.
const NAME: &str = "reuseport_lb";

/// Names of pins; of maps they are those in the object as well, but for the table's.
const PROGRAM: &str = "program";
const TABLE: &str = "TABLE";
const LOAD: &str = "LOAD";
const COUNTERS: &str = "COUNTERS";
const SOCKETS: &str = "SOCKETS";

/// What every program has anew. The socket array keeps its shape for ever, and the counters as long
/// as the layout does.
const RENEWED: [&str; 4] = [PROGRAM, TABLE, LOAD, COUNTERS];

/// The section that the program's global `TABLE` is in, alone.
const TABLE_SECTION: &str = ".bss";

/// include/uapi/linux/bpf.h
const BPF_F_MMAPABLE: u32 = 1 << 10;

/// Program and maps of one listener. Dropping it leaves pins, attachment and sockets as they are.
pub struct Group {
    listener: Listener,
    pins: PathBuf,
    ebpf: Ebpf,
    sockets: ReusePortSockArray<MapData>,
    table: Mapped<Table>,
    load: Mapped<Load>,
    counters: PerCpuArray<MapData, Counters>,
    program_id: u32,
    /// Slots that new connections shall avoid; their buckets are marked.
    unfit: BTreeMap<u16, Fitness>,
}

/// What a group's program is made for; another one needs another program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What is hashed.
    pub affinity: Affinity,
    /// What happens while nobody is ready.
    pub when_empty: WhenEmpty,
}

/// The counters of all CPUs added up.
#[derive(Clone)]
pub struct Totals {
    /// Indexed by `reuseport_lb_common::counters::Counter`.
    pub events: [u64; EVENTS],
    /// Indexed by slot.
    pub selected: Box<[u64]>,
}

impl Group {
    /// Loads a program for `listener` with every bucket empty, and pins it and its maps in the
    /// directory `pins`, which must exist on a bpffs and be empty.
    pub fn load(listener: &Listener, policy: Policy, pins: &Path) -> Result<Self> {
        let group = Self::make(listener, policy, pins, None)?;
        group.publish((0..=u16::MAX).map(|bucket| (bucket, NO_SLOT)));
        group.settle()?;
        Ok(group)
    }

    /// Loads another program for a group whose pins are in `pins`, with its sockets, its buckets
    /// and, if its maps have this `layout`, its counters. The program that is attached goes on with
    /// its own table until this one is attached; [`Group::settle`] then makes this one the owner of
    /// the pins.
    pub fn take_over(listener: &Listener, policy: Policy, pins: &Path, layout: u32) -> Result<Self> {
        let same = layout == LAYOUT_VERSION;
        let owners = if same { Some(read_table(&pins.join(TABLE))?) } else { None };
        let group = Self::make(listener, policy, pins, Some(same))?;
        let owners = owners.unwrap_or_else(|| vec![NO_SLOT; BUCKETS]);
        group.publish((0..=u16::MAX).zip(owners));
        Ok(group)
    }

    /// `before`: whether there are pins already, and whether their layout is this one's.
    fn make(listener: &Listener, policy: Policy, pins: &Path, before: Option<bool>) -> Result<Self> {
        let affinity = match (policy.affinity, listener.address.is_ipv6()) {
            (Affinity::Flow, _) => constant::FLOW,
            (Affinity::Source, false) => constant::SOURCE_V4,
            (Affinity::Source, true) => constant::SOURCE_V6,
        };
        let hold = u32::from(policy.when_empty == WhenEmpty::Hold);
        // Left by a daemon that was killed right here.
        for name in RENEWED {
            let _ = std::fs::remove_file(pins.join(renewed(name)));
        }
        let counters = if before == Some(true) { COUNTERS.into() } else { renewed(COUNTERS) };
        let table = make_table(&pins.join(renewed(TABLE)))?;
        let mut ebpf = EbpfLoader::new()
            .map_pin_path(TABLE_SECTION, pins.join(renewed(TABLE)))
            .map_pin_path(LOAD, pins.join(renewed(LOAD)))
            .map_pin_path(COUNTERS, pins.join(counters))
            .map_pin_path(SOCKETS, pins.join(SOCKETS))
            .override_global(constant::AFFINITY, &affinity, true)
            .override_global(constant::HOLD, &hold, true)
            .load(OBJECT)
            .map_err(|error| explained(error.into(), "create its BPF maps"))?;

        let program: &mut SkReuseport =
            ebpf.program_mut(NAME).context("the object has no program")?.try_into()?;
        program.load().map_err(|error| explained(error.into(), "load its SK_REUSEPORT program"))?;
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
        let load = unsafe { Mapped::new(load.fd()) }?;
        Ok(Self {
            listener: *listener,
            pins: pins.to_owned(),
            ebpf,
            sockets,
            table,
            load,
            counters,
            program_id,
            unfit: BTreeMap::new(),
        })
    }

    /// The pins are this program's from now on.
    pub fn settle(&self) -> Result<()> {
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
        Ok(())
    }

    /// What it is for; with port 0 until a socket was bound.
    #[must_use]
    pub fn listener(&self) -> &Listener {
        &self.listener
    }

    /// Tells the port that the kernel chose.
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
        (0..BUCKETS as u32).map(|bucket| self.table.entry(bucket).slot()).collect()
    }

    /// Makes the program decide for the group that `socket` is in, or will be in.
    pub fn attach(&self, socket: &Socket) -> io::Result<()> {
        let program = self.ebpf.program(NAME).ok_or_else(|| io::Error::other("the object has no program"))?;
        let attached = <&SkReuseport>::try_from(program).and_then(|program| program.attach(socket));
        attached.map_err(|error| match error {
            ProgramError::SkReuseportError(SkReuseportError::SetsockoptError { io_error, .. }) => io_error,
            other => io::Error::other(other),
        })
    }

    /// Leaves the group that `socket` is in to the kernel's own choice again.
    pub fn detach(&self, socket: &Socket) -> io::Result<()> {
        SkReuseport::detach(socket).map_err(io::Error::other)
    }

    /// Puts a listening (TCP) or bound (UDP) socket of this group into `slot`.
    pub fn insert(&mut self, slot: u16, socket: &Socket) -> Result<()> {
        self.sockets
            .set(slot.into(), socket, 0)
            .with_context(|| format!("cannot put a socket into slot {slot} of the socket array"))
    }

    /// The same for a socket that may be there already.
    pub fn insert_if_missing(&mut self, slot: u16, socket: &Socket) -> Result<()> {
        match self.sockets.set(slot.into(), socket, 0) {
            Err(error) if errno(&error) == Some(libc::EBUSY) => Ok(()),
            set => set.with_context(|| format!("cannot put a socket into slot {slot} of the socket array")),
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

    /// Points buckets to slots; each takes effect at once, with one store.
    pub fn publish(&self, changes: impl IntoIterator<Item = (u16, u16)>) {
        let tracing = self.tracing();
        for (bucket, slot) in changes {
            self.table.set_entry(bucket, Entry::steady(slot, tracing || self.unfit.contains_key(&slot)));
        }
    }

    /// Says whether new connections shall avoid `slot`. Looks at all buckets; takes about 50 us.
    pub fn set_fitness(&mut self, slot: u16, fitness: Fitness) {
        let before = match fitness {
            Fitness::Fit => self.unfit.remove(&slot),
            unfit => self.unfit.insert(slot, unfit),
        };
        if before.unwrap_or(Fitness::Fit) == fitness {
            return;
        }
        self.load.lines[usize::from(slot)].set_fitness(fitness);
        let others = self.table.attention.get() & !attention::AVOID;
        self.table.attention.set(if self.unfit.is_empty() { others } else { others | attention::AVOID });
        self.publish(
            (0..=u16::MAX)
                .filter(|bucket| self.table.entry((*bucket).into()).slot() == slot)
                .map(|bucket| (bucket, slot)),
        );
    }

    /// Slots that new connections avoid.
    #[must_use]
    pub fn unfit(&self) -> Vec<(u16, Fitness)> {
        self.unfit.iter().map(|(slot, fitness)| (*slot, *fitness)).collect()
    }

    /// Says which slots are ready, and where connections can wait when none is.
    pub fn set_rosters(&self, ready: &[u16], waiting: &[u16]) {
        self.load.ready.set(ready);
        self.load.waiting.set(waiting);
    }

    /// Whether every decision is written to the log ring. Marks all buckets; takes about 50 us.
    pub fn trace(&self, on: bool) {
        if on == self.tracing() {
            return;
        }
        let others = self.table.attention.get() & !attention::TRACE;
        self.table.attention.set(if on { others | attention::TRACE } else { others });
        self.publish((0..=u16::MAX).map(|bucket| (bucket, self.table.entry(bucket.into()).slot())));
    }

    fn tracing(&self) -> bool {
        self.table.attention.get() & attention::TRACE != 0
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
        let mut totals = Totals { events: [0; EVENTS], selected: vec![0; MAX_SLOTS].into() };
        for cpu in self.counters.get(&0, 0).context("cannot read the counters")?.iter() {
            totals.events.iter_mut().zip(cpu.events).for_each(|(sum, n)| *sum += n);
            totals.selected.iter_mut().zip(cpu.selected).for_each(|(sum, n)| *sum += n);
        }
        complete(&mut totals.events, totals.selected.iter().sum());
        Ok(totals)
    }
}

/// The name of a pin until its program is attached.
fn renewed(name: &str) -> String {
    format!("{name}-new")
}

/// The slots of all buckets in a table that was pinned with this layout.
fn read_table(pin: &Path) -> Result<Vec<u16>> {
    let map = MapData::from_pin(pin).with_context(|| format!("there is no table at {}", pin.display()))?;
    // SAFETY: the caller knows its layout: one value of a `Table`, whose fields are all `Shared`.
    let table: Mapped<Table> = unsafe { Mapped::new(map.fd()) }?;
    Ok((0..BUCKETS as u32).map(|bucket| table.entry(bucket).slot()).collect())
}

/// Makes and pins the map behind the program's global `TABLE`, which aya would make, but not
/// mmapable; it finds the pin and takes that instead.
fn make_table(pin: &Path) -> Result<Mapped<Table>> {
    let map = Array::<MapData, [u8; size_of::<Table>()]>::create(1, BPF_F_MMAPABLE)
        .map_err(|error| explained(error.into(), "create its BPF maps"))?;
    map.pin(pin).with_context(|| format!("cannot pin the table at {}", pin.display()))?;
    let map = MapData::from_pin(pin).context("cannot open the table that was just pinned")?;
    // SAFETY: the one value of the map has the size of a `Table`, whose fields are all `Shared`.
    unsafe { Mapped::new(map.fd()) }
}

fn errno(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}

/// Says in words what an errno of BPF_MAP_CREATE or BPF_PROG_LOAD means here.
fn explained(error: anyhow::Error, tried: &str) -> anyhow::Error {
    let errno = error.chain().find_map(|e| e.downcast_ref::<io::Error>()).and_then(io::Error::raw_os_error);
    let release = super::host::release();
    let meaning = match errno {
        Some(libc::EPERM | libc::EACCES) => {
            "it is not permitted: run as root, or with CAP_BPF and CAP_PERFMON; in a container, \
             the bpf system call must be allowed too, and a user namespace's root may not"
                .to_owned()
        }
        Some(libc::ENOSYS) => format!("Linux {release} here has no bpf system call (CONFIG_BPF_SYSCALL)"),
        Some(libc::EINVAL) => format!(
            "Linux {release} does not know this kind of program or map: SK_REUSEPORT with migration \
             needs Linux 5.14 or later"
        ),
        Some(libc::ENOMEM | libc::E2BIG) => {
            "there is not enough memory for it (see memory.max of the cgroup)".to_owned()
        }
        _ => return error.context(format!("the kernel refused to {tried}")),
    };
    error.context(format!("cannot {tried}: {meaning}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errnos_of_the_kernel_are_explained() {
        for (errno, says) in [
            (libc::EPERM, "run as root"),
            (libc::ENOSYS, "no bpf system call"),
            (libc::EINVAL, "5.14 or later"),
            (libc::ENOMEM, "memory.max"),
        ] {
            let error =
                explained(io::Error::from_raw_os_error(errno).into(), "load its SK_REUSEPORT program");
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
