//! Who gets what: shares, weights, counters.

use std::net::SocketAddr;

use testkit::client::{ask, ask_udp, tally};
use testkit::counters::Counters;
use testkit::daemon::{Daemon, selected};
use testkit::patience::fewer;
use testkit::statistics::assert_fair;
use testkit::world::World;

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

#[test]
fn the_embedded_default_answers_on_all_four_listeners() {
    let world = World::new();
    let daemon = Daemon::start(&world, &[]);
    for to in ["127.0.0.1:8080", "[::1]:8080"].map(address) {
        for answer in [ask(to).unwrap(), ask_udp(to, None).unwrap()] {
            assert!(answer.worker.starts_with("demo/"), "{answer:?}");
            assert!(daemon.workers().contains(&answer.pid), "{answer:?}");
            assert_eq!(answer.peer.ip(), to.ip());
        }
    }
    let service = daemon.service();
    assert_eq!(service.groups.len(), 4);
    for group in &service.groups {
        assert_eq!(Counters::of_group(group), Counters::all_taken(1), "{}", group.listen);
    }
    daemon.stop();
}

// vm: short
#[test]
fn ten_thousand_connections_are_spread_fairly_and_counted_exactly() {
    let world = World::new();
    let daemon = Daemon::start(&world, &["--listen", "tcp://127.0.0.1:3000", "--workers", "3"]);
    let count = fewer(10_000);
    let seen = tally(count, || ask(address("127.0.0.1:3000")));
    let service = daemon.service();
    for worker in &service.workers {
        assert_eq!(selected(worker), seen[&worker.name], "{}", worker.name);
        assert!((worker.share - 1.0 / 3.0).abs() < 1e-4);
    }
    assert_eq!(Counters::of(&service), Counters::all_taken(count as u64));
    assert_fair(&seen.values().copied().collect::<Vec<_>>(), &[1.0, 1.0, 1.0]);
    daemon.stop();
}

#[test]
fn weights_are_shares_for_connections_and_datagrams() {
    let world = World::new();
    let arguments =
        ["--listen", "tcp://127.0.0.1:3000", "--listen", "udp://127.0.0.1:3000", "--workers", "3"];
    let daemon = Daemon::start(&world, &arguments);
    let moved = daemon.service().moved;
    daemon.run(&["weight", "demo/1", "2"]);
    daemon.run(&["weight", "demo/2", "5"]);
    let service = daemon.service();
    let buckets: Vec<u32> = service.workers.iter().map(|worker| worker.buckets).collect();
    assert_eq!(buckets, [8192, 16384, 40960]);
    // From thirds to 1:2:1 and on to 1:2:5; at each step only the growing share moves.
    let minimum = (32768 - 21845) + (40960 - 16384);
    assert!((service.moved - moved).abs_diff(minimum) <= 1, "{} moved", service.moved - moved);
    for ask in [|| ask(address("127.0.0.1:3000")), || ask_udp(address("127.0.0.1:3000"), None)] {
        let seen = tally(fewer(10_000), ask);
        assert_fair(&seen.values().copied().collect::<Vec<_>>(), &[1.0, 2.0, 5.0]);
    }
    daemon.run(&["weight", "demo/2", "0"]);
    let seen = tally(300, || ask(address("127.0.0.1:3000")));
    assert!(!seen.contains_key("demo/2"), "{seen:?}");
    daemon.stop();
}

#[test]
fn a_trace_shows_decisions_and_costs_nothing_afterwards() {
    let world = World::new();
    let daemon = Daemon::start(&world, &["--listen", "tcp://127.0.0.1:3000", "--workers", "2"]);
    let trace = daemon
        .paths()
        .command(&["trace", "demo", "--json", "--count", "20"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // The first decisions are made before the trace has begun.
    let stream = testkit::client::Stream::start(address("127.0.0.1:3000"));
    let output = trace.wait_with_output().unwrap();
    assert!(stream.end().failed.is_empty());
    let lines = String::from_utf8(output.stdout).unwrap();
    let decisions: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(decisions.len(), 20);
    for decision in &decisions {
        assert_eq!(decision["owner"], "owner_taken", "{decision}");
        assert_eq!(decision["key"].as_u64().unwrap() & 0xffff, decision["bucket"].as_u64().unwrap());
        assert!(decision["worker"].as_str().unwrap().starts_with("demo/"), "{decision}");
    }
    let service = daemon.service();
    let total: u64 = service.workers.iter().map(selected).sum();
    assert_eq!(Counters::of(&service), Counters::all_taken(total));
    daemon.stop();
}
