//! The kernel's side of one listener: program and maps. They are pinned, so they outlive the
//! daemon; the program is attached to the SO_REUSEPORT group and lives as long as one of its sockets.

use std::io;
use std::path::Path;

use anyhow::{Context, Result, bail};
use aya::maps::{Array, Map, MapData, PerCpuArray, ReusePortSockArray};
use aya::programs::sk_reuseport::SkReuseportError;
use aya::programs::{ProgramError, SkReuseport};
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use reuseport_lb_common::counters::complete;
use reuseport_lb_common::layout::{Counters, EVENTS, Entry, Load, MAX_SLOTS, Table, attention, constant};
use socket2::Socket;

use super::mapped::Mapped;
use crate::config::{Affinity, WhenEmpty};
use crate::listener::Listener;

/// The compiled kernel program, aligned for the ELF parser.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("REUSEPORT_LB_OBJECT"));

const PROGRAM: &str = "reuseport_lb";

/// The section that the program's global `TABLE` is in, alone.
const TABLE_SECTION: &str = ".bss";

/// include/uapi/linux/bpf.h
const BPF_F_MMAPABLE: u32 = 1 << 10;

/// Program and maps of one listener. Dropping it leaves pins, attachment and sockets as they are.
pub struct Group {
    ebpf: Ebpf,
    sockets: ReusePortSockArray<MapData>,
    table: Mapped<Table>,
    load: Mapped<Load>,
    counters: PerCpuArray<MapData, Counters>,
    program_id: u32,
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
    /// directory `pins`, which must exist on a bpffs.
    pub fn load(listener: &Listener, affinity: Affinity, when_empty: WhenEmpty, pins: &Path) -> Result<Self> {
        let affinity = match (affinity, listener.address.is_ipv6()) {
            (Affinity::Flow, _) => constant::FLOW,
            (Affinity::Source, false) => constant::SOURCE_V4,
            (Affinity::Source, true) => constant::SOURCE_V6,
        };
        let hold = u32::from(when_empty == WhenEmpty::Hold);
        let table = make_table(&pins.join("TABLE"))?;
        let mut ebpf = EbpfLoader::new()
            .map_pin_path(TABLE_SECTION, pins.join("TABLE"))
            .override_global(constant::AFFINITY, &affinity, true)
            .override_global(constant::HOLD, &hold, true)
            .load(OBJECT)
            .map_err(|error| explained(error.into(), "create its BPF maps"))?;

        let program: &mut SkReuseport =
            ebpf.program_mut(PROGRAM).context("the object has no program")?.try_into()?;
        program.load().map_err(|error| explained(error.into(), "load its SK_REUSEPORT program"))?;
        let program_id = program.info()?.id();
        program
            .pin(pins.join("program"))
            .with_context(|| format!("cannot pin the program in {}", pins.display()))?;

        let mut take = |name: &str| -> Result<Map> {
            let map = ebpf.take_map(name).with_context(|| format!("the object has no map {name}"))?;
            map.pin(pins.join(name))
                .with_context(|| format!("cannot pin map {name} in {}", pins.display()))?;
            Ok(map)
        };
        let sockets = take("SOCKETS")?.try_into()?;
        let counters = take("COUNTERS")?.try_into()?;
        let Map::Array(load) = take("LOAD")? else { bail!("map LOAD of the object is not an array") };
        // SAFETY: maps.rs of the kernel program declares the map with this value of `Shared` fields.
        let load = unsafe { Mapped::new(load.fd()) }?;
        let group = Self { ebpf, sockets, table, load, counters, program_id };
        group.publish((0..=u16::MAX).map(|bucket| (bucket, reuseport_lb_common::layout::NO_SLOT)));
        Ok(group)
    }

    /// Makes the program decide for the group that `socket` is in, or will be in.
    pub fn attach(&self, socket: &Socket) -> io::Result<()> {
        let program =
            self.ebpf.program(PROGRAM).ok_or_else(|| io::Error::other("the object has no program"))?;
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

    /// Empties `slot`; no error if it is empty already.
    pub fn remove(&mut self, slot: u16) -> Result<()> {
        match self.sockets.clear_index(&slot.into()) {
            Err(error) if !is_not_found(&error) => {
                Err(error).with_context(|| format!("cannot empty slot {slot} of the socket array"))
            }
            _ => Ok(()),
        }
    }

    /// Points buckets to slots; each takes effect at once, with one store.
    pub fn publish(&self, changes: impl IntoIterator<Item = (u16, u16)>) {
        for (bucket, slot) in changes {
            self.table.set_entry(bucket, Entry::steady(slot, self.tracing()));
        }
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

fn is_not_found(error: &aya::maps::MapError) -> bool {
    matches!(error, aya::maps::MapError::SyscallError(error) if error.io_error.kind() == io::ErrorKind::NotFound)
}

/// Says in words what an errno of BPF_MAP_CREATE or BPF_PROG_LOAD means here.
fn explained(error: anyhow::Error, tried: &str) -> anyhow::Error {
    let errno = error.chain().find_map(|e| e.downcast_ref::<io::Error>()).and_then(io::Error::raw_os_error);
    let release = super::host::release();
    let meaning = match errno {
        Some(libc::EPERM | libc::EACCES) => {
            "it is not permitted: run as root, or with CAP_BPF and CAP_NET_ADMIN; in a container, \
             the bpf system call must be allowed too"
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
