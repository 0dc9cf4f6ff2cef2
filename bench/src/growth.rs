//! Section `growth`: what a decision, a connection and memory cost as workers and flows get more.

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::time::Instant;

use anyhow::{Context, Result};
use bench::baseline::Baseline;
use bench::run_time::{RunTime, switch_on};
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};
use reuseport_lb::domain::buckets::Buckets;
use reuseport_lb::domain::listener::{Listener, Protocol};
use reuseport_lb::domain::table::{BucketTable, Member};
use reuseport_lb::kernel::group::{PinnedGroup, Policy};
use reuseport_lb::kernel::owner::Siblings;
use reuseport_lb::kernel::socket;
use socket2::{Domain, Socket, Type};
use testkit::daemon::Daemon;
use testkit::world::World;

use crate::client::{Load, Pace, run};
use crate::peers::{Peer, Server};
use crate::process;
use crate::record::{Record, median};
use crate::table::name;

/// Datagrams between two looks at the kernel's statistics.
const ROUND: usize = 2_000;

pub(crate) fn workers(record: &mut Record, world: &World) -> Result<()> {
    let runs = record.either(1, 7);
    let sizes: &[u16] = record.either(&[2, 16, 128], &[2, 16, 128, 1000]);
    for run in 0..runs {
        for workers in sizes {
            record
                .step(&format!("{workers} workers, run {} of {runs}", run + 1), workers_seconds(*workers))?;
            let values = [
                ("ns a decision, one flow", decision(*workers, 1, world)?),
                ("ns a decision, 1,000 flows", decision(*workers, 1_000, world)?),
                ("ns, bare select by hash, 1,000 flows", bare_select("bare_spread", *workers, 1_000)?),
                ("ns, bare select by table, 1,000 flows", bare_select("bare_table", *workers, 1_000)?),
            ];
            record.add("growth", &format!("{workers} workers"), run, &values);
            serve(record, run, *workers, world)?;
        }
    }
    Ok(())
}

pub(crate) fn workers_seconds(workers: u16) -> f64 {
    6.0 + f64::from(workers) / 40.0
}

pub(crate) fn flows(record: &mut Record, world: &World) -> Result<()> {
    let runs = record.either(1, 5);
    for run in 0..runs {
        for flows in [1_000, 10_000, 100_000, 1_000_000] {
            record.step(&format!("{flows} UDP flows, run {} of {runs}", run + 1), flows_seconds(flows))?;
            let values = [
                ("ns a decision", decision(8, flows, world)?),
                ("ns, bare select by hash", bare_select("bare_spread", 8, flows)?),
                ("ns, bare select by table", bare_select("bare_table", 8, flows)?),
            ];
            record.add("flow-growth", &format!("{flows} flows"), run, &values);
        }
    }
    Ok(())
}

pub(crate) fn flows_seconds(flows: usize) -> f64 {
    1.0 + flows as f64 / 100_000.0
}

/// ns for one decision among `workers`, over UDP with tracked flows, when datagrams come from `flows`
/// addresses by turns. With what the kernel's statistics cost themselves, about 56 ns.
fn decision(workers: u16, flows: usize, world: &World) -> Result<f64> {
    let listener = listener();
    let pins = world.bpffs().join("growth");
    let _ = std::fs::remove_dir_all(&pins);
    std::fs::create_dir(&pins)?;
    let mut group = PinnedGroup::load(&listener, &Policy::default(), &pins, None)?;
    let mut sockets = Vec::new();
    for slot in 0..workers {
        let socket = socket::open(&group, 4096, slot == 0, &Siblings::default())?;
        group.insert(slot, &socket)?;
        sockets.push(socket);
    }
    let members: Vec<Member> = (0..workers).map(|slot| Member::new(&name(slot), slot, 1)).collect();
    Buckets::default().publish(group.memory(), BucketTable::default().rebalance(&members), |_| true);
    measure(group.program_id(), &sockets, flows)
}

/// Nanoseconds per decision of a program that only selects one of the sockets.
fn bare_select(program: &str, workers: u16, flows: usize) -> Result<f64> {
    let group = Baseline::load(program, &listener(), workers)?;
    measure(group.program_id, &group.sockets, flows)
}

fn listener() -> Listener {
    Listener::new(Protocol::Udp, (Ipv4Addr::LOCALHOST, 6002).into())
}

/// ns of one run of a program.
fn measure(program: u32, sockets: &[Socket], flows: usize) -> Result<f64> {
    let _stats = switch_on()?;
    // What nobody reads is dropped; the decision is made before that.
    sockets.iter().try_for_each(|socket| socket.set_recv_buffer_size(0))?;
    let client = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let to = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 6002));
    let send = |flow: usize| {
        // Any address of 127/8 is the machine's own.
        let source = u32::to_be(0x7f01_0000 + flow as u32);
        let from = libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr { s_addr: source },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        let from = [ControlMessage::Ipv4PacketInfo(&from)];
        sendmsg(client.as_raw_fd(), &[IoSlice::new(b"x")], &from, MsgFlags::empty(), Some(&to))
    };
    for flow in 0..flows {
        send(flow).context("cannot send")?;
    }
    let mut rounds = Vec::new();
    for round in 0..31 {
        let before = RunTime::of(program)?;
        for at in 0..ROUND {
            // A step that is prime to all numbers of flows, so that each comes as often.
            send((round * ROUND + at) * 7_919 % flows).context("cannot send")?;
        }
        rounds.push(RunTime::of(program)?.since(before).nanos());
    }
    median(rounds).context("no rounds")
}

/// Connections per second of so many workers, ours and plain ones, by turns the first; and memory of the daemon.
fn serve(record: &mut Record, nth: usize, workers: u16, world: &World) -> Result<()> {
    let requests = record.either(10_000, 40_000);
    let mut of_daemon = Vec::new();
    let mut rates = [0.0; 2];
    let peers = [Peer::Ours, Peer::Plain];
    for turn in [nth % 2, (nth + 1) % 2] {
        let server = Server::start(peers[turn], workers.into(), world)?;
        let load = Load { to: server.to, requests, pace: Pace::Closed(64), keep: false, burn: None };
        // Each worker has had some before.
        run(load, || false)?.whole(requests)?;
        let daemon = server.daemon.as_ref().map(Daemon::pid);
        let used = || daemon.map_or(0.0, |daemon| process::cpu(&[daemon])[0]);
        let (begun, before) = (Instant::now(), used());
        let outcome = run(load, || false)?.whole(requests)?;
        rates[turn] = outcome.rate();
        if let Some(daemon) = daemon {
            let busy = 100.0 * (used() - before) / begun.elapsed().as_secs_f64();
            of_daemon.extend([("p99 ms", outcome.quantile(0.99)), ("daemon, % of a core", busy)]);
            of_daemon.extend(memory(daemon)?);
        }
    }
    let [ours, plain] = rates;
    let values = [
        ("connections/s", ours),
        ("connections/s, plain SO_REUSEPORT", plain),
        ("ours / plain", ours / plain),
    ];
    record.add("growth", &format!("{workers} workers"), nth, &[&values[..], &of_daemon].concat());
    Ok(())
}

/// Of a process, and of the maps in the kernel that it holds.
fn memory(pid: i32) -> Result<[(&'static str, f64); 2]> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let resident =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    let resident: f64 = resident.context("no VmRSS")?;
    let mut maps = 0.0;
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo"))?.flatten() {
        let about = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let bytes = about.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse::<f64>().ok());
        maps += bytes.unwrap_or(0.0);
    }
    Ok([("daemon MiB", resident / 1024.0), ("kernel maps MiB", maps / 1_048_576.0)])
}
