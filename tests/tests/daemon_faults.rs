//! The fault matrix, as faults.rs: the daemon is cut off, stands still, or lacks what it needs.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use reuseport_lb_client::api::{ServiceStatus, WorkerStatus};
use testkit::daemon::{Daemon, Paths, is_alive, settled, signal, throughout, until};
use testkit::fault::freeze;
use testkit::limit::Limit;
use testkit::load::Stage;
use testkit::matrix::{Scene, address, service};
use testkit::patience::{at_most, lasts};
use testkit::said::assert_said;
use testkit::world::World;

fn pids(service: &ServiceStatus) -> BTreeSet<i32> {
    service.workers.iter().filter_map(|worker| worker.pid).collect()
}

#[test]
fn the_daemon_is_killed() {
    let mut scene = Scene::new(&service());
    let before = scene.service();
    scene.daemon.take().unwrap().kill();
    lasts("the time without a daemon", Duration::from_secs(1));
    scene.strike();
    scene.daemon = Some(Daemon::start_as(&scene.world, Paths::of(&scene.world).run()));
    let service = scene.recovers(settled);
    assert_eq!(pids(&service), pids(&before), "the same workers");
    let seen = scene.end_but(|_| false);
    seen.assert_unnoticed();
    seen.row(
        "the daemon is killed (SIGKILL), and started again after 1 s",
        "that no daemon runs; then as before",
    );
}

#[test]
fn the_daemon_is_stopped() {
    let mut scene = Scene::new(&service());
    let before = scene.service();
    let daemon = scene.daemon().pid();
    signal(daemon, Signal::SIGSTOP);
    let status = scene.daemon().paths().output(&["status"]);
    assert_said(&status, 1, &["the daemon does not answer within 10s; is it stopped?"]);
    scene.strike();
    signal(daemon, Signal::SIGCONT);
    let service = scene.recovers(settled);
    assert_eq!(pids(&service), pids(&before));
    let seen = scene.end_but(|_| false);
    assert_eq!((seen.datagrams.lost, seen.datagrams.moved), (0, 0));
    seen.row(
        "the daemon is stopped (SIGSTOP) for 10 s",
        "after 10 s: `the daemon does not answer within 10s; is it stopped?`; then as before",
    );
}

#[test]
fn an_orderly_stop_is_cut_off() {
    let mut scene = Scene::new(&service());
    let old = pids(&scene.service());
    // Of some requests only a part has come: their workers wait for the rest.
    let mut open: Vec<TcpStream> = (0..32).map(|_| TcpStream::connect(address()).unwrap()).collect();
    open.iter_mut().for_each(|stream| stream.write_all(b"GET").unwrap());
    let daemon = scene.daemon.take().unwrap();
    let begun = Instant::now();
    signal(daemon.pid(), Signal::SIGTERM);
    let leaves = |it: &WorkerStatus| it.state == "draining";
    until("all to leave", || daemon.service().workers.iter().all(leaves).then_some(()));
    daemon.kill();
    scene.strike();
    let serves = |it: &&WorkerStatus| it.state == "ready" && it.buckets == 65536 / 4;
    let all_serve = |it: &ServiceStatus| it.workers.iter().filter(serves).count() == 4;
    scene.daemon = Some(Daemon::start_until(&scene.world, Paths::of(&scene.world).run(), all_serve));
    let service = scene.recovers(all_serve);
    let served = Instant::now();
    let others = service.workers.iter().filter(serves).filter_map(|it| it.pid);
    assert!(others.into_iter().all(|pid| !old.contains(&pid)), "{service:?}");
    drop(open);
    until("those that leave to be gone", || (!old.iter().any(|pid| is_alive(*pid))).then_some(()));
    until("the others to be all", || Some(scene.service()).filter(|it| it.workers.len() == 4 && settled(it)));
    // A stop refuses new connections; that ends when there are other workers.
    let seen = scene.end_but(|it| it.stage == Stage::Connect && (begun..served).contains(&it.started));
    seen.assert_nothing_broke();
    seen.row(
        "an orderly stop is cut off by SIGKILL, and the daemon is started again at once",
        "the old workers `draining` until they have finished; others beside them, `ready`",
    );
}

