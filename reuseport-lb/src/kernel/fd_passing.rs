//! Passing descriptors from one process to another, and the process at the other end of a UNIX socket.
//! Not: what is said there (`api/join`, `service/sd_notify.rs`).

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use nix::sys::socket::{getsockopt, sockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use socket2::{Domain, SockAddr, Socket, Type};

use super::closing;

/// Most descriptors of one message: the kernel's SCM_MAX_FD.
pub const MOST: usize = 253;

/// Sends `bytes`, which must not be empty, and with the first byte `fds`. Returns how many
/// bytes were sent; the caller sends the rest without descriptors.
pub fn send(stream: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let wrong = |why: String| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    if bytes.is_empty() {
        return wrong("descriptors need at least one byte to travel with".into());
    }
    if fds.len() > MOST || (!fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds))) {
        return wrong(format!("{} descriptors are too many for one message: at most {MOST}", fds.len()));
    }
    let sent = retry_on_intr(|| sendmsg(&stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL))?;
    Ok(sent)
}

/// Receives bytes, 0 at the end of the stream, and the descriptors that came with them; these are
/// closed at exec.
pub fn receive(stream: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = retry_on_intr(|| {
        recvmsg(&stream, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other(
            "not all descriptors could be taken: too many open files; raise the limit (ulimit -n, LimitNOFILE=)",
        ));
    }
    Ok((received.bytes, fds))
}

/// The process that connected a UNIX stream, as it was at that moment.
#[derive(Debug)]
pub struct Peer {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Process id in the PID namespace of this process.
    pub pid: i32,
    /// Refers to the process even when its id is given to another one; readable when it has ended.
    pub pidfd: OwnedFd,
}

impl Peer {
    /// The process that connected `stream`. To be asked as soon as the stream is accepted: before Linux 6.5 the
    /// process is found by its id, which another process may have later.
    pub fn of(stream: impl AsFd) -> io::Result<Self> {
        let credentials = getsockopt(&stream, sockopt::PeerCredentials)?;
        let (uid, gid, pid) = (credentials.uid(), credentials.gid(), credentials.pid());
        // The kernel says 0 for a process of a PID namespace that this process cannot see.
        if pid == 0 {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the process is in a PID namespace that the daemon does not see: run the daemon in the host's",
            ));
        }
        let pidfd = match getsockopt(&stream, sockopt::PeerPidfd) {
            // A kernel before Linux 6.5.
            Err(nix::Error::ENOPROTOOPT) => by_id(pid, &stream)?,
            Err(nix::Error::ESRCH | nix::Error::EINVAL) => return Err(gone()),
            answer => answer?,
        };
        Ok(Self { uid, gid, pid, pidfd })
    }

    /// A duplicate of a descriptor of the process.
    pub fn descriptor(&self, fd: RawFd) -> io::Result<OwnedFd> {
        if fd < 0 {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        Ok(pidfd_getfd(&self.pidfd, fd, PidfdGetfdFlags::empty())?)
    }
}

/// The process that sent a datagram, as it was at that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// Process id; 0 for a process of a PID namespace that this process cannot see.
    pub pid: i32,
    /// User id, which the sender may choose among its real, effective and saved ones (unix(7)).
    pub uid: u32,
}

/// Makes a socket at `path` that receives datagrams, each with its [`Sender`].
pub fn hearing(path: &Path) -> io::Result<UnixDatagram> {
    let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    // Before the socket has a name: datagrams that were sent before this have no credentials.
    socket.set_passcred(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    Ok(socket.into())
}

/// Receives one datagram; content beyond the buffer is cut off, and descriptors that come with it are
/// closed in another thread.
pub fn hear(socket: &impl AsRawFd, buffer: &mut [u8]) -> io::Result<(usize, Sender)> {
    /// Room for credentials and for [`MOST`] descriptors.
    #[repr(C, align(8))]
    struct Control([u8; 1088]);
    let mut control = Control([0; 1088]);
    let mut content = IoSliceMut::new(buffer);
    // SAFETY: null pointers and zeros are valid in this structure.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    // IoSliceMut is an iovec.
    (header.msg_iov, header.msg_iovlen) = ((&raw mut content).cast(), 1);
    (header.msg_control, header.msg_controllen) = ((&raw mut control).cast(), size_of::<Control>() as _);
    // SAFETY: the header points to one buffer and to room for control messages, with their lengths; both
    // outlive the call.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    let (mut sender, mut unwanted) = (None, Vec::new());
    // SAFETY: the kernel has filled the header in: each control message lies within `control` and has the length in
    // its header, credentials are a whole `ucred`, and descriptors are this process's from now on.
    unsafe {
        let mut next = libc::CMSG_FIRSTHDR(&raw const header);
        while let Some(message) = next.as_ref() {
            let data = libc::CMSG_DATA(next);
            match (message.cmsg_level, message.cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => {
                    sender = Some(data.cast::<libc::ucred>().read_unaligned());
                }
                (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                    #[expect(clippy::unnecessary_cast, reason = "the length is a u32 in musl")]
                    let bytes = message.cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                    for nth in 0..bytes / size_of::<RawFd>() {
                        let fd = data.cast::<RawFd>().add(nth).read_unaligned();
                        unwanted.push(OwnedFd::from_raw_fd(fd));
                    }
                }
                _ => {}
            }
            next = libc::CMSG_NXTHDR(&raw const header, next);
        }
    }
    closing::close(unwanted);
    let unknown = || io::Error::other("a datagram without its sender's credentials");
    let libc::ucred { pid, uid, .. } = sender.ok_or_else(unknown)?;
    Ok((length, Sender { pid, uid }))
}

/// A pidfd of the process `pid`, if `stream` is still connected: then the process has not ended, and the id is
/// still its own. (Wrong for a process that has ended and left the stream to a child.)
fn by_id(pid: i32, stream: impl AsFd) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or_else(gone)?;
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Err(gone()),
        opened => opened?,
    };
    let mut ends = [PollFd::new(&stream, PollFlags::empty())];
    retry_on_intr(|| poll(&mut ends, Some(&Timespec::default())))?;
    if ends[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) { Err(gone()) } else { Ok(pidfd) }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the process that connected has ended")
}

