//! Starting, readiness, what a worker finds, being idle, and ending.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use testkit::client::{Connection, ask};
use testkit::config::Config;
use testkit::counters::Counters;
use testkit::daemon::{Daemon, Paths, signal, until};
use testkit::patience::lasts;
use testkit::server::words;
use testkit::world::World;

fn read_all(to: SocketAddr) -> String {
    use std::io::Read;
    let mut text = String::new();
    let mut stream = std::net::TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_command_finds_what_socket_activation_promises() {
    let world = World::new();
    let config = Config::web().listen("udp://[::1]:3001").workers(2).set("user", "nobody");
    let flags = "--answer found --wait accept --load 300ms --ready status";
    let daemon = Daemon::with(&world, &config.server(&world, flags));
    let found = read_all("127.0.0.1:3000".parse().unwrap());
    assert!(found.contains("worker=web/"), "{found}");
    assert!(found.contains("own_pid=true"), "{found}");
    assert!(found.contains("names=tcp-127.0.0.1-3000 udp-[--1]-3001"), "{found}");
    assert!(found.contains("kinds=SOCK_STREAM SOCK_DGRAM"), "{found}");
    assert!(found.contains("uid=65534 gid=65534 groups=[65534]"), "{found}");
    // Standard streams, the two sockets, and the directory that is being listed.
    assert!(found.contains("fds=0 1 2 3 4 5\n"), "{found}");
    assert_eq!(daemon.service().workers.iter().filter(|worker| worker.state == "ready").count(), 2);
    daemon.stop();
}

#[test]
fn a_starting_worker_has_no_buckets_but_connections_wait_for_it() {
    let world = World::new();
    let config = Config::web().server(&world, "--answer found --load 300ms --ready notify");
    let daemon = std::thread::scope(|scope| {
        let early = scope.spawn(|| {
            // As soon as there is a listener, which is before there is a worker.
            until("the listener", || std::net::TcpStream::connect("127.0.0.1:3000").ok())
        });
        let daemon = Daemon::with(&world, &config);
        early.join().unwrap();
        daemon
    });
    let service = daemon.service();
    // Between listen() and the socket's entry in the array nothing can be selected yet.
    let refused = service.groups[0].counters["refused"];
    let arrived = 1 + refused;
    let first = [("arrival_packet", arrived), ("owner_none", arrived), ("detour_hold", 1)];
    let expected = [&first[..], &[("detour_none", refused), ("refused", refused)]].concat();
    assert_eq!(Counters::of(&service), Counters::expected(&expected));
    daemon.stop();
}

#[test]
fn an_idle_daemon_uses_no_cpu_and_little_memory() {
    let world = World::new();
    let daemon = Daemon::start(&world, &["--workers", "8"]);
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
        let fields: Vec<u64> =
            stat.rsplit(')').next().unwrap().split(' ').filter_map(|f| f.parse().ok()).collect();
        // utime and stime: fields 14 and 15 of proc_pid_stat(5); the state is no number.
        fields[10] + fields[11]
    };
    // The kernel may give the tick of another process to this one now and then.
    let spent: Vec<u64> = (0..3)
        .map(|_| {
            let before = ticks();
            lasts("what is measured", Duration::from_secs(3));
            ticks() - before
        })
        .collect();
    assert!(spent.contains(&0), "{spent:?} clock ticks in 3 s each");
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let resident =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")).unwrap();
    println!("VmRSS {resident} kB");
    assert!(resident.trim().parse::<u64>().unwrap() < 20_000, "{resident} kB");
    daemon.stop();
}

#[test]
fn every_way_to_end_leaves_nothing_behind() {
    let world = World::new();
    for end in ["SIGTERM", "SIGINT", "stop"] {
        let daemon = Daemon::start(&world, &[]);
        let (pid, workers, paths) = (daemon.pid(), daemon.workers(), daemon.paths().clone());
        match end {
            "SIGTERM" => signal(pid, Signal::SIGTERM),
            "SIGINT" => signal(pid, Signal::SIGINT),
            _ => assert!(daemon.run(&["stop"]).contains("stopped")),
        }
        until("everything to be gone", || {
            let processes =
                workers.iter().filter(|pid| std::path::Path::new(&format!("/proc/{pid}")).exists());
            (processes.count() == 0 && paths.leftovers().is_empty()).then_some(())
        });
        drop(daemon);
    }
}

