//! The runtime directory with its lock. Files that are removed (by a cleaner of temporary files, for example) are made
//! again while the daemon runs. Not: its sockets (`sockets.rs`), and files of services (`service/`).

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tracing::{info, warn};

use super::{Paths, host_drain};
use crate::doctor::places::RuntimeDir;
use crate::kernel::{host, locks};
use crate::service::sd_notify;
use crate::service::state_file::{self, SavedService};

/// Longest path of a UNIX socket: `sun_path` (unix(7)) without its terminating zero.
const SUN_PATH: usize = 107;

/// Name of the file that a daemon has locked as long as it runs.
const LOCK: &str = "daemon.lock";

/// Last line of the lock file if the daemon has made the runtime directory, and removes it at its end. The lines before
/// are the daemon's process id and the directory.
const MADE: &str = "\n(the runtime directory is its own)";

/// Length of the name of a notification socket (see `sd_notify::path`).
const NOTIFY_NAME: usize = 16;

/// How many attempts to make something again must fail in a row before that is logged: another daemon that starts has
/// the lock for a moment, before it finds this one.
const UNTIL_SAID: u32 = 3;

/// The runtime directory with its lock; on drop, files that the daemon has made are removed.
pub(super) struct Files {
    pub(super) paths: Paths,
    made: Cell<bool>,
    /// Notification sockets and state files stay for the next daemon.
    pub(super) keep: Cell<bool>,
    lock: RefCell<File>,
    failed: Cell<u32>,
}

impl Files {
    pub(super) fn make(paths: &Paths) -> Result<Self> {
        let directory = &paths.runtime_dir;
        if let Some(most) = too_long(directory) {
            bail!(
                "the runtime directory {} is too long a path for sockets in it: use one of at most {most} bytes",
                directory.display(),
            );
        }
        let made = make_directory(directory)?;
        check_owner(directory)?;
        let lock = lock(directory)?;
        let path = canonical(directory).join(LOCK);
        if let Some(pid) = locks::holder_of_former(&path, &lock) {
            // That daemon takes the new lock file within a second.
            return Err(taken(directory, &pid.to_string()));
        }
        // Also if an earlier daemon has made the directory and not removed it.
        let made = Cell::new(made || said_made(&lock));
        // From here on an early return cleans the directory up.
        let (keep, lock) = (Cell::new(false), RefCell::new(lock));
        let files = Self { paths: paths.clone(), made, keep, lock, failed: Cell::default() };
        files.sweep();
        files
            .write_lock(&files.lock.borrow())
            .and_then(|()| files.prepare())
            .with_context(|| format!("cannot prepare the runtime directory {}", directory.display()))?;
        Ok(files)
    }

    /// Makes directories and the lock again if they were removed.
    pub(super) fn look(&self) {
        let directory = &self.paths.runtime_dir;
        match self.restore() {
            Ok(restored) => {
                if self.failed.replace(0) >= UNTIL_SAID {
                    info!("the runtime directory {} is what it was", directory.display());
                }
                for path in restored {
                    warn!("{} was removed, and is there again", path.display());
                }
            }
            Err(error) => {
                self.failed.set(self.failed.get().saturating_add(1));
                if self.failed.get() == UNTIL_SAID {
                    warn!(
                        "something was removed of the runtime directory {}, and cannot be made again: {error:#}; it is \
                         tried each second",
                        directory.display()
                    );
                }
            }
        }
    }

    fn restore(&self) -> Result<Vec<PathBuf>> {
        let directory = &self.paths.runtime_dir;
        let mut restored = Vec::new();
        if make_directory(directory)? {
            self.made.set(true);
            restored.push(directory.clone());
        }
        let path = directory.join(LOCK);
        let own = self.lock.borrow().metadata().map(|about| host::inode(&about))?;
        if !host::is_there(&path, Some(own)) {
            check_owner(directory)?;
            let lock = lock(directory)?;
            self.write_lock(&lock).with_context(|| format!("cannot write {}", path.display()))?;
            // The old lock is held until the new one is.
            self.lock.replace(lock);
            restored.push(path);
        }
        let others = self.directories().into_iter().filter(|it| !it.exists()).collect::<Vec<PathBuf>>();
        if !others.is_empty() {
            self.prepare()?;
        }
        restored.extend(others);
        Ok(restored)
    }

    fn directories(&self) -> [PathBuf; 2] {
        [sd_notify::directory(&self.paths.runtime_dir), state_file::directory(&self.paths.runtime_dir)]
    }

    fn prepare(&self) -> io::Result<()> {
        let [notify, state] = self.directories();
        sd_notify::make_directory(&notify)?;
        state_file::make_directory(&state)
    }

    fn write_lock(&self, mut lock: &File) -> io::Result<()> {
        lock.set_len(0)?;
        let made = if self.made.get() { MADE } else { "" };
        lock.seek(SeekFrom::Start(0))?;
        write!(lock, "{}\n{}{made}", std::process::id(), canonical(&self.paths.runtime_dir).display())
    }

