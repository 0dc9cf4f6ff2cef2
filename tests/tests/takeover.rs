//! The daemon dies, and nobody notices; the next one goes on where it stopped.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use aya::maps::{Array, Map, MapData};
use nix::sys::signal::Signal;
use reuseport_lb_client::api::{ServiceStatus, WorkerStatus};
use reuseport_lb_common::table::{BUCKETS, Table};
use testkit::client::ask;
use testkit::config::Config;
use testkit::counters::Counters;
use testkit::daemon::{Daemon, Paths, is_alive, settled, signal, until};
use testkit::fault::times;
use testkit::load::Load;
use testkit::world::World;

const ARGUMENTS: [&str; 4] = ["--listen", "tcp://127.0.0.1:3000", "--workers", "4"];

fn to() -> SocketAddr {
    "127.0.0.1:3000".parse().unwrap()
}

fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(directory).ok()?.flatten().find_map(|entry| {
        if entry.file_name() == name { Some(entry.path()) } else { find(&entry.path(), name) }
    })
}

/// The slot of every bucket, from the kernel.
fn owners(world: &World) -> Vec<u16> {
    let pin = find(&world.bpffs(), "TABLE").unwrap();
    let map = Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap();
    let table: Array<MapData, [u8; size_of::<Table>()]> = Array::try_from(map).unwrap();
    let bytes = Box::new(table.get(&0, 0).unwrap());
    bytes
        .chunks_exact(4)
        .take(BUCKETS)
        .map(|entry| u16::from_ne_bytes([entry[0], entry[1]]) & 0xfff)
        .collect()
}

fn places(service: &ServiceStatus) -> Vec<(String, u16, u32, Option<i32>, u32)> {
    let of = |it: &WorkerStatus| (it.name.clone(), it.slot, it.buckets, it.pid, it.restarts);
    service.workers.iter().map(of).collect()
}

// vm: short
#[test]
fn killing_the_daemon_again_and_again_disturbs_nobody() {
    let world = World::new();
    // With three times the weight, half of the clients are one worker's, which is an overload at times.
    let config = Config::service("demo").listen("tcp://127.0.0.1:3000").workers(4).set("overload", "off");
    let mut daemon = Daemon::with(&world, &config);
    daemon.run(&["weight", "demo/1", "3"]);
    daemon.run(&["scale", "demo", "5"]);
    let (before, table) = (daemon.service(), owners(&world));
    let load = Load::to(to()).start();
    for _ in 0..times(5) {
        daemon.kill();
        assert_eq!(owners(&world), table, "nothing changes without a daemon");
        ask(to()).unwrap();
        daemon = Daemon::with(&world, &config);
        let after = daemon.service();
        assert_eq!(places(&after), places(&before));
        assert_eq!(owners(&world), table, "every bucket is where it was");
        assert_eq!((after.moved, after.groups[0].strangers), (before.moved, Some(0)));
        assert!(after.groups[0].program_id > before.groups[0].program_id, "another program");
    }
    let report = load.end();
    println!("{} kills: {report}", times(5));
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    assert!(report.ended.is_empty(), "{:?}", report.ended);
    // Counters go on: ours, and none twice.
    let service = daemon.service();
    assert_eq!(Counters::of(&service), Counters::all_taken(report.requests + times(5) as u64));

    daemon.run(&["scale", "demo", "6"]);
    daemon.run(&["restart", "demo/0", "--trial", "100ms"]);
    let said = daemon.run(&["drain", "demo/5"]);
    assert!(said.contains("demo/5: 0 waited for it"), "{said}");
    daemon.run(&["scale", "demo", "2"]);
    let service = until("two workers", || Some(daemon.service()).filter(|it| it.workers.len() == 2));
    assert_eq!(service.workers.iter().map(|worker| worker.buckets).sum::<u32>(), 65536);
    daemon.stop();
}

