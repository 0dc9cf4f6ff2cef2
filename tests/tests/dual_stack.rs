//! `*`: one socket for both families.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::mpsc;

use reuseport_lb_client::api::{Traced, TracedDecision};
use reuseport_lb_client::control::ControlClient;
use reuseport_lb_common::steer::{source_v4, source_v6};
use socket2::{Domain, Socket, Type};
use testkit::client::{Connection, ask, ask_from, ask_udp, timeout};
use testkit::config::Config;
use testkit::counters::Counters;
use testkit::daemon::{Daemon, Paths, settled, until};
use testkit::patience::fewer;
use testkit::said::assert_said;
use testkit::server::words;
use testkit::world::{World, run};

const BOTH: [&str; 2] = ["127.0.0.1:3000", "[::1]:3000"];

fn both() -> [SocketAddr; 2] {
    BOTH.map(|address| address.parse().unwrap())
}

fn v4(n: u32) -> IpAddr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 1)) + n * 7).into()
}

fn v6(n: u32) -> IpAddr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1 + n as u16).into()
}

fn key(client: IpAddr) -> u32 {
    match client {
        IpAddr::V4(v4) => source_v4(v4.octets()),
        IpAddr::V6(v6) => source_v6(v6.octets()),
    }
}

/// The client of a decision.
fn came_from(decision: &TracedDecision) -> SocketAddr {
    decision.client.as_ref().expect("the kernel tells who came").parse().unwrap()
}

/// The decisions of a daemon's service `web`.
struct Trace(mpsc::Receiver<TracedDecision>);

impl Trace {
    /// Begins; a connection from `probe` may be among the first decisions.
    fn begin(daemon: &Daemon, probe: IpAddr) -> Self {
        let control = daemon.paths().control();
        let (send, receive) = mpsc::channel();
        std::thread::spawn(move || {
            for line in ControlClient::new(control).trace("web").unwrap().map_while(Result::ok) {
                let Traced::Decision(decision) = line.value else { panic!("too slow: {}", line.text) };
                let _ = send.send(decision);
            }
        });
        until("the trace to begin", || {
            Connection::open(both()[0], Some(probe)).unwrap().reset();
            receive.try_recv().ok()
        });
        Self(receive)
    }

    fn next(&self) -> TracedDecision {
        self.0.recv_timeout(timeout()).expect("one more decision")
    }
}

// vm: short
#[test]
fn a_client_keeps_its_worker_whichever_listener_family_and_protocol_it_comes_by() {
    let world = World::new();
    let count = fewer(60) as u32;
    for n in 0..count {
        run("ip", &["-6", "address", "add", &format!("{}/128", v6(n)), "dev", "lo", "nodad"]);
    }
    let config = Config::service("web").workers(4).set("affinity", "source");
    let config = config.listen("tcp://*:3000").listen("udp://*:3000").listen("tcp://127.0.0.1:3001");
    let daemon = Daemon::with(&world, &config.listen("tcp://[::1]:3001"));
    let probe = v4(count);
    let trace = Trace::begin(&daemon, probe);
    let begun = daemon.service();

    let [to_v4, to_v6] = both();
    let mut met: BTreeMap<u32, (IpAddr, BTreeSet<String>)> = BTreeMap::new();
    for client in (0..count).flat_map(|n| [v4(n), v6(n)]) {
        let to = if client.is_ipv4() { to_v4 } else { to_v6 };
        let (_, workers) = met.entry(key(client)).or_insert((client, BTreeSet::new()));
        for answer in [
            ask_from(to, Some(client)).unwrap(),
            ask_udp(to, Some(client)).unwrap(),
            ask_from(SocketAddr::new(to.ip(), 3001), Some(client)).unwrap(),
        ] {
            assert_eq!(answer.peer.ip(), client, "as the worker sees it");
            workers.insert(answer.worker);
        }
    }
    for (key, (client, workers)) in &met {
        assert_eq!(workers.len(), 1, "{client} with key {key:08x} met {workers:?}");
    }
    let all: BTreeSet<&String> = met.values().flat_map(|(_, workers)| workers).collect();
    assert_eq!(all.len(), 4, "all workers are used");
    let asked = u64::from(count) * 2 * 3;
    let mut by_listener: BTreeMap<String, u64> = BTreeMap::new();
    for _ in 0..asked {
        let decision = loop {
            match trace.next() {
                probed if probed.key == key(probe) => continue,
                decision => break decision,
            }
        };
        let (client, workers) = &met[&decision.key];
        assert_eq!(workers.first(), decision.worker.as_ref(), "{client}: {decision:?}");
        assert_eq!(came_from(&decision).ip(), *client, "{decision:?}");
        *by_listener.entry(decision.listen).or_default() += 1;
    }
    assert_eq!((by_listener["tcp://*:3000"], by_listener["udp://*:3000"]), (asked / 3, asked / 3));
    let after = daemon.service();
    assert_eq!(Counters::difference(&begun, &after), Counters::all_taken(asked), "no hash in place of a key");
    let listen: Vec<&str> = after.groups.iter().map(|group| &*group.listen).collect();
    assert_eq!(listen, ["tcp://*:3000", "udp://*:3000", "tcp://127.0.0.1:3001", "tcp://[::1]:3001"]);
    daemon.stop();
}

