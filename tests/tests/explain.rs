//! Where a client's next connection or datagram would go, and where each one went: `trace`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::mpsc;

use nix::sys::signal::Signal;
use reuseport_lb::domain::listener::{Listener, Protocol};
use reuseport_lb::kernel::group::{PinnedGroup, Policy};
use reuseport_lb::kernel::owner::Siblings;
use reuseport_lb::kernel::socket;
use reuseport_lb_client::api::{ClientAddress, Explanation, Traced, TracedDecision};
use reuseport_lb_client::control::ControlClient;
use testkit::client::{Connection, ask_from, ask_udp, timeout};
use testkit::config::Config;
use testkit::daemon::{Daemon, settled, signal, until};
use testkit::fault::Dice;
use testkit::patience::fewer;
use testkit::said::{assert_said, said};
use testkit::world::{World, run};

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// The decisions of a service from now on; a connection to `probe` begins.
fn traced(daemon: &Daemon, probe: SocketAddr) -> mpsc::Receiver<TracedDecision> {
    let control = ControlClient::new(daemon.paths().control());
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        for line in control.trace("web").unwrap().map_while(Result::ok) {
            let Traced::Decision(decision) = line.value else { panic!("too slow: {}", line.text) };
            let _ = send.send(decision);
        }
    });
    until("the trace to begin", || {
        Connection::open(probe, None).unwrap().reset();
        receive.try_recv().ok()
    });
    receive
}

// vm: short
#[test]
fn a_trace_says_who_came_and_who_was_handed_over() {
    let world = World::new();
    // The worker accepts nobody, so who comes waits until it leaves.
    let config = Config::service("web").workers(2).set("stall_timeout", "off").set("overload", "off");
    let config = config.set("ready", "immediate").set("drain_timeout", "100ms");
    let config = config.listen("tcp://127.0.0.1:3000").listen("tcp://[::1]:3000");
    let daemon = Daemon::with(&world, &config.server(&world, "--answer never"));
    let to = [address("127.0.0.1:3000"), address("[::1]:3000")];
    let trace = traced(&daemon, to[0]);
    let clients: Vec<Connection> = (0..40).map(|n| Connection::open(to[n % 2], None).unwrap()).collect();
    let mut came: BTreeMap<String, TracedDecision> = BTreeMap::new();
    let next = || trace.recv_timeout(timeout()).expect("one more decision");
    while clients.iter().any(|client| !came.contains_key(&client.local().to_string())) {
        let decision = next();
        assert_eq!(decision.arrival, "arrival_packet", "{decision:?}");
        came.insert(decision.client.clone().unwrap(), decision);
    }
    let mut waits = clients.iter().map(|client| client.local().to_string()).collect::<Vec<_>>();
    waits.retain(|client| came[client].worker.as_deref() == Some("web/1"));
    assert!(
        waits.iter().any(|it| it.starts_with("127.0.0.1:"))
            && waits.iter().any(|it| it.starts_with("[::1]:"))
    );
    daemon.run(&["drain", "web/1"]);
    while !waits.is_empty() {
        let decision = next();
        let client = decision.client.clone().unwrap();
        if decision.arrival == "arrival_migration"
            && clients.iter().any(|it| it.local().to_string() == client)
        {
            assert_eq!((decision.key, &decision.listen), (came[&client].key, &came[&client].listen));
            assert_eq!(decision.worker.as_deref(), Some("web/0"), "{decision:?}");
            waits.retain(|it| *it != client);
        }
    }
    daemon.stop();
}

/// A network that is routed here, for clients over IPv6.
const V6: &str = "fd00:1b:1b:1b::";

/// A client by chance.
fn somebody(dice: &mut Dice, v6: bool) -> IpAddr {
    let bytes: [u8; 3] = [(); 3].map(|()| dice.roll(250) as u8 + 1);
    if !v6 {
        return [127, bytes[0], bytes[1], bytes[2]].into();
    }
    let mut address = V6.parse::<Ipv6Addr>().unwrap().octets();
    address[13..].copy_from_slice(&bytes);
    address.into()
}

/// A service with both protocols over both families, and a listener of each.
struct Asked {
    daemon: Daemon,
    control: ControlClient,
    dice: Dice,
    /// Clients that came before.
    known: Vec<IpAddr>,
}

