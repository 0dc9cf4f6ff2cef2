//! Starting a worker: this program again, told by options what it is to become (see [`crate::kernel::launch`]).

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Rlimit};
use socket2::Socket;

use super::{Kin, Process, watched};
use crate::domain::observed::User;
use crate::kernel::cgroup::Cgroup;
use crate::kernel::host;
use crate::kernel::launch::Arguments;
use crate::kernel::output::Output;
use crate::kernel::systemd;

/// How a new worker is to be started.
pub struct Launch<'a> {
    /// Like `web/2`; the worker finds it in `REUSEPORT_LB_WORKER`.
    pub name: &'a str,
    /// Its sockets and their names, in the order of the service's listeners.
    pub sockets: Vec<(&'a Socket, String)>,
    /// The socket that hears its `READY=1`.
    pub notify: &'a Path,
    /// What all that it starts is to be in.
    pub cgroup: Option<&'a Cgroup>,
    /// Whom it runs as; `None`: as the daemon.
    pub user: Option<&'a User>,
    /// Program and arguments; empty: the embedded worker.
    pub command: &'a [String],
    /// The limit of open files that the daemon was started with.
    pub open_files: Rlimit,
    /// How often it must say `WATCHDOG=1`.
    pub watchdog: Option<Duration>,
    /// Where its output goes; `None`: where the daemon's goes.
    pub output: Option<&'a Output>,
}

impl Launch<'_> {
    fn arguments(&self, fds: &[RawFd]) -> Arguments {
        let names: Vec<&str> = self.sockets.iter().map(|(_, name)| name.as_str()).collect();
        Arguments {
            name: self.name.into(),
            fds: fds.to_vec(),
            fd_names: names.join(":"),
            notify: self.notify.into(),
            cgroup: self.cgroup.map(|cgroup| cgroup.path().into()),
            user: self.user.map(|user| user.name.clone()),
            watchdog: self.watchdog.map(|watchdog| watchdog.as_micros() as u64),
            command: self.command.to_vec(),
        }
    }
}

/// The highest number of a signal (signal(7)).
const MAX_SIGNAL: i32 = 64;

/// Starts a worker: this program again, as `launch`, which inherits the sockets, arranges them as
/// the worker expects and becomes the command (see [`crate::kernel::launch`]). Must be called in a tokio runtime.
pub fn spawn(launch: &Launch<'_>) -> Result<Process> {
    let fds: Vec<RawFd> = launch.sockets.iter().map(|(socket, _)| socket.as_raw_fd()).collect();
    let (wait, go) = std::io::pipe().context("cannot make a pipe")?;
    let open_files = launch.open_files;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("reuseport-lb").args(launch.arguments(&fds).line()).stdin(wait);
    if let Some(output) = launch.output {
        command.stdout(output.stdio()?).stderr(output.stdio()?);
    }
    // What the daemon's own service manager wants to hear is not the worker's to say.
    for variable in systemd::OURS.iter().chain(&systemd::DAEMONS) {
        command.env_remove(variable);
    }
    // By these it is found, also if it does not become a command (see `marks`).
    command.env("NOTIFY_SOCKET", launch.notify).env("REUSEPORT_LB_WORKER", launch.name);
    // SAFETY: between fork and exec only setsid, signal, sigprocmask, fcntl and setrlimit run, which are
    // async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            // A session and a group of its own: the daemon's terminal is not the worker's, nor are its
            // Ctrl-C and its hang-up, and what the worker leaves behind can be ended with it.
            rustix::process::setsid()?;
            host::reset_signals(1..=MAX_SIGNAL);
            for fd in &fds {
                if libc::fcntl(*fd, libc::F_SETFD, 0) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            rustix::process::setrlimit(rustix::process::Resource::Nofile, open_files)?;
            Ok(())
        });
    }
    let mut child = command.spawn().with_context(|| format!("cannot start worker {}", launch.name))?;
    let pid = Pid::from_child(&child);
    let process = watched(pid).and_then(|pidfd| Process::new(pid, pidfd, Kin::Child)).inspect_err(|_| {
        // Nobody would watch it.
        let _ = child.kill();
        let _ = child.wait();
    })?;
    let (cgroup, mark) = (launch.cgroup.cloned(), Some(launch.notify.to_owned()));
    Ok(Process { cgroup, mark, go: Cell::new(Some(go)), ..process })
}
