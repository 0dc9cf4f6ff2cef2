//! The filter that makes bind(2) and listen(2) of a process, and of all that it starts, wait for an answer (seccomp(2),
//! SECCOMP_RET_USER_NOTIF). Every other call passes, for some tens of nanoseconds.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use libc::{BPF_ABS, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter, sock_fprog};

/// include/uapi/linux/audit.h
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Offsets in `struct seccomp_data`: number of the call, architecture, lower half of the third argument.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const THIRD: u32 = 16 + 2 * 8;

/// The length of the shortest address that is of interest, an IPv4 one.
const SHORTEST: u32 = size_of::<libc::sockaddr_in>() as u32;

const fn load(offset: u32) -> sock_filter {
    sock_filter { code: (BPF_LD | BPF_W | BPF_ABS) as u16, jt: 0, jf: 0, k: offset }
}

/// Goes `jt` instructions further if the loaded value is `k` (`jump` is BPF_JEQ), or is at least `k` (BPF_JGE); else `jf`.
const fn when(jump: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | jump | BPF_K) as u16, jt, jf, k }
}

const fn answer(action: u32) -> sock_filter {
    sock_filter { code: (BPF_RET | BPF_K) as u16, jt: 0, jf: 0, k: action }
}

/// The filter. Calls of another architecture pass: 32-bit programs on a 64-bit kernel bind by themselves.
const FILTER: [sock_filter; 9] = [
    load(ARCH),
    when(BPF_JEQ, ARCHITECTURE, 0, 5),
    load(NUMBER),
    when(BPF_JEQ, libc::SYS_listen as u32, 4, 0),
    when(BPF_JEQ, libc::SYS_bind as u32, 0, 2),
    load(THIRD),
    when(BPF_JGE, SHORTEST, 1, 0),
    answer(libc::SECCOMP_RET_ALLOW),
    answer(libc::SECCOMP_RET_USER_NOTIF),
];

/// Puts the filter on this thread, for itself and all that it starts, and returns the descriptor by which its calls are
/// answered. The process must have one thread.
///
/// Without CAP_SYS_ADMIN the process cannot get rights by executing a file any more (`no_new_privs`). Fails with EBUSY if
/// a filter whose calls somebody answers is there already, as in some containers.
pub(super) fn install() -> io::Result<OwnedFd> {
    // Signals that the process handles do not interrupt a call that is being answered (Linux 5.19); it would come twice.
    let patient = libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    let install = |more| match set(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | more) {
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
            nix::sys::prctl::set_no_new_privs()?;
            set(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | more)
        }
        installed => installed,
    };
    match install(patient) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => install(0),
        installed => installed,
    }
}

fn set(flags: libc::c_ulong) -> io::Result<OwnedFd> {
    let mut filter = FILTER;
    let program = sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the kernel copies the program, which outlives the call, and changes nothing in this process's memory.
    let fd = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
