//! Finds the processes that a worker has started by the path of the worker's notification socket in their environment,
//! also if they are in no cgroup and have lost their parent. The path is random; only processes that search the
//! worker's environment, as its user, can know it too.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};

use super::host::{self, Inode};
use super::liveness::{self, Stat};
use super::process::Identity;

/// A worker as found by the environment of its processes.
#[derive(Debug, PartialEq, Eq)]
pub struct Marked {
    /// Name of the worker, like `web/2` (`REUSEPORT_LB_WORKER`).
    pub worker: String,
    /// Path of the worker's notification socket (`NOTIFY_SOCKET`).
    pub mark: PathBuf,
    /// The worker's first process, or the oldest that is left.
    pub process: Identity,
}

/// Whether the process `pid` has its environment from the worker with this mark, which began at `started`.
pub(super) fn is_marked(pid: i32, stat: &Stat, mark: &Path, started: u64) -> bool {
    stat.started >= Some(started)
        && value(&stat.read_environment(pid), "NOTIFY_SOCKET") == Some(mark.as_os_str())
}

/// All workers, of any daemon, with a notification socket in `directory` and processes older than this one. Reads the
/// whole of /proc.
#[must_use]
pub fn all_in(directory: &Path) -> Vec<Marked> {
    let own = Stat::read(std::process::id().cast_signed()).and_then(|stat| stat.started);
    all_before(own.unwrap_or_default(), directory)
}

/// All workers with a notification socket in `directory` and processes from before `then`, in clock ticks since boot.
fn all_before(then: u64, directory: &Path) -> Vec<Marked> {
    let Ok(here) = fs::metadata(directory).map(|about| host::inode(&about)) else { return Vec::new() };
    let mut found: BTreeMap<PathBuf, (bool, Marked)> = BTreeMap::new();
    let earlier = |(_, stat): &(i32, Stat)| !stat.is_zombie() && stat.started < Some(then);
    for (pid, stat) in liveness::all_processes().filter(earlier) {
        let environment = stat.read_environment(pid);
        let Some(mark) = value(&environment, "NOTIFY_SOCKET").map(PathBuf::from) else { continue };
        let (Some(worker), Some(started)) = (value(&environment, "REUSEPORT_LB_WORKER"), stat.started) else {
            continue;
        };
        // In a container an equal path may lead to another directory, and another path to this one.
        if mark.parent().and_then(|parent| place(pid, parent)) != Some(here) {
            continue;
        }
        let (worker, leads) = (worker.to_string_lossy().into_owned(), stat.session == pid);
        let one = Marked { worker, mark: mark.clone(), process: Identity { pid, started } };
        let before = |(led, other): &(bool, Marked)| (!led, other.process.started) <= (!leads, started);
        if !found.get(&mark).is_some_and(before) {
            found.insert(mark, (leads, one));
        }
    }
    found.into_values().map(|(_, one)| one).collect()
}

/// The file that the process `pid`, which may have another root, finds at `path`; links do not lead out of its root.
fn place(pid: i32, path: &Path) -> Option<Inode> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = open(format!("/proc/{pid}/root"), flags, Mode::empty()).ok()?;
    let there = openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).ok()?;
    File::from(there).metadata().ok().map(|about| host::inode(&about))
}

/// The value of a variable in an environment in the kernel's form (environ(7)).
fn value<'a>(environment: &'a [u8], name: &str) -> Option<&'a OsStr> {
    let mut variables = environment.split(|byte| *byte == 0);
    let value = variables.find_map(|it| it.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
    Some(OsStr::from_bytes(value))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn start(directory: &Path, mark: &str, worker: &str) -> Child {
        let mut command = Command::new("sleep");
        command.arg("60").env("NOTIFY_SOCKET", directory.join(mark)).env("REUSEPORT_LB_WORKER", worker);
        command.spawn().expect("sleep")
    }

    #[test]
    fn workers_are_known_by_the_directory_of_their_notification_sockets() {
        let (here, elsewhere) =
            (tempfile::tempdir().expect("a place"), tempfile::tempdir().expect("a place"));
        let mut children = [
            start(here.path(), "1", "web/0"),
            start(here.path(), "1", "web/0"),
            start(here.path(), "2", "web/1"),
            start(elsewhere.path(), "3", "web/2"),
            start(&here.path().join("below"), "4", "web/3"),
        ];
        let (known, earlier) = (all_before(u64::MAX, here.path()), all_in(here.path()));
        for child in &mut children {
            child.kill().and_then(|()| child.wait()).expect("it is ours");
        }
        let seen: Vec<(&str, i32)> = known.iter().map(|it| (&*it.worker, it.process.pid)).collect();
        let first = children[0].id().cast_signed();
        assert_eq!(earlier, [], "they have begun after this process");
        assert_eq!(seen, [("web/0", first), ("web/1", children[2].id().cast_signed())]);
    }
}
