//! The same service as others run it: plain SO_REUSEPORT, without a daemon. For comparison.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use crate::daemon::signal;
use crate::world::World;

/// One thread that accepts and answers. It says its process id once it listens, and ends with its
/// standard input, so that it does not outlive the test.
const SERVER: &str = r#"
import os, selectors, socket, sys

listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
listener.bind(('127.0.0.1', int(sys.argv[2])))
listener.listen(4096)
listener.setblocking(False)
selector = selectors.EpollSelector()

def accept():
    for _ in range(64):
        try:
            welcome(*listener.accept())
        except BlockingIOError:
            return
        except ConnectionError:
            pass

def welcome(connection, peer):
    connection.setblocking(False)
    body = f'worker=plain/{sys.argv[1]}\npid={os.getpid()}\npeer={peer[0]}:{peer[1]}\n'
    answer = f'HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}'.encode()
    pending = b''

    def serve():
        nonlocal pending
        try:
            received = connection.recv(65536)
            *requests, pending = (pending + received).split(b'\r\n\r\n')
            connection.sendall(answer * len(requests))
            last = not received or any(b'\nconnection: close' in r.lower() for r in requests)
        except BlockingIOError:
            return
        except ConnectionError:
            last = True
        if last:
            selector.unregister(connection)
            connection.close()

    selector.register(connection, selectors.EVENT_READ, serve)

selector.register(listener, selectors.EVENT_READ, accept)
selector.register(sys.stdin, selectors.EVENT_READ, sys.exit)
print(os.getpid(), flush=True)
while True:
    for key, _ in selector.select():
        key.data()
"#;

/// The same for datagrams, over v4 and v6.
const UDP_SERVER: &str = r#"
import os, selectors, socket, sys

name = f'worker=plain/{sys.argv[1]}\npid={os.getpid()}\npeer='
selector = selectors.EpollSelector()
for family, address, form in (
    (socket.AF_INET, '127.0.0.1', '{}:{}\n'.format),
    (socket.AF_INET6, '::1', '[{}]:{}\n'.format),
):
    udp = socket.socket(family, socket.SOCK_DGRAM)
    udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    udp.bind((address, int(sys.argv[2])))
    udp.setblocking(False)
    selector.register(udp, selectors.EVENT_READ, (udp, form))
selector.register(sys.stdin, selectors.EVENT_READ)
print(os.getpid(), flush=True)
while True:
    for key, _ in selector.select():
        if key.data is None:
            sys.exit()
        udp, form = key.data
        try:
            for _ in range(64):
                _, peer = udp.recvfrom(64)
                udp.sendto((name + form(*peer[:2])).encode(), peer)
        except OSError:
            pass
"#;

/// Processes that share a port of 127.0.0.1 (for datagrams also of ::1), `plain/0` and so on; killed
/// on drop.
pub struct Plain {
    server: PathBuf,
    port: u16,
    processes: Vec<Child>,
}

impl Plain {
    /// Starts so many that accept connections, and waits until all listen.
    ///
    /// # Panics
    /// If one does not get there.
    #[must_use]
    pub fn start(world: &World, port: u16, workers: usize) -> Self {
        Self::of(world.file("plain.py", SERVER), port, workers)
    }

    /// Starts so many that answer datagrams, and waits until all can.
    ///
    /// # Panics
    /// If one does not get there.
    #[must_use]
    pub fn udp(world: &World, port: u16, workers: usize) -> Self {
        Self::of(world.file("plain-udp.py", UDP_SERVER), port, workers)
    }

    fn of(server: PathBuf, port: u16, workers: usize) -> Self {
        let mut plain = Self { server, port, processes: Vec::new() };
        let mut starting: Vec<Child> = (0..workers).map(|worker| plain.spawn(worker)).collect();
        starting.iter_mut().for_each(ready);
        plain.processes = starting;
        plain
    }

    /// Another one, with the next number.
    ///
    /// # Panics
    /// If it does not get there.
    pub fn join(&mut self) {
        let mut process = self.spawn(self.processes.len());
        ready(&mut process);
        self.processes.push(process);
    }

    /// One ends, as with `signal`; returns when it has.
    ///
    /// # Panics
    /// If it does not.
    pub fn end(&mut self, worker: usize, how: Signal) {
        let process = &mut self.processes[worker];
        signal(i32::try_from(process.id()).expect("a process id"), how);
        process.wait().expect("cannot wait for a plain worker");
    }

    fn spawn(&self, worker: usize) -> Child {
        let mut command = Command::new("python3");
        command.arg(&self.server).args([worker.to_string(), self.port.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.spawn().expect("cannot start python3")
    }

    /// Where they listen.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Where they get datagrams.
    #[must_use]
    pub fn addresses(&self) -> [SocketAddr; 2] {
        [self.address(), (Ipv6Addr::LOCALHOST, self.port).into()]
    }

    /// Their processes, in the order of their names; also of those that have ended.
    ///
    /// # Panics
    /// If a process id is not one.
    #[must_use]
    pub fn pids(&self) -> Vec<i32> {
        self.processes.iter().map(|process| i32::try_from(process.id()).expect("a process id")).collect()
    }
}

/// Waits until it says that it is.
fn ready(process: &mut Child) {
    let mut said = String::new();
    let out = process.stdout.take().expect("its output is a pipe");
    BufReader::new(out).read_line(&mut said).expect("cannot read what a plain worker says");
    assert_eq!(said.trim(), process.id().to_string(), "a plain worker does not listen");
}

impl Drop for Plain {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // One that has ended is fine as well.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