// vm: short
#[test]
fn what_happened_without_a_daemon_is_put_right() {
    let world = World::new();
    let daemon = Daemon::start(&world, &ARGUMENTS);
    let before = daemon.service();
    let victim = before.workers[2].pid.unwrap();
    daemon.kill();
    signal(victim, Signal::SIGKILL);
    until("the victim to be dead", || (!is_alive(victim)).then_some(()));
    // Its socket is gone, so its buckets go to others.
    for _ in 0..50 {
        assert_ne!(ask(to()).unwrap().pid, victim);
    }
    let daemon = Daemon::start(&world, &ARGUMENTS);
    let after = daemon.settled_without(victim);
    assert_eq!((after.workers[2].restarts, after.workers[2].slot), (1, before.workers[2].slot));
    assert_eq!(after.moved, before.moved, "its buckets waited for it");
    let mut seen = std::collections::BTreeSet::new();
    until("all four to answer", || {
        seen.insert(ask(to()).unwrap().worker);
        (seen.len() == 4).then_some(())
    });
    daemon.stop();
}

#[test]
fn without_a_daemon_a_worker_of_weight_0_gets_what_nobody_else_can_take() {
    let world = World::new();
    let daemon = Daemon::with(&world, &Config::web().workers(3).set("when_empty", "reject"));
    daemon.run(&["weight", "web/1", "0"]);
    let before = daemon.service();
    for _ in 0..20 {
        assert_ne!(ask(to()).unwrap().worker, "web/1");
    }
    daemon.kill();
    let others = [0, 2].map(|nth| before.workers[nth].pid.unwrap());
    for pid in others {
        signal(pid, Signal::SIGKILL);
        until("a worker to be dead", || (!is_alive(pid)).then_some(()));
    }
    for _ in 0..20 {
        assert_eq!(ask(to()).unwrap().worker, "web/1");
    }
    let daemon = Daemon::start_until(&world, Paths::of(&world).run(), |service| service.busy.is_none());
    // Until the daemon has looked, status has the dead ones as they were saved.
    let again = |it: &WorkerStatus| it.state == "ready" && it.pid.is_some_and(|pid| !others.contains(&pid));
    let after = until("all to be ready", || {
        Some(daemon.service()).filter(|service| service.workers.iter().all(again))
    });
    assert_eq!(after.workers.iter().map(|it| it.weight).collect::<Vec<_>>(), [1, 0, 1]);
    let mut counted = Counters::difference(&before, &after);
    // How many attempts at the sockets of the dead each decision makes is chance, but for the first.
    assert!(counted.take(&["select_failed"]) >= 20);
    let rest = [("arrival_packet", 40), ("owner_taken", 20), ("owner_gone", 20), ("detour_hold", 20)];
    assert_eq!(counted, Counters::expected(&rest));
    daemon.stop();
}

#[test]
fn an_upgrade_keeps_workers_and_a_changed_configuration_is_applied() {
    let world = World::new();
    let config = |workers: usize, hold: &str| Config::web().workers(workers).set("hold_timeout", hold);
    let daemon = Daemon::with(&world, &config(3, "2s"));
    let before = daemon.service();
    let load = Load::to(to()).clients(8).kept(20).start();
    let keep = |daemon: &Daemon| {
        let said = daemon.run(&["stop", "--keep"]);
        assert!(said.contains("its workers go on"), "{said}");
    };
    keep(&daemon);
    assert!(before.workers.iter().all(|it| is_alive(it.pid.unwrap())));
    drop(daemon);
    let daemon = Daemon::with(&world, &config(3, "2s"));
    assert_eq!(places(&daemon.service()), places(&before));
    keep(&daemon);
    drop(daemon);
    let daemon = Daemon::with(&world, &config(5, "3s"));
    let service =
        until("five workers", || Some(daemon.service()).filter(|it| it.workers.len() == 5 && settled(it)));
    assert_eq!(
        service.workers.iter().map(|it| it.pid).collect::<Vec<_>>()[..3],
        before.workers.iter().map(|it| it.pid).collect::<Vec<_>>()
    );
    let report = load.end();
    assert!(report.failed.is_empty() && report.ended.is_empty(), "{report}");
    daemon.stop();
}

