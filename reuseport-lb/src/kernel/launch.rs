//! The child's side of starting a worker: moves sockets to descriptors 3, 4, …, drops rights to the
//! worker's user, sets systemd's variables, and executes the command. The command `exec` ends in the last two steps.
//!
//! The child first executes this program again because `LISTEN_PID` must be the worker's process id, which is
//! not known before the fork, and because little is allowed between fork and exec.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::{IntoRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::Socket;

use super::cgroup::Cgroup;
use super::{attributes, calls, rights};
use crate::config::process::{Cpus, ProcessConfig};
use crate::placeholders::{fill, parts};

/// The first descriptor that a worker gets (SD_LISTEN_FDS_START, sd_listen_fds(3)).
pub const FIRST_FD: RawFd = 3;

/// The hidden command that runs [`Arguments`].
pub const COMMAND: &str = "launch";

/// Options of the hidden command `launch`, by which the daemon tells its child what to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arguments {
    /// The worker's name, like `web/2`.
    pub name: String,
    /// Inherited descriptors of the worker's sockets.
    pub fds: Vec<RawFd>,
    /// Names of the sockets, colon-separated, as in LISTEN_FDNAMES.
    pub fd_names: String,
    /// Whether the worker is nginx, which does not know LISTEN_FDS.
    pub nginx: bool,
    /// An inherited descriptor: where the worker leaves how its calls of bind(2) and listen(2) are answered, if it opens
    /// its sockets itself.
    pub calls: Option<RawFd>,
    /// The socket that receives `READY=1` (`NOTIFY_SOCKET`).
    pub notify: PathBuf,
    /// The cgroup to enter.
    pub cgroup: Option<PathBuf>,
    /// The user to become.
    pub user: Option<String>,
    /// What else to become; but for variables, which are in the environment (`attributes::pack`).
    pub process: ProcessConfig,
    /// Longest time between two `WATCHDOG=1`, in microseconds.
    pub watchdog: Option<u64>,
    /// Program and arguments; empty: the embedded worker.
    pub command: Vec<String>,
}

impl Arguments {
    /// The command line: [`COMMAND`] and options.
    #[must_use]
    pub fn line(&self) -> Vec<OsString> {
        let fds: Vec<String> = self.fds.iter().map(ToString::to_string).collect();
        let mut line: Vec<OsString> = vec![COMMAND.into()];
        line.extend(["--name".into(), self.name.clone().into()]);
        if !fds.is_empty() {
            line.extend(["--fds".into(), fds.join(",").into()]);
            line.extend(["--fd-names".into(), self.fd_names.clone().into()]);
        }
        line.extend(self.nginx.then(|| "--nginx".into()));
        line.extend(self.calls.into_iter().flat_map(|fd| ["--calls".into(), fd.to_string().into()]));
        line.extend(["--notify".into(), self.notify.clone().into()]);
        if let Some(cgroup) = &self.cgroup {
            line.extend(["--cgroup".into(), cgroup.clone().into()]);
        }
        if let Some(user) = &self.user {
            line.extend(["--user".into(), user.clone().into()]);
        }
        line.extend(options(&self.process));
        if let Some(watchdog) = self.watchdog {
            line.extend(["--watchdog".into(), watchdog.to_string().into()]);
        }
        line.push("--".into());
        line.extend(self.command.iter().map(Into::into));
        line
    }

    fn identity(&self) -> Identity<'_> {
        Identity {
            name: &self.name,
            sockets: self.fds.len(),
            socket_names: &self.fd_names,
            notify: &self.notify,
            watchdog: self.watchdog.map(Duration::from_micros),
        }
    }
}

/// What of it the command line says.
fn options(process: &ProcessConfig) -> Vec<OsString> {
    let ProcessConfig { group, cwd, umask, nice, open_files, cpus, env: _, env_file: _, log: _ } = process;
    let options = [
        group.as_ref().map(|group| format!("--group={group}")),
        cwd.as_ref().map(|cwd| format!("--cwd={cwd}")),
        umask.map(|umask| format!("--umask={umask}")),
        nice.map(|nice| format!("--nice={nice}")),
        open_files.map(|files| format!("--open-files={files}")),
        (*cpus == Cpus::Each).then(|| "--one-cpu".into()),
    ];
    options.into_iter().flatten().map(Into::into).collect()
}

