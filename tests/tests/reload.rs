//! The configuration is read again: what changed is applied, what did not is not touched.

use std::net::SocketAddr;

use nix::sys::signal::Signal;
use reuseport_lb_client::api::{ServiceStatus, Status, WorkerStatus};
use testkit::client::{ask, ask_udp};
use testkit::config::Config;
use testkit::counters::Counters;
use testkit::daemon::{Daemon, settled, signal, until};
use testkit::fault::times;
use testkit::flows::{Flows, scene};
use testkit::load::{Ending, Load};
use testkit::said::assert_said;
use testkit::world::World;

fn to(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn web() -> Config {
    Config::web().workers(2)
}

#[test]
fn listeners_and_services_come_and_go_and_nothing_else_notices() {
    let world = World::new();
    let stays = Config::service("stays").listen("tcp://127.0.0.1:3009").workers(2);
    let small = web().and(stays.clone());
    let api = Config::service("api").listen("tcp://127.0.0.1:3002").listen("udp://127.0.0.1:3002").workers(2);
    let large = web().listen("tcp://127.0.0.1:3001").and(api).and(stays);
    let daemon = Daemon::with(&world, &small);
    let before = daemon.status().services.remove(1);
    let load = Load::to(to(3000)).kept(100).start();
    let quiet = Load::to(to(3009)).clients(2).kept(50).start();
    for turn in 0..times(4) {
        if turn % 2 == 0 { &large } else { &small }.write(&world);
        let said = daemon.run(&["reload"]);
        assert!(said.contains("2 workers replaced") && said.contains("stays: not changed"), "{said}");
        let status = daemon.status();
        if turn % 2 == 0 {
            assert_eq!(status.services[0].groups.len(), 2);
            for port in [3000, 3001, 3002] {
                ask(to(port)).unwrap();
            }
            ask_udp(to(3002), None).unwrap();
        } else {
            assert_eq!((status.services.len(), status.services[0].groups.len()), (2, 1));
            assert!(ask(to(3001)).is_err() && ask(to(3002)).is_err());
            ask(to(3000)).unwrap();
        }
    }
    let report = load.end();
    println!("{} reloads: {report}", times(4));
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    assert!(report.ended.iter().all(|ended| ended.how != Ending::Reset), "{:?}", report.ended);
    let report = quiet.end();
    assert!(report.failed.is_empty() && report.ended.is_empty(), "{report}");
    let after = daemon.status().services.into_iter().find(|service| service.name == "stays").unwrap();
    let pids = |service: &ServiceStatus| -> Vec<Option<i32>> {
        service.workers.iter().map(|worker| worker.pid).collect()
    };
    assert_eq!((pids(&after), after.moved), (pids(&before), before.moved), "it was not touched");
    daemon.stop();
}

#[test]
fn an_invalid_file_changes_nothing() {
    let world = World::new();
    let daemon = Daemon::with(&world, &web());
    let before = daemon.status();
    let load = Load::to(to(3000)).clients(4).kept(20).start();
    let occupied = std::net::TcpListener::bind("127.0.0.1:3005").unwrap();
    let b = Config::service("b").listen("tcp://127.0.0.1:3005").workers(1);
    let wrong = [
        ("wrong".to_owned(), "line 1"),
        (web().toml("wrokers", "3".into()).to_string(), "line 5: unknown field `wrokers`"),
        (web().workers(5_000).to_string(), "at most 1024"),
        (web().set("user", "no-such-user").to_string(), "no user"),
        (web().command(&["no-such-program"]).to_string(), "no executable no-such-program"),
        (web().listen("tcp://127.0.0.1:3005").to_string(), "in use"),
        (Config::web().workers(7).and(b).to_string(), "in use"),
    ];
    for turn in 0..times(7) {
        let (text, says) = &wrong[turn % wrong.len()];
        // What only this machine or the daemon has against it makes no file wrong.
        let code = if turn % wrong.len() < 4 { 2 } else { 1 };
        let _ = world.file("config.toml", text);
        let output = daemon.paths().output(&["reload"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{text}: {said}");
        assert!(said.contains(says), "{text}: {said}");
    }
    drop(occupied);
    let after = daemon.status();
    let report = load.end();
    assert!(report.failed.is_empty() && report.ended.is_empty(), "{report}");
    assert_eq!(after.services.len(), 1);
    let of = |it: &WorkerStatus| (it.name.clone(), it.pid, it.buckets);
    let workers = |status: &Status| status.services[0].workers.iter().map(of).collect::<Vec<_>>();
    assert_eq!(workers(&after), workers(&before));
    assert_eq!(after.services[0].groups[0].program_id, before.services[0].groups[0].program_id);
    daemon.stop();
}

#[test]
fn settings_change_in_place() {
    let world = World::new();
    let daemon = Daemon::with(&world, &web());
    let before = daemon.service();
    let load = Load::to(to(3000)).clients(8).kept(20).start();
    let config = Config::web().workers(3).set("affinity", "source").set("drain_timeout", "3s");
    config.toml("backlog", "100".into()).write(&world);
    // By a signal this time.
    signal(daemon.pid(), Signal::SIGHUP);
    let after =
        until("three workers", || Some(daemon.service()).filter(|it| it.workers.len() == 3 && settled(it)));
    let report = load.end();
    assert!(report.failed.is_empty() && report.ended.is_empty(), "{report}");
    assert_eq!(after.affinity, "source");
    assert!(after.workers.iter().all(|worker| worker.sockets[0].backlog == 100), "{:?}", after.workers);
    assert_eq!(after.workers[0].pid, before.workers[0].pid, "no process was replaced");
    assert_ne!(after.groups[0].program_id, before.groups[0].program_id);
    let who = ask(to(3000)).unwrap().worker;
    assert!((0..30).all(|_| ask(to(3000)).unwrap().worker == who), "one client, one worker");
    daemon.stop();
}

#[test]
fn a_new_command_that_does_not_work_is_taken_back() {
    let world = World::new();
    let daemon = Daemon::with(&world, &web());
    let before = daemon.workers();
    let load = Load::to(to(3000)).clients(4).kept(20).start();
    web().command(&["sh", "-c", "exit 4"]).write(&world);
    let output = daemon.paths().output(&["reload"]);
    assert_said(
        &output,
        1,
        &[
            "exited with status 4",
            "goes on with its old command, listeners and all else that its workers are started with",
        ],
    );
    assert_eq!(daemon.workers(), before);
    // A crash is answered with the old command, too.
    signal(before[0], Signal::SIGKILL);
    until("a successor", || Some(daemon.service()).filter(|it| settled(it) && it.workers[0].restarts == 1));
    let report = load.end();
    let connects = report.failed_except(|it| it.stage != testkit::load::Stage::Connect);
    assert!(connects.is_empty(), "{connects:?}");
    daemon.stop();
}

#[test]
fn without_a_file_there_is_nothing_to_read_again() {
    let world = World::new();
    let daemon = Daemon::start(&world, &["--listen", "tcp://127.0.0.1:3000", "--workers", "1"]);
    let output = daemon.paths().output(&["reload"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("without --config"));
    daemon.stop();
}

// vm: short
#[test]
fn without_tracking_datagrams_follow_the_table_and_a_reload_changes_that() {
    let world = World::new();
    let untracked = || scene::config(scene::IDLE).set("flows", "none");
    let daemon = Daemon::with(&world, &untracked());
    let mut flows = Flows::open(&scene::to(), scene::flows());
    let reload = |config: Config| {
        let _ = config.workers(daemon.service().wanted).write(&world);
        daemon.run(&["reload"]);
    };
    // A worker joins, and its buckets move with all that they have, before and after flows were tracked for a while.
    let joins = |flows: &mut Flows, joiner: &str| {
        let before = daemon.service();
        daemon.run(&["scale", "web", &(before.wanted + 1).to_string()]);
        let round = flows.round();
        println!("{joiner} joins: {round}");
        let service = daemon.service();
        assert_eq!((service.moving, service.waiting), (0, 0));
        assert!(round.lost.is_empty() && !round.moved.is_empty());
        assert!(round.moved.iter().all(|it| it.to.worker == joiner), "{:?}", round.ways());
        assert_eq!(Counters::difference(&before, &service), Counters::all_taken(scene::flows() as u64));
    };
    joins(&mut flows, "web/8");

    reload(scene::config(scene::IDLE));
    flows.round().assert_kept(scene::IDLE);
    daemon.run(&["scale", "web", "10"]);
    flows.round().assert_kept(scene::IDLE);
    assert!(daemon.service().moving > 0);

    reload(untracked());
    let round = flows.round();
    println!("not tracked any more: {round}");
    assert!(round.lost.is_empty() && !round.moved.is_empty());
    assert!(
        round.moved.iter().all(|it| it.to.worker == "web/9"),
        "what stayed with others follows the table"
    );
    joins(&mut flows, "web/10");
    // A leaver has no flow to wait for, and none to cut.
    print!("{}", daemon.run(&["drain", "web/10", "--timeout", "60s"]));
    assert_eq!((flows.round().lost.len(), daemon.service().flows_cut), (0, 0));
    daemon.stop();
}