#[test]
fn ending_lets_requests_finish_and_lets_nothing_new_in() {
    let world = World::new();
    let config = Config::web().set("ready", "immediate");
    let config = config.server(&world, "--answer halves --pause 1s --term ignore");
    let daemon = Daemon::with(&world, &config);
    let to: SocketAddr = "127.0.0.1:3000".parse().unwrap();
    let mut stream = std::net::TcpStream::connect(to).unwrap();
    let mut begun = [0; 6];
    std::io::Read::read_exact(&mut stream, &mut begun).unwrap();
    signal(daemon.pid(), Signal::SIGTERM);
    until("nothing new to be let in", || std::net::TcpStream::connect(to).is_err().then_some(()));
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut stream, &mut rest).unwrap();
    assert_eq!(rest, "finished");
}

#[test]
fn a_worker_that_ignores_sigterm_is_killed_after_drain_timeout() {
    let world = World::new();
    let server =
        world.file("stubborn.sh", "trap '' TERM\nsleep 300 &\necho $! > \"$1\"\nwhile true; do wait; done\n");
    let child = world.path("child");
    let config = Config::web().set("ready", "immediate").set("drain_timeout", "500ms");
    let config = config.command(&["sh", &*server.to_string_lossy(), &*child.to_string_lossy()]);
    let daemon = Daemon::with(&world, &config);
    let grandchild: i32 = until("its child", || std::fs::read_to_string(&child).ok()?.trim().parse().ok());
    let begun = Instant::now();
    daemon.stop();
    assert!(begun.elapsed() >= Duration::from_millis(500));
    until("what the worker started to be gone", || {
        (!std::path::Path::new(&format!("/proc/{grandchild}")).exists()).then_some(())
    });
}

#[test]
fn two_daemons_live_side_by_side_with_their_own_directories() {
    let world = World::new();
    let one = Daemon::start(&world, &["--listen", "tcp://127.0.0.1:3000"]);
    let other = world.path("other");
    let mut second = std::process::Command::new(testkit::daemon::binary())
        .args(["run", "--listen", "tcp://127.0.0.1:3001", "--runtime-dir"])
        .arg(&other)
        .arg("--bpffs")
        .arg(world.bpffs())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let to = "127.0.0.1:3001".parse().unwrap();
    until("the second to answer", || ask(to).ok());
    one.stop_beside();
    ask(to).unwrap();
    signal(i32::try_from(second.id()).unwrap(), Signal::SIGTERM);
    assert!(second.wait().unwrap().success());
    assert_eq!(Paths::of(&world).leftovers(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn idle_connections_do_not_keep_an_embedded_worker_from_ending() {
    let world = World::new();
    let daemon = Daemon::start(&world, &["--listen", "tcp://127.0.0.1:3000", "--workers", "1"]);
    let mut kept = Connection::open("127.0.0.1:3000".parse().unwrap(), None).unwrap();
    kept.ask().unwrap();
    let begun = Instant::now();
    daemon.stop();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn what_a_shell_wrapper_started_may_finish() {
    let world = World::new();
    let note = world.path("note");
    let server = words(&world, &format!("--answer never --term note --note {}", note.display())).join(" ");
    let command = format!("{server}; echo never");
    let ready = ["--listen", "tcp://127.0.0.1:3000", "--workers", "1", "--ready", "immediate"];
    let arguments = [&ready[..], &["--", "sh", "-c", &command]].concat();
    let daemon = Daemon::start(&world, &arguments);
    until("it to be ready for its end", || note.exists().then_some(()));
    daemon.stop();
    assert_eq!(std::fs::read_to_string(note).unwrap(), "finished");
}

#[test]
fn a_narrow_umask_and_a_relative_directory_do_no_harm() {
    let world = World::new();
    let child = std::process::Command::new("sh")
        .args([
            "-c",
            "umask 077; exec \"$0\" run --listen tcp://127.0.0.1:3000 --runtime-dir run --bpffs bpf",
        ])
        .arg(testkit::daemon::binary())
        .current_dir(world.path("."))
        .spawn();
    let mut child = child.unwrap();
    until("an answer", || ask("127.0.0.1:3000".parse().unwrap()).ok());
    signal(i32::try_from(child.id()).unwrap(), Signal::SIGTERM);
    assert!(child.wait().unwrap().success());
    assert_eq!(Paths::of(&world).leftovers(), Vec::<std::path::PathBuf>::new());
}
