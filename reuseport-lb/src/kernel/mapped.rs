//! The only value of a single-entry BPF array, mapped into this process. The memory belongs to the map, so
//! the value survives the daemon.

use std::ops::Deref;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use anyhow::{Context, Result};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

/// A `T` in a map's memory, unmapped on drop.
pub(super) struct Mapped<T> {
    value: NonNull<T>,
}

// SAFETY: only `&T` is ever handed out, and `T: Sync` types alone are constructed (see `new`).
unsafe impl<T: Sync> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Mapped<T> {}

impl<T: Sync> Mapped<T> {
    /// Maps the value of the array behind `fd`.
    ///
    /// # Safety
    /// The map must be an mmapable array of one entry whose value is a `T`, all of whose fields are
    /// `reuseport_lb_common::shared::Shared` and valid when zeroed.
    pub(super) unsafe fn new(fd: impl AsFd) -> Result<Self> {
        // Populated at once: page faults would make the first write of the table 2 ms slower.
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a fresh mapping chosen by the kernel; nothing else refers to it.
        let memory = unsafe {
            mmap(std::ptr::null_mut(), size_of::<T>(), ProtFlags::READ | ProtFlags::WRITE, flags, fd, 0)
        }
        .context("cannot map a BPF array into memory")?;
        // Children do not need the mapping, and a fork would copy the page tables of all groups. If the kernel
        // refuses, forks are slow.
        // SAFETY: exactly the mapping just made; what is advised concerns children only.
        let _ = unsafe { madvise(memory, size_of::<T>(), Advice::LinuxDontFork) };
        Ok(Self { value: NonNull::new(memory.cast()).context("the kernel mapped a BPF array at address 0")? })
    }
}

impl<T> Deref for Mapped<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: valid for `size_of::<T>()` bytes until drop; fields are `Shared` (see `new`).
        unsafe { self.value.as_ref() }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `new`, to which no reference is left.
        let _ = unsafe { munmap(self.value.as_ptr().cast(), size_of::<T>()) };
    }
}
