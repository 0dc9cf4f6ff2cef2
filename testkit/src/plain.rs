//! A service as others run it, for comparison: plain SO_REUSEPORT, without a daemon.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use crate::daemon::signal;
use crate::server;
use crate::world::World;

/// Processes that share a port of 127.0.0.1 (for datagrams also of ::1), `plain/0` and so on; killed
/// on drop.
pub struct Plain {
    /// Where they listen.
    urls: Vec<String>,
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
        Self::of(world, vec![format!("tcp://127.0.0.1:{port}")], port, workers)
    }

    /// Starts so many that answer datagrams, and waits until all can.
    ///
    /// # Panics
    /// If one does not get there.
    #[must_use]
    pub fn udp(world: &World, port: u16, workers: usize) -> Self {
        let urls = ["127.0.0.1", "[::1]"].map(|host| format!("udp://{host}:{port}"));
        Self::of(world, urls.into(), port, workers)
    }

    fn of(world: &World, urls: Vec<String>, port: u16, workers: usize) -> Self {
        let server = world.program(&server::binary(), "server");
        let mut plain = Self { urls, server, port, processes: Vec::new() };
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
        let mut command = Command::new(&self.server);
        command.args(self.urls.iter().map(|url| format!("--open={url}")));
        command.arg(format!("--name=plain/{worker}")).args(["--wait", "keep", "--ready", "pid"]);
        // It ends with its standard input, so that it does not outlive the test.
        command.arg("--until-stdin").stdin(Stdio::piped()).stdout(Stdio::piped());
        command.spawn().expect("cannot start the helper server")
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
