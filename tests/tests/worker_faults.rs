//! The fault matrix, as faults.rs: what workers and their releases do, and what is done to them.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use reuseport_lb_client::api::ServiceStatus;
use testkit::config::Config;
use testkit::counters::{Counters, SHUNNED};
use testkit::daemon::{Daemon, counter, is_alive, settled, signal, until};
use testkit::fault::freeze;
use testkit::load::Load;
use testkit::matrix::{Scene, address, row, service, time};
use testkit::patience::lasts;
use testkit::said::assert_said;
use testkit::world::World;

fn pids(service: &ServiceStatus) -> Vec<i32> {
    service.workers.iter().filter_map(|worker| worker.pid).collect()
}

#[test]
fn a_worker_is_killed() {
    let mut scene = Scene::new(&service());
    let (pid, moved) = (scene.pid(1), scene.service().moved);
    let accepted = freeze(pid);
    scene.strike();
    signal(pid, Signal::SIGKILL);
    let service = scene.is_back(1);
    assert_eq!((service.moved, service.workers[1].restarts), (moved, 1), "no bucket moved");
    assert_ne!(service.workers[1].pid, Some(pid));
    let seen = scene.end(&accepted);
    seen.row("a worker is killed (SIGKILL)", "`restarts` 1, again `ready`; `moved` unchanged");
}

#[test]
fn a_worker_is_stopped() {
    let mut scene = Scene::new(&service());
    let (pid, moved) = (scene.pid(1), scene.service().moved);
    scene.strike();
    let accepted = freeze(pid);
    let stalled =
        scene.recovers(|it| it.workers[1].state == "stalled" && it.workers[1].sockets[0].queue == 0);
    assert_eq!(stalled.workers[1].pid, Some(pid));
    signal(pid, Signal::SIGCONT);
    let service = until("it to be taken back", || Some(scene.service()).filter(settled));
    assert_eq!(service.workers[1].restarts, 0);
    // If it was stalled at UDP as well, its buckets there moved away and came back.
    assert!([0, 2 * 16_384].contains(&(service.moved - moved)), "{} buckets moved", service.moved - moved);
    let seen = scene.end(&accepted);
    seen.counters.assert_only(&SHUNNED, &["detour_ready", "owner_kept"]);
    assert_eq!(seen.datagrams.moved, 0, "flows of datagrams wait for their worker");
    seen.row(
        "a worker is stopped (SIGSTOP), later continued",
        "`stalled`, then `ready`; `arrival_migration`, `owner_ejected`",
    );
}

#[test]
fn a_worker_exits_with_0() {
    let mut scene = Scene::vandals(service());
    let moved = scene.service().moved;
    let accepted = scene.misbehave(1, "exit");
    let service = scene.is_back(1);
    assert_eq!(service.moved, moved, "no bucket moved");
    scene
        .end(&accepted)
        .row("a worker exits with 0, unasked", "`restarts` 1, again `ready`; `moved` unchanged");
}

#[test]
fn a_worker_leaks_its_listener() {
    let mut scene = Scene::vandals(service());
    let (moved, cookie) = (scene.service().moved, scene.service().workers[1].sockets[0].cookie);
    let accepted = scene.misbehave(1, "leak");
    let service = scene.is_back(1);
    assert_eq!((service.moved, service.workers[1].sockets[0].cookie), (moved, cookie), "the same socket");
    assert_eq!(service.groups[0].strangers, Some(0));
    scene.end(&accepted).row(
        "a worker ends, and a child of it that does not serve keeps its sockets",
        "`restarts` 1, again `ready`; `moved` unchanged",
    );
}

#[test]
fn a_worker_closes_its_listener() {
    let mut scene = Scene::vandals(service());
    let pid = scene.pid(1);
    let accepted = scene.misbehave(1, "close");
    let service =
        scene.recovers(|it| it.workers[1].state == "stalled" && it.workers[1].sockets[0].queue == 0);
    assert_eq!(service.workers[1].pid, Some(pid));
    let seen = scene.end(&accepted);
    seen.counters.assert_only(&SHUNNED, &["detour_ready"]);
    assert_eq!(seen.datagrams.moved, 0, "it serves its datagrams");
    seen.row("a worker closes its listener and goes on", "`stalled`; `arrival_migration`, `owner_ejected`");
}