/// A duplicate of the descriptor `fd` of the process `pid`, if it has one.
#[must_use]
pub fn descriptor_of(pid: i32, fd: RawFd) -> Option<OwnedFd> {
    let process = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    pidfd_getfd(&process, fd, PidfdGetfdFlags::empty()).ok()
}

/// Duplicates of all descriptors of the process `pid`; none if this process may not have them.
pub fn files_of(pid: i32) -> impl Iterator<Item = File> {
    let process = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let room = if process.is_some() { table_size(pid) } else { 0 };
    (0..room).filter_map(move |fd| {
        pidfd_getfd(process.as_ref()?, fd, PidfdGetfdFlags::empty()).ok().map(File::from)
    })
}

/// How many descriptors a process has room for (FDSize in /proc/PID/status); 0 if it has ended.
fn table_size(pid: i32) -> RawFd {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let size = status.lines().find_map(|line| line.strip_prefix("FDSize:"));
    size.and_then(|size| size.trim().parse().ok()).unwrap_or_default()
}

/// [`sockets_of`] of the process `pid` and, for sockets that it does not have, of the processes `others`.
pub fn sockets_of_all(
    pid: i32,
    others: impl FnOnce() -> Vec<i32>,
    wanted: &[u64],
) -> io::Result<Vec<(u64, Socket)>> {
    let mut found = sockets_of(pid, wanted)?;
    if found.len() == wanted.len() {
        return Ok(found);
    }
    for other in others().into_iter().filter(|other| *other != pid) {
        let missing: Vec<u64> =
            wanted.iter().copied().filter(|cookie| !found.iter().any(|(have, _)| have == cookie)).collect();
        if missing.is_empty() {
            break;
        }
        // This process may have ended meanwhile.
        found.extend(sockets_of(other, &missing).unwrap_or_default());
    }
    Ok(found)
}

