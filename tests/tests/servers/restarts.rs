//! A restart finishes what is in flight, with the signal that the server ends in order with.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use testkit::background::beside;
use testkit::daemon::{Daemon, until};
use testkit::patience::lasts;
use testkit::server;
use testkit::world::World;

use super::programs::{downloads, haproxy, uvicorn, words};
use super::requests::{PATIENCE, get, long, short_ones};
use super::web;

/// Replaces all workers, which `signal` tells to end, while long requests are in flight beside short ones; the outcome of
/// the long ones. No short one may fail.
fn restart_in_flight(
    command: impl FnOnce(&World) -> Vec<String>,
    signal: &str,
) -> Vec<Result<String, String>> {
    let world = World::new();
    let config = web(&command(&world)).set("drain_timeout", &format!("{}s", long().as_secs() * 3));
    let daemon = Daemon::with(&world, &config.workers(2).set("stop_signal", signal));
    let long_ones = |over: &AtomicBool| {
        std::thread::scope(|scope| {
            let mut all = Vec::new();
            while !over.load(Ordering::Relaxed) {
                all.push(scope.spawn(|| get("/slow", long() * 3)));
                lasts("the time between two of ten long requests a second", Duration::from_millis(100));
            }
            all.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>()
        })
    };
    let restart = || {
        let accepted = || daemon.service().workers.iter().all(|worker| worker.sockets[0].selected > 20);
        until("requests to be in flight", || accepted().then_some(()));
        daemon.run(&["restart", "web", "--trial", "100ms"]);
    };
    let restart_beside_long_ones = || beside(long_ones, restart);
    let (((), all), (answered, failed)) = beside(|over| short_ones(over, PATIENCE), restart_beside_long_ones);
    let cut = all.iter().filter(|one| one.is_err()).count();
    println!("{signal}: {cut} of {} long requests cut; {answered} short ones answered", all.len());
    assert!(failed.is_empty(), "{failed:?}\n{}", daemon.log());
    daemon.stop();
    all
}

/// `signal` cuts no request, which SIGTERM does.
fn ends_in_order_with(signal: &str, command: fn(&World) -> Vec<String>) {
    let all = restart_in_flight(command, signal);
    assert!(all.len() > 10 && all.iter().all(Result::is_ok), "{all:?}");
    assert!(restart_in_flight(command, "TERM").iter().any(Result::is_err), "SIGTERM cuts nothing");
}

#[test]
fn a_restart_of_haproxy_finishes_what_is_in_flight_with_usr1() {
    ends_in_order_with("USR1", |world| haproxy(world, "-db"));
}

#[test]
fn a_restart_of_haproxys_master_finishes_what_is_in_flight_with_usr1() {
    ends_in_order_with("USR1", |world| haproxy(world, "-W"));
}

#[test]
fn a_restart_of_nginx_finishes_what_is_in_flight_with_quit() {
    ends_in_order_with("QUIT", downloads);
}

#[test]
fn a_restart_of_uvicorn_finishes_what_is_in_flight_with_term() {
    let all = restart_in_flight(uvicorn, "TERM");
    assert!(all.len() > 10 && all.iter().all(Result::is_ok), "{all:?}");
}

/// A main process that passes on another signal than it gets, as SIGTERM: what becomes of its server.
#[test]
fn only_the_main_process_is_told_to_end_if_the_file_says_so() {
    for (mode, status) in [("main", 128 + libc::SIGTERM), ("group", 128 + libc::SIGUSR2)] {
        let world = World::new();
        let ended = world.path("ended");
        let server = server::words(&world, "--ready notify").join(" ");
        let script = format!(
            "sh -c 'export LISTEN_PID=$$; exec {server}' & trap \"kill -TERM $!\" USR2; wait $!; wait $!; echo $? > {}",
            ended.display()
        );
        let config = web(&words("sh", &["-c", &script])).workers(1);
        let daemon = Daemon::with(&world, &config.set("stop_signal", "usr2").set("stop_mode", mode));
        daemon.stop();
        assert_eq!(std::fs::read_to_string(ended).unwrap().trim(), status.to_string(), "{mode}");
    }
}
