//! Making a group: loading its program, and its maps.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};
use aya::maps::Map;
use aya::programs::SkReuseport;
use aya::programs::sk_reuseport::SkReuseportAttachType;
use reuseport_lb_common::LAYOUT_VERSION;
use reuseport_lb_common::activity::Activity;
use reuseport_lb_common::entry::Entry;
use reuseport_lb_common::load::{CPUS, Load, Shares};
use reuseport_lb_common::offsets::Offsets;
use reuseport_lb_common::program::{self, OFFSETS, PAYLOAD, QUIC};
use reuseport_lb_common::quic::Format;
use reuseport_lb_common::slots::NO_SLOT;
use reuseport_lb_common::steer::Bytes;
use reuseport_lb_common::table::{BUCKETS, Table};
use tracing::warn;

use super::{
    ACTIVITY, COUNTERS, Decides, GroupCounters, GroupMemory, LOAD, PROGRAM, PinnedGroup, Policy, RENEWED,
    SOCKETS, TABLE, renewed,
};
use crate::config::Balance;
use crate::domain::listener::Listener;
use crate::kernel::connections::{ACCOUNTS, LISTENERS, MOVED};
use crate::kernel::loading::{
    COUNTING, ForEver, OBJECT, explained, for_ever, loader, make_map, open_map, replace,
};
use crate::kernel::mapped::Mapped;
use crate::kernel::offsets::offsets as find_offsets;
use crate::kernel::policy::without_offsets;
use crate::kernel::splice::{refused, spliced};

/// The sections that the program's globals `TABLE` and `ACTIVITY` are in, alone.
const TABLE_SECTION: &str = ".bss";
const ACTIVITY_SECTION: &str = ".bss.activity";

/// What programs have been loaded with.
static BYTES: ForEver<Bytes> = Mutex::new(Vec::new());
static FORMATS: ForEver<Format> = Mutex::new(Vec::new());

/// The size of map `ACTIVITY` in bytes where no flows are tracked (the object has the map, but no program reads it),
/// and while the object is loaded.
const UNUSED: usize = 64;

impl PinnedGroup {
    /// Loads a program for `listener` with every bucket empty, and pins it and its maps in the
    /// directory `pins`, which must exist on a bpffs and be empty. `accounts`: where the accounts of live connections are
    /// pinned, if the policy counts those.
    pub fn load(listener: &Listener, policy: &Policy, pins: &Path, accounts: Option<&Path>) -> Result<Self> {
        let group = Self::make(listener, policy, (pins, accounts), None)?;
        group.fill(vec![Entry::steady(NO_SLOT); BUCKETS]);
        group.settle()?;
        Ok(group)
    }

    /// Loads another program for a group whose pins are in `pins`, with its sockets and its buckets,
    /// and, if its maps have this `layout`, with its counters and flows. The program that is attached
    /// goes on with its own table until this one is attached; [`PinnedGroup::settle`] then makes this one
    /// the owner of the pins.
    pub fn take_over(
        listener: &Listener,
        policy: &Policy,
        pins: &Path,
        accounts: Option<&Path>,
        layout: u32,
    ) -> Result<Self> {
        let same = layout == LAYOUT_VERSION;
        let entries = read_table(&pins.join(TABLE))?;
        let flows = pins.join(ACTIVITY);
        // There are none if the program before this one tracked no flows.
        let before = same && policy.kind(listener).tracks() && flows.exists();
        let before = if before { Some(open_map(&flows)?) } else { None };
        let group = Self::make(listener, policy, (pins, accounts), Some(same))?;
        let known = |entry: Entry| if same { entry } else { Entry::steady(entry.slot()) };
        group.fill(entries.into_iter().map(known));
        *group.activity_before.borrow_mut() = before;
        group.take_flows();
        Ok(group)
    }

