//! Loading the object with the kernel program: the loader, maps that are made before it, and its errors in words.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use aya::EbpfLoader;
use aya::maps::{Array, MapData, MapError, MapFd};
use rustix::io::DupFlags;

/// The compiled kernel programs, aligned for the ELF parser.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("REUSEPORT_LB_OBJECT"));

/// Those for services whose live connections are counted.
pub(super) static COUNTING: &[u8] = aya::include_bytes_aligned!(env!("REUSEPORT_LB_COUNTING"));

/// include/uapi/linux/bpf.h
const BPF_F_MMAPABLE: u32 = 1 << 10;

/// The loader of all groups, made once: a new loader reads the kernel's own types (some 40 ms), by which no program
/// of the object is relocated.
pub(super) fn loader() -> MutexGuard<'static, EbpfLoader<'static>> {
    static LOADER: LazyLock<Mutex<EbpfLoader<'static>>> = LazyLock::new(|| {
        let mut loader = EbpfLoader::new();
        loader.btf(None);
        Mutex::new(loader)
    });
    // A panic while it was locked left nothing behind: each load sets all options that it needs.
    LOADER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Values that live as long as the loader, which keeps references to them; each one only once.
pub(super) type ForEver<T> = Mutex<Vec<&'static T>>;

/// The one among `all` that equals `value`.
pub(super) fn for_ever<T: PartialEq>(all: &ForEver<T>, value: T) -> &'static T {
    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = all.iter().find(|known| ***known == value) {
        return known;
    }
    let new: &'static T = Box::leak(Box::new(value));
    all.push(new);
    new
}

/// Makes and pins the map behind a global of the program. Aya would make it without BPF_F_MMAPABLE; it uses this one
/// because it finds the pin.
pub(super) fn make_map<const SIZE: usize>(pin: &Path) -> Result<MapData> {
    let map = Array::<MapData, [u8; SIZE]>::create(1, BPF_F_MMAPABLE)
        .map_err(|error| explained(error.into(), "create its BPF maps"))?;
    map.pin(pin).with_context(|| format!("cannot pin a map at {}", pin.display()))?;
    open_map(pin)
}

pub(super) fn open_map(pin: &Path) -> Result<MapData> {
    MapData::from_pin(pin).with_context(|| format!("there is no map at {}", pin.display()))
}

/// Makes a descriptor of the loaded object, by which its programs name a map until they are loaded, one of `map`.
pub(super) fn replace(descriptor: &MapFd, map: &MapFd) -> io::Result<()> {
    // SAFETY: the number of an open descriptor, which stays its owner's: it is not closed here.
    let mut descriptor = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(descriptor.as_fd().as_raw_fd()) });
    rustix::io::dup3(map, &mut descriptor, DupFlags::CLOEXEC)?;
    Ok(())
}

/// The error number of a call about a map.
pub(super) fn errno(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}

/// Says in words what an errno of BPF_MAP_CREATE or BPF_PROG_LOAD means here.
pub(super) fn explained(error: anyhow::Error, tried: &str) -> anyhow::Error {
    let errno = error.chain().find_map(|e| e.downcast_ref::<io::Error>()).and_then(io::Error::raw_os_error);
    let release = super::host::release();
    let meaning = match errno {
        Some(libc::EPERM | libc::EACCES) => {
            "it is not permitted: run as root, or with CAP_BPF and CAP_PERFMON; in a container, \
             the bpf system call must be allowed too, and a user namespace's root may not"
                .to_owned()
        }
        Some(libc::ENOSYS) => format!("Linux {release} here has no bpf system call (CONFIG_BPF_SYSCALL)"),
        Some(libc::EINVAL) => format!(
            "Linux {release} does not know this kind of program or map: SK_REUSEPORT with migration \
             needs Linux 5.14 or later"
        ),
        Some(libc::ENOMEM | libc::E2BIG) => {
            "there is not enough memory for it (see memory.max of the cgroup)".to_owned()
        }
        _ => return error.context(format!("the kernel refused to {tried}")),
    };
    error.context(format!("cannot {tried}: {meaning}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errnos_of_the_kernel_are_explained() {
        for (errno, says) in [
            (libc::EPERM, "run as root"),
            (libc::ENOSYS, "no bpf system call"),
            (libc::EINVAL, "5.14 or later"),
            (libc::ENOMEM, "memory.max"),
        ] {
            let error =
                explained(io::Error::from_raw_os_error(errno).into(), "load its SK_REUSEPORT program");
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
