//! Trying a user's key function with datagrams: in a network namespace of its own, by a program that decides nothing.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use aya::EbpfLoader;
use aya::maps::{Array, Map, MapData};
use aya::programs::SkReuseport;
use nix::sched::{CloneFlags, unshare};
use reuseport_lb_common::program::TRIED;
use reuseport_lb_common::steer::NO_KEY;
use socket2::{Domain, Socket, Type};

use super::loading::explained;
use super::splice::{refused, spliced};
use crate::config::KeyFunction;

/// The object with the program of a trial.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("REUSEPORT_LB_TRIAL"));

const PROGRAM: &str = "rlb_trial";
const KEY: &str = "KEY";

/// How long a datagram may take through the loopback device.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the function returns for each of these datagrams, sent over UDP and IPv4; `None`: it has no key. Needs CAP_BPF,
/// CAP_SYS_ADMIN and CAP_NET_ADMIN.
pub fn keys(function: &KeyFunction, datagrams: &[Vec<u8>]) -> Result<Vec<Option<u32>>> {
    // Only this thread gets another namespace.
    thread::scope(|scope| {
        scope
            .spawn(|| in_own_network(function, datagrams))
            .join()
            .map_err(|_| anyhow!("the trial panicked"))?
    })
}

fn in_own_network(function: &KeyFunction, datagrams: &[Vec<u8>]) -> Result<Vec<Option<u32>>> {
    unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace to try it in: run as root")?;
    bring_loopback_up().context("cannot bring the loopback device up")?;
    let receiver = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    receiver.set_reuse_port(true)?;
    receiver.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    let receiver = UdpSocket::from(receiver);
    receiver.set_read_timeout(Some(PATIENCE))?;

    let mut ebpf = EbpfLoader::new()
        .load(&spliced(OBJECT, Some(function))?)
        .map_err(|error| explained(error.into(), "create a BPF map"))?;
    let program: &mut SkReuseport =
        ebpf.program_mut(PROGRAM).context("the object has no program")?.try_into()?;
    program.load().map_err(|error| {
        refused(&error, function).unwrap_or_else(|| explained(error.into(), "load its SK_REUSEPORT program"))
    })?;
    program.attach(receiver.as_fd())?;
    let Some(Map::Array(map)) = ebpf.take_map(KEY) else { bail!("the object has no map {KEY}") };
    let mut map: Array<MapData, u64> = Map::Array(map).try_into()?;

    let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    sender.connect(receiver.local_addr()?)?;
    let mut buffer = [0; 1];
    let mut ask = |datagram: &Vec<u8>| {
        map.set(0, 0, 0)?;
        sender.send(datagram)?;
        receiver.recv(&mut buffer).context("a datagram did not come back from the loopback device")?;
        let key = map.get(&0, 0)?;
        if key & TRIED == 0 {
            bail!("the kernel did not run the program for a datagram");
        }
        Ok(Some(key as u32).filter(|key| *key != NO_KEY))
    };
    datagrams.iter().map(&mut ask).collect()
}

/// Brings the loopback device of this thread's network namespace up (netdevice(7)).
fn bring_loopback_up() -> io::Result<()> {
    let any = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: all zeros are a value of this structure: no name, and flags that are numbers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (byte, letter) in request.ifr_name.iter_mut().zip(b"lo") {
        *byte = *letter as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the request reads the structure, whose name ends with a zero.
    let set = unsafe { libc::ioctl(any.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
