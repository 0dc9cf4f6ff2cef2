//! The kernel's side of one listener: program and maps. They are pinned, so they outlive the
//! daemon; the program is attached to the SO_REUSEPORT group and lives as long as one of its sockets.

mod flow_counter;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail};
use aya::Ebpf;
use aya::maps::{Map, MapData, MapError, PerCpuArray, ReusePortSockArray};
use aya::programs::sk_reuseport::SkReuseportError;
use aya::programs::{ProgramError, SkReuseport};
use aya_log::EbpfLogger;
use reuseport_lb_common::counters::complete;
use reuseport_lb_common::layout::{
    Activity, BUCKETS, Counters, EVENTS, Entry, Fitness, LAYOUT_VERSION, Load, MAX_SLOTS, NO_SLOT, Table,
    attention, constant,
};
use reuseport_lb_common::offsets::Offsets;
use socket2::Socket;
use tracing::warn;

use super::loading::{OBJECT, explained, loader, make_map, open_map};
use super::mapped::Mapped;
use super::offsets::offsets;
pub use super::policy::Policy;
use super::policy::program_name;
use crate::config::WhenBusy;
use crate::domain::bucket_move::{Constraint, constraint, moved};
use crate::domain::listener::{Listener, Protocol};

use flow_counter::Counted;
pub use flow_counter::FlowCounter;

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

/// What is behind `ACTIVITY` where no flows are tracked: the object has it, but no program looks at it.
type Unused = [u8; 64];

/// Program and maps of one listener. Dropping it leaves pins, attachment and sockets as they are.
pub struct Group {
    listener: Listener,
    pins: PathBuf,
    ebpf: Ebpf,
    program: &'static str,
    sockets: ReusePortSockArray<MapData>,
    table: Arc<Mapped<Table>>,
    /// Which flows live; of UDP only. Mapped only while it is looked at, because it is large.
    activity: Option<Arc<MapData>>,
    /// The same of the program that decides, until this one does.
    activity_before: RefCell<Option<MapData>>,
    load: Mapped<Load>,
    counters: PerCpuArray<MapData, Counters>,
    program_id: u32,
    /// Whether its program is the one of the kernel's group; else that of another service is.
    pub decides: Decides,
    /// Slots that new connections shall avoid; their buckets are marked.
    unfit: BTreeMap<u16, Fitness>,
    /// Flows as they were counted last.
    counted: Arc<Mutex<Option<(Counted, Flows)>>>,
    /// How often the table was written to, or flows were forgotten.
    writes: Cell<u64>,
    settled: Cell<bool>,
}

/// Whether the program of a group decides, as its service and the list of all claims see it.
#[derive(Clone)]
pub struct Decides(Arc<AtomicBool>);

impl Decides {
    /// What both see at first.
    #[must_use]
    pub fn new(decides: bool) -> Self {
        Self(Arc::new(decides.into()))
    }

    /// Whether it does.
    #[must_use]
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Says so.
    pub fn set(&self, decides: bool) {
        self.0.store(decides, Ordering::Relaxed);
    }
}

/// The counters of all CPUs added up.
#[derive(Clone)]
pub struct Totals {
    /// Indexed by `reuseport_lb_common::counters::Counter`.
    pub events: [u64; EVENTS],
    /// Indexed by slot.
    pub selected: Box<[u64]>,
}

/// Flows that live in a group: as many sub-buckets as have one (see `Activity`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flows {
    /// Those that each slot has.
    pub by_slot: Vec<u64>,
    /// All.
    pub live: u64,
    /// Those that stay with the previous worker of a moving bucket.
    pub kept: u64,
}

impl Group {
    /// Loads a program for `listener` with every bucket empty, and pins it and its maps in the
    /// directory `pins`, which must exist on a bpffs and be empty.
    pub fn load(listener: &Listener, policy: Policy, pins: &Path) -> Result<Self> {
        Self::load_tracking(listener, policy, pins, is_tracked(listener))
    }

