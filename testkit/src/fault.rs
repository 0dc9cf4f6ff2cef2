//! Faults: what a process had accepted when it was killed or stopped, and random choices that can be
//! made again.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};

use nix::sys::signal::Signal;

use crate::daemon::{signal, state, until};
use crate::patience::fewer;

/// How often a test repeats what it does: `few`, unless `REUSEPORT_LB_TIMES` says more; less often
/// on a slow machine.
#[must_use]
pub fn times(few: usize) -> usize {
    let given = std::env::var("REUSEPORT_LB_TIMES").ok().and_then(|times| times.parse().ok());
    given.unwrap_or(fewer(few))
}

/// Stops a process; returns the clients whose IPv4 connections it has accepted and not closed.
#[must_use]
pub fn freeze(pid: i32) -> BTreeSet<SocketAddr> {
    signal(pid, Signal::SIGSTOP);
    frozen(pid)
}

/// Waits until a process has stopped itself; returns the clients whose IPv4 connections it has accepted and not closed.
#[must_use]
pub fn frozen(pid: i32) -> BTreeSet<SocketAddr> {
    until("a process to be stopped", || matches!(state(pid), None | Some('T')).then_some(()));
    accepted(pid)
}

/// The clients whose IPv4 connections a process has accepted and not closed.
fn accepted(pid: i32) -> BTreeSet<SocketAddr> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let links = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    let inodes: BTreeSet<String> = links
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    let of = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (address, port) = fields.get(2)?.split_once(':')?;
        let address = Ipv4Addr::from(u32::from_str_radix(address, 16).ok()?.swap_bytes());
        let port = u16::from_str_radix(port, 16).ok()?;
        inodes.contains(*fields.get(9)?).then_some(SocketAddr::new(address.into(), port))
    };
    table.lines().skip(1).filter_map(of).collect()
}

/// Random choices; the seed is printed, and `REUSEPORT_LB_SEED` sets it.
pub struct Dice(u64);

impl Dice {
    /// With a seed of its own.
    #[must_use]
    pub fn new() -> Self {
        let given = std::env::var("REUSEPORT_LB_SEED").ok().and_then(|seed| seed.parse().ok());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let seed = given.unwrap_or(now.subsec_nanos().into());
        println!("REUSEPORT_LB_SEED={seed}");
        Self(seed)
    }

    /// One of `0..sides` (SplitMix64: Steele, Lea and Flood, OOPSLA 2014).
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % sides as u64) as usize
    }

    /// One of these.
    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.roll(all.len())]
    }
}

impl Default for Dice {
    fn default() -> Self {
        Self::new()
    }
}
