//! The accounts of live connections. The maps are the daemon's, one of each for all its services.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap};
use reuseport_lb_common::connections::{Accounts, MAX_ACCOUNTS, Tag};

/// The programs count, and read; the daemon reads.
#[map]
pub static ACCOUNTS: Array<Accounts> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Cookie of a connection that was handed to another worker → its tag there. The selecting programs insert, the counting
/// one removes.
#[map]
pub static MOVED: HashMap<u64, Tag> = HashMap::with_max_entries(MAX_ACCOUNTS as u32, 0);

/// All accounts. A single-entry array always has its entry: `None` is for the verifier.
#[inline(always)]
pub fn accounts<'a>() -> Option<&'a Accounts> {
    // SAFETY: the value lives as long as the map, and all its fields are `Shared`.
    ACCOUNTS.get_ptr(0).map(|accounts| unsafe { &*accounts })
}
