//! Processes with all that they have started.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use testkit::daemon::{is_alive, signal, until};

/// A process and its descendants, parents first.
pub(crate) fn family(of: i32) -> Vec<i32> {
    let parents: Vec<(i32, i32)> = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect();
    let mut all = vec![of];
    let mut known = BTreeSet::from([of]);
    let mut at = 0;
    while let Some(parent) = all.get(at).copied() {
        let children = parents.iter().filter(|(pid, its)| *its == parent && known.insert(*pid));
        all.extend(children.map(|(pid, _)| *pid).collect::<Vec<i32>>());
        at += 1;
    }
    all
}

/// Stops a process with its descendants; who they are.
pub(crate) fn freeze(of: i32) -> Vec<i32> {
    let all = family(of);
    all.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
    // A thread that waits in recv or accept may still take something until it has stopped.
    until("all threads to be stopped", || all.iter().all(|pid| is_stopped(*pid)).then_some(()));
    all
}

/// Whether no thread of a process runs: each is stopped, or has ended.
fn is_stopped(pid: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let runs = |stat: String| {
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        !matches!(state, Some('T' | 't' | 'Z' | 'X'))
    };
    !threads.filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok()).any(runs)
}

/// Kills all of these with SIGKILL, and waits until they are gone.
pub(crate) fn kill(all: &[i32]) {
    all.iter().for_each(|pid| signal(*pid, Signal::SIGKILL));
    until("the killed ones to be gone", || all.iter().all(|pid| !is_alive(*pid)).then_some(()));
}

/// A server that runs alone, in a process group of its own; killed on drop.
pub(crate) struct Alone(Child);

impl Alone {
    pub(crate) fn start(command: &[String]) -> Self {
        let mut process = Command::new(&command[0]);
        process.args(&command[1..]).process_group(0).stdin(Stdio::null());
        Self(process.spawn().unwrap())
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }

    /// What it said, if it ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        // It may have ended.
        let _ = killpg(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}
