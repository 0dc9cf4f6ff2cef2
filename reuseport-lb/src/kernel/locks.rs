//! Locks of files (flock), and which processes hold them. Not: what is locked (`daemon/runtime_dir.rs`).

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::{fd_passing, host};

/// What the kernel appends to the path of a file that was removed.
const REMOVED: &str = " (deleted)";

/// Takes the lock on `file` for as long as `file` is open; false if another process holds it.
pub fn try_lock(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether the lock on `file` is held by a process of a user that is neither root nor this process's, which is no
/// daemon. False if the kernel does not tell which process holds it.
#[must_use]
pub fn is_locked_by_stranger(file: &File) -> bool {
    let Ok(about) = file.metadata() else { return false };
    let (major, minor) = (rustix::fs::major(about.dev()), rustix::fs::minor(about.dev()));
    let wanted = format!("{major:02x}:{minor:02x}:{}", about.ino());
    held().into_iter().any(|held| held.file == wanted && uid_of(held.pid).is_some_and(is_stranger))
}

/// Process id of a daemon that holds a lock on another file than `there`, which is at `path` now: the file that was
/// at `path` before was removed, or moved away with its directory. The daemon's file is known by the path that the
/// kernel gives for it, or by its second line, which names the directory.
#[must_use]
pub fn holder_of_former(path: &Path, there: &File) -> Option<i32> {
    let there = there.metadata().ok()?;
    let own = i32::try_from(std::process::id()).ok();
    let held = held().into_iter().filter(|held| Some(held.pid) != own);
    let mut daemons = held.filter(|held| uid_of(held.pid).is_some_and(|uid| !is_stranger(uid)));
    let found = daemons.find(|held| {
        let files = fd_passing::files_of(held.pid).filter_map(|file| Some((file.metadata().ok()?, file)));
        let mut locked = files.filter(|(about, _)| held.file.ends_with(&format!(":{}", about.ino())));
        locked.any(|(about, file)| {
            let another = host::inode(&about) != host::inode(&there);
            // In another mount namespace the same path may lead to another file.
            let same_place = shares_mounts(held.pid) || about.dev() == there.dev();
            another && same_place && !is_stranger(about.uid()) && was_at(&file, path)
        })
    });
    found.map(|held| held.pid)
}

fn was_at(file: &File, path: &Path) -> bool {
    let link = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap_or_default();
    let link = link.to_string_lossy();
    if Path::new(link.strip_suffix(REMOVED).unwrap_or(&link)) == path {
        return true;
    }
    let mut text = vec![0; 4096];
    let length = file.read_at(&mut text, 0).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[..length]);
    text.lines().nth(1).is_some_and(|line| path.parent() == Some(Path::new(line)))
}

/// A lock that a process holds.
struct Held {
    pid: i32,
    /// Device and inode, like `00:1f:42`.
    file: String,
}

/// All flock(2) locks that the kernel shows: `1: FLOCK  ADVISORY  WRITE 4711 00:1f:42 0 EOF` (proc_locks(5)).
fn held() -> Vec<Held> {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let lock = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, file, ..] = *fields.as_slice() else { return None };
        Some(Held { pid: pid.parse().ok().filter(|pid| *pid > 0)?, file: file.to_owned() })
    };
    locks.lines().filter_map(lock).collect()
}

fn uid_of(pid: i32) -> Option<u32> {
    fs::metadata(format!("/proc/{pid}")).ok().map(|about| about.uid())
}

fn is_stranger(uid: u32) -> bool {
    uid != 0 && uid != host::own_uid()
}

fn shares_mounts(pid: i32) -> bool {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    namespace(&pid.to_string()).is_some_and(|it| Some(it) == namespace("self"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// Starts a process that holds the lock of a file at `path`, with this content.
    fn locked(path: &Path, content: &str) -> std::process::Child {
        fs::write(path, content).unwrap();
        // As one process: a child of it would outlive the test.
        let mut holder = Command::new("flock");
        holder.arg("--no-fork").arg(path);
        holder.args(["sh", "-c", "echo; exec sleep 1000"]).stdout(Stdio::piped());
        let mut holder = holder.spawn().unwrap();
        let mut byte = [0];
        std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut byte).unwrap();
        holder
    }

    #[test]
    fn a_lock_on_what_was_removed_or_moved_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let run = directory.path().canonicalize().unwrap().join("run");
        let path = run.join("daemon.lock");
        let look = || {
            let there = File::options().create(true).append(true).open(&path).unwrap();
            holder_of_former(&path, &there)
        };
        for moved in [false, true] {
            fs::create_dir(&run).unwrap();
            assert_eq!(look(), None);
            let mut holder = locked(&path, &format!("1\n{}\n", run.display()));
            assert_eq!(look(), None, "that is what is there");
            if moved {
                fs::rename(&run, directory.path().join("elsewhere")).unwrap();
            } else {
                fs::remove_dir_all(&run).unwrap();
            }
            fs::create_dir(&run).unwrap();
            let found = look();
            holder.kill().unwrap();
            holder.wait().unwrap();
            fs::remove_dir_all(&run).unwrap();
            assert_eq!(found, Some(i32::try_from(holder.id()).unwrap()), "{moved}");
        }
    }
}
