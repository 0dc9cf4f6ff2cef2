//! `replace = "stop-first"`: servers with a lock and a port of their own are replaced, and nothing is lost that nobody had
//! accepted.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::net::SocketAddr;

use nix::sys::signal::Signal;
use testkit::config::Config;
use testkit::daemon::{Daemon, signal, until};
use testkit::load::{Ending, Load, Report};
use testkit::world::World;

fn to() -> SocketAddr {
    "127.0.0.1:3000".parse().unwrap()
}

/// Workers that each have a lock and a metrics port, and finish what they have begun.
fn locked(world: &World, workers: usize) -> Config {
    let lock = world.file("lock", "");
    let flags = format!(
        "--wait keep --term leave --load 200ms --ready notify --lock {}-{{index}} --metrics 127.0.0.1:910{{index}}",
        lock.display()
    );
    Config::web()
        .workers(workers)
        .set("ready", "notify")
        .set("replace", "stop-first")
        .set("hold_timeout", "10s")
        .server(world, &flags)
}

/// What `change` does to the service under load: all of its workers are replaced, in their places.
fn replaced(daemon: &Daemon, change: impl FnOnce()) -> Report {
    let load = Load::to(to()).kept(50).start();
    load.until_answered(100);
    let before = daemon.service();
    let old = daemon.workers();
    change();
    let new = daemon.workers();
    assert!(new.len() == old.len() && new.iter().all(|pid| !old.contains(pid)), "{old:?} → {new:?}");
    let after = daemon.service();
    load.until_answered(100);
    let report = load.end();
    println!("{} workers: {report}", new.len());
    assert_eq!(after.moved, before.moved, "buckets and queues wait for the successor");
    for (old, new) in before.workers.iter().zip(&after.workers) {
        assert_eq!((&old.name, old.slot, old.buckets), (&new.name, new.slot, new.buckets));
        assert_eq!((new.restarts, &*new.state), (0, "ready"));
    }
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    assert!(report.ended.iter().all(|ended| ended.how != Ending::Reset), "{:?}", report.ended);
    report
}

#[test]
fn restarts_of_servers_with_a_lock_and_a_port_lose_nothing() {
    for workers in [1, 3] {
        let world = World::new();
        let daemon = Daemon::with(&world, &locked(&world, workers));
        replaced(&daemon, || {
            let said = daemon.run(&["restart", "web", "--trial", "0s"]);
            let lines: Vec<String> = said.lines().map(str::to_owned).collect();
            let told = |number: usize| {
                let pid = daemon.service().workers[number].pid.unwrap();
                [
                    format!("web/{number}: the old process is told to end"),
                    format!("web/{number}: process {pid} starts"),
                    format!("web/{number}: ready"),
                    format!("web/{number}: replaced"),
                ]
            };
            let done = format!("web: {workers} replaced");
            let expected: Vec<String> = (0..workers).flat_map(told).chain([done]).collect();
            assert_eq!(lines, expected);
        });
        daemon.stop();
    }
}

#[test]
fn a_reload_replaces_servers_with_a_lock_and_a_port_and_goes_back_to_what_works() {
    let world = World::new();
    let config = locked(&world, 2);
    let daemon = Daemon::with(&world, &config);
    replaced(&daemon, || {
        config.clone().toml("env", "{ A = \"1\" }".into()).write(&world);
        assert_eq!(daemon.run(&["reload"]), "web: settings changed, 2 workers replaced\n");
    });
    // The next release does not start: its first worker comes back as it was, and the second one never ends.
    let before = daemon.workers();
    let load = Load::to(to()).kept(0).start();
    config.clone().command(&["sh", "-c", "exit 3"]).write(&world);
    let output = daemon.paths().output(&["reload"]);
    assert_eq!(output.status.code(), Some(1));
    let refused = String::from_utf8(output.stderr).unwrap();
    assert!(refused.contains("the new web/0 exited with status 3 before it was ready"), "{refused}");
    assert!(refused.contains("the old one had to end before (replace = \"stop-first\")"), "{refused}");
    until("web/0 to be back", || {
        let workers = daemon.service().workers;
        (workers.len() == 2 && workers.iter().all(|it| it.state == "ready")).then_some(())
    });
    let after = daemon.workers();
    assert_eq!(before[1], after[1]);
    assert_ne!(before[0], after[0]);
    load.until_answered(100);
    let report = load.end();
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    daemon.stop();
}

#[test]
fn the_next_daemon_waits_for_the_old_process_as_well() {
    let world = World::new();
    let daemon = Daemon::with(&world, &locked(&world, 1));
    let paths = daemon.paths().clone();
    let old = daemon.workers()[0];
    signal(old, Signal::SIGSTOP);
    let mut restart = paths.command(&["restart", "web"]).spawn().unwrap();
    until("the old process to be told", || {
        daemon.service().workers.iter().any(|it| it.state == "held").then_some(())
    });
    daemon.kill();
    assert!(!restart.wait().unwrap().success(), "the daemon has ended");
    let daemon = Daemon::start_until(&world, paths.run(), |service| service.workers.len() == 2);
    let states = || daemon.service().workers.iter().map(|it| (it.state.clone(), it.pid)).collect::<Vec<_>>();
    assert!(states().contains(&("draining".into(), Some(old))), "{:?}", states());
    signal(old, Signal::SIGCONT);
    until("its successor to be ready", || {
        let now = states();
        (now.len() == 1 && now[0].0 == "ready" && now[0].1 != Some(old)).then_some(())
    });
    let service = daemon.service();
    assert_eq!(
        service.workers[0].restarts, 0,
        "it was not started beside the old one, where it would have failed"
    );
    daemon.stop();
}