impl Asked {
    /// Where a client would go, to this listener alone.
    fn explained(&self, client: IpAddr, listen: &str) -> Explanation {
        let client = ClientAddress { address: client, port: Some(40_000) };
        let mut explained = self.control.explain("web", client, Some(listen)).unwrap();
        assert_eq!((explained.listeners.len(), &*explained.client), (1, &*client.to_string()));
        let explanation = explained.listeners.remove(0);
        assert_eq!(explanation.listen, listen);
        explanation
    }

    /// A client that came before, or another one.
    fn client(&mut self, v6: bool) -> IpAddr {
        if self.dice.roll(2) == 0 {
            let known: Vec<IpAddr> = self.known.iter().copied().filter(|it| it.is_ipv6() == v6).collect();
            if !known.is_empty() {
                return known[self.dice.roll(known.len())];
            }
        }
        let client = somebody(&mut self.dice, v6);
        self.known.push(client);
        client
    }

    /// Asks where clients would go, and lets them come: who answers is who was foretold, unless that is one of `silent`;
    /// and each decision is in all what was foretold. Returns what became of the buckets' workers.
    fn agrees(&mut self, silent: &[&str]) -> BTreeSet<String> {
        let ways = [("tcp", false), ("udp", false), ("tcp", true), ("udp", true)];
        let to = |v6| address(if v6 { "[::1]:3000" } else { "127.0.0.1:3000" });
        for n in 0..fewer(400) {
            let (protocol, v6) = ways[n % 4];
            let client = self.client(v6);
            let foretold = self.explained(client, &format!("{protocol}://{}", to(v6)));
            let goes_to = foretold.goes_to.clone().unwrap();
            let worker = goes_to.worker.unwrap();
            if !silent.contains(&&*worker) {
                let ask = if protocol == "tcp" { ask_from } else { ask_udp };
                assert_eq!(ask(to(v6), Some(client)).unwrap().worker, worker, "{client}: {foretold:?}");
            }
        }
        let trace = traced(&self.daemon, to(false));
        let mut became = BTreeSet::new();
        for n in 0..fewer(1000) {
            let (protocol, v6) = ways[n % 4];
            let client = self.client(v6);
            let foretold = self.explained(client, &format!("{protocol}://{}", to(v6)));
            let from = if protocol == "tcp" {
                let connection = Connection::open(to(v6), Some(client)).unwrap();
                let from = connection.local();
                connection.reset();
                from
            } else {
                let socket = UdpSocket::bind((client, 0)).unwrap();
                socket.send_to(b"?", to(v6)).unwrap();
                socket.local_addr().unwrap()
            };
            let seen = loop {
                let decision = trace.recv_timeout(timeout()).expect("one more decision");
                let is_it = decision.client == Some(from.to_string()) && decision.arrival == "arrival_packet";
                if is_it && decision.listen == foretold.listen {
                    break decision;
                }
            };
            let goes_to = foretold.goes_to.clone();
            assert_eq!((Some(seen.key), Some(seen.bucket)), (foretold.key, foretold.bucket), "{foretold:?}");
            assert_eq!(
                (seen.slot, seen.worker),
                goes_to.map(|it| (it.slot, it.worker.unwrap())).unzip(),
                "{foretold:?}"
            );
            assert_eq!(
                (Some(&seen.owner), &seen.detour),
                (foretold.owner.as_ref(), &foretold.detour),
                "{foretold:?}"
            );
            assert_eq!(foretold.flow.is_some(), protocol == "udp", "{foretold:?}");
            if protocol == "udp" {
                let after = self.explained(client, &foretold.listen);
                assert_eq!(after.flow.as_deref(), Some("live"), "{after:?}");
            }
            became.insert(seen.owner);
        }
        became
    }
}

