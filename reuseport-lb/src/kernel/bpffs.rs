//! Where programs and maps are pinned: `BPFFS/reuseport-lb/INSTANCE/SERVICE/LISTENER/`. Pins outlive
//! the daemon; an orderly stop removes them.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, fsconfig_create, fsmount, fsopen, mount,
};
use xxhash_rust::xxh3::xxh3_64;

/// `f_type` of a BPF file system (include/uapi/linux/magic.h).
const BPF_FS_MAGIC: rustix::fs::FsWord = 0xcafe_4a11;

/// The pins of one daemon.
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// The place for the pins of the daemon with this runtime directory, on the bpffs at `bpffs`,
    /// which is mounted if it is not. Pins that an earlier daemon left there stay.
    pub fn prepare(bpffs: &Path, runtime_dir: &Path) -> Result<Self> {
        if !is_bpffs(bpffs)? {
            mount("bpf", bpffs, "bpf", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None)
                .map_err(|error| explained(error, bpffs))?;
        }
        Ok(Self { root: all_pins(bpffs).join(escape(&runtime_dir.to_string_lossy())) })
    }

    /// Makes the directory for one listener of a service.
    pub fn directory(&self, service: &str, listener: &str) -> Result<PathBuf> {
        let directory = self.root.join(escape(service)).join(escape(listener));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .with_context(|| format!("cannot make the directory {} for pins", directory.display()))?;
        Ok(directory)
    }

    /// Removes the pins of one listener of a service; what is left goes with the daemon.
    pub fn forget(&self, service: &str, listener: &str) {
        let service = self.root.join(escape(service));
        let _ = fs::remove_dir_all(service.join(escape(listener)));
        let _ = fs::remove_dir(service);
    }

    /// Removes the pins of all services but these.
    pub fn sweep(&self, services: &[&str]) {
        let stay: Vec<String> = services.iter().map(|service| escape(service)).collect();
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

    /// Removes every pin of this daemon.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove the pins in {}", self.root.display()))
            }
            _ => {
                // The directory of all instances goes with its last one.
                if let Some(all) = self.root.parent() {
                    let _ = fs::remove_dir(all);
                }
                Ok(())
            }
        }
    }
}

/// Where the pins of all daemons are.
#[must_use]
pub fn all_pins(bpffs: &Path) -> PathBuf {
    bpffs.join("reuseport-lb")
}

/// What is at the place for pins.
pub enum Place {
    /// A BPF file system.
    Mounted,
    /// A directory on which `run` would mount one.
    Plain {
        /// Whether something is in it, which would be hidden.
        empty: bool,
    },
    /// Nothing.
    Nothing,
    /// No directory.
    Other,
}

/// Looks at the place for pins.
pub fn look(bpffs: &Path) -> io::Result<Place> {
    match rustix::fs::statfs(bpffs) {
        Ok(stat) if stat.f_type == BPF_FS_MAGIC => Ok(Place::Mounted),
        Ok(_) if !bpffs.is_dir() => Ok(Place::Other),
        Ok(_) => Ok(Place::Plain {
            empty: fs::read_dir(bpffs).map_or(true, |mut entries| entries.next().is_none()),
        }),
        Err(rustix::io::Errno::NOENT) => Ok(Place::Nothing),
        Err(error) => Err(error.into()),
    }
}

/// A BPF file system that is mounted nowhere: nobody else sees it, and it goes with this value.
pub struct Detached {
    root: OwnedFd,
}

impl Detached {
    /// Makes one, which needs what mounting one needs.
    pub fn new() -> io::Result<Self> {
        let context = fsopen("bpf", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&context)?;
        let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        Ok(Self { root })
    }

    /// Its root, for this process.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.root.as_raw_fd()).into()
    }
}

fn is_bpffs(path: &Path) -> Result<bool> {
    match rustix::fs::statfs(path) {
        Ok(stat) => Ok(stat.f_type == BPF_FS_MAGIC),
        Err(rustix::io::Errno::NOENT) => {
            bail!("{} does not exist: make the directory, or give another with --bpffs", path.display())
        }
        Err(error) => Err(error).with_context(|| format!("cannot look at {}", path.display())),
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

/// A bpffs reserves names with a dot, and a path is one name here; the hash keeps names apart that
/// then look the same.
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
