//! Where programs and maps are pinned: `BPFFS/reuseport-lb/INSTANCE/SERVICE/LISTENER/`. Pins survive a daemon that
//! dies; an orderly stop removes them.

use std::cell::Cell;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, UnmountFlags, fsconfig_create, fsmount, fsopen,
    mount, unmount as umount,
};
use tracing::{info, warn};
use xxhash_rust::xxh3::xxh3_64;

use super::{connections, host};

/// How names of pins end until their program is attached.
pub(super) const UNATTACHED: &str = "-new";

/// `f_type` of a BPF file system (include/uapi/linux/magic.h).
const BPF_FS_MAGIC: rustix::fs::FsWord = 0xcafe_4a11;

/// `f_type` of sysfs and of proc (include/uapi/linux/magic.h).
const KERNELS_OWN: [rustix::fs::FsWord; 2] = [0x6265_6572, 0x9fa0];

/// The kernel's mount point for a BPF file system, which other programs use as well: it stays mounted.
const STANDARD: &str = "/sys/fs/bpf";

/// The hidden command that runs [`unmount`].
pub const UNMOUNT: &str = "unmount-bpffs";

/// File in the runtime directory that names the mount point, if a daemon has mounted a BPF file system of its own.
const MOUNTED: &str = "bpffs-mounted";

/// The pins of one daemon.
pub struct Pins {
    root: PathBuf,
    bpffs: PathBuf,
    /// Path of [`MOUNTED`].
    mounted: PathBuf,
    /// An orderly stop unmounts the file system.
    goes: Cell<bool>,
}

impl Pins {
    /// Prepares the bpffs at `bpffs` for the pins of the daemon with this runtime directory. On an empty directory
    /// without a mount one is mounted, which an orderly stop unmounts unless it is at /sys/fs/bpf. Pins of an
    /// earlier daemon stay.
    pub fn prepare(bpffs: &Path, runtime_dir: &Path) -> Result<Self> {
        let root = all_pins(bpffs).join(escape(&runtime_dir.to_string_lossy()));
        let pins =
            Self { root, bpffs: bpffs.to_owned(), mounted: runtime_dir.join(MOUNTED), goes: Cell::default() };
        let place = bpffs.display();
        let mend = "give an empty directory made for it with --bpffs, or leave that out for /sys/fs/bpf";
        match look(bpffs).with_context(|| format!("cannot look at {place}"))? {
            MountPoint::Mounted => pins.goes.set(pins.is_noted()),
            MountPoint::Free => pins.mount()?,
            MountPoint::Taken(why) => bail!("no BPF file system is mounted on {place}, which {why}: {mend}"),
            MountPoint::Nothing => {
                bail!("{place} does not exist: make the directory, or give another with --bpffs")
            }
            MountPoint::Other => bail!("{place} is no directory: {mend}"),
        }
        check_owner(&all_pins(bpffs))?;
        Ok(pins)
    }

    fn mount(&self) -> Result<()> {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("bpf", &self.bpffs, "bpf", flags, Some(c"mode=0700"))
            .map_err(|error| explained(error, &self.bpffs))?;
        let place = self.bpffs.display();
        if is_standard(&self.bpffs) {
            info!("mounted a BPF file system on {place}, which stays");
            return Ok(());
        }
        info!("mounted a BPF file system on {place}, until this daemon is stopped");
        self.goes.set(true);
        // Without the note an orderly stop leaves the file system mounted.
        self.note().with_context(|| format!("cannot write {}", self.mounted.display()))
    }

    fn note(&self) -> io::Result<()> {
        fs::write(&self.mounted, self.bpffs.as_os_str().as_encoded_bytes())
    }

    fn is_noted(&self) -> bool {
        fs::read(&self.mounted).is_ok_and(|it| it == self.bpffs.as_os_str().as_encoded_bytes())
    }

    /// Writes `MOUNTED` again, which the next daemon needs, if it was removed.
    pub fn look(&self) {
        if self.goes.get() && !self.mounted.exists() {
            // The next call tries again.
            let _ = self.note();
        }
    }

