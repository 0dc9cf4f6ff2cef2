//! Workers that hang, are slow, or do not say that they are alive.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use testkit::client::{Connection, ask};
use testkit::config::Config;
use testkit::counters::{Counters, SHUNNED};
use testkit::daemon::{Daemon, counter, settled, signal, until};
use testkit::fault::{freeze, times};
use testkit::load::{Load, Report};
use testkit::patience::lasts;
use testkit::plain::Plain;
use testkit::server::words;
use testkit::world::World;

/// How long a worker is stopped; a whole run has more patience.
fn stop() -> Duration {
    Duration::from_secs(times(2).clamp(2, 5) as u64)
}

fn to() -> SocketAddr {
    "127.0.0.1:3000".parse().unwrap()
}

/// Stops process `pid` under load; what its clients saw, and those that it had accepted.
fn stopped(to: SocketAddr, pid: i32) -> (Report, BTreeSet<SocketAddr>) {
    let load = Load::to(to).kept(0).start();
    load.until_answered(200);
    let accepted = freeze(pid);
    lasts("the stop", stop());
    signal(pid, Signal::SIGCONT);
    load.until_answered(200);
    (load.end(), accepted)
}

// vm: short
#[test]
fn what_waits_for_a_stopped_worker_is_served_by_others_in_time() {
    let world = World::new();
    let daemon = Daemon::with(&world, &Config::web().workers(4).set("stall_timeout", "300ms"));
    let victim = daemon.service().workers[2].pid.unwrap();
    until("it to serve", || (ask(to()).unwrap().pid == victim).then_some(()));
    // One that stops before that is not stalled but loading.
    lasts("the time in which it is seen to wait for work", Duration::from_millis(500));
    let before = daemon.service();
    let watched = std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            until("it to be stalled", || (daemon.service().workers[2].state == "stalled").then_some(()));
            until("it to be taken back", || Some(daemon.service()).filter(settled))
        });
        let (report, accepted) = stopped(to(), victim);
        println!("ours: {report}; {} accepted by the stopped worker", accepted.len());
        let mine = |local: Option<SocketAddr>| local.is_some_and(|local| accepted.contains(&local));
        let failed = report.failed_except(|failure| mine(failure.local));
        assert!(failed.is_empty(), "{failed:?}");
        let limit = Duration::from_millis(300 + 250);
        let late: Vec<_> = report.slow.iter().filter(|slow| slow.took > limit && !mine(slow.local)).collect();
        assert!(late.is_empty(), "{late:?}");
        watching.join().unwrap()
    });
    let back = watched;
    daemon.says("it does not accept on tcp://127.0.0.1:3000");
    // What waited was handed over, and new connections avoided it; how many that were is chance.
    let counted = Counters::difference(&before, &daemon.service());
    counted.assert_only(&SHUNNED, &["owner_overloaded", "detour_owner", "detour_ready"]);
    assert_eq!((back.moved, back.workers[2].restarts), (before.moved, 0));
    assert_eq!(back.workers[2].pid, Some(victim));
    until("it to serve again", || (ask(to()).unwrap().pid == victim).then_some(()));
    daemon.stop();

    // With plain SO_REUSEPORT a quarter of the clients hangs.
    let plain = Plain::start(&world, 3001, 4);
    let (report, accepted) = stopped(plain.address(), plain.pids()[2]);
    println!("plain: {report}; {} accepted by the stopped worker", accepted.len());
    let waited = |slow: &&testkit::load::Slow| {
        slow.took > Duration::from_millis(550) && slow.local.is_none_or(|local| !accepted.contains(&local))
    };
    assert!(report.slow.iter().filter(waited).count() + report.failed.len() >= 8, "{:?}", report.slow);
}

