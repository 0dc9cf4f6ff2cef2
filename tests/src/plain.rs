//! The same service as others run it: plain SO_REUSEPORT, without a daemon. For comparison.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

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

/// Processes that share a port of 127.0.0.1, `plain/0` and so on; killed on drop.
pub struct Plain {
    address: SocketAddr,
    processes: Vec<Child>,
}

impl Plain {
    /// Starts so many, and waits until all listen.
    ///
    /// # Panics
    /// If one does not get there.
    #[must_use]
    pub fn start(world: &World, port: u16, workers: usize) -> Self {
        let server = world.file("plain.py", SERVER);
        let mut plain = Self { address: ([127, 0, 0, 1], port).into(), processes: Vec::new() };
        for worker in 0..workers {
            let mut command = Command::new("python3");
            command.arg(&server).args([worker.to_string(), port.to_string()]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            plain.processes.push(command.spawn().expect("cannot start python3"));
        }
        for process in &mut plain.processes {
            let mut said = String::new();
            let out = process.stdout.take().expect("its output is a pipe");
            BufReader::new(out).read_line(&mut said).expect("cannot read what a plain worker says");
            assert_eq!(said.trim(), process.id().to_string(), "a plain worker does not listen");
        }
        plain
    }

    /// Where they listen.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
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

impl Drop for Plain {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // One that has ended is fine as well.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