    /// Unmounts the file system if this daemon, or one before it, has mounted it.
    fn unmount(&self) {
        if !self.goes.get() {
            return;
        }
        let _ = fs::remove_file(&self.mounted);
        // The daemon has given up CAP_SYS_ADMIN; a new process of root has it.
        let ended =
            Command::new("/proc/self/exe").arg0("reuseport-lb").arg(UNMOUNT).arg(&self.bpffs).status();
        if !ended.is_ok_and(|status| status.success()) {
            warn!("the BPF file system on {} stays mounted", self.bpffs.display());
        }
    }

    /// The directory of this daemon's pins.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes the directory for one listener of a service.
    pub fn directory(&self, service: &str, listener: &str) -> Result<PathBuf> {
        let directory = self.root.join(escape(service)).join(escape(listener));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .with_context(|| format!("cannot make the directory {} for pins", directory.display()))?;
        // Another user may have made it meanwhile, where all may write.
        check_owner(&all_pins(&self.bpffs))?;
        Ok(directory)
    }

    /// Removes the pins of one listener of a service. Errors are ignored: an orderly stop removes what is left.
    pub fn forget(&self, service: &str, listener: &str) {
        let service = self.root.join(escape(service));
        let _ = fs::remove_dir_all(service.join(escape(listener)));
        let _ = fs::remove_dir(service);
    }

    /// Removes the pins of programs that were made for a listener which has one, and were never attached.
    pub fn forget_unattached(&self, service: &str, listener: &str) {
        let pins = self.root.join(escape(service)).join(escape(listener));
        for pin in fs::read_dir(pins).into_iter().flatten().flatten() {
            if pin.file_name().as_encoded_bytes().ends_with(UNATTACHED.as_bytes()) {
                let _ = fs::remove_file(pin.path());
            }
        }
    }