#[test]
fn a_state_file_that_is_cut_off_anywhere_loses_nothing() {
    let world = World::new();
    let daemon = Daemon::start(&world, &ARGUMENTS);
    let before = daemon.service();
    daemon.kill();
    let state = world.path("run").join("state/demo.state");
    let whole = fs::read(&state).unwrap();
    // The unit test cuts at every byte; here a daemon starts from some of them.
    for part in 0..5 {
        let copy = state.with_extension("copy");
        let broken = if part % 2 == 0 { &state } else { &copy };
        fs::write(broken, &whole[..whole.len() * part / 5]).unwrap();
        let daemon = Daemon::start(&world, &ARGUMENTS);
        assert_eq!(places(&daemon.service()), places(&before));
        daemon.kill();
    }
    let daemon = Daemon::start(&world, &ARGUMENTS);
    daemon.stop();
}

#[test]
fn without_any_state_a_new_service_serves_and_the_old_workers_end() {
    let world = World::new();
    let daemon = Daemon::start(&world, &ARGUMENTS);
    let old = daemon.workers();
    daemon.kill();
    fs::remove_dir_all(world.path("run").join("state")).unwrap();
    let daemon = Daemon::start(&world, &ARGUMENTS);
    assert!(daemon.workers().iter().all(|pid| !old.contains(pid)));
    until("the old workers to be gone", || (!old.iter().any(|pid| is_alive(*pid))).then_some(()));
    for _ in 0..50 {
        assert!(!old.contains(&ask(to()).unwrap().pid));
    }
    assert_eq!(daemon.service().groups[0].strangers, Some(0));
    daemon.stop();
}

#[test]
fn another_layout_keeps_sockets_and_connections() {
    let world = World::new();
    let daemon = Daemon::start(&world, &ARGUMENTS);
    let before = daemon.service();
    let buckets = owners(&world);
    let load = Load::to(to()).clients(8).kept(50).start();
    daemon.kill();
    // As if it had been written by a daemon whose maps looked otherwise.
    for kind in ["state", "copy"] {
        let path = world.path("run").join(format!("state/demo.{kind}"));
        let text = fs::read_to_string(&path).unwrap();
        let (_, json) = text.split_once('\n').unwrap();
        let json = json.replacen("\"layout\":", "\"layout\":9", 1);
        fs::write(&path, format!("{:016x}\n{json}", xxhash_rust::xxh3::xxh3_64(json.as_bytes()))).unwrap();
    }
    let daemon = Daemon::start(&world, &ARGUMENTS);
    let after = daemon.service();
    assert_eq!(places(&after), places(&before));
    assert!(owners(&world) == buckets, "buckets are where they were");
    daemon.says("its maps had layout 9");
    let report = load.end();
    println!("{report}");
    assert!(report.failed.is_empty() && report.ended.is_empty(), "{report}");
    daemon.stop();
}

#[test]
fn a_daemon_that_cannot_start_leaves_what_serves_alone() {
    let world = World::new();
    let daemon = Daemon::start(&world, &ARGUMENTS);
    let before = daemon.service();
    daemon.kill();
    let occupied = std::net::TcpListener::bind("127.0.0.1:3001").unwrap();
    let service = |name: &str, to: &str, workers| Config::service(name).listen(to).workers(workers);
    let two = service("demo", "tcp://127.0.0.1:3000", 4).and(service("other", "tcp://127.0.0.1:3001", 1));
    two.write(&world);
    let output = Paths::of(&world).run().output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("in use") && said.contains("go on without one"), "{said}");
    ask(to()).unwrap();
    drop(occupied);
    let daemon = Daemon::start(&world, &ARGUMENTS);
    assert_eq!(places(&daemon.service()), places(&before));
    daemon.stop();
}