#[test]
fn a_worker_shuts_its_listener_down() {
    let mut scene = Scene::vandals(service());
    let before = scene.service();
    let accepted = scene.misbehave(1, "shut-down");
    until("its log", || scene.daemon().log().contains("is back in service").then_some(()));
    let selected = |it: &ServiceStatus| it.workers[1].sockets[0].selected;
    let since = selected(&scene.service());
    let service = scene.recovers(|it| selected(it) > since);
    assert_eq!((pids(&service), service.moved), (pids(&before), before.moved));
    let served = service.workers[1].sockets[0].queue;
    assert!(served < 8, "it accepts: {served}");
    let seen = scene.end(&accepted);
    // Its share went to other workers.
    let counted = ["arrival_packet", "owner_taken", "owner_gone", "detour_candidate", "select_failed"];
    seen.counters.assert_only(&counted, &["arrival_migration", "detour_ready"]);
    seen.row(
        "a worker calls shutdown() on its listener and goes on",
        "`owner_gone`, then `ready` as before; the log says that the socket is back in service",
    );
}

#[test]
fn a_worker_connects_its_datagram_socket() {
    let mut scene = Scene::vandals(service());
    let accepted = scene.misbehave(1, "connect");
    lasts("some looks of the daemon at its sockets", Duration::from_millis(500));
    let service = scene.service();
    assert!(settled(&service));
    // Whether the socket leaves its group, and so its slot, depends on the kernel (docs/KERNEL.md).
    let left = counter(&service, "owner_gone") > 0;
    let seen = scene.end(&accepted);
    if left {
        let gone = ["arrival_packet", "owner_taken", "owner_gone", "detour_candidate", "select_failed"];
        seen.counters.assert_only(&gone, &["detour_ready"]);
    } else {
        seen.counters.assert_only(&["arrival_packet", "owner_taken"], &[]);
    }
    assert_eq!(seen.datagrams.lost, 0);
    assert_eq!(seen.datagrams.moved > 0, left, "its flows go to others if it has left, and only then");
    let moved =
        format!("`owner_gone`; {} flows moved, for as long as that worker lives", seen.datagrams.moved);
    let status = if left { moved } else { "nothing, and nothing changes".into() };
    seen.row("a worker calls connect() on its UDP socket", &status);
}

// vm: short
#[test]
fn the_program_is_replaced() {
    let mut scene = Scene::vandals(service());
    let accepted = scene.misbehave(1, "detach");
    let groups =
        |it: &ServiceStatus| it.groups.iter().map(|it| it.counters["arrival_packet"]).collect::<Vec<_>>();
    let before = groups(&scene.service());
    let service = scene.recovers(|it| groups(it).iter().zip(&before).all(|(now, then)| *now > then + 100));
    assert!(settled(&service));
    let seen = scene.end(&accepted);
    seen.counters.assert_only(&["arrival_packet", "owner_taken"], &[]);
    seen.row(
        "the group's program is replaced or removed by somebody who holds a socket of the group",
        "counters stand still until our program is attached again",
    );
}

#[test]
fn all_workers_are_killed() {
    let mut scene = Scene::new(&service());
    let before = scene.service();
    let accepted = pids(&before).into_iter().flat_map(freeze).collect();
    scene.strike();
    pids(&before).into_iter().for_each(|pid| signal(pid, Signal::SIGKILL));
    let service = scene.is_back(4);
    assert_eq!(service.moved, before.moved, "no bucket moved");
    scene
        .end(&accepted)
        .row("all workers are killed (SIGKILL)", "`restarts` 1 each, again `ready`; `moved` unchanged");
}

#[test]
fn a_release_loads_for_long() {
    let mut scene = Scene::vandals(service().set("ready", "500ms").set("drain_timeout", "500ms"));
    let before = scene.service();
    fs::write(scene.world.path("deed-first"), "--load 2s").unwrap();
    scene.strike();
    let mut restart = scene.daemon().paths().command(&["restart", "web/1", "--trial", "100ms"]);
    let mut restart = restart.stdout(Stdio::null()).spawn().unwrap();
    until("its successor to load", || {
        scene.service().workers.iter().any(|it| it.state == "loading").then_some(())
    });
    assert!(restart.wait().unwrap().success(), "{}", scene.daemon().log());
    let service = scene.recovers(settled);
    let replaced =
        pids(&service).iter().zip(pids(&before)).map(|(now, then)| *now != then).collect::<Vec<_>>();
    assert_eq!(replaced, [false, true, false, false]);
    let seen = scene.end_but(|_| false);
    seen.assert_nothing_broke();
    seen.row(
        "a worker is replaced (`restart`) by one that needs 2 s until it accepts, with `ready = \"500ms\"`",
        "the successor `loading`, then `ready`; until then the old one serves",
    );
}

