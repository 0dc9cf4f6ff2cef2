//! Where programs and maps are pinned: `BPFFS/reuseport-lb/INSTANCE/SERVICE/LISTENER/`. Pins outlive
//! the daemon; an orderly stop removes them.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, mount};
use xxhash_rust::xxh3::xxh3_64;

/// `f_type` of a BPF file system (include/uapi/linux/magic.h).
const BPF_FS_MAGIC: rustix::fs::FsWord = 0xcafe_4a11;

/// The pins of one daemon.
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// The place for the pins of the daemon with this runtime directory, on the bpffs at `bpffs`,
    /// which is mounted if it is not. Pins that a dead daemon left there are removed.
    pub fn prepare(bpffs: &Path, runtime_dir: &Path) -> Result<Self> {
        if !is_bpffs(bpffs)? {
            mount("bpf", bpffs, "bpf", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None)
                .with_context(|| format!("cannot mount a BPF file system on {}", bpffs.display()))?;
        }
        let pins = Self { root: bpffs.join("reuseport-lb").join(escape(&runtime_dir.to_string_lossy())) };
        pins.remove()?;
        Ok(pins)
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

fn is_bpffs(path: &Path) -> Result<bool> {
    match rustix::fs::statfs(path) {
        Ok(stat) => Ok(stat.f_type == BPF_FS_MAGIC),
        Err(rustix::io::Errno::NOENT) => {
            bail!("{} does not exist: make the directory, or give another with --bpffs", path.display())
        }
        Err(error) => Err(error).with_context(|| format!("cannot look at {}", path.display())),
    }
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
