//! A control group (version 2) for each process of a worker, where the daemon may make one: all that the
//! worker starts is in it, wherever that puts itself. No controller is switched on, so the daemon itself may
//! stay in the parent.

use std::cell::{Cell, RefCell};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::info;

use super::{host, locks};

/// How deep cgroups that a worker has made in its own are looked for.
const DEPTH: usize = 8;

/// How often, and how many times, is looked whether nobody is left.
const LOOK: Duration = Duration::from_millis(5);
const LOOKS: usize = 100;

/// What the names of directories that daemons have made begin with.
const PREFIX: &str = "reuseport-lb-";

/// Where a daemon's workers have theirs.
pub struct Cgroups {
    /// `None` if it cannot be made.
    own: Option<Own>,
    /// What earlier daemons have made for workers that live.
    taken_over: RefCell<Vec<Cgroup>>,
    /// The log says why a worker has none.
    said: Cell<bool>,
}

/// A directory of this daemon's own. In the root cgroup it can be made only as long as the daemon has all
/// rights, and not be removed later.
struct Own {
    path: PathBuf,
    /// As long as the daemon has the lock, no other one removes it.
    _lock: File,
}

impl Cgroups {
    /// For this daemon, below the cgroup that it is in. What earlier daemons left there, and nobody is in any
    /// more, is removed.
    #[must_use]
    pub fn prepare() -> Self {
        let prepared = current().and_then(|current| {
            sweep(&current);
            Own::make(&current)
        });
        let cgroups = |own| Self { own, taken_over: RefCell::default(), said: Cell::new(false) };
        match prepared {
            Ok(own) => cgroups(Some(own)),
            Err(why) => {
                let none = cgroups(None);
                none.say(&why);
                none
            }
        }
    }

    /// A new one for a process of the worker `name`; `None` if that is not possible.
    #[must_use]
    pub fn make(&self, name: &str) -> Option<Cgroup> {
        let path =
            self.own.as_ref()?.path.join(format!("{}-{:016x}", name.replace('/', "-"), host::random()));
        match make(&path) {
            Ok(()) => Some(Cgroup { path }),
            Err(error) => {
                self.say(&error);
                None
            }
        }
    }

    /// This one is to be removed as well.
    pub fn take_over(&self, cgroup: Cgroup) {
        self.taken_over.borrow_mut().push(cgroup);
    }

    fn say(&self, why: &str) {
        if !self.said.replace(true) {
            info!(
                "workers get no cgroup: what they start is found by process group, session and parents ({why})"
            );
        }
    }

