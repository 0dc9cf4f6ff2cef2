//! What a server does to its sockets, and otherwise, when it is told to misbehave: words with commas between them.

use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigHandler, Signal};
use nix::unistd::ForkResult;
use socket2::{Socket, Type};

/// SO_ATTACH_FILTER, SO_LOCK_FILTER, SO_ATTACH_REUSEPORT_CBPF and SO_DETACH_REUSEPORT_BPF.
const FILTER: libc::c_int = libc::SO_ATTACH_FILTER;
const LOCK: libc::c_int = libc::SO_LOCK_FILTER;
const PROGRAM: libc::c_int = libc::SO_ATTACH_REUSEPORT_CBPF;
const DETACH: libc::c_int = libc::SO_DETACH_REUSEPORT_BPF;

/// Does all of `deeds` to `sockets`. Who escapes says its process id in a file beside `place`.
pub(crate) fn perform(deeds: &str, sockets: &mut [Option<Socket>], place: &Path) -> Result<()> {
    for deed in deeds.trim().split(',') {
        one(deed, sockets, place).with_context(|| format!("cannot do {deed:?}"))?;
    }
    Ok(())
}

fn one(deed: &str, sockets: &mut [Option<Socket>], place: &Path) -> Result<()> {
    let all = || sockets.iter().flatten();
    let of_kind = |kind: Type| all().find(|it| it.r#type().is_ok_and(|its| its == kind)).context("no socket");
    match deed {
        "nothing" => {}
        "exit" => std::process::exit(0),
        "fail" => std::process::exit(1),
        "sleep" => std::thread::sleep(Duration::from_secs(600)),
        "close" => drop(sockets.first_mut().and_then(Option::take)),
        "shut-down" => of_kind(Type::STREAM)?.shutdown(std::net::Shutdown::Both)?,
        "connect" => {
            of_kind(Type::DGRAM)?.connect(&std::net::SocketAddr::from(([127, 0, 0, 1], 9)).into())?;
        }
        "detach" => all().try_for_each(|it| set(it, libc::SOL_SOCKET, DETACH, &0))?,
        "lock-filter" => all().try_for_each(|it| filter(it, FILTER).and_then(|()| lock(it)))?,
        // Everything to the first socket of the group.
        "lock-program" => all().try_for_each(|it| filter(it, PROGRAM).and_then(|()| lock(it)))?,
        "deafen" => all().try_for_each(deafen)?,
        "leak" => {
            if forked()? {
                nix::unistd::setsid()?;
                std::thread::sleep(Duration::from_secs(20));
            }
            std::process::exit(1);
        }
        "escape" => {
            if forked()? {
                escape(place)?;
                std::process::exit(0);
            }
        }
        other => bail!("there is no deed {other:?}"),
    }
    Ok(())
}

/// What makes a socket deaf, or its reader fail; each can be undone.
fn deafen(socket: &Socket) -> io::Result<()> {
    filter(socket, FILTER)?;
    set(socket, libc::IPPROTO_IP, libc::IP_MINTTL, &255)?;
    socket.set_nonblocking(true)?;
    set(socket, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &libc::timeval { tv_sec: 0, tv_usec: 1 })?;
    set(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, &1)?;
    set(socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT, &(1 << 20))?;
    if socket.r#type()? == Type::DGRAM {
        set(socket, libc::IPPROTO_UDP, libc::UDP_GRO, &1)?;
    }
    Ok(())
}

/// A session of its own with the sockets, which does not hear SIGTERM.
fn escape(place: &Path) -> Result<()> {
    nix::unistd::setsid()?;
    // SAFETY: nothing of what is closed is used any more.
    unsafe { libc::close_range(5, 1000, 0) };
    // SAFETY: ignoring a signal calls nothing.
    unsafe { nix::sys::signal::signal(Signal::SIGTERM, SigHandler::SigIgn) }?;
    let mut said = place.as_os_str().to_owned();
    said.push("-escaped");
    std::fs::write(said, std::process::id().to_string())?;
    std::thread::sleep(Duration::from_secs(1000));
    Ok(())
}

/// Whether this is the child.
fn forked() -> Result<bool> {
    // SAFETY: a server that is told to fork has no other thread.
    Ok(matches!(unsafe { nix::unistd::fork() }?, ForkResult::Child))
}

/// A classic program that returns 0: as a filter it lets nothing through.
fn filter(socket: &Socket, option: libc::c_int) -> io::Result<()> {
    let mut code = [libc::sock_filter { code: 6, jt: 0, jf: 0, k: 0 }];
    set(socket, libc::SOL_SOCKET, option, &libc::sock_fprog { len: 1, filter: code.as_mut_ptr() })
}

fn lock(socket: &Socket) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, LOCK, &1)
}

fn set<T>(socket: &Socket, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
    let (value, size) = (std::ptr::from_ref(value).cast(), size_of::<T>() as libc::socklen_t);
    // SAFETY: the value is as long as it is said to be, and lives until the call returns.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value, size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
