//! `cargo xtask bench decision`: nanoseconds per decision from the kernel's own statistics, beside
//! an empty program and a bare select in the same run.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::Result;
use bench::baseline::Baseline;
use bench::run_time::{RunTime, switch_on};
use reuseport_lb::config::{self, Affinity, KeyFunction, PayloadBytes, WhenBusy};
use reuseport_lb::domain::buckets::Buckets;
use reuseport_lb::domain::listener::{Listener, Protocol};
use reuseport_lb::domain::table::{BucketTable, Member};
use reuseport_lb::kernel::group::{PinnedGroup, Policy};
use reuseport_lb::kernel::owner::Siblings;
use reuseport_lb::kernel::socket;
use reuseport_lb_common::quic::Format;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use socket2::{Domain, Socket, Type};
use testkit::key_function::RETURNS_HASH;
use testkit::world::World;

const WORKERS: u16 = 8;
/// Times that all groups are made anew: where the kernel puts sockets and maps in memory is worth
/// several nanoseconds, and luck. The first argument says another number.
const SETTINGS: usize = 36;
/// Rounds in each setting, in which every program takes its turn.
const ROUNDS: usize = 12;
const DATAGRAMS: usize = 1_000;
const CONNECTIONS: usize = 100;
/// The one client port of the hot cases.
const CLIENT_PORT: u16 = 50_000;

/// How the load looks.
#[derive(Clone, Copy, PartialEq)]
enum Flows {
    /// One flow: table entry, counters and socket are in the caches.
    One,
    /// Another flow each time: another bucket and another socket, mostly not in the caches.
    Many,
}

/// What a program took: nanoseconds, in each round of each setting.
struct Samples {
    name: &'static str,
    settings: Vec<Vec<f64>>,
}

impl Samples {
    fn median(&self, setting: usize) -> f64 {
        quantile(&mut self.settings[setting].clone(), 2)
    }
}

/// A program in the group of some sockets.
struct Candidate {
    name: &'static str,
    program_id: u32,
    listener: Listener,
    sockets: Vec<Socket>,
    group: Option<PinnedGroup>,
    /// What is sent to it, by turns, if that is datagrams.
    datagrams: Vec<Vec<u8>>,
    _keep: Box<dyn std::any::Any>,
}

impl Candidate {
    /// Makes its workers look as if they wait for work. Nobody has to wake up for that: of an epoll object in
    /// another one it is not known who sleeps.
    fn watch(&mut self) -> Result<()> {
        let [inner, outer] = [(); 2].map(|()| epoll::create(CreateFlags::CLOEXEC));
        let (inner, outer) = (inner?, outer?);
        for socket in &self.sockets {
            epoll::add(&inner, socket, EventData::new_u64(0), EventFlags::IN)?;
        }
        epoll::add(&outer, &inner, EventData::new_u64(0), EventFlags::IN)?;
        self._keep = Box::new((inner, outer));
        Ok(())
    }

    /// Has connection ids of QUIC in short headers sent to it: of its workers, or of former ones.
    fn send_ids(&mut self, format: &Format, of_workers: bool) {
        let tag = |which: bool| 0x1234 + u64::from(which);
        if let Some(group) = &self.group {
            (0..WORKERS).for_each(|slot| group.set_tag(slot, tag(true)));
        }
        let datagram = |slot| {
            let id = format.id(slot, tag(of_workers)) as u32;
            [&[0x40, 0][..], &id.to_be_bytes(), &[7; 30]].concat()
        };
        self.datagrams = (0..WORKERS).map(datagram).collect();
    }

    /// Gives every bucket to another worker.
    fn start_moving(&mut self) {
        if let Some(group) = &self.group {
            let owners = group.owners();
            Buckets::default().publish(
                group.memory(),
                (0..=u16::MAX).zip(owners.iter().map(|slot| (slot + 1) % WORKERS)),
                |_| true,
            );
        }
    }
}

fn main() -> Result<()> {
    let settings: usize = std::env::args().nth(1).map_or(Ok(SETTINGS), |settings| settings.parse())?;
    let world = World::new();
    let _stats = switch_on()?;
    // The figures of each setting as they are, for the report of everything.
    let raw = std::env::args().nth(2).is_some_and(|it| it == "--csv");
    if !raw {
        println!(
            "ns per decision, from the kernel's run-time statistics; {WORKERS} workers, Linux {}",
            reuseport_lb::kernel::host::release()
        );
        println!("medians (quartiles) of {settings} settings of {ROUNDS} rounds, all programs by turns\n");
    }
    for (protocol, unit, flows) in [
        (Protocol::Udp, DATAGRAMS, Flows::One),
        (Protocol::Tcp, CONNECTIONS, Flows::One),
        (Protocol::Udp, DATAGRAMS, Flows::Many),
        (Protocol::Tcp, CONNECTIONS, Flows::Many),
    ] {
        let mut samples: Vec<Samples> = Vec::new();
        for setting in 0..settings {
            measure(protocol, unit, flows, setting, &world, &mut samples)?;
        }
        let load = if flows == Flows::One { "one flow, hot caches" } else { "many flows, cold caches" };
        let load = format!("{protocol}, {load}");
        if raw {
            print_raw(&load, &samples);
            continue;
        }
        println!(
            "{load:38} {:>20} {:>12} {:>8} {:>8} {:>8}",
            "measured", "less empty", "x bare", "x flow", "x LRU"
        );
        report(&samples);
    }
    Ok(())
}

