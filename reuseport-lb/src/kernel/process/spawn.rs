//! Starting a worker: this program runs again as `launch`, whose options say what to become. Not: what the
//! child does then (`launch.rs`).

use std::cell::Cell;
use std::io::PipeWriter;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Rlimit};
use socket2::Socket;

use super::watched::Watched;
use super::{Kin, Process};
use crate::config::process::ProcessConfig;
use crate::domain::observed::User;
use crate::kernel::attributes;
use crate::kernel::cgroup::Cgroup;
use crate::kernel::host;
use crate::kernel::journal;
use crate::kernel::launch::Arguments;
use crate::kernel::systemd;

/// How a new worker is to be started.
pub struct Launch<'a> {
    /// The worker's name, like `web/2`, which becomes `REUSEPORT_LB_WORKER`.
    pub name: &'a str,
    /// The worker's sockets and their names, in the order of the service's listeners; none with `calls`.
    pub sockets: Vec<(&'a Socket, String)>,
    /// Whether the worker is nginx, which does not know LISTEN_FDS.
    pub nginx: bool,
    /// Where the worker leaves how its calls are answered, if it opens its sockets itself.
    pub calls: Option<BorrowedFd<'a>>,
    /// The socket that receives `READY=1` (`NOTIFY_SOCKET`).
    pub notify: &'a Path,
    /// The cgroup of the worker and its descendants.
    pub cgroup: Option<&'a Cgroup>,
    /// The worker's user; `None`: the daemon's.
    pub user: Option<&'a User>,
    /// Program and arguments; empty: the embedded worker.
    pub command: &'a [String],
    /// What else the worker is started with.
    pub process: &'a ProcessConfig,
    /// The limit of open files that the daemon was started with.
    pub open_files: Rlimit,
    /// Longest time between two `WATCHDOG=1`; `None`: none are expected.
    pub watchdog: Option<Duration>,
    /// Where the worker writes its output.
    pub output: PipeWriter,
}

impl Launch<'_> {
    fn arguments(&self, fds: &[RawFd]) -> Arguments {
        let names: Vec<&str> = self.sockets.iter().map(|(_, name)| name.as_str()).collect();
        Arguments {
            name: self.name.into(),
            fds: fds.to_vec(),
            nginx: self.nginx,
            calls: self.calls.as_ref().map(AsRawFd::as_raw_fd),
            fd_names: names.join(":"),
            notify: self.notify.into(),
            cgroup: self.cgroup.map(|cgroup| cgroup.path().into()),
            user: self.user.map(|user| user.name.clone()),
            process: self.process.clone(),
            watchdog: self.watchdog.map(|watchdog| watchdog.as_micros() as u64),
            command: self.command.to_vec(),
        }
    }
}

/// The highest number of a signal (signal(7)).
const MAX_SIGNAL: i32 = 64;

/// Starts a worker: runs this program again as `launch`, which inherits the sockets, moves them to the descriptors
/// that the worker expects and executes the command (see [`crate::kernel::launch`]). Must be called in a tokio runtime.
pub fn spawn(launch: &Launch<'_>) -> Result<Process> {
    let fds: Vec<RawFd> = launch.sockets.iter().map(|(socket, _)| socket.as_raw_fd()).collect();
    let inherited: Vec<RawFd> =
        fds.iter().copied().chain(launch.calls.as_ref().map(AsRawFd::as_raw_fd)).collect();
    let (wait, go) = std::io::pipe().context("cannot make a pipe")?;
    let open_files = launch.open_files;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("reuseport-lb").args(launch.arguments(&fds).line()).stdin(wait);
    command.stdout(launch.output.try_clone().context("cannot share a pipe")?);
    command.stderr(launch.output.try_clone().context("cannot share a pipe")?);
    // These are for the daemon's own process: a worker must not speak to the daemon's service manager, nor take the
    // keeper of its output for the journal.
    for variable in systemd::OURS.iter().chain(&systemd::DAEMONS).chain([&journal::STREAM]) {
        command.env_remove(variable);
    }
    // The worker is found by these (see `marks`), also an embedded one.
    command.env("NOTIFY_SOCKET", launch.notify).env("REUSEPORT_LB_WORKER", launch.name);
    attributes::pack(&mut command, launch.process);
    // SAFETY: between fork and exec only setsid, signal, sigprocmask, fcntl and setrlimit run, which are
    // async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            // A session and a process group of the worker's own: it gets neither Ctrl-C nor hang-up of the
            // daemon's terminal, and its descendants can be signalled with it.
            rustix::process::setsid()?;
            host::reset_signals(1..=MAX_SIGNAL);
            inherited.iter().try_for_each(|fd| host::keep_at_exec(*fd))?;
            rustix::process::setrlimit(rustix::process::Resource::Nofile, open_files)?;
            Ok(())
        });
    }
    let mut child = command.spawn().with_context(|| format!("cannot start worker {}", launch.name))?;
    let pid = Pid::from_child(&child);
    let process = Watched::open(pid).map(|main| Process::new(main, Kin::Child)).inspect_err(|_| {
        // Without a pidfd the daemon could not watch it.
        let _ = child.kill();
        let _ = child.wait();
    })?;
    let (cgroup, mark) = (launch.cgroup.cloned(), Some(launch.notify.to_owned()));
    Ok(Process { cgroup, mark, go: Cell::new(Some(go)), ..process })
}