/// Duplicates of those sockets of the process `pid` whose SO_COOKIE is in `wanted`, each once, with the cookie.
/// If the process has ended, or ends meanwhile, the result is what was found until then.
pub fn sockets_of(pid: i32, wanted: &[u64]) -> io::Result<Vec<(u64, Socket)>> {
    let mut found: Vec<(u64, Socket)> = Vec::new();
    if wanted.is_empty() {
        return Ok(found);
    }
    each_descriptor(pid, |_, descriptor| {
        // The process has closed the socket meanwhile and opened something else at that number.
        let socket = Socket::from(descriptor);
        if let Ok(cookie) = socket.cookie()
            && wanted.contains(&cookie)
            && !found.iter().any(|(known, _)| *known == cookie)
        {
            found.push((cookie, socket));
        }
        if found.len() == wanted.len() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(found)
}

/// Calls `act` with a duplicate of each descriptor of the process `pid`, and its number there, until it breaks off or the
/// process has ended.
pub(super) fn each_descriptor(
    pid: i32,
    mut act: impl FnMut(RawFd, OwnedFd) -> ControlFlow<()>,
) -> io::Result<()> {
    let process = match Pid::from_raw(pid).map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
        None | Some(Err(Errno::SRCH)) => return Ok(()),
        Some(opened) => opened?,
    };
    // If another process has the id by now, `process` has ended and gives nothing.
    // Numbers are tried one by one: /proc/PID/fd of another user's process cannot be read with
    // CAP_SYS_PTRACE alone.
    for fd in 0..table_size(pid) {
        match pidfd_getfd(&process, fd, PidfdGetfdFlags::empty()) {
            Err(Errno::BADF) => {}
            Err(Errno::SRCH) => break,
            taken => {
                if act(fd, taken?).is_break() {
                    break;
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::{FdFlags, fcntl_getfd};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::process::Command;

    fn cookie(socket: impl AsFd) -> u64 {
        socket2::SockRef::from(&socket).cookie().unwrap()
    }

    #[test]
    fn descriptors_arrive_once_in_order_and_closed_at_exec() {
        let (here, there) = UnixStream::pair().unwrap();
        let listeners: Vec<TcpListener> =
            (0..64).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let fds: Vec<BorrowedFd<'_>> = listeners.iter().map(AsFd::as_fd).collect();
        assert_eq!(send(&here, b"hello", &fds).unwrap(), 5);
        let mut buffer = [0; 2];
        let (length, received) = receive(&there, &mut buffer).unwrap();
        assert_eq!((length, &buffer), (2, b"he"));
        let known: Vec<u64> = listeners.iter().map(cookie).collect();
        assert_eq!(received.iter().map(cookie).collect::<Vec<_>>(), known);
        assert!(received.iter().all(|fd| fcntl_getfd(fd).unwrap().contains(FdFlags::CLOEXEC)));
        let mut buffer = [0; 8];
        assert!(matches!(receive(&there, &mut buffer).unwrap(), (3, fds) if fds.is_empty()));
        drop(here);
        assert_eq!(receive(&there, &mut buffer).unwrap().0, 0);
    }

    #[test]
    fn what_cannot_be_sent_is_refused() {
        let (here, there) = UnixStream::pair().unwrap();
        let many = vec![here.as_fd(); MOST + 1];
        assert!(send(&here, b"x", &many).unwrap_err().to_string().contains("at most 253"));
        assert!(send(&here, b"", &many[..1]).unwrap_err().to_string().contains("one byte"));
        assert_eq!(send(&here, b"x", &many[..MOST]).unwrap(), 1);
        assert_eq!(receive(&there, &mut [0; 8]).unwrap().1.len(), MOST);
        drop(there);
        assert_eq!(send(&here, b"x", &[]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn the_peer_is_who_connected() {
        let (here, there) = UnixStream::pair().unwrap();
        let peer = Peer::of(&here).unwrap();
        assert_eq!(peer.pid, std::process::id() as i32);
        assert_eq!((peer.uid, peer.gid), (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()));
        // As on kernels before 6.5.
        let by_id = by_id(peer.pid, &here).unwrap();
        assert!(fcntl_getfd(&by_id).unwrap().contains(FdFlags::CLOEXEC));
        drop(there);
        assert_eq!(super::by_id(peer.pid, &here).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_datagram_tells_who_sent_it_also_with_descriptors() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let socket = hearing(&path).unwrap();
        let sender = UnixDatagram::unbound().unwrap();
        sender.connect(&path).unwrap();
        let me = Sender { pid: std::process::id() as i32, uid: nix::unistd::geteuid().as_raw() };
        let mut buffer = [0; 8];
        for fds in [&[][..], &[directory.path()]] {
            let files: Vec<std::fs::File> =
                fds.iter().map(|path| std::fs::File::open(path).unwrap()).collect();
            let fds: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
            assert_eq!(send(&sender, b"hello", &fds).unwrap(), 5);
            assert_eq!(hear(&socket, &mut buffer).unwrap(), (5, me));
            assert_eq!(&buffer[..5], b"hello");
        }
        // The other end of a pipe that came with a message is closed soon (sd_notify_barrier(3) waits for that).
        let (mut wait, sent) = std::io::pipe().unwrap();
        send(&sender, b"BARRIER=1", &[sent.as_fd()]).unwrap();
        drop(sent);
        hear(&socket, &mut buffer).unwrap();
        assert_eq!(std::io::Read::read(&mut wait, &mut [0]).unwrap(), 0);
        assert_eq!(hear(&socket, &mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_process_that_has_ended_is_not_mistaken_for_another() {
        let (here, _there) = UnixStream::pair().unwrap();
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id() as i32;
        child.wait().unwrap();
        assert_eq!(by_id(pid, &here).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(sockets_of(pid, &[1]).unwrap().is_empty());
    }

    #[test]
    fn sockets_of_another_process_are_found_by_cookie() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, wanted) = (listener.local_addr().unwrap(), cookie(&listener));
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut command = Command::new("sleep");
        command.arg("100").stdin(OwnedFd::from(listener)).stdout(OwnedFd::from(other.try_clone().unwrap()));
        let mut child = command.spawn().unwrap();
        let pid = child.id() as i32;
        // The command has a duplicate of its own in this process.
        drop(command);
        let found = sockets_of(pid, &[wanted, u64::MAX]).unwrap();
        assert_eq!(found.iter().map(|(cookie, _)| *cookie).collect::<Vec<_>>(), [wanted]);
        assert!(sockets_of(pid, &[]).unwrap().is_empty());
        child.kill().unwrap();
        child.wait().unwrap();
        // The socket outlives the process, and still listens.
        let (_, socket) = found.into_iter().next().unwrap();
        assert_eq!(cookie(&socket), wanted);
        assert!(fcntl_getfd(&socket).unwrap().contains(FdFlags::CLOEXEC));
        let client = TcpStream::connect(address).unwrap();
        assert_eq!(TcpListener::from(socket).accept().unwrap().1, client.local_addr().unwrap());
    }
}
