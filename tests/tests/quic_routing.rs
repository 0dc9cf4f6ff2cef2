//! `quic = "quic-lb"`: connections of QUIC live on when their clients change their port, whatever happens to the workers.
//! Servers and clients of quinn.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use nix::sys::signal::Signal;
use testkit::config::Config;
use testkit::counters::Counters;
use testkit::daemon::{Daemon, signal, until};
use testkit::fault::times;
use testkit::patience::fewer;
use testkit::quic::{Clients, Identity};
use testkit::world::World;

/// Connections, each of which sends every 50 ms.
fn connections() -> usize {
    fewer(200)
}

fn to() -> SocketAddr {
    "127.0.0.1:4433".parse().unwrap()
}

fn service(identity: &Identity) -> Config {
    let config = identity.echo(to(), &[env!("CARGO_BIN_EXE_quic-echo")]).workers(4);
    config.set("quic", "quic-lb").set("idle_timeout", "2s").set("drain_timeout", "60s")
}

/// Each connection changes its port all the time, while workers join, leave and are replaced, the daemon is killed and comes
/// back, and settings change.
#[test]
fn no_connection_breaks_that_changes_its_port_in_whatever_phase() {
    let world = World::new();
    let identity = Identity::new(&world);
    let config = service(&identity);
    let daemon = Daemon::with(&world, &config);
    let clients = Clients::start(to(), &identity, connections());
    let first = clients.by_server();
    clients.keep_moving(5);
    clients.move_all();
    daemon.run(&["scale", "echo", "6"]);
    clients.move_all();
    assert_eq!(clients.by_server(), first);

    daemon.kill();
    clients.move_all();
    let daemon = Daemon::with(&world, &config);
    clients.move_all();
    config.clone().set("affinity", "source").write(&world);
    daemon.run(&["reload"]);
    clients.move_all();
    assert_eq!(clients.by_server(), first);

    // Leavers wait for connections that go on elsewhere than where they began.
    let (leaver, had) = first.iter().next().map(|(server, had)| (server.clone(), *had)).unwrap();
    std::thread::scope(|scope| {
        let drained = scope.spawn(|| daemon.run(&["drain", &leaver.worker]));
        until("it to leave", || {
            let workers = daemon.service().workers;
            workers.iter().any(|it| it.name == leaver.worker && it.state == "draining").then_some(())
        });
        // Longer than the idle_timeout.
        for _ in 0..20 {
            clients.move_all();
        }
        assert_eq!(clients.at(leaver.pid), had);
        clients.avoid(leaver.pid);
        drained.join().unwrap();
    });
    assert_eq!(clients.so_far().lost.len(), 0, "{:?}", clients.so_far().lost);
    let service = daemon.service();
    let counters = Counters::of(&service);
    println!("{}; {counters:?}", clients.so_far());
    assert!(counters.get("quic_routed") > counters.get("quic_unroutable"), "{counters:?}");
    let report = clients.end();
    assert_eq!(report.lost.len(), 0, "{:?}", report.lost);
    daemon.stop();
}

/// Without `quic` nearly every change of the port leads to another worker, which does not know the connection.
#[test]
fn without_it_a_change_of_the_port_breaks_most_connections() {
    let world = World::new();
    let identity = Identity::new(&world);
    let config = service(&identity).without("quic");
    let daemon = Daemon::with(&world, &config);
    let clients = Clients::start(to(), &identity, 40);
    clients.move_all();
    let lost = clients.end().lost.len();
    println!("{lost} of 40 connections broke");
    assert!(lost > 10);
    daemon.stop();
}

/// A worker that is killed takes its connections with it, and no other: their clients are told by whoever gets what they
/// send.
#[test]
fn who_is_killed_loses_its_own_connections_only_and_their_clients_are_told() {
    let world = World::new();
    let identity = Identity::new(&world);
    let config = service(&identity).set("on_crash", "migrate");
    let daemon = Daemon::with(&world, &config);
    let clients = Clients::start(to(), &identity, connections());
    let (victim, had) = clients.by_server().into_iter().next().unwrap();
    signal(victim.pid, Signal::SIGKILL);
    let lost =
        until("its connections to break", || Some(clients.so_far().lost).filter(|lost| lost.len() >= had));
    clients.move_all();
    let mut reasons = BTreeMap::<String, usize>::new();
    for lost in &lost {
        assert!(lost.server.as_ref().is_some_and(|server| server.pid == victim.pid), "{lost:?}");
        *reasons.entry(lost.why.clone()).or_default() += 1;
    }
    println!("{had} connections broke: {reasons:?}");
    assert_eq!(clients.end().lost.len(), had);
    assert!(reasons.get("reset by peer").is_some_and(|reset| reset * 2 > had), "{reasons:?}");
    daemon.stop();
}

/// Restarts of all workers, one after the other, while all connections change their ports: who is told to end waits for
/// its connections, which end when their clients have heard of it.
#[test]
fn restarts_break_no_connection() {
    let world = World::new();
    let identity = Identity::new(&world);
    let daemon = Daemon::with(&world, &service(&identity));
    let clients = Clients::start(to(), &identity, connections());
    clients.keep_moving(5);
    let restarts = times(1);
    for _ in 0..restarts {
        let old: BTreeSet<i32> = daemon.workers().into_iter().collect();
        std::thread::scope(|scope| {
            let restart = scope.spawn(|| daemon.run(&["restart", "echo"]));
            while !restart.is_finished() {
                clients.move_all();
                for worker in daemon.service().workers {
                    if let Some(pid) =
                        worker.pid.filter(|pid| worker.state == "draining" && old.contains(pid))
                    {
                        clients.avoid(pid);
                    }
                }
            }
            restart.join().unwrap();
        });
        assert!(daemon.workers().iter().all(|pid| !old.contains(pid)), "all are new");
    }
    let report = clients.end();
    println!("{restarts} restarts: {report}; {:?}", Counters::of(&daemon.service()));
    assert_eq!((report.lost.len(), daemon.service().flows_cut), (0, 0), "{:?}", report.lost);
    daemon.stop();
}
