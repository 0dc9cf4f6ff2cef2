//! What a daemon has and holds, to be compared.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::daemon::Daemon;
use crate::patience::at_most;
use crate::world::World;

/// How long everything may take to come to its end.
fn grace() -> Duration {
    at_most(Duration::from_secs(5))
}

const MOMENT: Duration = Duration::from_millis(50);

/// What must be the same when whoever came has gone.
#[derive(Debug, PartialEq, Eq)]
pub struct Traces {
    /// Of the daemon.
    descriptors: usize,
    children: String,
    /// Notification sockets among them.
    runtime_files: Vec<PathBuf>,
    pins: Vec<PathBuf>,
    /// Listening sockets of this world.
    listening: usize,
    slots: Vec<u16>,
}

impl Traces {
    /// Of this daemon, the listener of which is on port 3000.
    ///
    /// # Panics
    /// If the kernel does not tell.
    #[must_use]
    pub fn of(world: &World, daemon: &Daemon) -> Self {
        let pid = daemon.pid();
        let tcp = fs::read_to_string("/proc/thread-self/net/tcp").expect("it can be read");
        Self {
            slots: daemon.service().workers.iter().map(|worker| worker.slot).collect(),
            descriptors: descriptors(pid),
            children: fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("it can be read"),
            runtime_files: files(&world.path("run")),
            pins: files(&world.bpffs()),
            // State 0A of port 3000 (proc_net_tcp(5)).
            listening: tcp.lines().filter(|line| line.contains(":0BB8 00000000:0000 0A")).count(),
        }
    }

    /// Asserts that it is the same once everything has come to its end.
    ///
    /// # Panics
    /// If there is.
    pub fn assert_same(&self, world: &World, daemon: &Daemon) {
        let begun = Instant::now();
        loop {
            let now = Self::of(world, daemon);
            if *self == now || begun.elapsed() > grace() {
                assert_eq!(*self, now);
                return;
            }
        }
    }
}

/// Open descriptors of a process: the fewest within a moment, since a connection that has just been
/// answered may still be open, and the same in the next moment, since a busy machine takes longer for that.
///
/// # Panics
/// If there is no such process.
#[must_use]
pub fn descriptors(pid: i32) -> usize {
    let mut before = fewest_descriptors(pid);
    loop {
        let now = fewest_descriptors(pid);
        if now == before {
            return now;
        }
        before = now;
    }
}

fn fewest_descriptors(pid: i32) -> usize {
    let begun = Instant::now();
    let mut fewest = usize::MAX;
    while begun.elapsed() < MOMENT {
        fewest = fewest.min(fs::read_dir(format!("/proc/{pid}/fd")).expect("it can be read").count());
        std::thread::sleep(MOMENT / 10); // sleep: between two looks
    }
    fewest
}

/// All files below a directory, in order.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("it can be read") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            found.extend(files(&path));
        }
        found.push(path);
    }
    found.sort();
    found
}