#[test]
fn a_reload_is_cut_off() {
    let config = |watchdog: &str| service().set("watchdog", watchdog).set("drain_timeout", "500ms");
    let world = World::new();
    let daemon = Daemon::with(&world, &config("20s"));
    let mut scene = Scene::around(world, daemon);
    let first = pids(&scene.service());
    config("30s").write(&scene.world);
    let mut reload = scene.daemon().paths().command(&["reload"]).stderr(Stdio::null()).spawn().unwrap();
    let second = until("a part to be replaced", || {
        let service = scene.service();
        let serve = service.workers.iter().filter(|it| it.buckets > 0).filter_map(|it| it.pid);
        let old = serve.clone().filter(|pid| first.contains(pid)).count();
        (old > 0 && serve.count() > old).then(|| pids(&service))
    });
    scene.daemon.take().unwrap().kill();
    let _ = reload.wait();
    config("40s").write(&scene.world);
    scene.strike();
    scene.daemon = Some(Daemon::start_until(&scene.world, Paths::of(&scene.world).run(), |_| true));
    let others = |it: &ServiceStatus| pids(it).is_disjoint(&first) && pids(it).is_disjoint(&second);
    let service = scene.recovers(|it| settled(it) && it.workers.len() == 4 && others(it));
    assert_eq!(service.wanted, 4);
    let seen = scene.end_but(|_| false);
    seen.assert_nothing_broke();
    seen.row(
        "the daemon is killed in the middle of a `reload` that replaces workers, and started with another file",
        "at the end four workers as the last file says, all `ready`",
    );
}

#[test]
fn the_bpf_file_system_is_mounted_anew() {
    let mut scene = Scene::new(&service());
    let before = scene.service();
    scene.daemon.take().unwrap().kill();
    let nothing: Option<&str> = None;
    umount2(&scene.world.bpffs(), MntFlags::MNT_DETACH).unwrap();
    mount(Some("bpf"), &scene.world.bpffs(), Some("bpf"), MsFlags::empty(), nothing).unwrap();
    scene.strike();
    scene.daemon = Some(Daemon::start_as(&scene.world, Paths::of(&scene.world).run()));
    let service = scene.recovers(settled);
    assert_eq!((pids(&service), service.moved), (pids(&before), before.moved));
    let seen = scene.end_but(|_| false);
    seen.assert_unnoticed();
    seen.row(
        "the BPF file system is mounted anew while no daemon runs, and the daemon is started again",
        "all as before",
    );
}

#[test]
fn a_worker_is_killed_while_no_daemon_runs() {
    let mut scene = Scene::new(&service());
    let before = scene.service();
    let pid = before.workers[1].pid.unwrap();
    scene.daemon.take().unwrap().kill();
    let accepted = freeze(pid);
    signal(pid, Signal::SIGKILL);
    until("it to be dead", || (!is_alive(pid)).then_some(()));
    lasts("the time without a daemon", Duration::from_secs(1));
    scene.strike();
    scene.daemon = Some(Daemon::start_as(&scene.world, Paths::of(&scene.world).run()));
    let service = scene.is_back(1);
    assert_eq!(service.moved, before.moved, "its buckets waited for it");
    scene.end(&accepted).row(
        "a worker is killed while no daemon runs, which is started again after 1 s",
        "`restarts` 1, again `ready`; `moved` unchanged",
    );
}

#[test]
fn the_daemon_stands_still_for_longer_than_the_watchdog() {
    let mut scene = Scene::new(&service().set("watchdog", "1s"));
    let before = pids(&scene.service());
    let daemon = scene.daemon().pid();
    signal(daemon, Signal::SIGSTOP);
    lasts("the stop", Duration::from_secs(3));
    scene.strike();
    signal(daemon, Signal::SIGCONT);
    scene.recovers(settled);
    throughout(Duration::from_millis(1_200), || {
        assert_eq!(pids(&scene.service()), before, "{}", scene.daemon().log());
    });
    let seen = scene.end_but(|_| false);
    seen.assert_unnoticed();
    seen.row(
        "the daemon stands still for 3 s (SIGSTOP, or the whole machine), with `watchdog = \"1s\"`",
        "all as before; no worker is killed for it",
    );
}

#[test]
fn nobody_reads_the_log() {
    let world = World::new();
    service().write(&world);
    let (reader, mut writer) = std::io::pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    while writer.write(&[b'x'; 4096]).is_ok() {}
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    let mut command = Paths::of(&world).run();
    command.arg("-vv").stdout(writer.try_clone().unwrap()).stderr(writer);
    let daemon = Daemon::start_unheard(&world, command, settled);
    let mut scene = Scene::around(world, daemon);
    let mut kill = |restarts| {
        let pid = scene.pid(1);
        let accepted = freeze(pid);
        scene.strike();
        signal(pid, Signal::SIGKILL);
        scene.is_back(restarts);
        accepted
    };
    let mut accepted = kill(1);
    drop(reader);
    accepted.extend(kill(2));
    scene.end(&accepted).row(
        "standard error is a full pipe, then one without a reader, and a worker is killed each time",
        "`restarts` 2, again `ready`",
    );
}

