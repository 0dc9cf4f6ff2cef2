//! Where a daemon lives.

use std::path::PathBuf;

/// Where a daemon lives.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Its sockets and lock.
    pub runtime_dir: PathBuf,
    /// A BPF file system; mounted there if none is.
    pub bpffs: PathBuf,
}

impl Paths {
    /// The socket for administrators.
    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.runtime_dir.join("control.sock")
    }
}