#[test]
fn where_clients_would_go_is_where_they_go() {
    let world = World::new();
    run("ip", &["-6", "route", "replace", "local", &format!("{V6}/64"), "dev", "lo"]);
    std::fs::write("/proc/sys/net/ipv6/ip_nonlocal_bind", "1").unwrap();
    let (hold, gate) = (world.path("hold"), world.path("gate"));
    let config = ["tcp://127.0.0.1:3000", "udp://127.0.0.1:3000", "tcp://[::1]:3000", "udp://[::1]:3000"]
        .into_iter()
        .fold(Config::service("web").workers(4), Config::listen);
    let config = config.set("affinity", "source").set("overload", "off").set("stall_timeout", "200ms");
    let config = config.set("ready", "notify").set("hold_timeout", "60s").set("drain_timeout", "60s");
    let flags = format!("--ready notify --if-file {} --gate {}", hold.display(), gate.display());
    let daemon = Daemon::with(&world, &config.server(&world, &flags));
    let control = ControlClient::new(daemon.paths().control());
    let mut asked = Asked { daemon, control, dice: Dice::new(), known: Vec::new() };
    let is = |asked: &Asked, worker: &str, state: &str| {
        let service = asked.daemon.service();
        service.workers.iter().any(|it| it.name == worker && it.state == state).then_some(())
    };
    assert_eq!(asked.agrees(&[]), BTreeSet::from(["owner_taken".into()]), "all are ready");

    // One neither accepts nor reads: its connections go elsewhere, and so do new flows; live ones stay.
    let stopped = asked.daemon.workers()[1];
    signal(stopped, Signal::SIGSTOP);
    let stalls = [
        "accept on tcp://127.0.0.1",
        "accept on tcp://[::1]",
        "read from udp://127.0.0.1",
        "read from udp://[::1]",
    ];
    until("web/1 to be stalled on all listeners", || {
        for to in ["127.0.0.1:3000", "[::1]:3000"].map(address) {
            drop(Connection::open(to, Some(somebody(&mut asked.dice, to.is_ipv6()))));
            let socket = UdpSocket::bind((somebody(&mut asked.dice, to.is_ipv6()), 0)).unwrap();
            socket.send_to(b"?", to).unwrap();
        }
        let log = asked.daemon.log();
        stalls.iter().all(|it| log.contains(&format!("it does not {it}:3000: others get"))).then_some(())
    });
    is(&asked, "web/1", "stalled").unwrap();
    let became = asked.agrees(&["web/1"]);
    let wanted = ["owner_ejected", "owner_kept", "owner_taken"].map(String::from);
    assert_eq!(became, BTreeSet::from(wanted), "one is stalled");
    signal(stopped, Signal::SIGCONT);
    until("web/1 to be ready", || is(&asked, "web/1", "ready"));
    until("the listeners to have the same buckets again", || {
        let log = asked.daemon.log();
        (log.matches("stall on udp://").count() == 2).then_some(())
    });

    // One ended, and its successor is not ready: who comes waits for it.
    std::fs::write(&hold, "").unwrap();
    signal(asked.daemon.workers()[2], Signal::SIGKILL);
    until("web/2 to be held", || is(&asked, "web/2", "held").or(is(&asked, "web/2", "starting")));
    let became = asked.agrees(&["web/2"]);
    assert!(became.contains("owner_taken"), "{became:?}");
    std::fs::write(&gate, "").unwrap();
    until("all to be ready", || Some(asked.daemon.service()).filter(settled));

    // One leaves: live flows stay with it.
    let mut leaving = asked.daemon.paths().command(&["drain", "web/3"]).spawn().unwrap();
    until("web/3 to leave", || is(&asked, "web/3", "draining"));
    let became = asked.agrees(&[]);
    assert_eq!(became, BTreeSet::from(["owner_kept".into(), "owner_taken".into()]), "one is draining");
    let kept = asked.known.iter().find_map(|client| {
        let to = if client.is_ipv6() { "udp://[::1]:3000" } else { "udp://127.0.0.1:3000" };
        Some(asked.explained(*client, to)).filter(|it| it.owner.as_deref() == Some("owner_kept"))
    });
    let kept = kept.expect("a flow that stays");
    assert_eq!(kept.previous, kept.goes_to, "{kept:?}");
    assert_ne!(kept.bucket_of, kept.goes_to, "{kept:?}");
    leaving.kill().unwrap();
    leaving.wait().unwrap();
    drop(asked.daemon);
}

