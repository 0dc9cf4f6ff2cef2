//! Connections to UNIX sockets with a time limit, and receiving descriptors over them.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::io::{Errno, retry_on_intr};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, recvmsg, socket_with,
};

/// Most descriptors of one message: the kernel's SCM_MAX_FD.
const MOST: usize = 253;

/// Connects. Connecting, and each read and write of the stream, fails after `patience`.
pub(crate) fn connected(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // Also limits connect(2), which blocks while the queue of a stopped daemon is full.
    set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(patience))?;
    match retry_on_intr(|| connect(&socket, &address)) {
        // A signal had interrupted connect(2), and the connection was made meanwhile.
        Ok(()) | Err(Errno::ISCONN) => Ok(socket.into()),
        Err(error) => Err(error.into()),
    }
}

/// Receives bytes, 0 at the end of the stream, and the descriptors that came with them; they are closed at exec.
pub(crate) fn receive(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = retry_on_intr(|| {
        recvmsg(stream, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)
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
