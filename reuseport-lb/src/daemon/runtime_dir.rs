//! The runtime directory with its lock. Whatever somebody removes of it (a cleaner of temporary files, say) is made
//! again while the daemon runs. Not: its sockets (`sockets.rs`), and files of services, which look after theirs.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tracing::{info, warn};

use super::Paths;
use crate::doctor::places::RuntimeDir;
use crate::kernel::{host, locks};
use crate::service::sd_notify;
use crate::service::state_file::{self, SavedService};

/// Longest path of a UNIX socket: `sun_path` (unix(7)) without its terminating zero.
const SUN_PATH: usize = 107;

/// What a daemon has locked for as long as it runs.
const LOCK: &str = "daemon.lock";

/// Last line of the lock if the runtime directory goes with the daemon; before it are its process id and the directory.
const MADE: &str = "\n(the runtime directory is its own)";

/// Length of the name of a notification socket (see `sd_notify::path`).
const NOTIFY_NAME: usize = 16;

/// How often in a row something cannot be made again before the log says so: another daemon that starts has the lock for
/// a moment, before it finds this one.
const UNTIL_SAID: u32 = 3;

/// The runtime directory with its lock; removed on drop, as far as it is ours.
pub(super) struct Files {
    pub(super) paths: Paths,
    made: Cell<bool>,
    /// The next daemon needs some of it.
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
            // It takes what is there now for its own within a second.
            return Err(taken(directory, &pid.to_string()));
        }
        // Or an earlier daemon did, which had no chance to remove it.
        let made = Cell::new(made || said_made(&lock));
        // From here on the directory is ours, and leaving early cleans it up.
        let (keep, lock) = (Cell::new(false), RefCell::new(lock));
        let files = Self { paths: paths.clone(), made, keep, lock, failed: Cell::default() };
        files.sweep();
        files
            .write_lock(&files.lock.borrow())
            .and_then(|()| files.prepare())
            .with_context(|| format!("cannot prepare the runtime directory {}", directory.display()))?;
        Ok(files)
    }

    /// Makes again what is not there any more.
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
            // At no moment there is none.
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

    /// Removes what this or an earlier daemon made; what is missing is no error.
    fn sweep(&self) {
        let _ = fs::remove_file(self.paths.control());
        let _ = fs::remove_file(reuseport_lb_client::join::path(&self.paths.runtime_dir));
        let notify = sd_notify::directory(&self.paths.runtime_dir);
        for entry in fs::read_dir(&notify).into_iter().flatten().flatten() {
            // Somebody may have put something else there.
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
        // Only if no service has left anything in it.
        let _ = fs::remove_dir(state_file::directory(&self.paths.runtime_dir));
        let _ = fs::remove_file(self.paths.runtime_dir.join(LOCK));
        if self.made.get() {
            // Only if nobody else has put anything into it.
            let _ = fs::remove_dir(&self.paths.runtime_dir);
        }
    }
}

/// Whether it was not there.
fn make_directory(directory: &Path) -> Result<bool> {
    if directory.exists() {
        return Ok(false);
    }
    // Workers of other users go through it, whatever the umask is.
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
            // Whoever may read it may lock it.
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        if !locks::try_lock(&lock).with_context(|| format!("cannot lock {}", path.display()))? {
            if locks::is_locked_by_stranger(&lock) {
                warn!(
                    "another user's process has locked {}, which everybody could read: it is made anew",
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
        // A daemon that ended meanwhile has removed the file: then this is the lock of nothing.
        let ours = host::inode(&lock.metadata().context("cannot look at the lock")?);
        if host::is_there(&path, Some(ours)) {
            // Earlier versions let everybody read it.
            let own = lock.set_permissions(fs::Permissions::from_mode(0o600));
            own.and_then(|()| lock.write_all(before.as_bytes()).and_then(|()| lock.rewind()))
                .with_context(|| format!("cannot prepare {}", path.display()))?;
            return Ok(lock);
        }
    }
}

/// What is wrong with a runtime directory, which need not be there yet.
#[must_use]
pub fn about_directory(directory: &Path) -> RuntimeDir {
    let mut found = RuntimeDir { longest: too_long(directory), ..RuntimeDir::default() };
    if let Ok(about) = fs::metadata(directory) {
        found.others_may_write = about.mode() & 0o022 != 0;
        found.owner = Some(about.uid()).filter(|uid| *uid != 0 && *uid != host::own_uid());
    }
    found
}

/// What an earlier daemon of this boot left in a runtime directory: how many services, and the cookies of their sockets.
#[must_use]
pub fn left_in(directory: &Path) -> (usize, HashSet<u64>) {
    let boot = host::boot();
    let read = state_file::look(directory).filter_map(|(_, read)| read.ok());
    let left: Vec<SavedService> = read.filter(|state| state.stamp.boot == boot).collect();
    let sockets = left.iter().flat_map(|state| &state.workers).flat_map(|worker| &worker.sockets);
    (left.len(), sockets.map(|socket| socket.cookie).collect())
}

/// The most bytes of a path for this purpose, if `directory` has more.
fn too_long(directory: &Path) -> Option<usize> {
    let longest = sd_notify::directory(directory).as_os_str().len() + 1 + NOTIFY_NAME;
    (longest > SUN_PATH).then(|| SUN_PATH - (longest - directory.as_os_str().len()))
}

/// What is in the runtime directory is believed by the next daemon, which is root.
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
    // It is free again as soon as this file is closed.
    said && matches!(locks::try_lock(&file), Ok(false))
}

/// Whether the file says that the directory is a daemon's own.
fn said_made(mut lock: &File) -> bool {
    let mut text = String::new();
    lock.read_to_string(&mut text).is_ok() && text.ends_with(MADE)
}