#[test]
fn an_ipv4_client_that_waits_is_handed_over_by_its_ipv4_key() {
    let world = World::new();
    let config = Config::service("web").listen("tcp://*:3000").workers(4).set("affinity", "source");
    // They accept nobody, so who comes waits until the worker leaves.
    let config = config.set("stall_timeout", "off").set("ready", "immediate").set("drain_timeout", "200ms");
    let daemon = Daemon::with(&world, &config.set("overload", "off").server(&world, "--answer never"));
    let trace = Trace::begin(&daemon, v4(0));
    let clients: Vec<Connection> =
        (1..=40).map(|n| Connection::open(both()[0], Some(v4(n))).unwrap()).collect();
    let known: BTreeMap<u32, SocketAddr> =
        clients.iter().map(|client| (key(client.local().ip()), client.local())).collect();
    let mut waits: BTreeSet<u32> = BTreeSet::new();
    for _ in 0..clients.len() {
        let decision = trace.next();
        assert!(known.contains_key(&decision.key) || decision.key == key(v4(0)), "{decision:?}");
        if decision.worker.as_deref() == Some("web/3") {
            waits.insert(decision.key);
        }
    }
    assert!(!waits.is_empty());
    daemon.run(&["drain", "web/3"]);
    while !waits.is_empty() {
        let decision = trace.next();
        assert_ne!(decision.worker.as_deref(), Some("web/3"), "{decision:?}");
        if decision.arrival == "arrival_migration" && decision.key != key(v4(0)) {
            assert!(waits.remove(&decision.key), "{decision:?} of {waits:x?}");
            assert_eq!(came_from(&decision), known[&decision.key], "{decision:?}");
        }
    }
    drop(clients);
    daemon.stop();
}

#[test]
fn a_daemon_and_its_successor_serve_both_and_a_stranger_takes_what_is_more_specific() {
    let world = World::new();
    let config = Config::service("web").listen("tcp://*:3000").listen("udp://*:3000").workers(2);
    let daemon = Daemon::with(&world, &config);
    let serves = |daemon: &Daemon| {
        for to in both() {
            assert!(ask(to).unwrap().worker.starts_with("web/"));
            assert!(ask_udp(to, None).unwrap().worker.starts_with("web/"));
        }
        let groups = daemon.service().groups;
        assert!(groups.iter().all(|group| group.strangers == Some(0)), "{groups:?}");
    };
    serves(&daemon);
    let before = daemon.workers();
    daemon.kill();
    let daemon = Daemon::with(&world, &config);
    assert_eq!(daemon.workers(), before, "they were taken over");
    serves(&daemon);

    // Only IPv4 sockets are before a dual-stack one, and are counted.
    let stranger = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    stranger.set_reuse_port(true).unwrap();
    stranger.bind(&"0.0.0.0:3000".parse::<SocketAddr>().unwrap().into()).unwrap();
    stranger.listen(16).unwrap();
    assert_eq!(daemon.service().groups[0].strangers, Some(1));
    assert!(ask(both()[1]).is_ok(), "IPv6 is the service's");
    let _client = std::net::TcpStream::connect(both()[0]).unwrap();
    stranger.accept().unwrap();
    let file = world.path("config.toml");
    let output = daemon.paths().output(&["doctor", "--config", &file.to_string_lossy()]);
    let says = ["tcp://*:3000", "1 sockets of others are on some of its addresses", "tcp over IPv4 and IPv6"];
    assert_said(&output, 0, &says);
    daemon.stop();
}