#[test]
fn a_worker_that_runs_but_does_not_accept_hands_its_queue_over_and_comes_back() {
    let world = World::new();
    // It does not accept for a while, but runs; and it says what its poll object sees of the listener.
    let log = world.file("seen.log", "");
    let flags = format!("--if-worker web/0 --spin 700ms --hang-ups {}", log.display());
    let config = Config::web().workers(2).set("ready", "immediate").set("stall_timeout", "200ms");
    let daemon = Daemon::with(&world, &config.server(&world, &flags));
    let load = Load::to(to()).kept(0).clients(8).start();
    until("a queue to be handed over", || {
        (counter(&daemon.service(), "arrival_migration") > 0).then_some(())
    });
    until("it to be taken back and to serve", || (ask(to()).unwrap().worker == "web/0").then_some(()));
    let report = load.end();
    println!("{report}");
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    Counters::of(&daemon.service()).assert_only(&SHUNNED, &["detour_owner", "detour_ready"]);
    assert_eq!(std::fs::read_to_string(log).unwrap(), "", "it was stopped while its listener was shut down");
    daemon.stop();
}

#[test]
fn a_worker_that_accepts_at_one_listener_only_serves_that_and_gets_nothing_at_the_other() {
    let world = World::new();
    // web/0 does nothing with its second socket, and is busy all the time.
    let config = Config::web().listen("tcp://127.0.0.1:3001").workers(3);
    let config = config.set("ready", "500ms").set("stall_timeout", "300ms");
    let config = config.server(&world, "--wait poll --tick 10ms --if-worker web/0 --sockets 1");
    let daemon = Daemon::with(&world, &config);
    let other: SocketAddr = "127.0.0.1:3001".parse().unwrap();
    let loads = [Load::to(to()).kept(0).clients(8).start(), Load::to(other).kept(0).clients(8).start()];
    let half = until("it to be known", || {
        let worker = daemon.service().workers.remove(0);
        // Before that it is shown as one that was not seen to wait for work there.
        (worker.lacks.as_deref() == Some("does not accept on tcp://127.0.0.1:3001")).then_some(worker)
    });
    assert_eq!(half.state, "ready");
    // It is awake, and serves; that alone does not bring it back.
    let served = || daemon.service().workers[0].sockets[0].selected;
    let (before, rest) = (served(), daemon.service().workers[0].sockets[1].selected);
    until("it to serve some more", || (served() > before + 2_000).then_some(()));
    let after = daemon.service().workers.remove(0);
    let left = after.sockets[1].selected - rest;
    assert!(left <= 8, "{left} more at the listener where it does not accept");
    let [here, there] = loads.map(Load::end);
    println!("{here}\n{there}; {left} decided for it after it was known");
    for report in [&here, &there] {
        assert!(report.failed.is_empty(), "{:?}", report.failed);
    }
    assert!(here.answered.contains_key("web/0") && !there.answered.contains_key("web/0"));
    assert!(here.slow.is_empty(), "{:?}", here.slow);
    daemon.says("it does not accept on tcp://127.0.0.1:3001 yet (it has never)");
    assert!(!daemon.log().contains("tcp://127.0.0.1:3000 yet"), "{}", daemon.log());
    daemon.stop();
}

#[test]
fn a_slow_worker_gets_less() {
    let world = World::new();
    let config = Config::web().workers(2).set("ready", "200ms").set("stall_timeout", "off");
    let config = config.server(&world, "--wait accept --if-worker web/0 --pause 20ms");
    let run = |overload: &str| {
        let daemon = Daemon::with(&world, &config.clone().toml("overload", overload.into()));
        let load = Load::to(to()).kept(0).clients(24).start();
        lasts("the load", Duration::from_secs(2));
        let report = load.end();
        let service = daemon.service();
        daemon.stop();
        println!("overload = {overload}: {report}");
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        (report, Counters::of(&service))
    };
    let (without, counters) = run("\"off\"");
    counters.assert_only(&["arrival_packet", "owner_taken"], &[]);
    let (with, counters) = run("{ factor = 2.0, floor = 4 }");
    let avoided = ["arrival_packet", "owner_taken", "owner_overloaded", "detour_candidate"];
    counters.assert_only(&avoided, &["detour_owner", "detour_ready"]);
    assert!(with.requests > without.requests * 2, "{} and {}", with.requests, without.requests);
}