fn measure(
    protocol: Protocol,
    unit: usize,
    flows: Flows,
    setting: usize,
    world: &World,
    samples: &mut Vec<Samples>,
) -> Result<()> {
    let bare =
        if flows == Flows::One { ("bare", "bare select") } else { ("bare_spread", "bare select, by hash") };
    let policy = Policy::default();
    let untracked = Policy { flows: config::Flows::None, ..policy.clone() };
    let flow = |name, port, policy: &Policy| ours(name, policy, protocol, port, world);
    let tracked = protocol == Protocol::Udp;
    let mut candidates = vec![
        baseline("empty", "empty program", protocol, 9001)?,
        baseline(bare.0, bare.1, protocol, 9002)?,
        flow("flow", 9003, &untracked)?,
        ours("source", &Policy { affinity: Affinity::Source, ..policy.clone() }, protocol, 9004, world)?,
    ];
    let program = Affinity::Program(KeyFunction { path: "hash.o".into(), code: RETURNS_HASH.into() });
    candidates.push(flow("program: the hash", 9013, &Policy { affinity: program, ..untracked.clone() })?);
    if !tracked {
        let policy = Policy { when_busy: WhenBusy::Next, ..policy.clone() };
        let mut candidate = ours("flow, when_busy next", &policy, protocol, 9005, world)?;
        candidate.watch()?;
        candidates.push(candidate);
        candidates.push(ours("the same, all are busy", &policy, protocol, 9006, world)?);
    }
    candidates.push(match flows {
        Flows::One => baseline("bare_address", "bare select, address read", protocol, 9009)?,
        Flows::Many => baseline("bare_table", "bare select, by table", protocol, 9009)?,
    });
    if tracked {
        candidates.push(flow("flow, tracked", 9005, &policy)?);
        if flows == Flows::One {
            let mut candidate = flow("tracked, moving, flow stays", 9006, &policy)?;
            send(&candidate, 1, Flows::One)?;
            candidate.start_moving();
            candidates.push(candidate);
        }
        let mut candidate = flow("tracked, moving, new flow", 9007, &policy)?;
        candidate.start_moving();
        candidates.push(candidate);
        let bytes = Affinity::Payload(PayloadBytes { offset: 8, length: 4 });
        let mut candidate = flow("payload", 9010, &Policy { affinity: bytes, ..untracked.clone() })?;
        candidate.datagrams = (0..WORKERS as u8).map(|session| vec![session; 40]).collect();
        candidates.push(candidate);
        let format = Format { word: [1, 2], ..Format::NONE };
        for (name, port, of_workers) in [("quic, routed", 9011, true), ("quic, id of nobody", 9012, false)] {
            let mut candidate = flow(name, port, &Policy { quic: Some(format), ..policy.clone() })?;
            candidate.send_ids(&format, of_workers);
            candidates.push(candidate);
        }
        candidates.push(baseline("lru_table", "LRU connection table", protocol, 9008)?);
    }
    for (at, candidate) in candidates.iter().enumerate() {
        if setting == 0 {
            samples.push(Samples { name: candidate.name, settings: Vec::new() });
        }
        samples[at].settings.push(Vec::new());
    }
    for round in 0..=ROUNDS {
        for turn in 0..candidates.len() {
            let at = (turn + setting + round) % candidates.len();
            let candidate = &mut candidates[at];
            let before = RunTime::of(candidate.program_id)?;
            match protocol {
                Protocol::Udp => send(candidate, unit, flows)?,
                Protocol::Tcp => connect(candidate, unit, flows)?,
            }
            let ran = RunTime::of(candidate.program_id)?.since(before);
            anyhow::ensure!(ran.runs >= unit as u64, "{} ran {} times of {unit}", candidate.name, ran.runs);
            // The first round warms the caches.
            if round > 0 {
                samples[at].settings[setting].push(ran.nanos());
            }
        }
    }
    Ok(())
}

/// Of a program in one setting: nanoseconds less the empty program's, and that as a multiple of a bare
/// select's, of `flow`'s and of a connection table's.
fn figures(of: &Samples, samples: &[Samples], setting: usize) -> [Option<f64>; 4] {
    let net = |of: &Samples| of.median(setting) - samples[0].median(setting);
    let [bare, flow, lru] = [samples[1].name, "flow", "LRU connection table"].map(|name| {
        let base = samples.iter().find(|candidate| candidate.name == name)?;
        Some(net(of) / net(base))
    });
    [Some(net(of)), bare, flow, lru]
}

