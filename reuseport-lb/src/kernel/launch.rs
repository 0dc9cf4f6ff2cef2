//! The child's side of starting a worker: sockets to descriptors 3, 4, …, rights down to the
//! worker's user, systemd's variables set, and then `exec`.
//!
//! It is a program of its own because `LISTEN_PID` must be the worker's process id, which nobody
//! knows before the fork, and because little is allowed between fork and exec.

use std::io;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use nix::unistd::{Gid, Uid, initgroups, setgid, setuid};

use super::process::Launch;

/// The first descriptor that a worker gets (SD_LISTEN_FDS_START, sd_listen_fds(3)).
pub const FIRST_FD: RawFd = 3;

/// The hidden command that runs [`Arguments`].
pub const COMMAND: &str = "launch";

/// What the daemon tells its child.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    #[arg(long)]
    name: String,
    #[arg(long, value_delimiter = ',')]
    fds: Vec<RawFd>,
    /// Colon-separated, as in LISTEN_FDNAMES.
    #[arg(long)]
    fd_names: String,
    #[arg(long)]
    notify: PathBuf,
    #[arg(long)]
    user: Option<String>,
    #[arg(last = true)]
    command: Vec<String>,
}

pub(super) fn arguments(launch: &Launch<'_>, fds: &[RawFd]) -> Vec<std::ffi::OsString> {
    let fds: Vec<String> = fds.iter().map(ToString::to_string).collect();
    let names: Vec<&str> = launch.sockets.iter().map(|(_, name)| name.as_str()).collect();
    let mut arguments: Vec<std::ffi::OsString> = vec![COMMAND.into()];
    arguments.extend(["--name".into(), launch.name.into()]);
    arguments.extend(["--fds".into(), fds.join(",").into()]);
    arguments.extend(["--fd-names".into(), names.join(":").into()]);
    arguments.extend(["--notify".into(), launch.notify.into()]);
    if let Some(user) = launch.user {
        arguments.extend(["--user".into(), user.name.clone().into()]);
    }
    arguments.push("--".into());
    arguments.extend(launch.command.iter().map(Into::into));
    arguments
}

/// What the embedded worker, which stays in this process, needs to know.
pub struct Embedded {
    /// Like `demo/2`.
    pub name: String,
    /// How many sockets there are from [`FIRST_FD`] on.
    pub sockets: usize,
    /// The socket to say `READY=1` to.
    pub notify: PathBuf,
}

/// Becomes the worker: does not return if there is a command, else returns what the embedded
/// worker needs.
pub fn launch(arguments: Arguments) -> Result<Embedded> {
    arrange(&arguments.fds).context("cannot arrange the worker's sockets")?;
    if let Some(user) = &arguments.user {
        become_user(user).with_context(|| format!("cannot become user {user:?}"))?;
    }
    let Some((program, rest)) = arguments.command.split_first() else {
        // A runtime needs some descriptors of its own.
        super::host::raise_open_files();
        // It was started as /proc/self/exe, which tells nobody anything in `top`.
        nix::sys::prctl::set_name(c"reuseport-lb").context("cannot set the name of the process")?;
        let Arguments { name, fds, notify, .. } = arguments;
        return Ok(Embedded { name, sockets: fds.len(), notify });
    };
    let mut command = Command::new(program);
    if let Some(user) = arguments.user.as_deref().and_then(|name| nix::unistd::User::from_name(name).ok()?) {
        command.env("USER", &user.name).env("LOGNAME", &user.name);
        command.env("HOME", &user.dir).env("SHELL", &user.shell);
    }
    // What the daemon's own unit was told is not for its workers.
    for variable in ["WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PIDFDID", "FDSTORE"] {
        command.env_remove(variable);
    }
    let error = command
        .args(rest)
        .env("LISTEN_FDS", arguments.fds.len().to_string())
        .env("LISTEN_PID", std::process::id().to_string())
        .env("LISTEN_FDNAMES", &arguments.fd_names)
        .env("NOTIFY_SOCKET", &arguments.notify)
        .env("REUSEPORT_LB_WORKER", &arguments.name)
        .exec();
    Err(error).with_context(|| format!("cannot run {program:?} for worker {}", arguments.name))
}

/// Moves `fds` to [`FIRST_FD`] and the following, whatever their numbers are, and keeps no other.
fn arrange(fds: &[RawFd]) -> io::Result<()> {
    let end = FIRST_FD + fds.len() as RawFd;
    // First all out of the way, then each to its place: no place is taken by one still to be moved.
    let moved = fds.iter().map(|fd| check(raw::move_above(*fd, end))).collect::<io::Result<Vec<_>>>()?;
    for (place, fd) in (FIRST_FD..).zip(moved) {
        check(raw::put(fd, place))?;
    }
    check(raw::close_from(end)).map(drop)
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

mod raw {
    //! Descriptors by number: this process has just started, and nothing else in it owns any.
    use std::os::fd::RawFd;

    pub(super) fn move_above(fd: RawFd, end: RawFd) -> i32 {
        // SAFETY: fcntl on a number; the duplicate is owned by nobody else.
        unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, end) }
    }

    pub(super) fn put(fd: RawFd, place: RawFd) -> i32 {
        // SAFETY: `place` is one of the descriptors that `arrange` has moved away, or unused.
        unsafe { libc::dup2(fd, place) }
    }

    pub(super) fn close_from(end: RawFd) -> i32 {
        // SAFETY: marks descriptors for closing at exec; none of this process's own is needed later.
        unsafe { libc::close_range(end as u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) }
    }
}

fn become_user(name: &str) -> Result<()> {
    let user = super::host::user(name)?;
    let gid = Gid::from_raw(user.gid);
    initgroups(&std::ffi::CString::new(name)?, gid).context("initgroups failed")?;
    setgid(gid).context("setgid failed")?;
    setuid(Uid::from_raw(user.uid)).context("setuid failed")?;
    Ok(())
}

/// The sockets that this process, an embedded worker, was given.
pub fn inherited(sockets: usize) -> Vec<socket2::Socket> {
    use std::os::fd::FromRawFd;
    let end = FIRST_FD + sockets as RawFd;
    // SAFETY: `arrange` has put an open socket at each of these numbers, and this is called once.
    (FIRST_FD..end).map(|fd| unsafe { socket2::Socket::from_raw_fd(fd) }).collect()
}
