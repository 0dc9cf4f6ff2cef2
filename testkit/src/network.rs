//! Several machines in one test: namespaces that are entered from outside, and the wires between them.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use crate::world::{World, run};

/// A world that no thread stays in, with a `/run` of its own.
pub struct Node {
    world: World,
    network: File,
    mounts: File,
}

impl Node {
    /// Makes one.
    ///
    /// # Panics
    /// If that is not possible: these tests need root.
    #[must_use]
    pub fn new() -> Self {
        let made = std::thread::spawn(|| {
            let world = World::new();
            let nothing: Option<&str> = None;
            mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), nothing)
                .expect("cannot mount a /run");
            let [network, mounts] = ["net", "mnt"].map(|kind| {
                File::open(format!("/proc/thread-self/ns/{kind}")).expect("cannot open a namespace")
            });
            Self { world, network, mounts }
        });
        made.join().expect("cannot make a node")
    }

    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Does something in a thread that is there. Threads and processes that it starts stay there.
    ///
    /// # Panics
    /// If it panics, or cannot get there.
    pub fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let acting = scope.spawn(|| {
                // A thread that shares its current folder with others can enter no other mount namespace.
                unshare(CloneFlags::CLONE_FS).expect("cannot have a folder of its own");
                setns(&self.mounts, CloneFlags::CLONE_NEWNS).expect("cannot enter a mount namespace");
                setns(&self.network, CloneFlags::CLONE_NEWNET).expect("cannot enter a network namespace");
                act()
            });
            acting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a command there that must succeed: words with spaces between them. Returns what it printed.
    ///
    /// # Panics
    /// If it fails.
    #[must_use]
    pub fn run(&self, command: &str) -> String {
        let words: Vec<&str> = command.split_whitespace().collect();
        self.inside(|| run(words[0], &words[1..]))
    }

    /// Commands of `ip` there, a line each.
    ///
    /// # Panics
    /// If one fails.
    pub fn ip(&self, lines: &str) {
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let _ = self.run(&format!("ip {line}"));
        }
    }

    /// A wire to another one; `own` and `theirs` are the names of its ends.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn wire(&self, own: &str, other: &Self, theirs: &str) {
        let there = format!("/proc/{}/fd/{}", std::process::id(), other.network.as_raw_fd());
        self.ip(&format!("link add {own} type veth peer name {theirs} netns {there}\nlink set {own} up"));
        other.ip(&format!("link set {theirs} up"));
    }
}

impl Default for Node {
    fn default() -> Self {
        Self::new()
    }
}

/// Where a client binds that talks to this address: on loopback if that is there, else wherever the kernel likes.
#[must_use]
pub fn towards(to: SocketAddr) -> SocketAddr {
    let at = if to.ip().is_loopback() { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
    SocketAddr::new(IpAddr::V4(at), 0)
}
