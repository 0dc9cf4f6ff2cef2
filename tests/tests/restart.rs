//! Workers are replaced, one by one, and nobody notices; a release that does not work takes over
//! from nobody.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use testkit::client::Connection;
use testkit::config::Config;
use testkit::daemon::{Daemon, settled, signal, until};
use testkit::fault::times;
use testkit::load::{Ending, Load};
use testkit::patience::at_most;
use testkit::server::haproxy;
use testkit::world::World;

fn to() -> SocketAddr {
    "127.0.0.1:3000".parse().unwrap()
}

/// Rolling restarts under load; what became of it.
fn roll(daemon: &Daemon, restarts: usize) -> testkit::load::Report {
    let load = Load::to(to()).start();
    let before = daemon.service();
    for _ in 0..restarts {
        let old = daemon.workers();
        let said = daemon.run(&["restart", &before.name]);
        assert!(said.ends_with(&format!("{}: 4 replaced\n", before.name)), "{said}");
        let new = daemon.workers();
        assert!(new.len() == 4 && new.iter().all(|pid| !old.contains(pid)), "{old:?} → {new:?}");
    }
    let after = daemon.service();
    let report = load.end();
    println!("{restarts} restarts of {}: {report}", before.name);
    assert_eq!(after.moved, before.moved, "a worker that is replaced in place moves no bucket");
    for (old, new) in before.workers.iter().zip(&after.workers) {
        assert_eq!((&old.name, old.slot, old.buckets), (&new.name, new.slot, new.buckets));
        assert!(new.sockets[0].selected >= old.sockets[0].selected, "the name goes on counting");
    }
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    report
}

#[test]
fn rolling_restarts_of_embedded_workers_lose_nothing() {
    let world = World::new();
    let daemon = Daemon::start(&world, &["--listen", "tcp://127.0.0.1:3000", "--workers", "4"]);
    let report = roll(&daemon, times(3));
    // A kept connection ends when its worker does, in order.
    assert!(report.ended.iter().all(|ended| ended.how != Ending::Reset), "{:?}", report.ended);
    assert!(!report.ended.is_empty());
    daemon.stop();
}

#[test]
fn who_has_connected_gets_to_ask_although_the_embedded_worker_ends() {
    let world = World::new();
    let daemon = Daemon::start(&world, &["--listen", "tcp://127.0.0.1:3000", "--workers", "1"]);
    let old = daemon.workers()[0];
    let mut asked = Connection::open(to(), None).unwrap();
    assert_eq!(asked.ask().unwrap().pid, old);
    let mut clients: Vec<_> = (0..8).map(|_| Connection::open(to(), None).unwrap()).collect();
    signal(old, Signal::SIGTERM);
    // One that has had its answer is closed when nobody has come for a while; one that has asked nothing
    // yet is not, not then either: its client may only be slow.
    assert!(asked.answer().is_err_and(|error| error.kind() == std::io::ErrorKind::UnexpectedEof));
    assert!(clients[0].stays_silent(Duration::from_millis(300)).unwrap(), "it was closed");
    for client in &mut clients {
        assert_eq!(client.ask().unwrap().pid, old);
    }
    daemon.stop();
}

#[test]
fn rolling_restarts_of_haproxy_lose_nothing() {
    let world = World::new();
    let config = Config::web().workers(4).set("ready", "200ms").command(&haproxy(&world));
    let daemon = Daemon::with(&world, &config);
    roll(&daemon, times(2));
    daemon.stop();
}

/// A server that does what the flags in the file `release` say when it is started.
fn releases(world: &World, ready: &str) -> Config {
    let release = world.file("release", "");
    let flags = format!("--wait keep --ready notify @{}", release.display());
    Config::web().workers(4).set("ready", ready).server(world, &flags)
}

#[test]
fn a_release_that_does_not_work_takes_over_from_nobody() {
    let world = World::new();
    let daemon = Daemon::with(&world, &releases(&world, "notify"));
    let before = daemon.workers();
    let load = Load::to(to()).clients(8).kept(50).start();
    let limit = format!("{}s", at_most(Duration::from_secs(3)).as_secs());
    for (release, says) in [
        ("--exit 3", "the new web/0 exited with status 3 before it was ready"),
        ("--load 600s", &*format!("the new web/0 was not ready within {limit}")),
        ("--crash-after 1s", "the new web/0 was killed by SIGABRT soon after it was ready"),
    ] {
        let _ = world.file("release", release);
        let output = daemon.paths().output(&["restart", "web", "--timeout", &limit]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{release}: {said}");
        assert!(said.contains(says) && said.contains("the old one stays"), "{release}: {said}");
        until("the new one to be gone", || (daemon.workers() == before).then_some(()));
    }
    let _ = world.file("release", "");
    daemon.run(&["restart", "web/2"]);
    let after = daemon.workers();
    assert_eq!(after.iter().filter(|pid| before.contains(pid)).count(), 3, "one was replaced");
    let report = load.end();
    println!("{report}");
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    assert_eq!(report.ended.iter().filter(|ended| ended.pid != before[2]).count(), 0);
    daemon.stop();
}

#[test]
fn with_udp_a_successor_gets_a_slot_of_its_own() {
    let world = World::new();
    let daemon = Daemon::start(
        &world,
        &["--listen", "tcp://127.0.0.1:3000", "--listen", "udp://127.0.0.1:3000", "--workers", "3"],
    );
    let before = daemon.service();
    let load = Load::to(to()).clients(8).kept(20).start();
    daemon.run(&["restart", "demo", "--parallel", "3", "--trial", "100ms"]);
    let after = until("the old ones to be gone", || {
        Some(daemon.service()).filter(|service| service.workers.len() == 3 && settled(service))
    });
    assert!(load.end().failed.is_empty());
    for (old, new) in before.workers.iter().zip(&after.workers) {
        assert!(old.name == new.name && old.slot != new.slot && old.pid != new.pid);
    }
    assert_eq!(after.moved, before.moved + 65536, "each bucket went to its worker's successor");
    testkit::client::ask_udp(to(), None).unwrap();
    daemon.stop();
}

#[test]
fn what_cannot_be_restarted_is_said() {
    let world = World::new();
    let daemon = Daemon::start(&world, &["--listen", "tcp://127.0.0.1:3000", "--workers", "2"]);
    for (arguments, code, says) in [
        (["restart", "web"], 1, "no service \"web\""),
        (["restart", "demo/7"], 1, "no worker demo/7; there is demo/0, demo/1"),
        (["restart", "demo/x"], 2, "not a worker"),
        (["drain", "demo"], 2, "not a worker"),
        (["drain", "demo/7"], 1, "no worker demo/7"),
    ] {
        let output = daemon.paths().output(&arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(says), "{arguments:?}: {said}");
    }
    assert!(daemon.workers().iter().all(|pid| Path::new(&format!("/proc/{pid}")).exists()));
    daemon.stop();
}
