//! A number in memory that the kernel program and the daemon share. The only unsafe code here: the
//! BPF target has no 16- and 32-bit atomics, so both sides use single volatile accesses.

use core::cell::UnsafeCell;
use core::ptr;

/// A naturally aligned integer that one side writes while the other reads. Each access is one
/// load or store of its full width: the reader sees the old or the new number, never a mixture.
#[repr(transparent)]
pub struct Shared<T: Copy>(UnsafeCell<T>);

#[expect(unsafe_code, reason = "the memory changes behind the compiler's back: the other side is a kernel")]
mod access {
    use super::{Shared, ptr};

    // SAFETY: every access is a single volatile one of at most 4 bytes, naturally aligned, which is
    // indivisible on every CPU that Linux runs eBPF on.
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

    use crate::layout::{Load, Table};

    impl Table {
        /// As the kernel makes it: all zeros, so every bucket belongs to slot 0.
        pub(crate) fn boxed() -> Box<Self> {
            // SAFETY: all fields are `Shared` integers, which are valid when zeroed.
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