#[test]
fn there_are_no_process_ids_left() {
    let mut scene = Scene::new(&service());
    let before = scene.service();
    let pid = before.workers[1].pid.unwrap();
    let limit = Limit::processes(scene.daemon().pid(), 0);
    let accepted = freeze(pid);
    signal(pid, Signal::SIGKILL);
    let lacks = until("it not to be started", || scene.service().workers[1].lacks.clone());
    assert!(lacks.starts_with("is not started: cannot start worker web/1: "), "{lacks}");
    assert!(lacks.contains("Resource temporarily unavailable"), "{lacks}");
    until("its buckets to move", || (scene.service().workers[1].buckets == 0).then_some(()));
    drop(limit);
    scene.strike();
    let service = scene.is_back(1);
    assert_eq!(service.workers[1].sockets[0].cookie, before.workers[1].sockets[0].cookie, "the same socket");
    let seen = scene.end(&accepted);
    assert!(seen.report.slowest() < at_most(Duration::from_secs(3)), "{}", seen.report);
    seen.row(
        "no process ids are left (`TasksMax`) until `hold_timeout` is over, and a worker is killed",
        "`is not started: … Resource temporarily unavailable`; when there are some, `restarts` 1 and `ready`",
    );
}

/// A file system without room for a single file.
fn mount_full(place: &Path) {
    let options = Some("size=4k,nr_inodes=1,mode=711");
    mount(Some("tmpfs"), place, Some("tmpfs"), MsFlags::empty(), options).unwrap();
}

#[test]
fn the_disk_of_the_runtime_directory_is_full() {
    let mut scene = Scene::new(&service());
    let before = scene.service();
    let places = ["notify", "state"].map(|name| scene.world.path("run").join(name));
    places.iter().for_each(|place| mount_full(place));
    let pid = before.workers[1].pid.unwrap();
    let accepted = freeze(pid);
    signal(pid, Signal::SIGKILL);
    let lacks = until("it not to be started", || scene.service().workers[1].lacks.clone());
    assert!(lacks.contains("is not started: cannot make the notification socket"), "{lacks}");
    assert!(lacks.contains("No space left on device"), "{lacks}");
    let unsaved = until("its state not to be saved", || scene.service().unsaved);
    assert!(unsaved.contains("No space left on device"), "{unsaved}");
    places.iter().for_each(|place| umount2(place, MntFlags::MNT_DETACH).unwrap());
    scene.strike();
    let service = scene.is_back(1);
    assert_eq!(service.moved, before.moved, "no bucket moved");
    until("its state to be saved", || scene.service().unsaved.is_none().then_some(()));
    scene.end(&accepted).row(
        "the disk of the runtime directory is full, and a worker is killed; then there is room",
        "`is not started: … No space left on device`, `not saved`; then `restarts` 1 and `ready`",
    );
}

#[test]
fn the_state_is_damaged() {
    let mut scene = Scene::new(&service());
    let old = pids(&scene.service());
    scene.daemon.take().unwrap().kill();
    for kind in ["state", "copy"] {
        fs::write(scene.world.path("run/state").join(format!("web.{kind}")), "damaged").unwrap();
    }
    scene.strike();
    scene.daemon = Some(Daemon::start_as(&scene.world, Paths::of(&scene.world).run()));
    let service = scene.recovers(|it| settled(it) && it.groups.iter().all(|it| it.strangers == Some(0)));
    assert!(pids(&service).is_disjoint(&old));
    until("the old ones to be gone", || (!old.iter().any(|pid| is_alive(*pid))).then_some(()));
    let log = scene.daemon().log();
    assert!(log.contains("a state file cannot be used, so its service is not taken over"), "{log}");
    assert!(log.contains("no state file tells of 4 of its workers (processes "), "{log}");
    let seen = scene.end_but(|_| false);
    seen.assert_nothing_broke();
    seen.row(
        "both copies of the state file are damaged, and the daemon is started again",
        "four other workers `ready`; then the old ones end, which are found by their environment; the log says so",
    );
}

#[test]
fn a_second_daemon_serves_the_same_address() {
    let mut scene = Scene::new(&service());
    let before = scene.service();
    assert_said(&Paths::of(&scene.world).run().output().unwrap(), 1, &["another reuseport-lb (process "]);
    scene.strike();
    let mut second = Paths::of(&scene.world).run();
    second.arg("--runtime-dir").arg(scene.world.path("other"));
    let said = format!("another reuseport-lb (process {}) serves tcp://127.0.0.1:3000", scene.daemon().pid());
    assert_said(&second.output().unwrap(), 1, &[&said, "stop that one first"]);
    let service = scene.recovers(settled);
    assert_eq!((pids(&service), service.moved), (pids(&before), before.moved));
    let seen = scene.end_but(|_| false);
    seen.assert_unnoticed();
    seen.row(
        "a second daemon is started on the same address, with the same runtime directory and with another",
        "all as before; the second one says which process has the directory or the address, and exits with 1",
    );
}