    /// The same, but flows are tracked or not, whatever the protocol is; for benchmarks.
    pub fn load_tracking(listener: &Listener, policy: Policy, pins: &Path, tracked: bool) -> Result<Self> {
        let group = Self::make(listener, policy, pins, None, tracked)?;
        group.fill(vec![Entry::steady(NO_SLOT); BUCKETS]);
        group.settle()?;
        Ok(group)
    }

    /// Loads another program for a group whose pins are in `pins`, with its sockets and its buckets,
    /// and, if its maps have this `layout`, with its counters and flows. The program that is attached
    /// goes on with its own table until this one is attached; [`Group::settle`] then makes this one
    /// the owner of the pins.
    pub fn take_over(listener: &Listener, policy: Policy, pins: &Path, layout: u32) -> Result<Self> {
        let same = layout == LAYOUT_VERSION;
        let entries = read_table(&pins.join(TABLE))?;
        let before = if same && is_tracked(listener) { Some(open_map(&pins.join(ACTIVITY))?) } else { None };
        let group = Self::make(listener, policy, pins, Some(same), is_tracked(listener))?;
        let known = |entry: Entry| if same { entry } else { Entry::steady(entry.slot()) };
        group.fill(entries.into_iter().map(known));
        *group.activity_before.borrow_mut() = before;
        group.take_flows();
        Ok(group)
    }

    /// `before`: whether there are pins already, and whether their layout is this one's.
    fn make(
        listener: &Listener,
        policy: Policy,
        pins: &Path,
        before: Option<bool>,
        tracked: bool,
    ) -> Result<Self> {
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
        let name = program_name(tracked, avoids_busy, policy.affinity, listener.address.is_ipv6());
        // Left by a daemon that was killed right here.
        for name in RENEWED {
            let _ = std::fs::remove_file(pins.join(renewed(name)));
        }
        let counters = if before == Some(true) { COUNTERS.into() } else { renewed(COUNTERS) };
        let table_pin = pins.join(renewed(TABLE));
        // SAFETY: the one value of the map has the size of a `Table`, whose fields are all `Shared`.
        let table = unsafe { Mapped::new(make_map::<{ size_of::<Table>() }>(&table_pin)?.fd()) }?;
        let activity_pin = pins.join(renewed(ACTIVITY));
        let activity = if tracked {
            Some(make_map::<{ size_of::<Activity>() }>(&activity_pin)?)
        } else {
            make_map::<{ size_of::<Unused>() }>(&activity_pin)?;
            None
        };
        let mut loader = loader();
        let loaded = loader
            .map_pin_path(TABLE_SECTION, table_pin)
            .map_pin_path(ACTIVITY_SECTION, activity_pin.clone())
            .map_pin_path(LOAD, pins.join(renewed(LOAD)))
            .map_pin_path(COUNTERS, pins.join(counters))
            .map_pin_path(SOCKETS, pins.join(SOCKETS))
            .override_global(constant::OFFSETS, offsets, true)
            .load(OBJECT);
        drop(loader);
        let mut ebpf = loaded.map_err(|error| explained(error.into(), "create its BPF maps"))?;
        if !tracked {
            let _ = std::fs::remove_file(&activity_pin);
        }

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
        let load = unsafe { Mapped::new(load.fd()) }?;
        Ok(Self {
            listener: *listener,
            pins: pins.to_owned(),
            ebpf,
            program: name,
            sockets,
            table: Arc::new(table),
            activity: activity.map(Arc::new),
            activity_before: RefCell::new(None),
            load,
            counters,
            program_id,
            decides: Decides::new(true),
            unfit: BTreeMap::new(),
            counted: Arc::default(),
            writes: Cell::new(0),
            settled: Cell::new(false),
        })
    }

    /// What lives in the group of the program that decides, or decided until now.
    fn take_flows(&self) {
        let before = self.activity_before.borrow().as_ref().and_then(mapped);
        if let (Some(activity), Some(before)) = (self.activity(), before) {
            activity.merge(&before);
            self.writes.update(|writes| writes + 1);
        }
    }

