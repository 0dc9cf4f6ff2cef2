//! What workers say about themselves, in systemd's words (sd_notify(3)): one socket per process,
//! so that it does not matter which of a worker's processes says it. Others are not heard.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result};
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::task::JoinHandle;
use tracing::warn;

use crate::kernel::host;
use crate::kernel::passing::{self, Sender};
use crate::kernel::process::Process;
use crate::sparing::Sparing;

/// Longest message that is read; systemd's own limit is 4,096 bytes as well.
const LONGEST: usize = 4096;

/// What a worker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Said {
    /// `READY=1`
    Ready,
    /// `STOPPING=1`
    Stopping,
    /// `WATCHDOG=1`
    Alive,
}

impl Said {
    fn read(line: &[u8]) -> Option<Self> {
        match line {
            b"READY=1" => Some(Self::Ready),
            b"STOPPING=1" => Some(Self::Stopping),
            b"WATCHDOG=1" => Some(Self::Alive),
            _ => None,
        }
    }
}

/// A process's notification socket; closed and removed on drop.
pub struct Notify {
    path: PathBuf,
    owner: Option<(u32, u32)>,
    /// The process whose it is, as soon as it is there.
    process: Rc<OnceCell<Rc<Process>>>,
    listening: JoinHandle<()>,
}

/// A path for another socket.
#[must_use]
pub fn path(runtime_dir: &Path) -> PathBuf {
    // Who does not know it cannot find it: the directory cannot be listed. Workers of an earlier daemon
    // keep the paths that they know: none is used again.
    directory(runtime_dir).join(format!("{:016x}", host::random()))
}

/// Where all of them are.
#[must_use]
pub fn directory(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("notify")
}

/// Makes that directory, also if somebody has removed it: workers of all users go through it.
pub fn make_directory(directory: &Path) -> io::Result<()> {
    host::make_directory(directory, 0o711)
}

impl Notify {
    /// Listens at `path` for worker `name`, where only the user and group `owner` may send; hands what is said
    /// to `hear`. See [`Notify::only_from`].
    pub fn open(
        path: PathBuf,
        owner: Option<(u32, u32)>,
        name: String,
        hear: impl Fn(Said) + 'static,
    ) -> Result<Self> {
        let open = || -> io::Result<UnixDatagram> {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            if let Some(directory) = path.parent().filter(|directory| !directory.exists()) {
                make_directory(directory)?;
            }
            let socket = UnixDatagram::from_std(passing::hearing(&path)?)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            if let Some((uid, gid)) = owner {
                std::os::unix::fs::chown(&path, Some(uid), Some(gid))?;
            }
            Ok(socket)
        };
        let socket =
            open().with_context(|| format!("cannot make the notification socket {}", path.display()))?;
        let process: Rc<OnceCell<Rc<Process>>> = Rc::default();
        let mut strangers = Strangers { name, process: process.clone(), said: Sparing::default() };
        let listening = tokio::task::spawn_local(async move {
            let mut message = [0; LONGEST];
            while let Ok((length, sender)) =
                socket.async_io(Interest::READABLE, || passing::hear(&socket, &mut message)).await
            {
                // Saying it twice at once means nothing more.
                let said: BTreeSet<Said> =
                    message[..length].split(|byte| *byte == b'\n').filter_map(Said::read).collect();
                if !said.is_empty() && !strangers.sent(sender, &said) {
                    said.into_iter().for_each(&hear);
                }
            }
        });
        Ok(Self { path, owner, process, listening })
    }

    /// Hears nobody but `process` and what belongs to it from now on. The user is checked by the kernel
    /// already; but workers of other services may be the same user's.
    pub fn only_from(&self, process: Rc<Process>) {
        let _ = self.process.set(process);
    }

    /// The user and group that may send.
    #[must_use]
    pub fn owner(&self) -> Option<(u32, u32)> {
        self.owner
    }

    /// For NOTIFY_SOCKET.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Tells apart who does not belong to a worker.
struct Strangers {
    /// The worker.
    name: String,
    process: Rc<OnceCell<Rc<Process>>>,
    said: Sparing<()>,
}

impl Strangers {
    /// Whether a stranger sent this, which the log says now and then.
    fn sent(&mut self, Sender { pid, uid }: Sender, said: &BTreeSet<Said>) -> bool {
        if self.process.get().is_none_or(|process| process.may_be_spoken_for_by(pid)) {
            return false;
        }
        if let Some(unsaid) = self.said.again((), Instant::now()) {
            let (name, messages) = (&self.name, unsaid + 1);
            warn!(
                worker = name,
                pid, uid, messages, "not heard: {said:?} comes from a process that is not of it"
            );
        }
        true
    }
}

impl Drop for Notify {
    fn drop(&mut self) {
        self.listening.abort();
        // If it cannot be removed now, the end of the daemon removes the whole directory.
        let _ = fs::remove_file(&self.path);
    }
}
