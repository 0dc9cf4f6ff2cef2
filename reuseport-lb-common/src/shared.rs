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

    /// Returns `number`, of which the verifier then knows nothing: a number that it knows it follows through the
    /// rest of the program, once for each value. A detour over the stack does that, at a place that is no
    /// multiple of 8: what lies at one, it knows; and zeros, wherever they lie (`check_stack_write_fixed_off`,
    /// kernel/bpf/verifier.c, Linux 6.18).
    #[inline(always)]
    #[cfg(target_arch = "bpf")]
    pub fn unfollowed(number: u32) -> u32 {
        let mut place = 0u64;
        let mut number = u64::from(number) + 1;
        // SAFETY: writes and reads the upper half of `place`.
        unsafe {
            core::arch::asm!(
                "*(u32 *)({0} + 4) = {1}",
                "{1} = *(u32 *)({0} + 4)",
                in(reg) &raw mut place,
                inout(reg) number,
            );
        }
        number as u32 - 1
    }

    /// Returns `number`; only the verifier has something to forget.
    #[cfg(not(target_arch = "bpf"))]
    pub fn unfollowed(number: u32) -> u32 {
        number
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

        /// Adds `number`, with wrap-around, whatever other CPUs do at the same time.
        #[inline(always)]
        #[cfg(target_arch = "bpf")]
        pub fn add(&self, number: u64) {
            // SAFETY: one atomic instruction (BPF_ATOMIC | BPF_ADD) on valid memory.
            unsafe {
                core::arch::asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) self.0.get(), in(reg) number);
            }
        }

        /// Adds `number`, with wrap-around, whatever other CPUs do at the same time.
        #[cfg(not(target_arch = "bpf"))]
        pub fn add(&self, number: u64) {
            self.atomic().fetch_add(number, Ordering::Relaxed);
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

pub use access::unfollowed;

impl<T: Copy> Shared<T> {
    /// A number of its own, for tests and models; real ones lie in map memory.
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }
}

/// The values of maps, for models of a group and for copies: too large for a stack.
#[cfg(any(test, feature = "model", feature = "user"))]
#[expect(unsafe_code, reason = "values that are valid when zeroed, and too large for a stack")]
mod zeroable {
    extern crate std;
    use std::boxed::Box;

    /// # Safety
    /// All bytes zero is a valid value.
    pub unsafe trait Zeroable: Sized {
        /// The value as the kernel makes it: all zeros.
        #[must_use]
        fn boxed() -> Box<Self> {
            // SAFETY: valid when zeroed, as who implements it says.
            unsafe { Box::new_zeroed().assume_init() }
        }
    }
}

#[cfg(any(test, feature = "model", feature = "user"))]
pub use zeroable::Zeroable;