/// What the embedded worker, which stays in this process, needs to know.
pub struct Embedded {
    /// The worker's name, like `demo/2`.
    pub name: String,
    /// Number of sockets, which have the descriptors from [`FIRST_FD`] on.
    pub sockets: usize,
    /// The socket to send `READY=1` to.
    pub notify: PathBuf,
    /// Longest time between two `WATCHDOG=1`; `None`: none are expected.
    pub watchdog: Option<Duration>,
}

/// Becomes the worker: does not return if there is a command, else returns what the embedded
/// worker needs.
pub fn launch(arguments: Arguments) -> Result<Embedded> {
    if let Some(cgroup) = &arguments.cgroup
        && let Err(error) = Cgroup::enter(cgroup)
    {
        // The daemon then finds the worker's processes by other means (`Process::search`).
        let _ =
            writeln!(io::stderr(), "worker {} cannot enter {}: {error}", arguments.name, cgroup.display());
    }
    if arguments.command.is_empty() {
        // The embedded worker has no files to read again. A command would inherit that SIGHUP is ignored.
        super::host::ignore_hangup();
    }
    wait_for_go().context("the daemon is gone")?;
    if let Some(channel) = arguments.calls {
        // Before rights are given up.
        calls::begin(raw::owned(channel))?;
    }
    let end = arrange(&arguments.fds).context("cannot arrange the worker's sockets")?;
    // Before the limit of open files, which may be just enough for the sockets.
    super::host::close_from(end).context("cannot close what the worker does not need")?;
    let (name, process) = (&*arguments.name, &arguments.process);
    attributes::limit(process, name)?;
    let user = match &arguments.user {
        Some(user) => Some(attributes::become_user(user, process.group.as_deref())?),
        None => None,
    };
    // The embedded worker needs no rights, even as root; a command that runs as root gets root's at exec.
    if arguments.command.is_empty() || !super::host::is_root() {
        rights::drop_all().context("cannot give up the daemon's rights (capset)")?;
    }
    let Some((program, rest)) = arguments.command.split_first() else {
        // A runtime needs some descriptors of its own.
        super::host::raise_open_files();
        // Executed as /proc/self/exe, the process would be called `exe` in `top`.
        nix::sys::prctl::set_name(c"reuseport-lb").context("cannot set the name of the process")?;
        let Arguments { name, fds, notify, watchdog, .. } = arguments;
        let watchdog = watchdog.map(Duration::from_micros);
        return Ok(Embedded { name, sockets: fds.len(), notify, watchdog });
    };
    let mut command = Command::new(program);
    user.iter().for_each(|user| attributes::introduce(&mut command, user));
    if arguments.nginx {
        let fds = (FIRST_FD..).take(arguments.fds.len());
        command.env("NGINX", fds.map(|fd| format!("{fd};")).collect::<String>());
    }
    attributes::unpack(&mut command, name);
    if let Some(cwd) = &process.cwd {
        attributes::enter(cwd, name)?;
    }
    command.args(rest.iter().map(|argument| fill(argument, name, std::process::id())));
    Err(become_command(command, &arguments.identity()))
}

/// Waits until the daemon has saved that this process exists. Fails if the daemon dies before: the next daemon would
/// not know of this process.
fn wait_for_go() -> Result<()> {
    io::stdin().lock().read_exact(&mut [0])?;
    // The pipe is the daemon's; a worker's standard input is empty.
    let nothing = std::fs::File::open("/dev/null").context("cannot open /dev/null")?;
    nix::unistd::dup2_stdin(nothing).context("cannot replace the standard input")?;
    Ok(())
}