    /// `before`: whether there are pins already, and whether their layout is this one's.
    fn make(
        listener: &Listener,
        policy: &Policy,
        (pins, accounts): (&Path, Option<&Path>),
        before: Option<bool>,
    ) -> Result<Self> {
        let mut kind = policy.kind(listener);
        let mut offsets = &Offsets::NONE;
        if let Some(without) = without_offsets(kind) {
            match find_offsets() {
                Ok(found) => offsets = found,
                // What serves already goes on, as far as it can.
                Err(error) if before.is_some() => {
                    warn!("{listener}: workers are not compared: {error:#}");
                    kind = without;
                }
                Err(error) => return Err(error),
            }
        }
        let tracked = kind.tracks();
        let name = program::name(kind, policy.steering(listener)).with_context(|| {
            format!("affinity {} goes with no tracked flows: `flows = \"none\"`", policy.affinity)
        })?;
        // Left by a daemon that was killed right here.
        for name in RENEWED {
            let _ = std::fs::remove_file(pins.join(renewed(name)));
        }
        let object = spliced(if kind.counts() { COUNTING } else { OBJECT }, policy.key_function())?;
        let counters = if before == Some(true) { COUNTERS.into() } else { renewed(COUNTERS) };
        let table_pin = pins.join(renewed(TABLE));
        // SAFETY: the one value of the map has the size of a `Table`, whose fields are all `Shared`.
        let table = unsafe { Mapped::new(make_map::<{ size_of::<Table>() }>(&table_pin)?.fd()) }?;
        let activity_pin = pins.join(renewed(ACTIVITY));
        make_map::<UNUSED>(&activity_pin)?;
        let mut loader = loader();
        if kind.counts() {
            let accounts = accounts.context("connections are not counted")?;
            for map in [ACCOUNTS, LISTENERS, MOVED] {
                loader.map_pin_path(map, accounts.join(map));
            }
        }
        let loaded = loader
            .map_pin_path(TABLE_SECTION, table_pin)
            .map_pin_path(ACTIVITY_SECTION, activity_pin.clone())
            .map_pin_path(LOAD, pins.join(renewed(LOAD)))
            .map_pin_path(COUNTERS, pins.join(counters))
            .map_pin_path(SOCKETS, pins.join(SOCKETS))
            .override_global(OFFSETS, offsets, true)
            .override_global(PAYLOAD, for_ever(&BYTES, policy.bytes()), !kind.counts())
            .override_global(QUIC, for_ever(&FORMATS, policy.quic.unwrap_or(Format::NONE)), !kind.counts())
            .load(&object);
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
        let tried = if *offsets == Offsets::NONE {
            "load its SK_REUSEPORT program"
        } else {
            "load its SK_REUSEPORT program for `when_busy` or `balance` (which the kernel's lockdown may forbid)"
        };
        program.load().map_err(|error| {
            let refused = policy.key_function().and_then(|function| refused(&error, function));
            refused.unwrap_or_else(|| explained(error.into(), tried))
        })?;
        let (program_id, pin) = (program.info()?.id(), pins.join(renewed(PROGRAM)));
        program.pin(&pin).with_context(|| format!("cannot pin the program in {}", pins.display()))?;
        let program = SkReuseport::from_pin(&pin, SkReuseportAttachType::SelectOrMigrate)
            .context("cannot open the program's pin")?;

        let mut take = |name: &str| -> Result<Map> {
            ebpf.take_map(name).with_context(|| format!("the object has no map {name}"))
        };
        let sockets = take(SOCKETS)?.try_into()?;
        let counters = take(COUNTERS)?.try_into()?;
        let Map::Array(load) = take(LOAD)? else { bail!("map LOAD of the object is not an array") };
        // SAFETY: maps.rs of the kernel program declares the map with this value of `Shared` fields.
        let load: Mapped<Load> = unsafe { Mapped::new(load.fd()) }?;
        load.by_cpu.set(&[NO_SLOT; CPUS]);
        if let Balance::Bounded(factor) = policy.balance {
            load.shares.bound.set((factor * f64::from(Shares::UNIT)) as u32);
        }
        Ok(Self {
            listener: *listener,
            pins: pins.to_owned(),
            ebpf: Some(ebpf),
            program,
            sockets,
            memory: GroupMemory::new(table, load, activity),
            activity_before: RefCell::new(None),
            counters: GroupCounters::new(counters),
            program_id,
            quic: policy.quic,
            decides: Decides::new(true),
            freebind: Cell::new(false),
            merges: Cell::new(0),
            settled: Cell::new(false),
        })
    }
}

/// All entries of a table that was pinned, by whatever version.
fn read_table(pin: &Path) -> Result<Vec<Entry>> {
    let map = open_map(pin)?;
    // SAFETY: a `Table` means the same in every version, and its fields are all `Shared`.
    let table: Mapped<Table> = unsafe { Mapped::new(map.fd()) }?;
    Ok((0..BUCKETS as u32).map(|bucket| table.entry(bucket)).collect())
}
