//! Notification sockets of workers, with the protocol of sd_notify(3): one socket per worker's process, so that a
//! message counts from whichever process of the worker it comes. Messages of other processes are dropped.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeSet, VecDeque};
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

use crate::domain::log_limit::LogLimit;
use crate::domain::observed::Said;
use crate::kernel::fd_passing::{self, Sender};
use crate::kernel::host::{self, Inode};
use crate::kernel::process::Process;

/// Longest message that is read; systemd's own limit is 4,096 bytes as well.
const LONGEST: usize = 4096;

/// How many sockets that have lost their path are read as well: a process that has connected to one goes on to send
/// there.
const LOST: usize = 3;

/// What a line of a message says, if anything.
fn read(line: &[u8]) -> Option<Said> {
    match line {
        b"READY=1" => Some(Said::Ready),
        b"STOPPING=1" => Some(Said::Stopping),
        b"WATCHDOG=1" => Some(Said::Alive),
        _ => {
            let pid = line.strip_prefix(b"MAINPID=")?;
            std::str::from_utf8(pid).ok()?.parse().ok().map(Said::Main)
        }
    }
}

/// A process's notification socket; closed and removed on drop.
pub struct Notify {
    path: PathBuf,
    owner: Option<(u32, u32)>,
    /// The process that the socket is for, as soon as it is started.
    process: Rc<OnceCell<Rc<Process>>>,
    hear: Rc<dyn Fn(Said)>,
    strangers: Rc<RefCell<Strangers>>,
    /// Inode of the socket that was made last, to see whether it is still at `path`.
    inode: Option<Inode>,
    /// The last attempt to make the socket again failed, which is logged once.
    failed: bool,
    /// Readers of the sockets: the last one's is at `path`, those before have lost it.
    listening: VecDeque<JoinHandle<()>>,
}

/// A path for a new notification socket.
#[must_use]
pub fn path(runtime_dir: &Path) -> PathBuf {
    // The name is random because the directory cannot be listed: only the worker knows its path. Workers of an earlier
    // daemon keep their paths, and none is used twice.
    directory(runtime_dir).join(format!("{:016x}", host::random()))
}

/// A path for the socket of a worker that has joined.
#[must_use]
pub fn path_of_joined(runtime_dir: &Path) -> PathBuf {
    directory(runtime_dir).join(format!("{JOINED}{:015x}", host::random() >> 4))
}

/// Whether `path` is the socket of a worker that has joined: the daemon does not end its process.
#[must_use]
pub fn is_of_joined(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(&[JOINED as u8]))
}

/// First character of the names of joined workers' sockets.
const JOINED: char = 'j';

/// The directory of all notification sockets.
#[must_use]
pub fn directory(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("notify")
}

/// Makes the directory of notification sockets if it is missing. Workers of all users must get through it.
pub fn make_directory(directory: &Path) -> io::Result<()> {
    host::make_directory(directory, 0o711)
}

impl Notify {
    /// Listens at `path` for worker `name`, where only the user and group `owner` may send; passes messages to `hear`.
    /// See [`Notify::only_from`].
    pub fn open(
        path: PathBuf,
        owner: Option<(u32, u32)>,
        name: String,
        hear: impl Fn(Said) + 'static,
    ) -> Result<Self> {
        let process: Rc<OnceCell<Rc<Process>>> = Rc::default();
        let strangers = Strangers { name, process: process.clone(), said: LogLimit::default() };
        let mut notify = Self {
            path,
            owner,
            process,
            hear: Rc::new(hear),
            strangers: Rc::new(RefCell::new(strangers)),
            inode: None,
            failed: false,
            listening: VecDeque::new(),
        };
        notify.listen()?;
        Ok(notify)
    }