    /// `None` for TCP.
    fn activity(&self) -> Option<Mapped<Activity>> {
        self.activity.as_deref().and_then(mapped)
    }

    /// It is attached: the pins are this program's from now on, and so are flows that were seen meanwhile.
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
        self.settled.set(true);
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

    /// Makes the program decide for the group that `socket` is in, or will be in; unless another decides.
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

    /// Puts a socket into `slot`, unless it is in this array already, or in another: then `false`, and all stays as it is.
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

    /// Points buckets to slots; each takes effect at once, with one store. Flows of UDP that live stay
    /// with their worker, if that `keeps` its flows.
    pub fn publish(&self, changes: impl IntoIterator<Item = (u16, u16)>, keeps: impl Fn(u16) -> bool) {
        let activity = self.activity();
        for (bucket, slot) in changes {
            let entry = match &activity {
                None => Entry::steady(slot),
                Some(activity) => {
                    let before = self.table.entry(bucket.into());
                    let entry = moved(before, slot, &keeps, activity.live(bucket, before.side()) != 0);
                    if entry.is_moving() && !before.is_moving() {
                        // Marks that an earlier worker left on this side are nobody's.
                        activity.forget(bucket, entry.side(), u64::MAX);
                    }
                    entry
                }
            };
            self.set(bucket, entry);
        }
    }

    /// The same buckets with the same flows as `other`, which is for the same listener.
    pub fn copy(&self, other: &Self) {
        self.fill((0..BUCKETS as u32).map(|bucket| other.table.entry(bucket)));
        self.take_flows();
    }

    fn fill(&self, entries: impl IntoIterator<Item = Entry>) {
        (0..=u16::MAX).zip(entries).for_each(|(bucket, entry)| self.set(bucket, entry));
    }

    fn set(&self, bucket: u16, entry: Entry) {
        let careful = self.tracing() || self.unfit.contains_key(&entry.slot());
        self.table.set_entry(bucket, entry.with_care(careful));
        self.writes.update(|writes| writes + 1);
    }

    fn entries(&self) -> impl Iterator<Item = (u16, Entry)> {
        (0..=u16::MAX).map(|bucket| (bucket, self.table.entry(bucket.into())))
    }

    /// Buckets with a previous worker.
    fn moving(&self) -> impl Iterator<Item = (u16, Entry)> {
        self.entries().filter(|(_, entry)| entry.is_moving())
    }

    /// Where each moving bucket can move; all others can move anywhere.
    pub fn constraints(&self, keeps: impl Fn(u16) -> bool) -> Vec<(u16, Constraint)> {
        let mut moving = self.moving().peekable();
        if self.activity.is_none() || moving.peek().is_none() {
            return Vec::new();
        }
        let Some(activity) = self.activity() else { return Vec::new() };
        let free = |(bucket, entry): (u16, Entry)| {
            (bucket, constraint(entry, &keeps, activity.live(bucket, entry.side()) != 0))
        };
        moving.map(free).collect()
    }

    /// Takes flows from workers that do not keep theirs any more; how many, by slot. Buckets that
    /// still point to such a worker are counted, and wait for [`Group::publish`].
    pub fn cut(&self, keeps: impl Fn(u16) -> bool) -> BTreeMap<u16, u64> {
        let mut cut = BTreeMap::new();
        if self.activity.is_none() {
            return cut;
        }
        let loses = |slot: u16| slot != NO_SLOT && !keeps(slot);
        let mut losing =
            self.entries().filter(|(_, entry)| loses(entry.slot()) || loses(entry.previous())).peekable();
        // Mapping it costs more than all else.
        if losing.peek().is_none() {
            return cut;
        }
        let Some(activity) = self.activity() else { return cut };
        for (bucket, entry) in losing {
            let (current, previous) = (entry.slot(), entry.previous());
            if current != NO_SLOT && !keeps(current) {
                let flows = activity.live(bucket, entry.side());
                *cut.entry(current).or_default() += u64::from(flows.count_ones());
            }
            if previous != NO_SLOT && !keeps(previous) {
                let flows = activity.live(bucket, 1 - entry.side());
                *cut.entry(previous).or_default() += u64::from(flows.count_ones());
                self.set(bucket, entry.with_previous(NO_SLOT));
                activity.forget(bucket, 1 - entry.side(), u64::MAX);
            }
        }
        cut
    }

