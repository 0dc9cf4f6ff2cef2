//! Servers that upgrade themselves: the next generation is a child of the one before, and names itself (`MAINPID=`).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::signal::Signal;
use testkit::config::Config;
use testkit::daemon::{Daemon, is_alive, settled, signal, throughout, until};
use testkit::fault::times;
use testkit::load::{Ending, Load};
use testkit::server::words;
use testkit::world::World;

fn to() -> SocketAddr {
    "127.0.0.1:3000".parse().unwrap()
}

/// Workers that upgrade themselves at SIGUSR2.
fn upgrading(world: &World) -> Config {
    let flags = "--wait keep --term leave --ready notify --upgrade";
    Config::web().workers(2).set("ready", "notify").server(world, flags)
}

/// The main process of worker `web/0`.
fn main_of(daemon: &Daemon) -> i32 {
    daemon.service().workers[0].pid.unwrap()
}

/// Has worker `web/0` upgrade itself, and waits until the generation before has ended; its main process then.
fn upgrade(daemon: &Daemon) -> i32 {
    let before = main_of(daemon);
    signal(before, Signal::SIGUSR2);
    until("the next generation", || (main_of(daemon) != before).then_some(()));
    until("the generation before to end", || (!is_alive(before)).then_some(()));
    main_of(daemon)
}

#[test]
fn a_server_that_upgrades_itself_stays_one_worker_and_cuts_nobody() {
    let world = World::new();
    let daemon = Daemon::with(&world, &upgrading(&world));
    let load = Load::to(to()).kept(50).start();
    let before = daemon.service();
    let mut generations = vec![main_of(&daemon)];
    for _ in 0..times(3) {
        load.until_answered(100);
        let next = upgrade(&daemon);
        assert!(!generations.contains(&next), "{generations:?}, {next}");
        generations.push(next);
    }
    // It is not taken for a crash later, either.
    throughout(Duration::from_millis(300), || {
        assert_eq!(main_of(&daemon), generations[generations.len() - 1])
    });
    load.until_answered(100);
    let report = load.end();
    println!("{} generations: {report}", generations.len());
    let after = daemon.service();
    assert_eq!((after.workers.len(), after.moved), (2, before.moved));
    for (old, new) in before.workers.iter().zip(&after.workers) {
        assert_eq!((&old.name, old.slot, old.buckets, 0), (&new.name, new.slot, new.buckets, new.restarts));
    }
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    assert!(report.ended.iter().all(|ended| ended.how != Ending::Reset), "{:?}", report.ended);
    let said = daemon.log().matches("its main process is another one now (MAINPID=)").count();
    assert_eq!(said, generations.len() - 1);
    daemon.stop();
}

#[test]
fn the_next_daemon_knows_the_generation_that_serves() {
    let world = World::new();
    let config = upgrading(&world);
    let daemon = Daemon::with(&world, &config);
    let main = upgrade(&daemon);
    daemon.kill();
    let daemon = Daemon::with(&world, &config);
    assert_eq!(main_of(&daemon), main);
    let next = upgrade(&daemon);
    assert_ne!(next, main);
    // Its end is a crash like any other, and nothing of it is left when the worker ends.
    signal(next, Signal::SIGKILL);
    until("another process", || {
        let service = daemon.service();
        (settled(&service) && service.workers[0].pid != Some(next)).then_some(())
    });
    assert_eq!(daemon.service().workers[0].restarts, 1);
    daemon.stop();
}

#[test]
fn only_a_process_of_the_worker_can_be_named() {
    let world = World::new();
    let server = words(&world, "");
    let script = format!("{0} --say MAINPID=1; exec {0} --ready notify", server[0]);
    let config = Config::web().workers(1).set("ready", "notify").command(&["sh", "-c", &script]);
    let daemon = Daemon::with(&world, &config);
    let main = main_of(&daemon);
    assert!(is_alive(main) && main != 1, "{main}");
    let refused = "not followed as its main process (MAINPID=): it is not one of the worker's processes";
    daemon.says(refused);
    daemon.stop();
}
