//! The table: an entry for each bucket, and the flags that go with it. Not: who computes it.

use crate::entry::Entry;
use crate::shared::Shared;

/// Buckets of a table. 2^16, so that a mask finds the bucket and a `u16` counts within a group.
pub const BUCKETS: usize = 1 << 16;

/// Bits of [`Table::attention`], which is read off the fast path only.
pub mod attention {
    /// Decisions are traced: write a log line for each.
    pub const TRACE: u32 = 1;
    /// At least one slot's line in map `LOAD` says overloaded or stalled.
    pub const AVOID: u32 = 1 << 1;
    /// Where nobody can be selected the kernel chooses among all sockets of its group, instead of a refusal: they are
    /// those of a server that others have started.
    pub const OPEN: u32 = 1 << 2;
    /// Some connections are the daemon's own; see [`DirectedPorts`](crate::directed::DirectedPorts).
    pub const DIRECT: u32 = 1 << 3;
}

/// The one value of map `TABLE`: written by the daemon through mmap, read by the program. Its entries
/// mean the same for ever, so that a daemon with another layout finds every bucket where it was.
#[repr(C, align(64))]
pub struct Table {
    entries: [Shared<u32>; BUCKETS],
    /// See [`attention`].
    pub attention: Shared<u32>,
}

impl Table {
    /// All zeros, as the kernel makes it.
    #[must_use]
    pub const fn zeroed() -> Self {
        Self { entries: [const { Shared::new(0) }; BUCKETS], attention: Shared::new(0) }
    }

    /// The entry of the bucket that `key` falls into: its low 16 bits.
    #[inline(always)]
    pub fn entry(&self, key: u32) -> Entry {
        Entry::from_bits(self.entries[key as usize & (BUCKETS - 1)].get())
    }

    /// Replaces one entry with one aligned 4-byte store.
    pub fn set_entry(&self, bucket: u16, entry: Entry) {
        self.entries[usize::from(bucket)].set(entry.bits());
    }
}

#[cfg(any(test, feature = "model", feature = "user"))]
#[expect(unsafe_code, reason = "says that it is valid when zeroed")]
// SAFETY: all fields are `Shared` integers.
unsafe impl crate::shared::Zeroable for Table {}

const _: () = assert!(size_of::<Table>() == BUCKETS * 4 + 64);
