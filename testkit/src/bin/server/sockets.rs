//! Where a server's sockets come from.

use std::fmt::Write;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Socket, Type};

use crate::flags::{Answer, Flags};

/// The first descriptor that a server finds (sd_listen_fds(3)).
const FIRST: RawFd = 3;

/// Opened or found, as the flags want it.
pub(crate) fn all(flags: &Flags) -> Result<Vec<Socket>> {
    let mut sockets = if flags.open.is_empty() && flags.answer != Answer::Never {
        inherited()?
    } else {
        flags.open.iter().map(|url| opened(url)).collect::<Result<_>>()?
    };
    sockets.truncate(flags.sockets.unwrap_or(usize::MAX));
    Ok(sockets)
}

fn inherited() -> Result<Vec<Socket>> {
    let variable = |name: &str| std::env::var(name).with_context(|| format!("no {name}"));
    let (pid, count): (u32, RawFd) = (variable("LISTEN_PID")?.parse()?, variable("LISTEN_FDS")?.parse()?);
    ensure!(pid == std::process::id(), "LISTEN_PID is {pid}, not {}", std::process::id());
    // SAFETY: the variables say that they are open, and nothing else in this process has them.
    Ok((FIRST..FIRST + count).map(|fd| unsafe { Socket::from_raw_fd(fd) }).collect())
}

fn opened(url: &str) -> Result<Socket> {
    let (protocol, address) = url.split_once("://").context("not a URL")?;
    if protocol == "unix" {
        let name = UnixAddress::from_abstract_name(address)?;
        return Ok(OwnedFd::from(UnixListener::bind_addr(&name)?).into());
    }
    let address: SocketAddr = address.parse()?;
    let kind = if protocol == "tcp" { Type::STREAM } else { Type::DGRAM };
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    if protocol == "tcp" {
        socket.listen(4096)?;
    }
    Ok(socket)
}

/// What a server finds when it is started, for [`Answer::Found`].
pub(crate) fn found(sockets: &[Socket]) -> Result<String> {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let own = variable("LISTEN_PID") == std::process::id().to_string();
    let kinds: Vec<&str> = sockets
        .iter()
        .map(|socket| {
            socket.r#type().map(|kind| if kind == Type::STREAM { "SOCK_STREAM" } else { "SOCK_DGRAM" })
        })
        .collect::<Result<_, _>>()?;
    let groups: Vec<u32> = nix::unistd::getgroups()?.into_iter().map(nix::unistd::Gid::as_raw).collect();
    let (user, group) = (nix::unistd::getuid(), nix::unistd::getgid());
    let mut descriptors: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    descriptors.sort_unstable();
    let mut found = format!("worker={}\nown_pid={own}\n", variable("REUSEPORT_LB_WORKER"));
    let names = variable("LISTEN_FDNAMES").replace(':', " ");
    let _ = writeln!(found, "names={names}\nkinds={}", kinds.join(" "));
    let _ = writeln!(found, "uid={user} gid={group} groups={groups:?}");
    let descriptors: Vec<String> = descriptors.iter().map(ToString::to_string).collect();
    let _ = writeln!(found, "fds={}", descriptors.join(" "));
    Ok(found)
}
