//! Whether a thread waits for work on a socket, in accept, recv, poll, select or epoll_wait. A small program reads
//! that from the kernel's memory when this module calls it (BPF_PROG_TEST_RUN of a raw tracepoint program, which is
//! attached to nothing; net/bpf/test_run.c, Linux 5.10). Workers do not notice.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use aya::EbpfLoader;
use aya::programs::RawTracePoint;
use reuseport_lb_common::program::OFFSETS;
use socket2::Socket;

use super::loading::{OBJECT, explained};
use super::offsets::offsets;

/// Name of the program in the object.
const PROGRAM: &str = "rlb_waits";

/// include/uapi/linux/bpf.h
const BPF_PROG_TEST_RUN: libc::c_long = 10;

/// The fields of `union bpf_attr` for BPF_PROG_TEST_RUN (include/uapi/linux/bpf.h), as far as this module needs
/// them; the kernel takes the rest as zero.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
}

/// The loaded program.
pub struct Waits {
    program: OwnedFd,
}

impl Waits {
    /// Loads the program, which needs CAP_BPF, CAP_PERFMON and the kernel's own types (CONFIG_DEBUG_INFO_BTF).
    pub fn load() -> Result<Self> {
        let offsets = offsets()?;
        let tried = "load the program that sees waiting threads (which the kernel's lockdown may forbid)";
        // Not `loading::loader`, which keeps the pins of groups.
        let loaded = EbpfLoader::new().btf(None).override_global(OFFSETS, offsets, true).load(OBJECT);
        let mut ebpf = loaded.map_err(|error| explained(error.into(), tried))?;
        let program = ebpf.program_mut(PROGRAM).with_context(|| format!("the object has no {PROGRAM}"))?;
        let program: &mut RawTracePoint = program.try_into()?;
        program.load().map_err(|error| explained(error.into(), tried))?;
        let program = program.fd()?.as_fd().try_clone_to_owned().context("cannot keep a program")?;
        Ok(Self { program })
    }

    /// Whether a thread waits for work on `socket` while its queue is empty. `socket` must be a listening (TCP) or
    /// bound (UDP) socket of this process. Takes about a microsecond.
    pub fn on(&self, socket: &Socket) -> io::Result<bool> {
        let arguments = [socket.as_raw_fd() as u64];
        let mut run = TestRun {
            prog_fd: self.program.as_raw_fd() as u32,
            ctx_size_in: size_of_val(&arguments) as u32,
            ctx_in: arguments.as_ptr() as u64,
            ..TestRun::default()
        };
        // SAFETY: the kernel reads `run` and `arguments`, which live until the call returns, and writes the
        // answer into `run`; the size says where it ends.
        let failed =
            unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut run, size_of::<TestRun>()) };
        if failed < 0 { Err(io::Error::last_os_error()) } else { Ok(run.retval == 1) }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, UdpSocket};
    use std::time::{Duration, Instant};

    use rustix::event::{PollFd, PollFlags, epoll, poll};

    use super::*;

    fn eventually(what: &str, mut look: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !look() {
            assert!(begun.elapsed() < Duration::from_secs(10), "{what}");
            std::thread::yield_now();
        }
    }

    /// Asserts that a thread is seen to wait while it is in `wait`, and not before it or after `wake` has ended it.
    fn seen(waits: &Waits, socket: &Socket, wait: impl FnOnce() + Send, wake: impl FnOnce()) {
        assert!(!waits.on(socket).expect("an answer"), "no thread waits yet");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(wait);
            eventually("it is seen to wait", || waits.on(socket).expect("an answer"));
            wake();
            waiting.join().expect("it woke up");
        });
        assert!(!waits.on(socket).expect("an answer"), "no thread waits any more");
    }

    #[test]
    fn a_thread_that_waits_for_work_is_seen_however_it_waits() {
        let waits = Waits::load().expect("these tests need root");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("an address");
        let socket = Socket::from(listener.try_clone().expect("a duplicate"));
        let connect = || drop(std::net::TcpStream::connect(address).expect("a connection"));
        seen(&waits, &socket, || drop(listener.accept()), connect);
        let in_poll = || {
            let mut fds = [PollFd::new(&listener, PollFlags::IN)];
            poll(&mut fds, None).expect("poll");
            drop(listener.accept());
        };
        seen(&waits, &socket, in_poll, connect);
        let events = epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll");
        epoll::add(&events, &listener, epoll::EventData::new_u64(0), epoll::EventFlags::IN).expect("added");
        let in_epoll = || {
            let mut ready = Vec::with_capacity(1);
            epoll::wait(&events, rustix::buffer::spare_capacity(&mut ready), None).expect("epoll_wait");
            drop(listener.accept());
        };
        seen(&waits, &socket, in_epoll, connect);

        let datagrams = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let address: SocketAddr = datagrams.local_addr().expect("an address");
        let socket = Socket::from(datagrams.try_clone().expect("a duplicate"));
        let send = || drop(UdpSocket::bind("127.0.0.1:0").and_then(|it| it.send_to(b"x", address)));
        seen(&waits, &socket, || drop(datagrams.recv(&mut [0; 8])), send);
    }
}
