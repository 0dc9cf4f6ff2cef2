//! Calls that wait for an answer, as the kernel shows them (seccomp_unotify(2)): who calls, with which arguments, and the
//! answer. Not: which answer that is.

use std::fs;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use libc::{seccomp_notif, seccomp_notif_addfd, seccomp_notif_resp};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use socket2::Socket;

use super::call::{Call, CallAnswer};
use crate::domain::observed::{CallId, CallKind};

/// include/uapi/linux/pidfd.h (Linux 6.9): a descriptor of a thread, not of its process.
const PIDFD_THREAD: PidfdFlags = PidfdFlags::from_bits_retain(libc::O_EXCL as u32);

/// include/uapi/linux/seccomp.h (Linux 6.6): who answers runs on the caller's CPU.
const SYNC_WAKE_UP: u64 = 1;

/// The descriptor by which calls are answered.
#[derive(Debug)]
pub(super) struct Notifier(OwnedFd);

impl Notifier {
    pub(super) fn new(fd: OwnedFd) -> Self {
        let notifier = Self(fd);
        // Only faster; older kernels do not know it.
        notifier.synchronize();
        notifier
    }

    /// Makes who answers run on the caller's CPU; false if the kernel does not know how.
    pub(super) fn synchronize(&self) -> bool {
        // SAFETY: the call takes a number.
        unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP) == 0 }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// The next call; `None` if its thread was killed meanwhile.
    pub(super) fn receive(&self) -> io::Result<Option<Call>> {
        // SAFETY: plain integers, and the kernel wants them zeroed.
        let mut it: seccomp_notif = unsafe { std::mem::zeroed() };
        match self.control(libc::SECCOMP_IOCTL_NOTIF_RECV, &mut it) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => {
                return Ok(None);
            }
            received => received?,
        }
        let [fd, address, length, ..] = it.data.args;
        let (id, thread) = (CallId(it.id), it.pid as i32);
        let binds = i64::from(it.data.nr) == libc::SYS_bind;
        let kind = if binds {
            address_at(thread, address, length).map_or(CallKind::Other, CallKind::Bind)
        } else {
            CallKind::Listen
        };
        // The thread may have been killed, and its id be another's: then what was read is.
        Ok(self.waits(id).then_some(Call { id, thread, fd: fd as RawFd, kind }))
    }

    /// Whether no process has the filter any more.
    pub(super) fn is_over(&self) -> bool {
        let mut wanted = [PollFd::new(&self.0, PollFlags::IN)];
        poll(&mut wanted, Some(&Timespec::default()))
            .is_ok_and(|_| wanted[0].revents().contains(PollFlags::HUP))
    }

    /// Whether a call still waits for its answer.
    pub(super) fn waits(&self, CallId(mut id): CallId) -> bool {
        self.control(libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &mut id).is_ok()
    }

    /// Answers a call. No error if it does not wait any more.
    pub(super) fn answer(&self, call: &Call, answer: CallAnswer<'_>) -> io::Result<()> {
        let CallId(id) = call.id;
        let mut response = seccomp_notif_resp { id, val: 0, error: 0, flags: 0 };
        match answer {
            CallAnswer::GoOn => response.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
            CallAnswer::Done => {}
            CallAnswer::Fails(errno) => response.error = -errno,
            CallAnswer::Instead(socket) => {
                let mut add = seccomp_notif_addfd {
                    id,
                    flags: libc::SECCOMP_ADDFD_FLAG_SETFD as u32,
                    srcfd: socket.as_raw_fd() as u32,
                    newfd: call.fd as u32,
                    newfd_flags: if closes_at_exec(call.thread, call.fd) {
                        libc::O_CLOEXEC as u32
                    } else {
                        0
                    },
                };
                let added = self.control(libc::SECCOMP_IOCTL_NOTIF_ADDFD, &mut add);
                response.error = added.err().map_or(0, |error| -error.raw_os_error().unwrap_or(libc::EIO));
            }
        }
        match self.control(libc::SECCOMP_IOCTL_NOTIF_SEND, &mut response) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
            _ => Ok(()),
        }
    }

    fn control<T>(&self, what: libc::Ioctl, about: &mut T) -> io::Result<()> {
        // SAFETY: each caller gives the structure that the request wants, which the kernel reads and fills in.
        let failed = unsafe { libc::ioctl(self.0.as_raw_fd(), what, std::ptr::from_mut(about)) };
        if failed < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Whether a descriptor is one by which calls are answered.
pub(super) fn is_one(fd: &OwnedFd) -> bool {
    let link = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    // No file can have a name that begins so.
    link.is_ok_and(|link| link.to_string_lossy().starts_with("anon_inode:seccomp"))
}

/// The IP address that a thread has at this place of its memory.
fn address_at(thread: i32, address: u64, length: u64) -> Option<SocketAddr> {
    let mut bytes = [0u8; size_of::<libc::sockaddr_in6>()];
    let length = bytes.len().min(usize::try_from(length).ok()?);
    let remote = [RemoteIoVec { base: usize::try_from(address).ok()?, len: length }];
    let thread = nix::unistd::Pid::from_raw(thread);
    let read = process_vm_readv(thread, &mut [IoSliceMut::new(&mut bytes[..length])], &remote).ok()?;
    parsed(&bytes[..read])
}

/// Reads a `sockaddr_in` or `sockaddr_in6`.
fn parsed(bytes: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    match family {
        libc::AF_INET => {
            let ip: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
            Some((Ipv4Addr::from(ip), port).into())
        }
        libc::AF_INET6 => {
            let ip: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
            let scope =
                bytes.get(24..28).and_then(|scope| scope.try_into().ok()).map_or(0, u32::from_ne_bytes);
            Some(SocketAddrV6::new(Ipv6Addr::from(ip), port, 0, scope).into())
        }
        _ => None,
    }
}

/// A duplicate of a descriptor of a thread.
pub(super) fn descriptor_of(thread: i32, fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    let gone = || io::Error::from_raw_os_error(libc::ESRCH);
    let pid = Pid::from_raw(thread).ok_or_else(gone)?;
    let process = pidfd_open(pid, PIDFD_THREAD).or_else(|_| {
        // Before Linux 6.9 by its process, which may have another table of descriptors, but hardly ever does.
        let process = process_of(thread).and_then(Pid::from_raw).ok_or_else(gone)?;
        Ok::<_, io::Error>(pidfd_open(process, PidfdFlags::empty())?)
    })?;
    Ok(pidfd_getfd(process, fd, PidfdGetfdFlags::empty())?)
}

/// The process that a thread belongs to.
fn process_of(thread: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

fn closes_at_exec(thread: i32, fd: RawFd) -> bool {
    let about = fs::read_to_string(format!("/proc/{thread}/fdinfo/{fd}")).unwrap_or_default();
    let flags = about.lines().find_map(|line| line.strip_prefix("flags:"));
    flags
        .and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok())
        .is_some_and(|it| it & libc::O_CLOEXEC != 0)
}

/// Whether a thread's process waits for events of a descriptor with epoll already.
pub(super) fn is_polled(thread: i32, fd: RawFd) -> bool {
    let target = |line: &str| line.strip_prefix("tfd:")?.split_whitespace().next()?.parse::<RawFd>().ok();
    let all = fs::read_dir(format!("/proc/{thread}/fdinfo")).into_iter().flatten().flatten();
    all.filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .any(|about| about.lines().any(|line| target(line) == Some(fd)))
}

/// A duplicate of the socket that a call is about.
pub(super) fn socket_of(call: &Call) -> io::Result<Socket> {
    descriptor_of(call.thread, call.fd).map(Socket::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_the_kernel_reads_them() {
        for text in ["127.0.0.1:80", "0.0.0.0:0", "[::1]:8080", "[fe80::1%3]:53"] {
            let address: SocketAddr = text.parse().unwrap();
            let raw = socket2::SockAddr::from(address);
            // SAFETY: `raw` has that many bytes.
            let bytes = unsafe { std::slice::from_raw_parts(raw.as_ptr().cast::<u8>(), raw.len() as usize) };
            assert_eq!(parsed(bytes), Some(address), "{text}");
            assert_eq!(parsed(&bytes[..6]), None);
        }
        assert_eq!(parsed(&[1, 0, b'/', b'x', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
