//! A control group (version 2) for each worker's process, where the daemon may make one: descendants of the process
//! are in it, whatever session or process group they choose. No controller is switched on, so the daemon itself
//! may stay in the parent.

use std::cell::{Cell, RefCell};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::info;

use super::{host, locks};

/// How deep cgroups are followed that a worker has made in its own.
const DEPTH: usize = 8;

/// Interval and number of attempts to remove cgroups whose processes are ending.
const LOOK: Duration = Duration::from_millis(5);
const LOOKS: usize = 100;

/// Prefix of the directories that daemons make.
const PREFIX: &str = "reuseport-lb-";

/// All cgroups of a daemon's workers.
pub struct Cgroups {
    /// `None` if this daemon may not make cgroups.
    own: Option<Own>,
    /// Cgroups that earlier daemons have made for workers that live.
    taken_over: RefCell<Vec<Cgroup>>,
    /// Why workers get no cgroup is logged once.
    said: Cell<bool>,
}

/// The directory in which this daemon makes cgroups. In the root cgroup it can be made only as long as the daemon
/// has all rights, and not be removed later.
struct Own {
    path: PathBuf,
    /// While this lock is held, no other daemon removes the directory.
    _lock: File,
}

impl Cgroups {
    /// Makes the directory for cgroups, below the cgroup that this process is in. Directories there that earlier
    /// daemons left are removed as far as they have no process.
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

    /// Makes a cgroup for a process of the worker `name`; `None` if that is not possible.
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

    /// Lets [`Cgroups::remove`] remove this cgroup of an earlier daemon as well.
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

    /// Removes all cgroups after their processes were told to end; waits up to `LOOKS` times `LOOK` for them.
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
        // A process that may write to both may move processes from one to the other.
        open(&current.join("cgroup.procs"), true)?;
        open(&trial.join("cgroup.procs"), true)?;
        let kind = fs::read_to_string(trial.join("cgroup.type")).unwrap_or_default();
        // Below a cgroup for threads, the type is "domain invalid".
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

/// The cgroup of one worker's process.
#[derive(Clone, Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// A cgroup that an earlier daemon has made; `None` if it does not exist any more.
    #[must_use]
    pub fn find(path: &Path) -> Option<Self> {
        path.join("cgroup.procs").is_file().then(|| Self { path: path.to_owned() })
    }

    /// The cgroup of a unit of systemd, which has the unit's name.
    pub(super) fn of_unit(unit: &str) -> Result<Self, String> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")
            .map_err(|error| format!("/proc/self/mountinfo: {error}"))?;
        let mut open: Vec<PathBuf> = points(&mounts).into_iter().map(|(_, point)| point.into()).collect();
        if open.is_empty() {
            return Err("no cgroup file system of version 2 is mounted".into());
        }
        for _ in 0..DEPTH {
            let below: Vec<PathBuf> = open.iter().flat_map(|path| children(path)).collect();
            if let Some(path) = below.iter().find(|path| path.file_name().is_some_and(|name| name == unit)) {
                return Ok(Self { path: path.clone() });
            }
            open = below;
        }
        Err(format!("there is no cgroup of unit {unit}: it does not run"))
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves this process into the cgroup at `path`.
    pub(super) fn enter(path: &Path) -> io::Result<()> {
        fs::write(path.join("cgroup.procs"), "0")
    }

    /// All processes in the cgroup.
    pub(super) fn processes(&self) -> Vec<i32> {
        let mut all = Vec::new();
        processes(&self.path, DEPTH, &mut all);
        all
    }

    /// Whether the process `pid` is in the cgroup, or has ended in it and is not reaped.
    pub(super) fn has(&self, pid: i32) -> bool {
        let Some(name) = self.path.file_name().and_then(|name| name.to_str()) else { return false };
        let lines = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let own = lines.lines().find_map(|line| line.strip_prefix("0::"));
        // Names have a random part, so no other cgroup has this one.
        own.is_some_and(|own| own.split('/').any(|part| part == name))
    }

    /// Kills all processes of the cgroup at once (`cgroup.kill`, Linux 5.14).
    pub fn kill(&self) {
        // An error means that the cgroup has been removed, so it has no process.
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
    }

    /// Removes the cgroup if no process is in it.
    pub fn remove(&self) {
        remove(&self.path, DEPTH);
    }
}

/// Removes what daemons that have ended made in `current`, as far as no process is in it.
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
    // 0 stands for a process of another PID namespace.
    all.extend(list.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid != 0));
    if depth > 0 {
        children(path).for_each(|child| processes(&child, depth - 1, all));
    }
}

/// Removes the cgroup at `path` and those below it, but for those that have processes.
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

/// The directory of a cgroup, from the content of two files in /proc (proc_pid_mountinfo(5), cgroups(7)).
fn directory(mounts: &str, cgroups: &str) -> Result<PathBuf, String> {
    let own = cgroups.lines().find_map(|line| line.strip_prefix("0::"));
    let own = own.ok_or("this kernel has no cgroups of version 2")?;
    let below = |(root, point): (&str, &str)| {
        let rest = if root == "/" { own } else { own.strip_prefix(root)? };
        // A cgroup outside of this process's cgroup namespace.
        let seen = !rest.split('/').any(|part| part == "..");
        seen.then(|| Path::new(point).join(rest.trim_start_matches('/')))
    };
    points(mounts)
        .into_iter()
        .filter_map(below)
        .next()
        .ok_or_else(|| "no cgroup file system of version 2 is mounted".into())
}

/// The roots and mount points of all cgroup file systems of version 2.
fn points(mounts: &str) -> Vec<(&str, &str)> {
    let mounted = mounts.lines().filter_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        kind.starts_with("cgroup2 ").then(|| Some((*fields.get(3)?, *fields.get(4)?)))?
    });
    mounted.collect()
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
