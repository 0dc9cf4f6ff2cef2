//! The fault matrix: what the machine lacks, and too much of something. Each test is a row of docs/FAULTS.md, which
//! `cargo xtask faults` writes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use reuseport_lb_client::api::ServiceStatus;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use testkit::client::ask;
use testkit::config::Config;
use testkit::counters::Counters;
use testkit::daemon::{Daemon, Paths, counter, settled, signal, until, until_within};
use testkit::fault::freeze;
use testkit::flood::Flood;
use testkit::limit::Limit;
use testkit::load::Load;
use testkit::matrix::{Scene, address, row, service, time};
use testkit::patience::lasts;
use testkit::said::assert_said;
use testkit::server::words;
use testkit::world::{World, program, run};

fn pids(service: &ServiceStatus) -> Vec<Option<i32>> {
    service.workers.iter().map(|worker| worker.pid).collect()
}

#[test]
fn the_daemon_has_no_descriptors_left() {
    let mut scene = Scene::new(&service());
    let daemon = Pid::from_raw(scene.daemon().pid());
    let open = fs::read_dir(format!("/proc/{}/fd", scene.daemon().pid())).unwrap().count() as u64;
    let limit = |most| {
        prlimit(daemon, Resource::Nofile, Rlimit { current: Some(most), maximum: Some(20_000) }).unwrap()
    };
    let before = limit(open + 4);
    let grown = scene.daemon().paths().output(&["scale", "web", "8"]);
    let said = String::from_utf8_lossy(&grown.stderr).into_owned();
    assert!(!grown.status.success() && said.contains("Too many open files"), "{said}");
    limit(before.current.unwrap());
    scene.strike();
    let pid = scene.pid(1);
    let accepted = freeze(pid);
    signal(pid, Signal::SIGKILL);
    let service = scene.is_back(1);
    assert_eq!(service.workers.len(), 4, "nothing of the new ones is left");
    scene.daemon().run(&["scale", "web", "8"]);
    let seen = scene.end(&accepted);
    seen.row(
        "the daemon is out of descriptors when it is to `scale`",
        "`scale` fails with `Too many open files`; all as before",
    );
}

#[test]
fn the_disk_is_full_at_its_state_file() {
    let mut scene = Scene::new(&service());
    let state = scene.world.path("run").join("state");
    mount(Some("tmpfs"), &state, Some("tmpfs"), MsFlags::empty(), Some("size=16k")).unwrap();
    let filler = state.join("filler");
    let _ = fs::write(&filler, vec![0; 64 << 10]);
    let pid = scene.pid(1);
    let accepted = freeze(pid);
    scene.strike();
    signal(pid, Signal::SIGKILL);
    scene.is_back(1);
    let log = scene.daemon().log();
    assert!(log.contains("No space left on device"), "{log}");
    fs::remove_file(filler).unwrap();
    let pid = scene.pid(2);
    let accepted = accepted.into_iter().chain(freeze(pid)).collect();
    signal(pid, Signal::SIGKILL);
    scene.is_back(2);
    assert!(fs::metadata(state.join("web.state")).unwrap().len() > 0, "it is written again");
    umount2(&state, MntFlags::MNT_DETACH).unwrap();
    let seen = scene.end(&accepted);
    seen.row(
        "the disk is full at the state file, and a worker is killed",
        "`restarts` 1, again `ready`; the log says `No space left on device`",
    );
}

#[test]
fn the_bpf_file_system_is_gone() {
    let mut scene = Scene::new(&service());
    umount2(&scene.world.bpffs(), MntFlags::MNT_DETACH).unwrap();
    let pid = scene.pid(1);
    let accepted = freeze(pid);
    scene.strike();
    signal(pid, Signal::SIGKILL);
    scene.is_back(1);
    scene.daemon().run(&["scale", "web", "5"]);
    let service = scene.service();
    assert_eq!((service.workers.len(), settled(&service)), (5, true));
    scene.end(&accepted).row(
        "the BPF file system is unmounted, and a worker is killed",
        "`restarts` 1, again `ready`; `scale` works",
    );
}

#[test]
fn the_configuration_is_garbage() {
    let scene = Scene::new(&service());
    let before = scene.service();
    let file = scene.world.path("config.toml");
    fs::write(&file, service().toml("workrs", "8".into()).to_string()).unwrap();
    assert_said(&scene.daemon().paths().output(&["reload"]), 2, &["workrs"]);
    let service = scene.service();
    assert_eq!((pids(&service), service.moved), (pids(&before), before.moved));
    let seen = scene.end_but(|_| false);
    assert_eq!(seen.datagrams.lost + seen.datagrams.moved, 0);
    seen.row(
        "`reload` of a file with an unknown key",
        "`reload` exits with 2 and names line and key; all as before",
    );
}

