//! A daemon that stands still, or has nowhere to write, harms nobody.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::fs::File;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use reuseport_lb_client::api::ServiceStatus;
use testkit::client::ask;
use testkit::config::Config;
use testkit::daemon::{Daemon, Paths, settled, signal, until};
use testkit::patience::lasts;
use testkit::world::World;

fn to() -> SocketAddr {
    "127.0.0.1:3000".parse().unwrap()
}

fn pids(service: &ServiceStatus) -> Vec<Option<i32>> {
    service.workers.iter().map(|worker| worker.pid).collect()
}

#[test]
fn after_a_pause_of_the_daemon_nobody_is_killed_who_pinged_meanwhile() {
    let world = World::new();
    let daemon = Daemon::with(&world, &Config::web().workers(4).set("watchdog", "500ms"));
    let before = daemon.service();
    for pause in [700, 1_500, 3_000] {
        signal(daemon.pid(), Signal::SIGSTOP);
        lasts("the pause", Duration::from_millis(pause));
        signal(daemon.pid(), Signal::SIGCONT);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(1) {
            assert_eq!(pids(&daemon.service()), pids(&before), "after {pause} ms: {}", daemon.log());
        }
    }
    // One that does hang is found nevertheless.
    let victim = before.workers[1].pid.unwrap();
    signal(victim, Signal::SIGSTOP);
    let after = daemon.settled_without(victim);
    assert_eq!(after.workers.iter().map(|it| it.restarts).collect::<Vec<_>>(), [0, 1, 0, 0]);
    daemon.stop();
}

/// Starts a daemon whose standard error is `place`, makes it say much, and ends it with SIGTERM.
fn say_much(place: Stdio, world: &World) {
    Config::web().workers(4).write(world);
    let paths = Paths::of(world);
    let mut child = paths.run().arg("-vv").stdout(Stdio::null()).stderr(place).spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let service = until("all to be ready", || {
        assert!(child.try_wait().unwrap().is_none(), "the daemon ended");
        paths.status()?.services.into_iter().next().filter(settled)
    });
    for _ in 0..300 {
        assert!(paths.status().is_some());
    }
    let victim = service.workers[0].pid.unwrap();
    signal(victim, Signal::SIGKILL);
    until("its successor", || (paths.status()?.services[0].workers[0].pid? != victim).then_some(()));
    assert!(ask(to()).is_ok());
    signal(pid, Signal::SIGTERM);
    let ended = until("the daemon to end", || child.try_wait().unwrap());
    assert!(ended.success(), "{ended}");
    assert_eq!(paths.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_standard_error_that_nobody_reads_holds_nobody_up() {
    let world = World::new();
    let (reader, writer) = std::io::pipe().unwrap();
    say_much(writer.into(), &world);
    drop(reader);
}

#[test]
fn a_standard_error_on_a_full_disk_ends_nobody() {
    let world = World::new();
    say_much(File::options().write(true).open("/dev/full").unwrap().into(), &world);
    let output = Paths::of(&world)
        .command(&["check", &world.path("config.toml").to_string_lossy()])
        .stdout(File::options().write(true).open("/dev/full").unwrap())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("No space left"), "{output:?}");
}