#[test]
fn a_release_does_not_work() {
    let scene = Scene::new(&service());
    let before = scene.service();
    service().command(&["sh", "-c", "exit 4"]).write(&scene.world);
    let reload = scene.daemon().paths().output(&["reload"]);
    assert_said(&reload, 1, &["exited with status 4", "goes on with its old command"]);
    let service = scene.service();
    assert_eq!((pids(&service), service.moved), (pids(&before), before.moved));
    let seen = scene.end_but(|_| false);
    seen.assert_unnoticed();
    seen.row(
        "`reload` of a file with a `command` that ends at once",
        "`reload` fails, says how it ended and that the old command goes on; all as before",
    );
}

#[test]
fn a_request_takes_long() {
    let world = World::new();
    let config = Config::service("web").listen(&format!("tcp://{}", address())).workers(4);
    // It serves one request after the other.
    let daemon = Daemon::with(&world, &config.set("stall_timeout", "300ms").server(&world, "--slow 3s"));
    let before = daemon.service();
    let load = Load::to(address()).clients(8).kept(0).pause(Duration::from_millis(1)).start();
    let mut long = TcpStream::connect(address()).unwrap();
    let begun = Instant::now();
    long.write_all(b"GET /slow HTTP/1.1\r\n\r\n").unwrap();
    let is_stalled = |it: &ServiceStatus| it.workers.iter().any(|it| it.state == "stalled");
    until("its worker to be avoided", || is_stalled(&daemon.service()).then_some(()));
    let avoided = begun.elapsed();
    let mut answer = String::new();
    long.read_to_string(&mut answer).unwrap();
    let took = begun.elapsed();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let after = until("it to be taken back", || Some(daemon.service()).filter(settled));
    assert_eq!(pids(&after), pids(&before), "nobody is replaced");
    let report = load.end();
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    Counters::of(&daemon.service()).assert_only(&SHUNNED, &["detour_ready"]);
    assert!(report.slowest() < took, "nobody waited for its end: {report}");
    row(
        "a request takes 3 s and its worker serves one at a time, beside 8 clients with short ones",
        &format!(
            "{} new connections, longest {}; the long one answered after {}",
            report.requests,
            time(report.slowest()),
            time(took)
        ),
        "nothing",
        "`stalled`, then `ready`, the same process; `arrival_migration`, `owner_ejected`",
        Some(avoided),
    );
    daemon.stop();
}

#[test]
fn a_process_of_a_worker_does_not_end() {
    let mut scene = Scene::vandals(service());
    let accepted = scene.misbehave(1, "escape");
    let file = scene.world.path("deed-escaped");
    let escaped: i32 = until("it to be there", || fs::read_to_string(&file).ok()?.parse().ok());
    scene.strike();
    scene.daemon().run(&["drain", "web/1", "--timeout", "1s"]);
    let service = scene.recovers(|it| it.workers.len() == 3 && settled(it));
    assert!(!is_alive(escaped), "it was ended with its worker");
    assert_eq!(service.groups.iter().map(|it| it.strangers).collect::<Vec<_>>(), [Some(0); 2]);
    let seen = scene.end(&accepted);
    seen.assert_nothing_broke();
    seen.row(
        "`drain --timeout 1s` of a worker with a child that holds its sockets, is in a session of its own and ignores SIGTERM",
        "it is `draining`, and then gone with the child (SIGKILL)",
    );
}

#[test]
fn a_worker_locks_its_group() {
    let mut scene = Scene::vandals(service().set("drain_timeout", "500ms"));
    let old = pids(&scene.service())[0];
    // Through the socket of the first one the program is attached again, if it can be.
    let accepted = scene.misbehave(0, "lock-program");
    let decided =
        |it: &ServiceStatus| it.groups.iter().map(|it| it.counters["arrival_packet"]).collect::<Vec<_>>();
    let before = decided(&scene.service());
    scene.recovers(|it| decided(it).iter().zip(&before).all(|(now, then)| *now > then + 100));
    until("it to be replaced", || {
        let there = |it: &ServiceStatus| it.workers.len() == 4 && settled(it) && !pids(it).contains(&old);
        Some(scene.service()).filter(there)
    });
    let log = scene.daemon().log();
    assert!(log.contains("it has locked its socket of tcp://127.0.0.1:3000 (SO_LOCK_FILTER)"), "{log}");
    let seen = scene.end(&accepted);
    seen.assert_nothing_broke();
    seen.row(
        "a worker gives its group a program of its own, and locks its socket (`SO_LOCK_FILTER`)",
        "counters stand still until our program is attached through another's socket; one that is in the way of that \
         is replaced, and the log says why",
    );
}