    /// Whether any bucket points to one of `these` slots.
    pub fn points_to(&self, these: impl Fn(u16) -> bool) -> bool {
        self.entries().any(|(_, entry)| these(entry.slot()) || these(entry.previous()))
    }

    /// Ends the move of each bucket whose old flows are quiet; how many those are.
    pub fn sweep(&self) -> usize {
        if self.activity.is_none() || self.moving().next().is_none() {
            return 0;
        }
        let Some(activity) = self.activity() else { return 0 };
        let quiet = self.moving().filter(|(bucket, entry)| activity.live(*bucket, 1 - entry.side()) == 0);
        quiet.map(|(bucket, entry)| self.set(bucket, entry.with_previous(NO_SLOT))).count()
    }

    /// Begins another epoch: forgets flows that were silent in all others.
    pub fn rotate(&self) {
        let Some(activity) = self.activity() else { return };
        self.writes.update(|writes| writes + 1);
        for (bucket, entry) in self.entries() {
            activity.renew(bucket, entry.aged());
            self.table.set_entry(bucket, entry.aged());
        }
    }

    /// Whether buckets are moving, for each bucket.
    pub fn mark_moving(&self, moving: &mut [bool]) {
        self.moving().for_each(|(bucket, ..)| moving[usize::from(bucket)] = true);
    }

    /// Adds the flows that stay with each slot although others get the new ones of their bucket.
    pub fn add_staying(&self, flows: &mut [u64]) {
        if self.activity.is_none() || self.moving().next().is_none() {
            return;
        }
        let Some(activity) = self.activity() else { return };
        for (bucket, entry) in self.moving() {
            if let Some(flows) = flows.get_mut(usize::from(entry.previous())) {
                *flows += u64::from(activity.live(bucket, 1 - entry.side()).count_ones());
            }
        }
    }

    /// What counts flows, anywhere; `None` for TCP. They are the same as long as there were no other
    /// `decisions`.
    #[must_use]
    pub fn flow_counter(&self, decisions: u64) -> Option<FlowCounter> {
        let activity = self.activity.clone()?;
        let (table, known) = (self.table.clone(), self.counted.clone());
        Some(FlowCounter::new(table, activity, known, (decisions, self.writes.get())))
    }

    /// Flows that live; `None` for TCP. Looks at 4 MiB; takes about a millisecond.
    #[must_use]
    pub fn flows(&self) -> Option<Flows> {
        self.flow_counter(u64::MAX)?.count()
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
        self.entries()
            .filter(|(_, entry)| entry.slot() == slot)
            .for_each(|(bucket, entry)| self.set(bucket, entry));
    }

    /// Slots that new connections avoid.
    #[must_use]
    pub fn unfit(&self) -> Vec<(u16, Fitness)> {
        self.unfit.iter().map(|(slot, fitness)| (*slot, *fitness)).collect()
    }

    /// Says which slots are ready, and which there are for when none of those is.
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
        self.entries().for_each(|(bucket, entry)| self.set(bucket, entry));
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

/// Whether flows are more than one decision.
fn is_tracked(listener: &Listener) -> bool {
    listener.protocol == Protocol::Udp
}

/// The value of a map of activity. Without it, flows are not seen for once.
fn mapped(map: &MapData) -> Option<Mapped<Activity>> {
    // SAFETY: by its layout, the value is an `Activity`, whose fields are all `Shared`.
    unsafe { Mapped::new(map.fd()) }.inspect_err(|error| warn!("cannot look at flows: {error:#}")).ok()
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