    /// Removes the pins of all services but these, and of what counted connections if nothing does any more.
    pub fn sweep(&self, services: &[&str], counts: bool) {
        let counting = counts.then(connections::directory);
        let stay: Vec<String> = services.iter().map(|service| escape(service)).chain(counting).collect();
        for entry in fs::read_dir(&self.root).into_iter().flatten().flatten() {
            if !stay.iter().any(|name| **name == *entry.file_name()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    /// Removes the pins of one service.
    pub fn forget_service(&self, service: &str) {
        let _ = fs::remove_dir_all(self.root.join(escape(service)));
    }

    /// Removes all pins of this daemon, and unmounts the file system that was mounted for them.
    pub fn remove(&self) -> Result<()> {
        self.remove_pins()?;
        self.unmount();
        Ok(())
    }

    fn remove_pins(&self) -> Result<()> {
        match fs::remove_dir_all(&self.root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove the pins in {}", self.root.display()))
            }
            _ => {
                // The common directory can be removed once no other daemon has pins in it.
                if let Some(all) = self.root.parent() {
                    let _ = fs::remove_dir(all);
                }
                Ok(())
            }
        }
    }
}

/// Fails if others could move pins: a BPF file system may be one that all users write.
fn check_owner(all: &Path) -> Result<()> {
    let Ok(about) = fs::symlink_metadata(all) else { return Ok(()) };
    let own = about.uid() == 0 || about.uid() == host::own_uid();
    if own && about.is_dir() && about.mode() & 0o022 == 0 {
        return Ok(());
    }
    bail!(
        "others than the daemon's user may write {}, where its pins go: remove it (`rm -r`), and let root alone write the \
         BPF file system (`mount -o remount,mode=0700`, or chmod)",
        all.display()
    )
}

/// The directory of the pins of all daemons.
#[must_use]
pub fn all_pins(bpffs: &Path) -> PathBuf {
    bpffs.join("reuseport-lb")
}

/// What is at the path at which a BPF file system should be.
pub enum MountPoint {
    /// A BPF file system.
    Mounted,
    /// An empty directory, on which `run` would mount one.
    Free,
    /// A directory on which nothing may be mounted; the reason is the end of a sentence: a directory "which" ….
    Taken(&'static str),
    /// The path does not exist.
    Nothing,
    /// The path is no directory.
    Other,
}

/// Finds out what is at `bpffs`.
pub fn look(bpffs: &Path) -> io::Result<MountPoint> {
    match rustix::fs::statfs(bpffs) {
        Ok(stat) if stat.f_type == BPF_FS_MAGIC => Ok(MountPoint::Mounted),
        Ok(_) if !bpffs.is_dir() => Ok(MountPoint::Other),
        Ok(stat) => {
            let kernels = KERNELS_OWN.contains(&stat.f_type) && !is_standard(bpffs);
            Ok(taken(bpffs, kernels)?.map_or(MountPoint::Free, MountPoint::Taken))
        }
        Err(rustix::io::Errno::NOENT) => Ok(MountPoint::Nothing),
        Err(error) => Err(error.into()),
    }
}

/// Why nothing may be mounted on a directory.
fn taken(directory: &Path, kernels: bool) -> io::Result<Option<&'static str>> {
    let root = statx(CWD, directory, AtFlags::empty(), StatxFlags::BASIC_STATS)?;
    Ok(if fs::read_dir(directory)?.next().is_some() {
        Some("is not empty, and what is in it would be hidden")
    } else if kernels {
        Some("is the kernel's, for something else")
    } else if root.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        Some("is the root of another file system")
    } else if root.stx_mode & 0o022 != 0 {
        Some("may be written by others than its user")
    } else {
        None
    })
}

fn is_standard(bpffs: &Path) -> bool {
    fs::canonicalize(bpffs).is_ok_and(|path| path == Path::new(STANDARD))
}

/// Unmounts a BPF file system; fails if it still has a pin, of whatever program.
pub fn unmount(bpffs: &Path) -> Result<()> {
    let place = bpffs.display();
    anyhow::ensure!(matches!(look(bpffs), Ok(MountPoint::Mounted)), "{place} is no BPF file system");
    // Files of the kernel itself (`maps.debug`, `progs.debug`).
    let own = |name: &std::ffi::OsStr| Path::new(name).extension().is_some_and(|it| it == "debug");
    let mut left = fs::read_dir(bpffs)?.flatten().map(|entry| entry.file_name());
    if let Some(left) = left.find(|name| !own(name)) {
        bail!("{} is still in the BPF file system on {place}", left.display());
    }
    umount(bpffs, UnmountFlags::NOFOLLOW).with_context(|| format!("cannot unmount {place}"))
}

/// A BPF file system that is mounted nowhere: only this process sees it, and it ends with this value.
pub struct Detached {
    root: OwnedFd,
}

impl Detached {
    /// Makes one, which needs CAP_SYS_ADMIN.
    pub fn new() -> io::Result<Self> {
        let context = fsopen("bpf", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&context)?;
        let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        Ok(Self { root })
    }

    /// Path of the root directory, which only this process can use.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.root.as_raw_fd()).into()
    }
}

fn explained(error: rustix::io::Errno, bpffs: &Path) -> anyhow::Error {
    let place = bpffs.display();
    anyhow::Error::new(error).context(match error {
        rustix::io::Errno::PERM => format!(
            "no BPF file system is mounted on {place}, and mounting it needs CAP_SYS_ADMIN: `mount -t bpf bpf \
             {place}` as root, or give the place of another with --bpffs"
        ),
        _ => format!("cannot mount a BPF file system on {place}"),
    })
}

/// Makes a file name of `name`, which may be a path: a bpffs reserves names with a dot. The hash keeps names apart
/// that would otherwise become equal.
fn escape(name: &str) -> String {
    format!("{}-{:016x}", name.trim_matches('/').replace(['.', '/', ':'], "-"), xxh3_64(name.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_apart_without_dots() {
        assert_ne!(escape("/run/a.b"), escape("/run/a-b"));
        assert!(!escape("/run/a.b").contains(['.', '/']));
        assert!(escape("/").len() > 1);
    }
}