    /// Removes all, when all are told to end: who was killed needs a moment.
    pub fn remove(&self) {
        for _ in 0..LOOKS {
            let mut left = self.taken_over.borrow_mut();
            left.retain(|cgroup| {
                cgroup.remove();
                cgroup.path.exists()
            });
            let own = self.own.as_ref().map(|own| &own.path);
            own.into_iter().for_each(|own| remove(own, DEPTH));
            if left.is_empty() && own.is_none_or(|own| children(own).next().is_none()) {
                break;
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Own {
    fn make(current: &Path) -> Result<Self, String> {
        let path = current.join(format!("{PREFIX}{:016x}", host::random()));
        make(&path)?;
        let made = Self::try_out(current, &path);
        if made.is_err() {
            remove(&path, DEPTH);
        }
        Ok(Self { _lock: made?, path })
    }

    fn try_out(current: &Path, path: &Path) -> Result<File, String> {
        let trial = path.join("trial");
        make(&trial)?;
        let lock = open(path, false)?;
        // Who may write to both may move a process from one to the other.
        open(&current.join("cgroup.procs"), true)?;
        open(&trial.join("cgroup.procs"), true)?;
        let kind = fs::read_to_string(trial.join("cgroup.type")).unwrap_or_default();
        // In one for threads, others are "domain invalid".
        if kind.trim() != "domain" {
            return Err(format!("{} is {}", trial.display(), kind.trim()));
        }
        let _ = fs::remove_dir(&trial);
        match locks::try_lock(&lock) {
            Ok(true) => Ok(lock),
            _ => Err(format!("{} cannot be locked", path.display())),
        }
    }
}

/// That of one process of a worker.
#[derive(Clone, Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// One that an earlier daemon has made; `None` if it is gone.
    #[must_use]
    pub fn find(path: &Path) -> Option<Self> {
        path.join("cgroup.procs").is_file().then(|| Self { path: path.to_owned() })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves this process into the cgroup at `path`.
    pub(super) fn enter(path: &Path) -> io::Result<()> {
        fs::write(path.join("cgroup.procs"), "0")
    }

    /// All processes in it.
    pub(super) fn processes(&self) -> Vec<i32> {
        let mut all = Vec::new();
        processes(&self.path, DEPTH, &mut all);
        all
    }

    /// Whether the process `pid` is in it, or has ended in it and is not reaped.
    pub(super) fn has(&self, pid: i32) -> bool {
        let Some(name) = self.path.file_name().and_then(|name| name.to_str()) else { return false };
        let lines = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let own = lines.lines().find_map(|line| line.strip_prefix("0::"));
        // Names have a random part, so no other has this one.
        own.is_some_and(|own| own.split('/').any(|part| part == name))
    }

    /// Ends everybody in it at once (Linux 5.14).
    pub fn kill(&self) {
        // If it is gone, so are they.
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
    }

    /// Removes it, if nobody is in it.
    pub fn remove(&self) {
        remove(&self.path, DEPTH);
    }
}

/// Removes what daemons that are gone have made in `current`, as far as nobody is in it.
fn sweep(current: &Path) {
    let is_made = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(PREFIX))
    };
    for path in children(current).filter(is_made) {
        let lock = open(&path, false);
        if lock.is_ok_and(|lock| matches!(locks::try_lock(&lock), Ok(true))) {
            remove(&path, DEPTH);
        }
    }
}

fn make(path: &Path) -> Result<(), String> {
    let made = DirBuilder::new().mode(0o755).create(path);
    made.map_err(|error| format!("{} cannot be made: {error}", path.display()))
}

fn open(path: &Path, write: bool) -> Result<File, String> {
    let opened = File::options().read(!write).write(write).open(path);
    opened.map_err(|error| format!("{}: {error}", path.display()))
}

fn children(path: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}

fn processes(path: &Path, depth: usize, all: &mut Vec<i32>) {
    let list = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    // 0 is one in another PID namespace.
    all.extend(list.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid != 0));
    if depth > 0 {
        children(path).for_each(|child| processes(&child, depth - 1, all));
    }
}

/// Those that have processes in them stay.
fn remove(path: &Path, depth: usize) {
    if fs::remove_dir(path).is_err() && depth > 0 {
        children(path).for_each(|child| remove(&child, depth - 1));
        let _ = fs::remove_dir(path);
    }
}

/// The directory of the cgroup that this process is in.
fn current() -> Result<PathBuf, String> {
    let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
    directory(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?)
}

/// From what is in /proc (proc_pid_mountinfo(5), cgroups(7)).
fn directory(mounts: &str, cgroups: &str) -> Result<PathBuf, String> {
    let own = cgroups.lines().find_map(|line| line.strip_prefix("0::"));
    let own = own.ok_or("this kernel has no cgroups of version 2")?;
    let mounted = mounts.lines().filter_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        kind.starts_with("cgroup2 ").then(|| Some((*fields.get(3)?, *fields.get(4)?)))?
    });
    let below = |(root, point): (&str, &str)| {
        let rest = if root == "/" { own } else { own.strip_prefix(root)? };
        // Above what this process may see.
        let seen = !rest.split('/').any(|part| part == "..");
        seen.then(|| Path::new(point).join(rest.trim_start_matches('/')))
    };
    mounted.filter_map(below).next().ok_or_else(|| "no cgroup file system of version 2 is mounted".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_of_a_process_is_found_below_the_mount() {
        let mounts = "26 24 0:22 / /sys/fs/cgroup ro - tmpfs tmpfs rw\n\
            35 26 0:30 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let at = |cgroup: &str| directory(mounts, cgroup);
        assert_eq!(at("4:memory:/a\n0::/\n"), Ok("/sys/fs/cgroup/unified/".into()));
        assert_eq!(
            at("0::/system.slice/x.service\n"),
            Ok("/sys/fs/cgroup/unified/system.slice/x.service".into())
        );
        assert!(at("0::/../other\n").is_err(), "outside of its namespace");
        assert!(at("4:memory:/a\n").unwrap_err().contains("version 2"));
        let bind = "35 26 0:30 /system.slice /cg rw - cgroup2 cgroup2 rw\n";
        assert_eq!(directory(bind, "0::/system.slice/x"), Ok("/cg/x".into()));
        assert!(directory(bind, "0::/user.slice").is_err());
        assert!(directory("", "0::/").unwrap_err().contains("mounted"));
    }
}
