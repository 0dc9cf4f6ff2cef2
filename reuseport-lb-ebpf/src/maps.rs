//! The maps of one group: who writes each, who reads it. All are made anew for every group.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray, ReusePortSockArray};
use reuseport_lb_common::activity::Activity;
use reuseport_lb_common::counters::Counters;
use reuseport_lb_common::load::Load;
use reuseport_lb_common::slots::MAX_SLOTS;
use reuseport_lb_common::table::Table;

/// Slot → socket. The daemon inserts; the kernel empties a slot whose socket closes.
#[map]
pub static SOCKETS: ReusePortSockArray = ReusePortSockArray::with_max_entries(MAX_SLOTS as u32, 0);

/// Bucket → slot: the daemon writes through mmap, the program reads. A global, so the program has
/// its address as a constant, where a look-up in a map costs 3 ns. The daemon makes the map behind
/// it (section `.bss`, one value) itself, because it must be mmapable.
#[unsafe(no_mangle)]
pub static TABLE: Table = Table::zeroed();

/// Which flows live: the program marks them, the daemon forgets them through mmap. A global like the
/// table; behind it, groups that track no flows have a map of a few bytes.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.activity")]
pub static ACTIVITY: Activity = Activity::zeroed();

/// Fitness of slots and the rosters, in one value: the daemon writes through mmap, the program reads.
#[map]
pub static LOAD: Array<Load> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The program counts, the daemon sums up.
#[map]
pub static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);
