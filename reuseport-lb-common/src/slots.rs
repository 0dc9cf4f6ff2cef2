//! Slots of a service's socket array: how many, and the mark for none.

/// Slots of a service's socket array: 1,024 workers, and as many that are leaving. A power of two
/// (the program masks with it); beyond it the per-CPU counters would pass the kernel's 32 KiB
/// limit on one per-CPU value (`PCPU_MIN_UNIT_SIZE`, include/linux/percpu.h).
pub const MAX_SLOTS: usize = 2048;

/// The "slot" of a bucket without a worker.
pub const NO_SLOT: u16 = u16::MAX;