#[test]
fn the_clock_jumps() {
    let world = World::new();
    let clock = world.file("clock", "+0");
    service().set("watchdog", "off").write(&world);
    let mut command = Paths::of(&world).run();
    // For the daemon and its workers only: the machine's clock is not ours.
    command.env("LD_PRELOAD", faketime()).env("FAKETIME_TIMESTAMP_FILE", &clock);
    command
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1");
    let daemon = Daemon::start_as(&world, command);
    let mut scene = Scene::around(world, daemon);
    let before = scene.service();
    for jump in ["+400d", "-400d", "+0"] {
        fs::write(&clock, jump).unwrap();
        lasts("the wrong time", Duration::from_millis(700));
    }
    let log = scene.daemon().log();
    let pid = scene.pid(1);
    fs::write(&clock, "+400d").unwrap();
    let accepted = freeze(pid);
    scene.strike();
    signal(pid, Signal::SIGKILL);
    let service = scene.is_back(1);
    let year = |log: &str| log.lines().last().and_then(|line| line.get(..4)?.parse::<u32>().ok());
    assert!(year(&scene.daemon().log()) > year(&log), "its clock has jumped: {}", scene.daemon().log());
    assert_eq!(service.moved, before.moved);
    let seen = scene.end(&accepted);
    seen.row("the clock jumps by 400 days, both ways", "all as before; only the log's dates differ");
}

/// The library, in its package's place, on the system or unpacked.
fn faketime() -> std::path::PathBuf {
    let program = program("faketime");
    let roots = program.ancestors().skip(2).take(2).flat_map(|root| [root.to_owned(), root.join("usr")]);
    let mut found = roots.flat_map(|root| {
        let folders = fs::read_dir(root.join("lib")).into_iter().flatten().flatten();
        folders.map(|folder| folder.path().join("faketime/libfaketime.so.1")).collect::<Vec<_>>()
    });
    found.find(|file| file.is_file()).expect("libfaketime is beside faketime")
}

#[test]
fn a_flood_of_syns_with_cookies_forced_on() {
    let world = World::new();
    fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2").unwrap();
    // The kernel answers only whom it could reach.
    run("ip", &["route", "add", "default", "dev", "lo"]);
    let daemon = Daemon::with(&world, &service());
    let scene = Scene::around(world, daemon);
    let sent = Flood::syns(address().port(), 20_000).end();
    let service = scene.service();
    assert!(settled(&service));
    assert!(cookies() >= sent, "{} cookies for {sent}", cookies());
    let seen = scene.end_but(|_| false);
    seen.counters.assert_only(&["arrival_packet", "owner_taken"], &[]);
    assert!(seen.counters.clone().take(&["arrival_packet"]) >= sent, "each was decided");
    assert_eq!((seen.datagrams.lost, seen.datagrams.moved), (0, 0));
    seen.row(
        &format!("a flood of {sent} SYNs from addresses that nobody has, with SYN cookies forced on"),
        "all `ready`; `arrival_packet` counts them",
    );
}

/// `SyncookiesSent` of this thread's namespace.
fn cookies() -> u64 {
    let table = fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let lines: Vec<Vec<&str>> = table.lines().take(2).map(|line| line.split(' ').collect()).collect();
    let at = lines[0].iter().position(|name| *name == "SyncookiesSent").unwrap();
    lines[1][at].parse().unwrap()
}

#[test]
fn a_backlog_is_full() {
    let world = World::new();
    let config = Config::web().workers(4).toml("backlog", "8".into()).set("stall_timeout", "off");
    let daemon = Daemon::with(&world, &config);
    let load = Load::to(address()).clients(32).kept(0).pause(Duration::from_millis(1)).start();
    load.until_answered(200);
    let pid = daemon.service().workers[1].pid.unwrap();
    let accepted = freeze(pid);
    let struck = Instant::now();
    until("a full queue", || (daemon.service().workers[1].sockets[0].queue == 9).then_some(()));
    until("it to be avoided", || (counter(&daemon.service(), "owner_overloaded") > 0).then_some(()));
    let recovered = struck.elapsed();
    let stopped = Duration::from_secs(2);
    lasts("the stop", stopped);
    signal(pid, Signal::SIGCONT);
    until("it to serve again", || (ask(address()).unwrap().pid == pid).then_some(()));
    let report = load.end();
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    let avoided = ["arrival_packet", "owner_taken", "owner_overloaded", "detour_candidate"];
    Counters::of(&daemon.service()).assert_only(&avoided, &["detour_owner", "detour_ready"]);
    let waited = report.slow.iter().filter(|slow| slow.took > Duration::from_millis(900)).count();
    // Those in the queue, and those whose SYN it dropped before it was avoided, some more than once.
    assert!((9..=2 * 32).contains(&waited), "{waited} waited; {report}");
    println!("{waited} of {} waited; {} accepted", report.requests, accepted.len());
    row(
        "a worker's backlog is full, for 2 s, with `stall_timeout` off",
        &format!(
            "{} new connections; {waited} waited until it was over or for their next SYN; longest {}",
            report.requests,
            time(report.slowest())
        ),
        "nothing",
        "`queue` 9 of 8; `owner_overloaded`",
        Some(recovered),
    );
    daemon.stop();
}

