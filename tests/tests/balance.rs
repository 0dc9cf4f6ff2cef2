//! `balance`: who gets the next connection, by how many each worker has.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use reuseport_lb_client::api::ServiceStatus;
use testkit::client::Connection;
use testkit::config::Config;
use testkit::counters::Counters;
use testkit::daemon::{Daemon, until};
use testkit::fault::Dice;
use testkit::world::World;

fn to() -> SocketAddr {
    "127.0.0.1:3000".parse().unwrap()
}

fn web(world: &World) -> Config {
    Config::web().workers(4).set("overload", "off").server(world, "--wait keep")
}

fn open(count: usize) -> Vec<Connection> {
    (0..count).map(|_| Connection::open(to(), None).unwrap()).collect()
}

/// Connections of each worker.
fn held(service: &ServiceStatus) -> Vec<u64> {
    service.workers.iter().map(|worker| worker.connections().unwrap()).collect()
}

/// Waits until so many connections are counted, and returns those of each worker.
fn held_of(daemon: &Daemon, all: usize) -> Vec<u64> {
    until("all connections to be counted", || {
        Some(held(&daemon.service())).filter(|held| held.iter().sum::<u64>() == all as u64)
    })
}

/// Asserts that `count` connections have come, that each was decided by its owner's number of connections, and that those which
/// the owner did not get went to somebody `else_where`; returns how many its owner got.
fn decided(before: &ServiceStatus, after: &ServiceStatus, count: u64, elsewhere: &[&str]) -> u64 {
    let mut counted = Counters::difference(before, after);
    let (taken, fuller) = (counted.take(&["owner_taken"]), counted.take(&["owner_fuller"]));
    assert_eq!((counted.take(&["arrival_packet"]), taken + fuller), (count, count));
    assert_eq!(counted.take(elsewhere), fuller);
    assert_eq!(counted, Counters::expected(&[]), "and nothing else");
    taken
}

// vm: short
#[test]
fn with_least_all_have_equally_many() {
    let world = World::new();
    let daemon = Daemon::with(&world, &web(&world).set("balance", "least"));
    let before = daemon.service();
    let mut connections = open(32);
    assert_eq!(held_of(&daemon, 32), [8, 8, 8, 8]);
    let taken = decided(&before, &daemon.service(), 32, &["detour_ready"]);
    assert!((4..32).contains(&taken), "{taken} of 32 went to the owner: of equals it is the one");
    // What closes by chance is made up for by what comes.
    let mut dice = Dice::new();
    for _ in 0..20 {
        for _ in 0..8 {
            drop(connections.swap_remove(dice.roll(connections.len())));
        }
        let left = held_of(&daemon, 24);
        connections.extend(open(8));
        let held = held_of(&daemon, 32);
        let most = left.into_iter().max().unwrap().max(8);
        assert_eq!(held.into_iter().max(), Some(most), "nobody gets more while others have fewer");
    }
    drop(connections);
    held_of(&daemon, 0);
    daemon.stop();
}

#[test]
fn with_least_a_worker_has_connections_by_its_weight() {
    let world = World::new();
    let daemon = Daemon::with(&world, &web(&world).set("balance", "least"));
    daemon.run(&["weight", "web/2", "3"]);
    daemon.run(&["weight", "web/0", "0"]);
    let connections = open(50);
    assert_eq!(held_of(&daemon, 50), [0, 10, 30, 10]);
    drop(connections);
    daemon.stop();
}

#[test]
fn with_least_all_listeners_count() {
    let world = World::new();
    let config = web(&world).listen("tcp://127.0.0.1:3001").set("balance", "least");
    let daemon = Daemon::with(&world, &config);
    let first = open(5);
    let other: SocketAddr = "127.0.0.1:3001".parse().unwrap();
    let second: Vec<Connection> = (0..11).map(|_| Connection::open(other, None).unwrap()).collect();
    assert_eq!(held_of(&daemon, 16), [4, 4, 4, 4]);
    drop((first, second));
    daemon.stop();
}

/// The `n`th client.
fn client(n: usize) -> IpAddr {
    Ipv4Addr::new(127, 0, 1, n as u8).into()
}

/// Clients by chance, of which the first comes twice as often as the second, three times as often as the third, …
fn zipf(dice: &mut Dice, clients: usize) -> usize {
    const UNIT: usize = 1 << 20;
    let weights = (1..=clients).map(|rank| UNIT / rank);
    let mut at = dice.roll(weights.clone().sum());
    for (nth, weight) in weights.enumerate() {
        if at < weight {
            return nth;
        }
        at -= weight;
    }
    clients - 1
}

#[test]
fn within_a_bound_clients_keep_their_workers() {
    const CLIENTS: usize = 200;
    let world = World::new();
    let config = web(&world).set("affinity", "source");
    let bounded = config.clone().toml("balance", "{ bounded = 1.25 }".into());
    for (config, bound) in [(bounded, Some(1.25)), (config.toml("count_connections", "true".into()), None)] {
        let daemon = Daemon::with(&world, &config);
        let (mut dice, before) = (Dice::new(), daemon.service());
        let mut connections = std::collections::VecDeque::new();
        let mut most = 0.0_f64;
        for nth in 1..=1500_u32 {
            let from = client(zipf(&mut dice, CLIENTS));
            connections.push_back(Connection::open(to(), Some(from)).unwrap());
            if connections.len() > 300 {
                connections.pop_front().into_iter().for_each(Connection::reset);
            }
            if nth % 100 == 0 {
                let held = held_of(&daemon, connections.len());
                let fullest = held.into_iter().max().unwrap() as f64;
                let share = connections.len() as f64 / 4.0;
                // One that closes makes the bound smaller, and nobody's connection is taken away.
                most = most.max((fullest - 1.0) / share);
            }
        }
        let after = daemon.service();
        let taken = match bound {
            Some(bound) => {
                assert!(most <= bound + 0.1, "the fullest worker had {most} x its share");
                decided(&before, &after, 1500, &["detour_candidate", "detour_ready"])
            }
            None => 1500,
        };
        println!("bound {bound:?}: most {most:.2} x the share, {taken} of 1500 at the client's own worker");
        drop(connections);
        daemon.stop();
    }
}
