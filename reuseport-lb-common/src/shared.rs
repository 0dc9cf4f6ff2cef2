//! A number in memory that the kernel program and the daemon share. The only unsafe code here: Rust
//! has no atomics for the BPF target, so both sides use single volatile accesses, and one
//! instruction where a store must not undo that of another CPU.

use core::cell::UnsafeCell;
use core::ptr;

/// A naturally aligned integer that one side writes while the other reads. Each access is one
/// load or store of its full width: the reader sees the old or the new number, never a mixture.
#[repr(transparent)]
pub struct Shared<T: Copy>(UnsafeCell<T>);

#[expect(unsafe_code, reason = "the memory changes behind the compiler's back: the other side is a kernel")]
mod access {
    #[cfg(not(target_arch = "bpf"))]
    use core::sync::atomic::{AtomicU64, Ordering};

    use super::{Shared, ptr};

    // SAFETY: every access is a single volatile one of at most 8 bytes, naturally aligned, which is
    // indivisible on every 64-bit CPU, and the daemon runs on no other.
    unsafe impl<T: Copy + Send> Sync for Shared<T> {}

    impl<T: Copy> Shared<T> {
        /// Reads the number.
        #[inline(always)]
        pub fn get(&self) -> T {
            // SAFETY: the pointer comes from a reference, and any bit pattern of an integer is valid.
            unsafe { ptr::read_volatile(self.0.get()) }
        }

        /// Replaces the number.
        #[inline(always)]
        pub fn set(&self, value: T) {
            // SAFETY: as for reading; the cell makes writing through a shared reference sound.
            unsafe { ptr::write_volatile(self.0.get(), value) }
        }
    }

    impl Shared<u64> {
        /// Sets bits, whatever other CPUs do at the same time.
        #[inline(always)]
        #[cfg(target_arch = "bpf")]
        pub fn or(&self, bits: u64) {
            // SAFETY: one atomic instruction (BPF_ATOMIC | BPF_OR, Linux 5.12) on valid memory.
            unsafe {
                core::arch::asm!("lock *(u64 *)({0} + 0) |= {1}", in(reg) self.0.get(), in(reg) bits);
            }
        }

        /// Sets bits, whatever other CPUs do at the same time.
        #[cfg(not(target_arch = "bpf"))]
        pub fn or(&self, bits: u64) {
            self.atomic().fetch_or(bits, Ordering::Relaxed);
        }

        /// Clears bits, whatever other CPUs do at the same time.
        #[cfg(not(target_arch = "bpf"))]
        pub fn clear(&self, bits: u64) {
            self.atomic().fetch_and(!bits, Ordering::Relaxed);
        }

        #[cfg(not(target_arch = "bpf"))]
        fn atomic(&self) -> &AtomicU64 {
            // SAFETY: valid and aligned for as long as `self`; every other access is atomic or volatile.
            unsafe { AtomicU64::from_ptr(self.0.get()) }
        }
    }
}

impl<T: Copy> Shared<T> {
    /// A number of its own, for tests and models; real ones lie in map memory.
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }
}

#[cfg(test)]
#[expect(unsafe_code, reason = "the values are too large for a test's stack")]
mod boxed {
    extern crate std;
    use std::boxed::Box;

    use crate::layout::{Activity, Load, Table};

    impl Table {
        /// As the kernel makes it: all zeros, so every bucket belongs to slot 0.
        pub(crate) fn boxed() -> Box<Self> {
            // SAFETY: all fields are `Shared` integers, which are valid when zeroed.
            unsafe { Box::new_zeroed().assume_init() }
        }
    }

    impl Activity {
        /// As the kernel makes it: no flow.
        pub(crate) fn boxed() -> Box<Self> {
            // SAFETY: as above.
            unsafe { Box::new_zeroed().assume_init() }
        }
    }

    impl Load {
        /// As the kernel makes it: everybody fit, rosters empty.
        pub(crate) fn boxed() -> Box<Self> {
            // SAFETY: as above.
            unsafe { Box::new_zeroed().assume_init() }
        }
    }
}
