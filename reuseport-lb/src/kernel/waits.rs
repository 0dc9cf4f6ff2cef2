//! Whether a thread waits for work on a socket, in accept, recv, poll, select or epoll_wait. A small program reads
//! that from the kernel's memory (`test_run.rs`). Workers do not notice.

use std::io;

use anyhow::Result;
use socket2::Socket;

use super::test_run::TestProgram;

/// The loaded program.
pub struct Waits(TestProgram);

impl Waits {
    /// Loads the program, which needs CAP_BPF, CAP_PERFMON and the kernel's own types (CONFIG_DEBUG_INFO_BTF).
    pub fn load() -> Result<Self> {
        let tried = "load the program that sees waiting threads (which the kernel's lockdown may forbid)";
        TestProgram::load("rlb_waits", tried).map(Self)
    }

    /// Whether a thread waits for work on `socket` while its queue is empty. `socket` must be a listening (TCP) or
    /// bound (UDP) socket of this process. Takes about a microsecond.
    pub fn on(&self, socket: &Socket) -> io::Result<bool> {
        Ok(self.0.run(socket)? == 1)
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
