//! `lame_duck`: after `stop` a service goes on, and says that it is ending.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::fs;
use std::net::SocketAddr;
use std::process::Stdio;

use nix::sys::signal::Signal;
use testkit::client::Connection;
use testkit::config::Config;
use testkit::daemon::{Daemon, Paths, is_alive, selected, signal, until};
use testkit::said::assert_said;
use testkit::server;
use testkit::world::World;

fn to() -> SocketAddr {
    "127.0.0.1:3000".parse().unwrap()
}

/// The worker that answers a new connection.
fn served() -> i32 {
    Connection::open(to(), None).unwrap().ask().unwrap().pid
}

#[test]
fn a_lame_duck_serves_until_its_time_is_over_or_another_stop_comes() {
    let world = World::new();
    let config = Config::web().workers(2).set("lame_duck", "1h");
    let daemon = Daemon::with(&world, &config);
    let workers = daemon.workers();
    assert!(!daemon.service().ending);
    let mut first = daemon.paths().command(&["stop"]).stdout(Stdio::null()).spawn().unwrap();
    until("the end to be announced", || daemon.service().ending.then_some(()));
    let before: u64 = daemon.service().workers.iter().map(selected).sum();
    for _ in 0..20 {
        assert!(workers.contains(&served()));
    }
    let service = daemon.service();
    assert_eq!(service.workers.iter().map(selected).sum::<u64>(), before + 20);
    assert!(service.workers.iter().all(|worker| worker.state == "ready"), "{:?}", service.workers);
    assert!(daemon.run(&["status"]).contains(" it is to end: nothing new should be sent to it\n"));
    let refused = daemon.paths().output(&["reload"]);
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && text.contains("the daemon is ending"), "{text}");
    let said = daemon.run(&["stop"]);
    assert_eq!(said, format!("stopped (process {})\n", daemon.pid()));
    assert!(first.wait().unwrap().success());
    assert!(workers.iter().all(|pid| !is_alive(*pid)));
    let log = daemon.log();
    assert!(log.contains("goes on for 3600s (lame_duck), and says that it is ending"), "{log}");
    assert!(!log.contains("workers are killed"), "{log}");
    assert_eq!(daemon.paths().leftovers(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn its_time_ends_by_itself_after_sigterm() {
    let world = World::new();
    let daemon = Daemon::with(&world, &Config::web().workers(1).set("lame_duck", "500ms"));
    let worker = daemon.workers()[0];
    signal(daemon.pid(), Signal::SIGTERM);
    until("the end to be announced", || daemon.service().ending.then_some(()));
    assert_eq!(served(), worker);
    until("the worker to end", || (!is_alive(worker)).then_some(()));
    until("the daemon to end", || (!is_alive(daemon.pid())).then_some(()));
    daemon.says("stopped");
}

#[test]
fn run_takes_it_and_a_log_file_from_the_command_line() {
    let world = World::new();
    let log = world.path("web-{index}.log").display().to_string();
    let server = server::words(&world, "").join(" ");
    let script = format!("echo hello; exec {server}");
    let run = |log: &str| {
        let options = ["run", "--listen", "tcp://127.0.0.1:3000", "--workers", "1", "--lame-duck", "1h"];
        Paths::of(&world).command(&[&options[..], &["--log", log, "--", "sh", "-c", &script]].concat())
    };
    assert_said(&run("web.log").output().unwrap(), 2, &["--log <WHERE>", "write an absolute one"]);
    let missing = ["log files cannot be made in /no/such: No such file or directory"];
    assert_said(&run("/no/such/web.log").output().unwrap(), 1, &missing);
    let daemon = Daemon::start_as(&world, run(&log));
    until("its output", || (fs::read_to_string(world.path("web-0.log")).ok()? == "hello\n").then_some(()));
    let worker = daemon.workers()[0];
    signal(daemon.pid(), Signal::SIGTERM);
    daemon.says("goes on for 3600s (lame_duck), and says that it is ending");
    assert_eq!(served(), worker);
    daemon.stop();
    let log = fs::read_to_string(world.path("daemon.log")).unwrap();
    assert!(!log.contains("hello"), "{log}");
}