#[test]
fn the_hash_of_the_kernel_cannot_be_known() {
    let world = World::new();
    let config = Config::web().listen("udp://127.0.0.1:3000").workers(3);
    let daemon = Daemon::with(&world, &config.set("stall_timeout", "off"));
    daemon.run(&["weight", "web/2", "2"]);
    let json = |line: &[&str]| -> serde_json::Value { serde_json::from_str(&daemon.run(line)).unwrap() };
    let answer = json(&["trace", "web", "--explain", "192.0.2.7:40000", "--json"]);
    assert_eq!((&answer["client"], &answer["affinity"]), (&"192.0.2.7:40000".into(), &"flow".into()));
    for listener in answer["listeners"].as_array().unwrap() {
        for unknown in ["key", "bucket", "bucket_of", "owner", "detour", "goes_to", "flow"] {
            assert!(listener[unknown].is_null(), "{unknown}: {listener}");
        }
        assert!(listener["note"].as_str().unwrap().contains("a secret of this boot"), "{listener}");
        let chances = listener["chances"].as_array().unwrap();
        let shares: BTreeMap<&str, f64> = chances
            .iter()
            .map(|it| (it["goes_to"]["worker"].as_str().unwrap(), it["share"].as_f64().unwrap()))
            .collect();
        assert_eq!(shares, BTreeMap::from([("web/0", 0.25), ("web/1", 0.25), ("web/2", 0.5)]));
    }
    let output = daemon.paths().output(&["trace", "web", "--explain", "192.0.2.7"]);
    let says = [
        "tcp://127.0.0.1:3000 from 192.0.2.7 → one of these",
        " 25.00%  web/0 (ready)\n",
        " 50.00%  web/2 (ready)\n",
    ];
    assert_said(&output, 0, &says);
    assert_said(
        &output,
        0,
        &["udp://127.0.0.1:3000", "nobody can know the bucket", "`reuseport-lb trace web` shows"],
    );
    daemon.stop();
}

#[test]
fn what_cannot_be_asked_is_said() {
    let world = World::new();
    let config = Config::web().set("affinity", "source").listen("tcp://127.0.0.1:3001").workers(2);
    let daemon = Daemon::with(&world, &config);
    for (line, code, says) in [
        (
            &["web", "--explain", "nonsense"][..],
            2,
            &["\"nonsense\" is no address", "names are not looked up"][..],
        ),
        (&["web", "--explain", "localhost:80"], 2, &["\"localhost:80\" is no address of a client"]),
        (&["web", "--explain", "192.0.2.7:x"], 2, &["write it like 192.0.2.7, 192.0.2.7:40000 or"]),
        (&["web", "--explain", "::1", "--listen", "3000"], 2, &["\"3000\" is not a listener"]),
        (&["web", "--listen", "tcp://127.0.0.1:3000"], 2, &["--explain"]),
        (&["web", "--explain", "::1", "--count", "1"], 2, &["--count"]),
        (&["web/0", "--explain", "127.0.0.1"], 2, &["write `trace web`"]),
        (&["api", "--explain", "127.0.0.1"], 1, &["no service \"api\""]),
        (
            &["web", "--explain", "[::1]:7"],
            1,
            &["::1 cannot come to tcp://127.0.0.1:3000, tcp://127.0.0.1:3001", "IPv6"],
        ),
        (
            &["web", "--explain", "127.0.0.1", "--listen", "udp://127.0.0.1:3000"],
            1,
            &[
                "does not listen on udp://127.0.0.1:3000; it listens on tcp://127.0.0.1:3000, tcp://127.0.0.1:3001",
            ],
        ),
    ] {
        let line: Vec<&str> = ["trace"].iter().chain(line).copied().collect();
        assert_said(&daemon.paths().output(&line), code, says);
    }
    let answers = |line: &[&str]| said(&daemon.paths().output(line)).matches(" has the bucket").count();
    assert_eq!(answers(&["trace", "web", "--explain", "127.0.0.1"]), 2, "each listener");
    assert_eq!(
        answers(&["trace", "web", "--explain", "::ffff:127.0.0.1", "--listen", "tcp://127.0.0.1:3001"]),
        1
    );
    daemon.stop();
}

#[test]
fn a_slot_says_whether_it_is_empty() {
    let world = World::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let listener = Listener::new(protocol, address("127.0.0.1:4000"));
        let pins = world.bpffs().join(protocol.name());
        std::fs::create_dir(&pins).unwrap();
        let mut group = PinnedGroup::load(&listener, &Policy::default(), &pins, None).unwrap();
        let [first, second] =
            [true, false].map(|first| socket::open(&group, 16, first, &Siblings::default()).unwrap());
        group.insert(3, &first).unwrap();
        group.insert(7, &second).unwrap();
        let occupied = |group: &mut PinnedGroup| group.occupied(0..10).unwrap();
        assert_eq!(occupied(&mut group), [3, 7], "{protocol}");
        // The kernel empties a slot whose socket is closed.
        drop(second);
        assert_eq!(occupied(&mut group), [3], "{protocol}");
        assert!(!group.insert_if_free(3, &first).unwrap(), "it is there as before");
        group.remove(3).unwrap();
        assert_eq!(occupied(&mut group), [0u16; 0], "{protocol}");
    }
}