#[test]
fn who_has_the_ipv4_addresses_is_said_and_gets_what_is_sent_there() {
    let world = World::new();
    let service = |name: &str, to: &str| Config::service(name).listen(to).workers(1);
    let config = service("all", "tcp://*:3000").and(service("v4", "tcp://0.0.0.0:3000"));
    let file = config.write(&world);
    let says = "tcp://0.0.0.0:3000 of service v4 is the IPv4 part of tcp://*:3000 of service all: what is sent to IPv4 \
                addresses goes to v4, and only the rest to all";
    assert_said(&Paths::of(&world).output(&["check", &file.to_string_lossy()]), 0, &["warning: ", says]);
    let daemon = Daemon::with(&world, &config);
    daemon.says(says);
    assert_eq!(both().map(|to| ask(to).unwrap().worker), ["v4/0", "all/0"]);
    daemon.stop();
    // In one service it makes no difference who it is.
    let daemon = Daemon::start(&world, &["--listen", "tcp://*:3000", "--listen", "tcp://0.0.0.0:3000"]);
    both().iter().for_each(|to| drop(ask(*to).unwrap()));
    daemon.stop();
}

#[test]
fn from_two_sockets_to_one_and_back_both_families_are_served() {
    let world = World::new();
    let web = || Config::service("web").workers(3);
    let two = web().listen("tcp://0.0.0.0:3000").listen("tcp://[::]:3000");
    let one = web().listen("tcp://*:3000");
    let daemon = Daemon::with(&world, &two);
    let mut kept = both().map(|to| Connection::open(to, None).unwrap());
    kept.iter_mut().for_each(|it| drop(it.ask().unwrap()));
    for (config, listen) in [
        (&one, &["tcp://*:3000"][..]),
        (&two, &["tcp://0.0.0.0:3000", "tcp://[::]:3000"]),
        (&one, &["tcp://*:3000"]),
    ] {
        let before = daemon.workers();
        config.write(&world);
        let said = daemon.run(&["reload"]);
        let added = listen.iter().map(|it| format!("{it} added")).collect::<Vec<_>>().join(", ");
        assert!(said.contains(&format!("web: {added}, 3 workers replaced")), "{said}");
        let service = daemon.service();
        assert_eq!(service.groups.iter().map(|group| &*group.listen).collect::<Vec<_>>(), listen);
        assert!(daemon.workers().iter().all(|pid| !before.contains(pid)));
        for to in both() {
            (0..30).for_each(|_| drop(ask(to).unwrap()));
        }
        assert_eq!(Counters::of(&daemon.service()), Counters::all_taken(60), "no other sockets are left");
    }
    daemon.stop();
}

#[test]
fn a_process_joins_it() {
    let world = World::new();
    let config = Config::service("web").listen("tcp://*:3000").listen("udp://*:3000").set("user", "nobody");
    let daemon = Daemon::with(&world, &config);
    let server = words(&world, "--answer found");
    let arguments: Vec<&str> =
        ["exec", "web", "--"].into_iter().chain(server.iter().map(String::as_str)).collect();
    let mut joined = daemon.paths().command(&arguments).spawn().unwrap();
    until("it to be ready", || Some(daemon.service()).filter(|it| it.workers.len() == 1 && settled(it)));
    for to in both() {
        use std::io::Read;
        let mut said = String::new();
        std::net::TcpStream::connect(to).unwrap().read_to_string(&mut said).unwrap();
        assert!(said.contains("names=tcp-*-3000 udp-*-3000\nkinds=SOCK_STREAM SOCK_DGRAM\n"), "{said}");
    }
    joined.kill().unwrap();
    joined.wait().unwrap();
    daemon.stop();
}
