//! The bpf system call (bpf(2)), for what aya does not offer.

use std::io;

/// Calls it; returns what it answers.
///
/// # Safety
/// `attributes` begins as the kernel's `union bpf_attr` for this command (include/uapi/linux/bpf.h), which takes what is
/// missing at the end as zero; its pointers lead to memory as the command needs it, until the call returns.
pub(super) unsafe fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<u32> {
    // SAFETY: as the caller promises.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    u32::try_from(answer).map_err(|_| io::Error::last_os_error())
}