/// What a worker's process finds about itself in its environment.
struct Identity<'a> {
    name: &'a str,
    sockets: usize,
    /// Colon-separated.
    socket_names: &'a str,
    notify: &'a Path,
    watchdog: Option<Duration>,
}

/// Executes `command` with the environment of the worker; returns only if that failed, with the reason.
fn become_command(mut command: Command, worker: &Identity<'_>) -> anyhow::Error {
    let pid = std::process::id().to_string();
    let (service, index) = parts(worker.name);
    // A process that joined may have these from a service manager of its own.
    for variable in crate::kernel::systemd::OURS {
        command.env_remove(variable);
    }
    if let Some(watchdog) = worker.watchdog {
        command.env("WATCHDOG_USEC", watchdog.as_micros().to_string()).env("WATCHDOG_PID", &pid);
    }
    if worker.sockets > 0 {
        command
            .env("LISTEN_FDS", worker.sockets.to_string())
            .env("LISTEN_PID", &pid)
            .env("LISTEN_FDNAMES", worker.socket_names);
    }
    command
        .env("NOTIFY_SOCKET", worker.notify)
        .env("REUSEPORT_LB_WORKER", worker.name)
        .env("REUSEPORT_LB_SERVICE", service)
        .env("REUSEPORT_LB_INDEX", index);
    let error = command.exec();
    anyhow::Error::new(error).context(format!(
        "cannot run {:?} for worker {}",
        command.get_program(),
        worker.name
    ))
}

/// The worker that this process has become by joining.
pub struct Joined {
    /// The worker's name, like `web/7`.
    pub name: String,
    /// The worker's sockets and their names, in the order of the service's listeners.
    pub sockets: Vec<(String, Socket)>,
    /// The socket that receives `READY=1` (`NOTIFY_SOCKET`).
    pub notify: PathBuf,
    /// Longest time between two `WATCHDOG=1`; `None`: none are expected.
    pub watchdog: Option<Duration>,
    /// Variables that it has besides.
    pub env: BTreeMap<String, String>,
}

/// Executes `command`, a program and its arguments, as a worker that has joined; returns only if that failed, with
/// the reason. Descriptors from 3 on have been replaced by then, so the process can only end.
///
/// Other descriptors that this process has inherited are passed on, as by `env` and `nice`.
pub fn become_joined(worker: Joined, command: &[String]) -> anyhow::Error {
    let Joined { name, sockets, notify, watchdog, env } = worker;
    let Some((program, rest)) = command.split_first() else {
        return anyhow::anyhow!("there is no command for worker {name}");
    };
    let (names, sockets): (Vec<String>, Vec<Socket>) = sockets.into_iter().unzip();
    let fds: Vec<RawFd> = sockets.into_iter().map(IntoRawFd::into_raw_fd).collect();
    if let Err(error) = arrange(&fds) {
        return anyhow::Error::new(error).context("cannot arrange the worker's sockets");
    }
    let mut command = Command::new(program);
    command.args(rest).envs(env);
    let (socket_names, sockets) = (&*names.join(":"), fds.len());
    become_command(command, &Identity { name: &name, sockets, socket_names, notify: &notify, watchdog })
}

/// Moves `fds`, whatever their numbers are, to [`FIRST_FD`] and following. Returns the number after the last.
pub(super) fn arrange(fds: &[RawFd]) -> io::Result<RawFd> {
    let end = FIRST_FD + fds.len() as RawFd;
    // All are moved above `end` first: one of them may have the final number of another.
    let moved = fds.iter().map(|fd| check(raw::move_above(*fd, end))).collect::<io::Result<Vec<_>>>()?;
    for (place, fd) in (FIRST_FD..).zip(moved) {
        check(raw::put(fd, place))?;
    }
    Ok(end)
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

mod raw {
    //! Descriptors by number: this process has just started, or is about to execute another program,
    //! and no value in it owns them.
    use std::os::fd::{FromRawFd, OwnedFd, RawFd};

    pub(super) fn owned(fd: RawFd) -> OwnedFd {
        // SAFETY: the daemon has given this process the descriptor, and nothing else here owns it.
        unsafe { OwnedFd::from_raw_fd(fd) }
    }

    pub(super) fn move_above(fd: RawFd, end: RawFd) -> i32 {
        // SAFETY: fcntl on a number; nothing else owns the duplicate.
        unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, end) }
    }

    pub(super) fn put(fd: RawFd, place: RawFd) -> i32 {
        // SAFETY: `place` is one of the descriptors that `arrange` has moved away, or unused.
        unsafe { libc::dup2(fd, place) }
    }
}

