//! Restores pins that were removed: maps of a program that still decides for its group are found through the
//! program and pinned again; if the program is lost as well, a new group is made. Not: pins that exist (`group.rs`).

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use aya::maps::{MapData, MapType};
use aya::programs::loaded_programs;
use reuseport_lb_common::activity::Activity;
use reuseport_lb_common::table::Table;

use super::group::{ACTIVITY, COUNTERS, PinnedGroup, Policy, SOCKETS, TABLE};
use crate::domain::listener::Listener;

/// Pins those maps of the program with this id that have no pin in the directory `pins`. Finding a program by its
/// id takes CAP_SYS_ADMIN (BPF_PROG_GET_FD_BY_ID, kernel/bpf/syscall.c).
pub fn pin_again(program_id: u32, pins: &Path) -> Result<()> {
    if pins.join(SOCKETS).exists() && pins.join(TABLE).exists() {
        return Ok(());
    }
    let gone = || format!("the pins in {} are gone, and so is program {program_id}", pins.display());
    let program = loaded_programs().find_map(|program| program.ok().filter(|it| it.id() == program_id));
    let Some(maps) = program.with_context(gone)?.map_ids()? else { bail!("the kernel names no maps") };
    for id in maps {
        let map = MapData::from_id(id).context("cannot open a map of the program that decides")?;
        let info = map.info()?;
        let size = info.value_size() as usize;
        let name = match info.map_type()? {
            MapType::ReuseportSockArray => SOCKETS,
            MapType::PerCpuArray => COUNTERS,
            MapType::Array if size == size_of::<Table>() => TABLE,
            MapType::Array if size == size_of::<Activity>() => ACTIVITY,
            // Maps that each loaded program gets anew.
            _ => continue,
        };
        let pin = pins.join(name);
        if !pin.exists() {
            map.pin(&pin).with_context(|| format!("cannot pin a map at {}", pin.display()))?;
        }
    }
    Ok(())
}

/// Makes a new group for `listener` in the directory `pins`, after removing what is left there: its buckets have no
/// worker, and its slots no socket.
pub fn make_anew(
    listener: &Listener,
    policy: &Policy,
    pins: &Path,
    accounts: Option<&Path>,
) -> Result<PinnedGroup> {
    let left = fs::read_dir(pins).with_context(|| format!("cannot list {}", pins.display()))?;
    for pin in left.flatten() {
        fs::remove_file(pin.path()).with_context(|| format!("cannot remove {}", pin.path().display()))?;
    }
    PinnedGroup::load(listener, policy, pins, accounts)
}
