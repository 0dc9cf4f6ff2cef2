//! Crashes under load, and all of it at random.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use reuseport_lb_client::api::{ServiceStatus, WorkerStatus};
use testkit::config::Config;
use testkit::daemon::{Daemon, settled, signal, until};
use testkit::fault::{Dice, freeze, times};
use testkit::load::{Ending, Load};
use testkit::patience::lasts;
use testkit::world::World;

fn to() -> SocketAddr {
    "127.0.0.1:3000".parse().unwrap()
}

fn config() -> Config {
    Config::web().workers(4).set("drain_timeout", "5s")
}

/// Kills random workers; only what they had accepted may be lost.
fn kill_at_random(on_crash: &str, kills: usize) {
    let world = World::new();
    let mut dice = Dice::new();
    let daemon = Daemon::with(&world, &config().set("on_crash", on_crash));
    let load = Load::to(to()).start();
    let mut accepted = BTreeSet::new();
    let mut killed = BTreeSet::new();
    for _ in 0..kills {
        let pid = daemon.workers()[dice.roll(4)];
        accepted.extend(freeze(pid));
        killed.insert(pid);
        signal(pid, Signal::SIGKILL);
        daemon.settled_without(pid);
    }
    let service = daemon.service();
    let report = load.end();
    println!("{kills} kills, {on_crash}: {report}; {} were accepted by the victims", accepted.len());
    let lost = report.failed_except(|failure| failure.local.is_some_and(|local| accepted.contains(&local)));
    assert!(lost.is_empty(), "{lost:?}");
    assert!(
        report.ended.iter().all(|ended| killed.contains(&ended.pid)),
        "only the victims' connections end"
    );
    assert_eq!(service.workers.iter().map(|it| it.restarts as usize).sum::<usize>(), kills);
    assert_eq!(service.workers.iter().map(|it| it.buckets).collect::<Vec<_>>(), [16384; 4]);
    daemon.stop();
}

#[test]
fn with_hold_only_what_was_accepted_is_lost() {
    kill_at_random("hold", times(20));
}

#[test]
fn with_migrate_only_what_was_accepted_is_lost() {
    kill_at_random("migrate", times(20));
}

#[test]
fn scaling_up_and_down_loses_nothing() {
    let world = World::new();
    let daemon = Daemon::with(&world, &config());
    let load = Load::to(to()).start();
    for _ in 0..times(3).min(25) {
        for workers in [8, 2, 4] {
            daemon.run(&["scale", "web", &workers.to_string()]);
            let service = daemon.service();
            assert!(service.workers.iter().all(|it| it.buckets == 65536 / workers), "exact: {service:?}");
        }
    }
    let report = load.end();
    println!("4 → 8 → 2 → 4, {} times: {report}", times(3).min(25));
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    assert!(report.ended.iter().all(|ended| ended.how != Ending::Reset), "{:?}", report.ended);
    daemon.stop();
}

/// Descriptors of a process.
fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn pins(directory: &std::path::Path) -> usize {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| 1 + if entry.path().is_dir() { pins(&entry.path()) } else { 0 }).sum()
}

fn exact(service: &ServiceStatus) -> bool {
    let weights: Vec<u64> = service.workers.iter().map(|it| u64::from(it.weight)).collect();
    let sum: u64 = weights.iter().sum();
    let due = |it: &WorkerStatus| 65536 * u64::from(it.weight) / sum.max(1);
    sum == 0 || service.workers.iter().all(|it| u64::from(it.buckets).abs_diff(due(it)) <= 1)
}

#[test]
fn everything_at_random_leaves_nothing_behind() {
    let seconds = std::env::var("REUSEPORT_LB_SOAK").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let world = World::new();
    let mut dice = Dice::new();
    let config = config().set("stall_timeout", "300ms");
    let mut daemon = Daemon::with(&world, &config);
    let calm = |daemon: &Daemon| {
        until("everything to be calm", || {
            let service = daemon.service();
            (settled(&service) && service.workers.len() == service.wanted).then_some(service)
        })
    };
    let (fds, pinned) = (descriptors(daemon.pid()), pins(&world.bpffs()));
    let mut accepted = BTreeSet::new();
    let mut killed = BTreeSet::new();
    let mut done = std::collections::BTreeMap::<&str, usize>::new();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(seconds) {
        // A load has its limits; several make a long run.
        let load = Load::to(to()).kept(100).start();
        let part = Instant::now();
        while begun.elapsed() < Duration::from_secs(seconds) && part.elapsed() < Duration::from_secs(120) {
            let service = calm(&daemon);
            let victim = service.workers[dice.roll(service.workers.len())].clone();
            let pid = victim.pid.unwrap();
            let action =
                ["kill", "term", "stop", "scale", "weight", "drain", "restart", "crash", "keep", "reload"]
                    [dice.roll(10)];
            *done.entry(action).or_default() += 1;
            match action {
                "kill" => {
                    accepted.extend(freeze(pid));
                    killed.insert(pid);
                    signal(pid, Signal::SIGKILL);
                    until("its successor", || (!daemon.workers().contains(&pid)).then_some(()));
                }
                "term" => {
                    signal(pid, Signal::SIGTERM);
                    until("its successor", || (!daemon.workers().contains(&pid)).then_some(()));
                }
                "stop" => {
                    accepted.extend(freeze(pid));
                    lasts("the stop", Duration::from_millis(1 + dice.roll(900) as u64));
                    signal(pid, Signal::SIGCONT);
                }
                "scale" => drop(daemon.run(&["scale", "web", &(2 + dice.roll(7)).to_string()])),
                "weight" => drop(daemon.run(&["weight", &victim.name, &(1 + dice.roll(5)).to_string()])),
                "drain" if service.workers.len() > 2 => drop(daemon.run(&["drain", &victim.name])),
                "restart" => drop(daemon.run(&["restart", "web", "--trial", "10ms", "--parallel", "2"])),
                "crash" => {
                    daemon.kill();
                    daemon = Daemon::with(&world, &config);
                }
                "keep" => {
                    daemon.run(&["stop", "--keep"]);
                    drop(daemon);
                    daemon = Daemon::with(&world, &config);
                }
                "reload" => drop(daemon.run(&["reload"])),
                _ => {}
            }
            let service = calm(&daemon);
            assert!(exact(&service), "after {action}: {service:?}");
        }
        let report = load.end();
        println!("{report}\n{done:?}");
        let lost = report.failed_except(|it| it.local.is_some_and(|local| accepted.contains(&local)));
        assert!(lost.is_empty(), "{lost:?}");
        let broken: Vec<_> =
            report.ended.iter().filter(|it| it.how == Ending::Reset && !killed.contains(&it.pid)).collect();
        assert!(broken.is_empty(), "{broken:?}");
    }
    daemon.run(&["scale", "web", "4"]);
    calm(&daemon);
    // One more for each worker that crashed early: what its successor writes is kept.
    let most = fds + 4;
    until("no descriptor to be left", || (descriptors(daemon.pid()) <= most).then_some(()));
    assert_eq!(pins(&world.bpffs()), pinned);
    assert_eq!(daemon.service().groups[0].strangers, Some(0), "no socket is left");
    daemon.stop();
}