    /// Makes its socket at its path.
    fn listen(&mut self) -> Result<()> {
        let socket = self
            .bind()
            .with_context(|| format!("cannot make the notification socket {}", self.path.display()))?;
        self.inode = host::inode_at(&self.path);
        let (hear, strangers) = (self.hear.clone(), self.strangers.clone());
        self.listening.push_back(tokio::task::spawn_local(async move {
            let mut message = [0; LONGEST];
            while let Ok((length, sender)) =
                socket.async_io(Interest::READABLE, || fd_passing::hear(&socket, &mut message)).await
            {
                // A line that is there twice in one message counts once.
                let said: BTreeSet<Said> =
                    message[..length].split(|byte| *byte == b'\n').filter_map(read).collect();
                if !said.is_empty() && !strangers.borrow_mut().sent(sender, &said) {
                    let counts = |what: &Said| strangers.borrow().counts(*what, sender.pid);
                    said.into_iter().filter(counts).for_each(&*hear);
                }
            }
        }));
        if self.listening.len() > 1 + LOST {
            self.listening.pop_front().iter().for_each(JoinHandle::abort);
        }
        Ok(())
    }

    fn bind(&self) -> io::Result<UnixDatagram> {
        let path = &self.path;
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        if let Some(directory) = path.parent().filter(|directory| !directory.exists()) {
            make_directory(directory)?;
        }
        let socket = UnixDatagram::from_std(fd_passing::hearing(path)?)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        if let Some((uid, gid)) = self.owner {
            std::os::unix::fs::chown(path, Some(uid), Some(gid))?;
        }
        Ok(socket)
    }

    /// Makes the socket again if it was removed from its path; true if it was, because messages of the worker may be
    /// lost then. Messages that wait in the old socket are still read.
    pub fn restore(&mut self) -> bool {
        if host::is_there(&self.path, self.inode) {
            return false;
        }
        let made = self.listen();
        let name = &self.strangers.borrow().name;
        match &made {
            Ok(()) => warn!(worker = name, "its notification socket was removed, and is there again"),
            Err(error) if !self.failed => {
                warn!(worker = name, "what it says cannot be heard: {error:#}; it is tried each second");
            }
            Err(_) => {}
        }
        self.failed = made.is_err();
        true
    }

    /// Drops messages from now on unless they come from `process` or from a process that belongs to the same worker. The
    /// kernel checks the user already, but workers of other services may have the same user.
    pub fn only_from(&self, process: Rc<Process>) {
        let _ = self.process.set(process);
    }

    /// The user and group that may send.
    #[must_use]
    pub fn owner(&self) -> Option<(u32, u32)> {
        self.owner
    }

    /// The socket's path, for NOTIFY_SOCKET.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Recognizes messages of processes that do not belong to a worker.
struct Strangers {
    /// Name of the worker.
    name: String,
    process: Rc<OnceCell<Rc<Process>>>,
    said: LogLimit<()>,
}

impl Strangers {
    /// Whether a process that does not belong to the worker sent this; logged now and then.
    fn sent(&mut self, Sender { pid, uid }: Sender, said: &BTreeSet<Said>) -> bool {
        if self.process.get().is_none_or(|process| process.accepts_message_of(pid)) {
            return false;
        }
        if let Some(suppressed) = self.said.allow((), Instant::now()) {
            let (name, messages) = (&self.name, suppressed + 1);
            warn!(
                worker = name,
                pid, uid, messages, "not heard: {said:?} comes from a process that is not of it"
            );
        }
        true
    }
}

impl Strangers {
    /// Whether what a process of the worker said is news. Another main process is followed here, before the end of the one
    /// before can be noticed.
    fn counts(&self, said: Said, sender: i32) -> bool {
        let Some(process) = self.process.get() else { return true };
        match said {
            Said::Main(pid) => process.follow(pid).unwrap_or_else(|error| {
                warn!(worker = self.name, pid, "not followed as its main process (MAINPID=): {error}");
                false
            }),
            Said::Stopping => process.is_current(sender),
            Said::Ready | Said::Alive => true,
        }
    }
}

impl Drop for Notify {
    fn drop(&mut self) {
        self.listening.iter().for_each(JoinHandle::abort);
        // If it cannot be removed now, the end of the daemon removes the whole directory.
        let _ = fs::remove_file(&self.path);
    }
}