#[test]
fn a_worker_that_leaves_out_its_watchdog_is_started_again() {
    let world = World::new();
    let flag = world.path("flag").display().to_string();
    let flags = format!("--answer never --ready notify --watchdog --once {flag} --beats 4");
    let config = Config::web().workers(1).set("watchdog", "200ms").server(&world, &flags);
    let daemon = Daemon::with(&world, &config);
    let begun = Instant::now();
    let before = daemon.workers();
    let after = until("another process", || {
        Some(daemon.service()).filter(|it| it.workers[0].restarts == 1 && settled(it))
    });
    assert!(begun.elapsed() > Duration::from_millis(200), "it had said that it was alive for a while");
    assert_ne!(after.workers[0].pid, before.first().copied());
    daemon.says("no WATCHDOG=1 in time");
    lasts("three times the watchdog's time", Duration::from_millis(600));
    assert_eq!(daemon.service().workers[0].restarts, 1, "who says that it is alive is left alone");
    daemon.stop();
}

// vm: short
#[test]
fn a_stuck_worker_that_leaves_hands_its_queue_over_before_its_time() {
    let world = World::new();
    let daemon = Daemon::with(&world, &Config::web().workers(2).set("stall_timeout", "400ms"));
    let victim = daemon.service().workers[1].pid.unwrap();
    signal(victim, Signal::SIGSTOP);
    let mut waiting: Vec<Connection> = (0..40).map(|_| Connection::open(to(), None).unwrap()).collect();
    let begun = Instant::now();
    let said = daemon.run(&["drain", "web/1", "--timeout", "2s"]);
    println!("{said} after {:?}", begun.elapsed());
    assert!(said.contains("handed over") && !said.contains(" 0 of those"), "{said}");
    assert!(said.contains("was killed by SIGKILL"), "{said}");
    for connection in &mut waiting {
        assert_ne!(connection.ask().unwrap().pid, victim);
    }
    assert_eq!(daemon.service().wanted, 1, "a drained worker is not replaced");
    daemon.stop();
}

#[test]
fn a_worker_that_is_told_to_end_by_somebody_else_comes_back_and_loses_nothing() {
    let world = World::new();
    let daemon = Daemon::start(&world, &["--listen", "tcp://127.0.0.1:3000", "--workers", "3"]);
    let load = Load::to(to()).kept(30).start();
    for turn in 0..times(3).min(20) {
        let victim = daemon.workers()[turn % 3];
        signal(victim, Signal::SIGTERM);
        daemon.settled_without(victim);
    }
    let report = load.end();
    println!("{report}");
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    assert_eq!(
        daemon.service().workers.iter().map(|it| it.restarts as usize).sum::<usize>(),
        times(3).min(20)
    );
    daemon.stop();
}

#[test]
fn a_failed_worker_says_what_it_wrote() {
    let world = World::new();
    let first = words(&world, "--answer never --ready notify --end-after 100ms").join(" ");
    let flag = world.path("flag").display().to_string();
    let script =
        format!("[ -e {flag} ] && echo no database at db.example >&2 && exit 1; : >{flag}; exec {first}");
    let daemon = Daemon::with(&world, &Config::web().workers(1).command(&["sh", "-c", &script]));
    let worker = until("it to have failed", || {
        daemon.service().workers.into_iter().find(|worker| worker.state == "failed")
    });
    assert_eq!(worker.last_words, ["no database at db.example"]);
    let shown = daemon.run(&["status"]);
    assert!(shown.contains("web/0 wrote before it ended:\n   no database at db.example"), "{shown}");
    daemon.says("no database at db.example");
    daemon.stop();
}
