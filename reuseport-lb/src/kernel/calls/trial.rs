//! A trial for `doctor`: a process that ends soon after gets the filter, and one call of its is answered with another
//! socket, with the daemon's rights.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Socket, Type};

use super::call::CallAnswer;
use super::channel::{self, Message};
use super::filter;
use super::notifier::{Notifier, socket_of};
use crate::domain::observed::CallKind;
use crate::kernel::findings::{Answering, TRIAL};
use crate::kernel::liveness::Stat;
use crate::kernel::rights;

/// How long each step may take; usually it takes microseconds, the start of the process milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// The process of a trial, which is killed at the end of it, whatever it does.
struct Tried(Child);

impl Drop for Tried {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a process that binds a socket, and answers that call as for a worker that opens its sockets itself.
pub fn answering() -> Result<Answering> {
    let (own, other) = channel::pair().context("cannot make a channel (socketpair)")?;
    let mut command = Command::new("/proc/self/exe");
    command.arg(TRIAL).stdin(other).stdout(Stdio::null()).stderr(Stdio::null());
    let child = Tried(command.spawn().context("cannot start a process")?);
    drop(command);
    let notifier = match hear(&own)? {
        (Message::Refused(libc::EBUSY), _) => return Ok(Answering::Occupied),
        (Message::Refused(error), _) => return Ok(Answering::NoFilter(error)),
        (Message::Notifier, Some(fd)) => Notifier::new(fd),
        _ => bail!("the process of the trial said something else than it should"),
    };
    let pid = child.0.id() as i32;
    wait(notifier.fd())?;
    let answered = rights::as_daemon(|| answer(&notifier, pid))??;
    let (port, synchronous) = match answered {
        Ok(port) => (port, notifier.synchronize()),
        Err(obstacle) => return Ok(obstacle),
    };
    match hear(&own)? {
        (Message::Bound(Ok(bound)), _) if bound == port => {
            Ok(Answering::Works { no_new_privs: has_no_new_privs(pid), synchronous })
        }
        (Message::Bound(Ok(_)), _) => Ok(Answering::NotReplaced(libc::EBADF)),
        (Message::Bound(Err(error)), _) => Ok(Answering::NotReplaced(error)),
        _ => bail!("the process of the trial said something else than it should"),
    }
}

/// Answers the call that waits with a socket that listens at the returned port.
fn answer(notifier: &Notifier, pid: i32) -> Result<Result<u16, Answering>> {
    let call =
        notifier.receive().context("cannot receive a call")?.context("the process of the trial has ended")?;
    if Stat::read(pid).is_none() {
        return Ok(Err(Answering::Unseen));
    }
    if !matches!(call.kind, CallKind::Bind(_)) {
        return Ok(Err(Answering::Unread));
    }
    if let Err(error) = socket_of(&call) {
        return Ok(Err(Answering::NotTaken(number(&error))));
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on loopback")?;
    let port = listener.local_addr()?.port();
    notifier.answer(&call, CallAnswer::Instead(&listener.into())).context("cannot answer a call")?;
    Ok(Ok(port))
}

/// The process of the trial, whose standard input is the channel.
pub fn be_tried() -> Result<()> {
    let channel = io::stdin();
    let notifier = match filter::install() {
        Err(error) => {
            let refused = Message::Refused(number(&error));
            return channel::send(&channel, &refused, None).context("cannot tell how the trial went");
        }
        Ok(notifier) => notifier,
    };
    // Like a worker of another user, which only CAP_SYS_PTRACE opens.
    nix::sys::prctl::set_dumpable(false).context("cannot hide this process (prctl)")?;
    channel::send(&channel, &Message::Notifier, Some(notifier.as_fd()))?;
    drop(notifier);
    let port = || -> io::Result<u16> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        Ok(socket.local_addr()?.as_socket().map_or(0, |address| address.port()))
    };
    let bound = port().map_err(|error| number(&error));
    channel::send(&channel, &Message::Bound(bound), None).context("cannot tell how the trial went")?;
    // Until it is killed: it is looked at meanwhile.
    wait(channel.as_fd())
}

fn hear(channel: &OwnedFd) -> Result<(Message, Option<OwnedFd>)> {
    wait(channel.as_fd())?;
    channel::receive(channel).context("the process of the trial has ended")
}

fn wait(fd: BorrowedFd<'_>) -> Result<()> {
    let limit = Timespec::try_from(PATIENCE).context("a time that is too long")?;
    match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)).context("cannot wait (poll)")? {
        0 => bail!("nothing happened for {PATIENCE:?}"),
        _ => Ok(()),
    }
}

fn number(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

fn has_no_new_privs(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let set = status.lines().find_map(|line| line.strip_prefix("NoNewPrivs:"));
    set.is_some_and(|set| set.trim() == "1")
}