/// The sockets that this process, an embedded worker, has inherited.
pub fn inherited(sockets: usize) -> Vec<Socket> {
    use std::os::fd::FromRawFd;
    let end = FIRST_FD + sockets as RawFd;
    // SAFETY: `arrange` has put an open socket at each of these numbers, and this is called once.
    (FIRST_FD..end).map(|fd| unsafe { Socket::from_raw_fd(fd) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Prints what a command finds: its environment, then its descriptors.
    const SCRIPT: &str =
        "echo pid=$$; env; for fd in /proc/$$/fd/*; do echo fd${fd##*/}=$(readlink $fd); done";

    /// Runs this test again in a child, which becomes the command.
    #[test]
    fn a_worker_that_joined_becomes_its_command() {
        const CHILD: &str = "REUSEPORT_LB_TEST_CHILD";
        if let Ok(program) = std::env::var(CHILD) {
            let sockets: Vec<TcpListener> =
                (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
            // The names are the sockets' ports; the order is not that of the descriptors.
            let named =
                |socket: TcpListener| (socket.local_addr().unwrap().port().to_string(), socket.into());
            let worker = Joined {
                name: "web/7".into(),
                sockets: sockets.into_iter().rev().map(named).collect(),
                notify: "/x/notify/1".into(),
                watchdog: Some(Duration::from_millis(1500)),
                env: BTreeMap::new(),
            };
            // Ends the line that the test runner may have begun.
            println!();
            for (name, socket) in &worker.sockets {
                use std::os::fd::AsRawFd;
                let link = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
                println!("{name}={}", link.display());
            }
            let error = become_joined(worker, &[program, "-c".into(), SCRIPT.into()]);
            println!("{error:#}");
            std::process::exit(1);
        }
        let become_command = |program: &str| {
            let this = "kernel::launch::tests::a_worker_that_joined_becomes_its_command";
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", this, "--nocapture"])
                .env(CHILD, program)
                .env("FDSTORE", "1")
                .output()
                .unwrap();
            (output.status.code(), String::from_utf8(output.stdout).unwrap())
        };
        let (code, said) = become_command("sh");
        assert_eq!(code, Some(0), "{said}");
        let find = |key: &str| {
            let line = said.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_else(|| panic!("no {key} in {said}"))
        };
        for (key, value) in [
            ("LISTEN_FDS", "3"),
            ("LISTEN_PID", find("pid")),
            ("NOTIFY_SOCKET", "/x/notify/1"),
            ("REUSEPORT_LB_WORKER", "web/7"),
            ("REUSEPORT_LB_SERVICE", "web"),
            ("REUSEPORT_LB_INDEX", "7"),
            ("WATCHDOG_USEC", "1500000"),
            ("WATCHDOG_PID", find("pid")),
        ] {
            assert_eq!(find(key), value, "{key}");
        }
        assert!(!said.contains("FDSTORE"));
        let names: Vec<&str> = find("LISTEN_FDNAMES").split(':').collect();
        assert_eq!(names.len(), 3);
        for (name, fd) in names.iter().zip(["fd3", "fd4", "fd5"]) {
            let socket = find(name);
            assert_eq!(socket, find(fd));
            // Each socket is passed on once: one line of this process, one of the command.
            assert_eq!(said.matches(&format!("={socket}\n")).count(), 2, "{said}");
        }
        let (code, said) = become_command("/no/such/program");
        assert_eq!(code, Some(1));
        assert!(said.contains("cannot run \"/no/such/program\" for worker web/7: No such file"), "{said}");
    }
}
