//! Where a client's next connection or datagram would go, and where each one went: `trace`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::mpsc;

use reuseport_lb_client::api::{Traced, TracedDecision};
use reuseport_lb_client::control::ControlClient;
use testkit::client::{Connection, timeout};
use testkit::config::Config;
use testkit::daemon::{Daemon, until};
use testkit::world::World;

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
