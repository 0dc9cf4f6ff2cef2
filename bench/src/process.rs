//! Processes that the benchmark starts, and what processes have used. Not: who serves (`peers.rs`).

use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use testkit::daemon::signal;

/// A process that the benchmark started; killed on drop.
pub(crate) struct Process(Child);

impl Process {
    /// A worker that binds `place`, or has its listener passed.
    pub(crate) fn worker(place: &str, listener: Option<&OwnedFd>) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["worker", place])
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        if let Some(fd) = listener.map(AsRawFd::as_raw_fd) {
            // SAFETY: both calls are async-signal-safe, and the descriptor is open until after the start.
            let pass = move || match unsafe { libc::dup2(fd, 3) | libc::fcntl(3, libc::F_SETFD, 0) } {
                0.. => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            };
            // SAFETY: as above.
            unsafe { command.pre_exec(pass) };
        }
        let mut process = Self::start(command)?;
        let mut said = String::new();
        BufReader::new(process.0.stdout.take().context("no output")?).read_line(&mut said)?;
        ensure!(said == "ready\n", "a worker did not start");
        Ok(process)
    }

    pub(crate) fn start(mut command: Command) -> Result<Self> {
        // Each is a session of its own, as workers of a daemon are: the scheduler may share CPUs by sessions.
        let alone = || Ok(nix::unistd::setsid().and(nix::sys::prctl::set_pdeathsig(Signal::SIGTERM))?);
        // SAFETY: setsid(2) and prctl(2) are async-signal-safe.
        unsafe { command.pre_exec(alone) };
        let child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
        Ok(Self(child))
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().ok().flatten()
    }

    pub(crate) fn pid(&self) -> i32 {
        self.0.id() as i32
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            // A stopped one must go on to end.
            signal(self.pid(), Signal::SIGCONT);
            signal(self.pid(), Signal::SIGTERM);
            for _ in 0..100 {
                if !matches!(self.0.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            for pid in with_children(self.pid()) {
                signal(pid, Signal::SIGKILL);
            }
        }
        let _ = self.0.wait();
    }
}

/// A process and its children.
pub(crate) fn with_children(pid: i32) -> Vec<i32> {
    let listed = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    std::iter::once(pid).chain(listed.split_whitespace().filter_map(|pid| pid.parse().ok())).collect()
}

/// CPU time so far, in seconds, of each of `pids`.
pub(crate) fn cpu(pids: &[i32]) -> Vec<f64> {
    let ticks = |pid: &i32| -> Option<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        Some(fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?)
    };
    pids.iter().map(|pid| ticks(pid).unwrap_or(0.0) / 100.0).collect()
}

/// How often `pids` have gone to sleep so far, with all their threads.
pub(crate) fn sleeps(pids: &[i32]) -> f64 {
    let threads = pids.iter().filter_map(|pid| std::fs::read_dir(format!("/proc/{pid}/task")).ok()).flatten();
    let sleeps = |thread: std::fs::DirEntry| -> Option<f64> {
        let status = std::fs::read_to_string(thread.path().join("status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse().ok())
    };
    threads.flatten().filter_map(sleeps).sum()
}

/// How many sockets each of `pids` has open.
pub(crate) fn sockets(pids: &[i32]) -> Vec<usize> {
    let is_socket = |entry: &std::fs::DirEntry| {
        std::fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
    };
    let of = |pid: &i32| {
        std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |all| all.flatten().filter(is_socket).count())
    };
    pids.iter().map(of).collect()
}