/// Prints a line for each program. A ratio is the median of the settings' own ratios (of medians, less
/// the empty program's), so that a host that is slower for a while does not count against anybody.
fn report(samples: &[Samples]) {
    for candidate in samples {
        let mut all: Vec<f64> = candidate.settings.concat();
        let [first, middle, third] = [1, 2, 3].map(|part| quantile(&mut all, part));
        let measured = format!("{middle:.1} ({first:.1}-{third:.1})");
        let settings: Vec<_> =
            (0..candidate.settings.len()).map(|setting| figures(candidate, samples, setting)).collect();
        let median = |which: usize| {
            let mut values: Vec<f64> = settings.iter().filter_map(|figures| figures[which]).collect();
            (!values.is_empty()).then(|| quantile(&mut values, 2))
        };
        let own = median(0).unwrap_or_default();
        let [bare, flow, lru] =
            [1, 2, 3].map(|which| median(which).map_or("-".into(), |ratio| format!("{ratio:.2}")));
        println!("  {:36} {measured:>20} {own:12.1} {bare:>8} {flow:>8} {lru:>8}", candidate.name);
    }
    println!();
}

/// Prints a line for each program but the empty one, setting and figure.
fn print_raw(load: &str, samples: &[Samples]) {
    for candidate in &samples[1..] {
        for setting in 0..candidate.settings.len() {
            let metrics = ["ns less empty", "x bare", "x flow", "x LRU table"];
            for (metric, value) in metrics.iter().zip(figures(candidate, samples, setting)) {
                if let Some(value) = value {
                    println!("{load}: {};{setting};{metric};{value}", candidate.name);
                }
            }
        }
    }
}

/// The value below which `quarters` quarters of `values` lie.
fn quantile(values: &mut [f64], quarters: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() * quarters / 4]
}

fn ours(
    name: &'static str,
    policy: &Policy,
    protocol: Protocol,
    port: u16,
    world: &World,
) -> Result<Candidate> {
    let listener = Listener::new(protocol, (Ipv4Addr::LOCALHOST, port).into());
    let pins = world.bpffs().join(format!("{protocol}{port}"));
    let _ = std::fs::remove_dir_all(&pins);
    std::fs::create_dir(&pins)?;
    let mut group = PinnedGroup::load(&listener, policy, &pins, None)?;
    let mut sockets = Vec::new();
    for slot in 0..WORKERS {
        let socket = socket::open(&group, 4096, slot == 0, &Siblings::default())?;
        group.insert(slot, &socket)?;
        sockets.push(socket);
    }
    let members: Vec<Member> =
        (0..WORKERS).map(|slot| Member::new(&format!("bench/{slot}"), slot, 1)).collect();
    Buckets::default().publish(group.memory(), BucketTable::default().rebalance(&members), |_| true);
    let program_id = group.program_id();
    let (datagrams, group) = (vec![b"x".into()], Some(group));
    Ok(Candidate { name, program_id, listener, sockets, group, datagrams, _keep: Box::new(()) })
}

fn baseline(program: &str, name: &'static str, protocol: Protocol, port: u16) -> Result<Candidate> {
    let listener = Listener::new(protocol, (Ipv4Addr::LOCALHOST, port).into());
    let Baseline { program_id, sockets, keep } = Baseline::load(program, &listener, WORKERS)?;
    let datagrams = vec![b"x".into()];
    Ok(Candidate { name, program_id, listener, sockets, group: None, datagrams, _keep: Box::new(keep) })
}

fn send(candidate: &Candidate, datagrams: usize, flows: Flows) -> Result<()> {
    let mut client = UdpSocket::bind((Ipv4Addr::LOCALHOST, CLIENT_PORT))?;
    for at in 0..datagrams {
        if flows == Flows::Many && at % 4 == 0 {
            client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        }
        client.send_to(&candidate.datagrams[at % candidate.datagrams.len()], candidate.listener.address)?;
    }
    Ok(())
}

fn connect(candidate: &Candidate, connections: usize, flows: Flows) -> Result<()> {
    for socket in &candidate.sockets {
        socket.set_nonblocking(true)?;
    }
    let mut last = 0;
    for _ in 0..connections {
        let client = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        // Closing resets: no port stays in TIME_WAIT.
        client.set_linger(Some(Duration::ZERO))?;
        if flows == Flows::One {
            client.set_reuse_address(true)?;
            client.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, CLIENT_PORT)).into())?;
        }
        client.connect(&candidate.listener.address.into())?;
        drop(client);
        // The one that had the last connection has this one, too, if they are of one flow.
        for turn in 0..candidate.sockets.len() {
            let at = (last + turn) % candidate.sockets.len();
            match candidate.sockets[at].accept() {
                Ok(_) => {
                    last = at;
                    break;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}