    /// Removes sockets of this and earlier daemons; missing ones are no error.
    fn sweep(&self) {
        let _ = fs::remove_file(self.paths.control());
        let _ = fs::remove_file(reuseport_lb_client::join::path(&self.paths.runtime_dir));
        let notify = sd_notify::directory(&self.paths.runtime_dir);
        for entry in fs::read_dir(&notify).into_iter().flatten().flatten() {
            // Only sockets: another program may have put other files there.
            host::remove_socket(&entry.path());
        }
        let _ = fs::remove_dir(notify);
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.sweep();
        if self.keep.get() {
            return;
        }
        // Fails if a service has left a state file: then the next daemon is to know what this one knew.
        let state = state_file::directory(&self.paths.runtime_dir);
        if fs::remove_dir(&state).is_err() && state.exists() {
            return;
        }
        if host_drain::is_left(&self.paths.runtime_dir) {
            return;
        }
        let _ = fs::remove_file(self.paths.runtime_dir.join(LOCK));
        if self.made.get() {
            // Fails if other programs have put files into it.
            let _ = fs::remove_dir(&self.paths.runtime_dir);
        }
    }
}

/// Makes the runtime directory; false if it exists.
fn make_directory(directory: &Path) -> Result<bool> {
    if directory.exists() {
        return Ok(false);
    }
    // Whatever the umask is: workers of other users must be able to enter the directory.
    host::make_directory(directory, 0o755)
        .with_context(|| format!("cannot make the runtime directory {}", directory.display()))?;
    Ok(true)
}

fn canonical(directory: &Path) -> PathBuf {
    directory.canonicalize().unwrap_or_else(|_| directory.to_owned())
}

fn taken(directory: &Path, pid: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "another reuseport-lb (process {pid}) runs in {}: stop it with `reuseport-lb stop`, or give this one \
         its own --runtime-dir",
        directory.display()
    )
}

/// Takes the lock of a runtime directory, for as long as the file is open.
fn lock(directory: &Path) -> Result<File> {
    let path = directory.join(LOCK);
    let mut before = String::new();
    loop {
        let mut lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            // A process that may read a file may lock it.
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        if !locks::try_lock(&lock).with_context(|| format!("cannot lock {}", path.display()))? {
            if locks::is_locked_by_stranger(&lock) {
                warn!(
                    "another user's process has locked {}, which every user could read: it is made anew",
                    path.display()
                );
                let _ = lock.read_to_string(&mut before);
                fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
                continue;
            }
            let mut pid = String::new();
            let _ = lock.read_to_string(&mut pid);
            return Err(taken(directory, pid.lines().next().unwrap_or_default()));
        }
        // A daemon that ended meanwhile may have removed the file: then its lock means nothing.
        let ours = host::inode(&lock.metadata().context("cannot look at the lock")?);
        if host::is_there(&path, Some(ours)) {
            // Earlier versions made the file readable for all users.
            let own = lock.set_permissions(fs::Permissions::from_mode(0o600));
            own.and_then(|()| lock.write_all(before.as_bytes()).and_then(|()| lock.rewind()))
                .with_context(|| format!("cannot prepare {}", path.display()))?;
            return Ok(lock);
        }
    }
}

/// Finds what is wrong with a runtime directory, which need not exist yet.
#[must_use]
pub fn about_directory(directory: &Path) -> RuntimeDir {
    let mut found = RuntimeDir { longest: too_long(directory), ..RuntimeDir::default() };
    if let Ok(about) = fs::metadata(directory) {
        found.others_may_write = about.mode() & 0o022 != 0;
        found.owner = Some(about.uid()).filter(|uid| *uid != 0 && *uid != host::own_uid());
    }
    found
}

/// Number of services that an earlier daemon of this boot left in a runtime directory, and the cookies of their
/// sockets.
#[must_use]
pub fn left_in(directory: &Path) -> (usize, HashSet<u64>) {
    let boot = host::boot();
    let read = state_file::look(directory).filter_map(|(_, read)| read.ok());
    let left: Vec<SavedService> = read.filter(|state| state.stamp.boot == boot).collect();
    let sockets = left.iter().flat_map(|state| &state.workers).flat_map(|worker| &worker.sockets);
    (left.len(), sockets.map(|socket| socket.cookie).collect())
}

/// Whether a daemon that is gone has left services there, whose workers serve on; true if this user may not look.
#[must_use]
pub fn leaves_services(directory: &Path) -> bool {
    match fs::read_dir(state_file::directory(directory)) {
        Ok(mut files) => files.next().is_some(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// The most bytes of a runtime directory's path, if `directory` has more.
fn too_long(directory: &Path) -> Option<usize> {
    let longest = sd_notify::directory(directory).as_os_str().len() + 1 + NOTIFY_NAME;
    (longest > SUN_PATH).then(|| SUN_PATH - (longest - directory.as_os_str().len()))
}

/// Fails if other users may write the runtime directory: a daemon that is root trusts the files in it.
fn check_owner(directory: &Path) -> Result<()> {
    let found = about_directory(directory);
    if found.others_may_write || found.owner.is_some() {
        bail!(
            "others than its user may write the runtime directory {}: give one that belongs to the daemon's user \
             alone (`chmod go-w`, `chown`), or one that does not exist yet",
            directory.display()
        );
    }
    Ok(())
}

/// Whether the daemon with process id `pid` has the lock of this runtime directory.
#[must_use]
pub fn is_locked(directory: &Path, pid: u32) -> bool {
    let Ok(mut file) = File::open(directory.join(LOCK)) else { return false };
    let mut text = String::new();
    let said = file.read_to_string(&mut text).is_ok() && text.lines().next() == Some(&pid.to_string());
    // If this takes the lock, closing the file releases it.
    said && matches!(locks::try_lock(&file), Ok(false))
}

/// Whether the lock file says that a daemon has made the directory.
fn said_made(mut lock: &File) -> bool {
    let mut text = String::new();
    lock.read_to_string(&mut text).is_ok() && text.ends_with(MADE)
}
