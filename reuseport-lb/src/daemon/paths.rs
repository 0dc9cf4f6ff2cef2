//! The directories of a daemon.

use std::path::PathBuf;

/// The directories of a daemon.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The directory of lock, sockets and state files.
    pub runtime_dir: PathBuf,
    /// The mount point of the BPF file system for pins.
    pub bpffs: PathBuf,
}

impl Paths {
    /// Path of the control socket.
    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.runtime_dir.join("control.sock")
    }
}
