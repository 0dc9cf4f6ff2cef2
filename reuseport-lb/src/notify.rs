//! What workers say about themselves, in systemd's words (sd_notify(3)): one socket per process,
//! so that it does not matter which of a worker's processes says it.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use tokio::net::UnixDatagram;
use tokio::task::JoinHandle;

use crate::kernel::host::User;

/// Longest message that is read; systemd's own limit is 4,096 bytes as well.
const LONGEST: usize = 4096;

/// A process's notification socket; closed and removed on drop.
pub struct Notify {
    path: PathBuf,
    listening: JoinHandle<()>,
}

/// A path for another socket.
#[must_use]
pub fn path(runtime_dir: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    directory(runtime_dir).join(COUNT.fetch_add(1, Ordering::Relaxed).to_string())
}

/// Where all of them are.
#[must_use]
pub fn directory(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("notify")
}

impl Notify {
    /// Listens at `path`, where only `user` may send; calls `ready` for every `READY=1`.
    pub fn open(path: PathBuf, user: Option<&User>, ready: impl Fn() + 'static) -> Result<Self> {
        let open = || -> io::Result<UnixDatagram> {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let socket = UnixDatagram::bind(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            if let Some(user) = user {
                std::os::unix::fs::chown(&path, Some(user.uid), Some(user.gid))?;
            }
            Ok(socket)
        };
        let socket =
            open().with_context(|| format!("cannot make the notification socket {}", path.display()))?;
        let listening = tokio::task::spawn_local(async move {
            let mut message = [0; LONGEST];
            while let Ok(length) = socket.recv(&mut message).await {
                if message[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                    ready();
                }
            }
        });
        Ok(Self { path, listening })
    }

    /// For NOTIFY_SOCKET.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Notify {
    fn drop(&mut self) {
        self.listening.abort();
        // If it cannot be removed now, the end of the daemon removes the whole directory.
        let _ = fs::remove_file(&self.path);
    }
}
