//! What a server does in place of serving: filling a group, trying what it may not, speaking for others, and spreading its
//! processes.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::{SigHandler, Signal};
use nix::unistd::{ForkResult, Pid};
use rustix::process::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

use crate::flags::Family;
use crate::{LOOK, notify};

/// Sockets of one process at most.
const CROWD: usize = 12_000;

/// How long processes stay that do nothing else.
const STAY: Duration = Duration::from_secs(1000);

/// Opens sockets in the group of `address` as long as there is room; says how many, and whether it is the group that is full.
pub(crate) fn crowd(address: SocketAddr) -> Result<()> {
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files)?;
    let mut sockets = Vec::new();
    let mut full = false;
    while sockets.len() < CROWD && !full {
        match member(address) {
            Ok(socket) => sockets.push(socket),
            Err(error) if error.raw_os_error() == Some(libc::EMFILE) => break,
            Err(_) => full = true,
        }
    }
    println!("{} {}", sockets.len(), u8::from(full));
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

fn member(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(1)?;
    Ok(socket)
}

/// Tries what a worker may not do to the daemon's terminal and log; the names of the errors are in `words` then.
pub(crate) fn intrude(place: &Path) -> Result<()> {
    let open = |path: &str, flags: libc::c_int| {
        let path = std::ffi::CString::new(path).unwrap_or_default();
        // SAFETY: the path lives until the call returns.
        unsafe { libc::open(path.as_ptr(), flags) }
    };
    // SAFETY: the byte lives until the call returns.
    let typed = || unsafe { libc::ioctl(2, libc::TIOCSTI, b"x".as_ptr()) };
    let read = |fd: RawFd| {
        let mut byte = 0u8;
        // SAFETY: there is room for the byte.
        unsafe { libc::read(fd, (&raw mut byte).cast(), 1) as libc::c_int }
    };
    let how = |done: libc::c_int| {
        if done < 0 { format!("{:?}", Errno::last()) } else { "done".to_owned() }
    };
    let words = [
        how(open("/dev/tty", libc::O_RDWR)),
        how(typed()),
        how(read(2)),
        how(read(1)),
        how(open("/proc/self/fd/2", libc::O_RDONLY)),
    ];
    fs::write(place.join("new"), words.join(" "))?;
    fs::rename(place.join("new"), place.join("words"))?;
    std::thread::sleep(STAY);
    Ok(())
}

/// Says READY=1 by a process that ends at once, as systemd-notify does.
pub(crate) fn ready_by_helper() -> Result<()> {
    let own = std::env::current_exe()?;
    Command::new(own).args(["--say", "READY=1"]).status().context("cannot run a helper")?;
    Ok(())
}

/// Says what it finds in the file `order`: a socket, and words. After STOPPING=1 alone it ends.
pub(crate) fn orders(place: &Path) -> Result<()> {
    let (order, done) = (place.join("order"), place.join("done"));
    loop {
        crate::wait_for(&order);
        let text = fs::read_to_string(&order)?;
        let (to, words) = text.split_once(' ').context("an order is a socket and words")?;
        for word in words.split_whitespace() {
            UnixDatagram::unbound()?.send_to(word.as_bytes(), to)?;
        }
        fs::rename(&order, &done)?;
        if words == "STOPPING=1" {
            return Ok(());
        }
    }
}

/// Has processes that leave its group, its session and its family; the last one has ended its parent as well.
pub(crate) fn family(place: &Path, how: Family) -> Result<()> {
    let alive = place.join("alive");
    if how == Family::Pings {
        fs::write(&alive, "")?;
    }
    let leader = Pid::this();
    begin(place, leader, "child", how, || Ok(()))?;
    begin(place, leader, "group", how, || nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0)))?;
    begin(place, leader, "session", how, || nix::unistd::setsid().map(drop))?;
    begin(place, leader, "orphan", how, || {
        nix::unistd::setsid()?;
        // SAFETY: there is no other thread.
        if let ForkResult::Parent { .. } = unsafe { nix::unistd::fork() }? {
            std::process::exit(0);
        }
        Ok(())
    })?;
    if how != Family::Speaks {
        notify::say("READY=1")?;
    }
    while how == Family::Pings && alive.exists() {
        notify::say("WATCHDOG=1")?;
        std::thread::sleep(20 * LOOK);
    }
    std::thread::sleep(STAY);
    Ok(())
}

/// A process that does `act`, says that it is there, and stays.
fn begin(
    place: &Path,
    leader: Pid,
    kind: &str,
    how: Family,
    act: impl Fn() -> nix::Result<()>,
) -> Result<()> {
    // SAFETY: there is no other thread.
    if let ForkResult::Parent { .. } = unsafe { nix::unistd::fork() }? {
        return Ok(());
    }
    act()?;
    if how == Family::Stubborn {
        // SAFETY: ignoring a signal calls nothing.
        unsafe { nix::sys::signal::signal(Signal::SIGTERM, SigHandler::SigIgn) }?;
    }
    if kind == "orphan" && how == Family::Speaks {
        notify::say("READY=1")?;
    }
    let new = place.join(format!("new-{}", std::process::id()));
    fs::write(&new, std::process::id().to_string())?;
    fs::rename(new, place.join(format!("{leader}-{kind}")))?;
    std::thread::sleep(STAY);
    std::process::exit(0);
}
