//! What a daemon gives to all its services.

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::PathBuf;

use rustix::process::Rlimit;
use socket2::Socket;
use tokio::sync::mpsc;

use super::Claims;
use crate::kernel::bpffs::Pins;
use crate::kernel::cgroup::Cgroups;
use crate::kernel::waits::Waits;
use crate::supervisor::Starting;

/// What a daemon gives to all its services.
pub struct Surroundings {
    /// Where pins go.
    pub pins: Pins,
    /// SO_COOKIE of every socket of every service; all others on our ports are strangers.
    pub ours: RefCell<HashSet<u64>>,
    /// Which service decides for which address.
    pub claims: Claims,
    /// What each worker is in.
    pub cgroups: Cgroups,
    /// Where notification sockets and state files go.
    pub runtime_dir: PathBuf,
    /// Sees who waits for work, where the kernel lets it.
    pub waits: Option<Waits>,
    /// The limit of open files for workers.
    pub open_files: Rlimit,
    /// Errors while a service starts; they end the daemon.
    pub failures: mpsc::UnboundedSender<anyhow::Error>,
    /// Tells the service manager when all services are up.
    pub starting: Starting,
}

impl Surroundings {
    /// Whether somebody waits for work on `socket`; `None` where that cannot be seen, or of one that is closed or
    /// shut down.
    pub(super) fn waits_on(&self, socket: &Socket) -> Option<bool> {
        self.waits.as_ref()?.on(socket).ok()
    }
}