#[test]
fn there_are_a_thousand_workers() {
    let world = World::new();
    let config = Config::web().workers(4).set("start_timeout", "2m");
    let daemon = Daemon::with(&world, &config);
    let load = Load::to(address()).clients(4).kept(20).pause(Duration::from_millis(5)).start();
    let begun = Instant::now();
    daemon.run(&["scale", "web", "1000"]);
    let service = until_within(Duration::from_secs(120), "all to be ready", || {
        Some(daemon.service()).filter(|it| it.workers.len() == 1000 && settled(it))
    });
    let grown = begun.elapsed();
    assert!(service.workers.iter().all(|it| [65, 66].contains(&it.buckets)), "exact");
    let victim = &service.workers[500];
    let accepted = freeze(victim.pid.unwrap());
    let struck = Instant::now();
    signal(victim.pid.unwrap(), Signal::SIGKILL);
    let back = until("it to be back", || {
        Some(daemon.service()).filter(|it| settled(it) && it.workers[500].restarts == 1)
    });
    let recovered = struck.elapsed();
    assert_eq!(back.moved, service.moved);
    let report = load.end();
    let failed = report.failed_except(|failure| failure.local.is_some_and(|it| accepted.contains(&it)));
    assert!(failed.is_empty(), "{failed:?}");
    row(
        "1,000 workers, and one of them is killed",
        &format!(
            "{} new connections, {} requests on kept ones; longest {}",
            report.requests,
            report.kept_messages,
            time(report.slowest())
        ),
        "nothing",
        &format!("1,000 `ready` after {}; `restarts` 1, again `ready`", time(grown)),
        Some(recovered),
    );
    daemon.stop();
}

#[test]
fn the_group_is_full() {
    let mut scene = Scene::new(&service());
    let strangers = Crowd::fill(&scene.world);
    let grown = scene.daemon().paths().output(&["scale", "web", "5"]);
    let said = String::from_utf8_lossy(&grown.stderr).into_owned();
    assert_eq!(strangers.count, 32_768 - 4);
    assert!(!grown.status.success() && said.contains("Cannot allocate memory"), "{said}");
    let service = scene.service();
    assert_eq!((service.workers.len(), settled(&service)), (4, true));
    assert_eq!(service.groups[0].strangers, Some(32_764));
    scene.strike();
    drop(strangers);
    scene.daemon().run(&["scale", "web", "5"]);
    scene.recovers(settled);
    let seen = scene.end_but(|_| false);
    assert_eq!(seen.datagrams.lost, 0);
    seen.row(
        "strangers fill the group to its 32,768 sockets",
        "`strangers` 32764; `scale` fails with `Cannot allocate memory`, and works when they are gone",
    );
}

/// Processes with many sockets in the group; they end with their standard input.
struct Crowd {
    count: usize,
    processes: Vec<Child>,
}

impl Crowd {
    /// As many as there is room for.
    fn fill(world: &World) -> Self {
        let server = words(world, &format!("--crowd {}", address()));
        let mut crowd = Self { count: 0, processes: Vec::new() };
        // A process may have as few as 4,096 descriptors.
        for _ in 0..16 {
            let mut command = Command::new(&server[0]);
            let process = command.args(&server[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
            let mut process = process.unwrap();
            let mut line = String::new();
            BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
            crowd.processes.push(process);
            let (count, full) = line.trim().split_once(' ').unwrap();
            crowd.count += count.parse::<usize>().unwrap();
            if full == "1" {
                break;
            }
        }
        crowd
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for process in &mut self.processes {
            drop(process.stdin.take());
            let _ = process.wait();
        }
    }
}

#[test]
fn memory_for_maps_runs_out() {
    let world = World::new();
    let daemon = Daemon::with(&world, &service());
    let limit = Limit::memory(daemon.pid(), 3 << 20);
    let scene = Scene::around(world, daemon);
    let before = scene.service();
    service().listen("udp://127.0.0.1:3001").write(&scene.world);
    let reload = scene.daemon().paths().output(&["reload"]);
    assert_said(&reload, 1, &["Cannot allocate memory"]);
    let service = scene.service();
    assert_eq!((pids(&service), service.moved), (pids(&before), before.moved));
    drop(limit);
    scene.daemon().run(&["reload"]);
    assert_eq!(scene.service().groups.len(), 3);
    let seen = scene.end_but(|_| false);
    seen.row(
        "`reload` adds a UDP listener whose maps exceed the memory limit of the daemon's cgroup",
        "`reload` fails with `Cannot allocate memory`; all as before, and it works when there is more",
    );
}
