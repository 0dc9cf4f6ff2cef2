//! A restart finishes what is in flight, with the signal that the server ends in order with.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use reuseport_lb::config::{SaysReady, known_server};
use testkit::background::beside;
use testkit::daemon::{Daemon, Paths, throughout, until};
use testkit::requests::steadily;
use testkit::server;
use testkit::world::World;

use super::programs::{downloads, go, gunicorn, haproxy, hypercorn, lighttpd, node, uvicorn, uwsgi, words};
use super::requests::{PATIENCE, get, long, short_ones};
use super::web;

/// How a service of a server is told to end.
#[derive(Clone, Debug)]
struct Stop {
    signal: String,
    mode: String,
    ready: &'static str,
}

impl Stop {
    /// As the table of known servers has it: the table is what is tried.
    fn known(server: &str, argument: &str) -> Self {
        let known = known_server(server).unwrap();
        let says_ready = match known.ready {
            SaysReady::Yes => true,
            SaysReady::With(wanted) => wanted == argument,
            SaysReady::Never | SaysReady::Unknown => false,
        };
        Self {
            signal: known.signal.unwrap_or_default().to_string(),
            mode: known.mode.unwrap_or_default().to_string(),
            ready: if says_ready { "notify" } else { "accepting" },
        }
    }

    fn signal(self, signal: &str) -> Self {
        Self { signal: signal.into(), ..self }
    }

    fn mode(self, mode: &str) -> Self {
        Self { mode: mode.into(), ..self }
    }
}

/// Replaces all workers, which are told to end, while long requests are in flight beside short ones; the outcome of
/// the long ones. No short one may fail.
fn restart_in_flight(
    command: impl FnOnce(&World) -> Vec<String>,
    stop: &Stop,
) -> Vec<Result<String, String>> {
    let world = World::new();
    let config = web(&command(&world)).set("drain_timeout", &format!("{}s", long().as_secs() * 3));
    let config =
        config.set("stop_signal", &stop.signal).set("stop_mode", &stop.mode).set("ready", stop.ready);
    let daemon = Daemon::with(&world, &config.workers(2));
    let before = daemon.workers();
    let long_ones =
        |over: &AtomicBool| steadily(over, Duration::from_millis(100), |_| get("/slow", long() * 3));
    let restart = || {
        let accepted = || daemon.service().workers.iter().all(|worker| worker.sockets[0].selected > 20);
        until("requests to be in flight", || accepted().then_some(()));
        daemon.run(&["restart", "web", "--trial", "100ms"]);
    };
    let restart_beside_long_ones = || beside(long_ones, restart);
    let (((), all), (answered, failed)) = beside(|over| short_ones(over, PATIENCE), restart_beside_long_ones);
    let cut = all.iter().filter(|one| one.is_err()).count();
    println!("{stop:?}: {cut} of {} long requests cut; {answered} short ones answered", all.len());
    assert!(failed.is_empty(), "{failed:?}\n{}", daemon.log());
    assert!(daemon.workers().iter().all(|pid| !before.contains(pid)));
    daemon.stop();
    all
}

/// Nothing is cut.
fn finishes(command: impl FnOnce(&World) -> Vec<String>, stop: &Stop) {
    let all = restart_in_flight(command, stop);
    assert!(all.len() > 10 && all.iter().all(Result::is_ok), "{stop:?}: {all:?}");
}

/// What is told otherwise cuts requests: the server ends in order for the reason that it is thought to. Which requests
/// are in flight then is chance.
fn cuts(command: impl Fn(&World) -> Vec<String>, stop: &Stop) {
    let cuts = |_| restart_in_flight(&command, stop).iter().any(Result::is_err);
    assert!((0..3).any(cuts), "{stop:?} cuts nothing in three restarts");
}

#[test]
fn a_restart_of_haproxy_finishes_what_is_in_flight_with_usr1() {
    let stop = Stop::known("haproxy", "-db");
    finishes(|world| haproxy(world, "-db"), &stop);
    cuts(|world| haproxy(world, "-db"), &stop.signal("TERM"));
}

#[test]
fn a_restart_of_haproxys_master_finishes_what_is_in_flight_with_usr1() {
    finishes(|world| haproxy(world, "-W"), &Stop::known("haproxy", "-W"));
}

#[test]
fn a_restart_of_haproxys_master_that_says_that_it_is_ready_finishes_what_is_in_flight() {
    finishes(|world| haproxy(world, "-Ws"), &Stop::known("haproxy", "-Ws"));
}

#[test]
fn a_restart_of_nginx_finishes_what_is_in_flight_with_quit() {
    let stop = Stop::known("nginx", "");
    finishes(downloads, &stop);
    cuts(downloads, &stop.signal("TERM"));
}

#[test]
fn a_restart_of_lighttpd_finishes_what_is_in_flight_with_int() {
    let stop = Stop::known("lighttpd", "");
    finishes(lighttpd, &stop);
    cuts(lighttpd, &stop.signal("TERM"));
}

#[test]
fn a_restart_of_uvicorn_finishes_what_is_in_flight_with_term() {
    finishes(uvicorn, &Stop::known("uvicorn", ""));
}

#[test]
fn a_restart_of_gunicorn_finishes_what_is_in_flight_within_its_patience() {
    let stop = Stop::known("gunicorn", "");
    finishes(|world| gunicorn(world, "100"), &stop);
    cuts(|world| gunicorn(world, "1"), &stop);
}

#[test]
fn a_restart_of_hypercorn_finishes_what_is_in_flight_within_its_patience() {
    let stop = Stop::known("hypercorn", "");
    finishes(|world| hypercorn(world, &["--graceful-timeout", "100"]), &stop);
    // Its default is 3 s.
    cuts(|world| hypercorn(world, &[]), &stop);
}

#[test]
fn a_restart_of_uwsgi_finishes_what_is_in_flight_if_its_main_process_alone_is_told() {
    let stop = Stop::known("uwsgi", "");
    finishes(uwsgi, &stop);
    cuts(uwsgi, &stop.mode("group"));
}

#[test]
fn a_restart_of_node_finishes_what_is_in_flight() {
    finishes(|world| node(world, "single"), &Stop::known("node", ""));
}

#[test]
fn a_restart_of_nodes_cluster_finishes_what_is_in_flight_if_its_main_process_alone_is_told() {
    let stop = Stop::known("node", "");
    finishes(|world| node(world, "cluster"), &stop.clone().mode("main"));
    cuts(|world| node(world, "cluster"), &stop.mode("group"));
}

#[test]
fn a_restart_of_a_server_in_go_finishes_what_is_in_flight() {
    finishes(go, &Stop { signal: "TERM".into(), mode: "group".into(), ready: "accepting" });
}

/// What the table says of READY=1 where a restart does not show it: a server that does not say it serves, and is not
/// ready.
#[test]
fn servers_that_do_not_say_that_they_are_ready_are_known_as_that() {
    type Command = fn(&World) -> Vec<String>;
    let all: [(&str, Command); 5] = [
        ("nginx", downloads),
        ("lighttpd", lighttpd),
        ("uvicorn", uvicorn),
        ("hypercorn", |world| hypercorn(world, &[])),
        ("haproxy", |world| haproxy(world, "-W")),
    ];
    for (server, command) in all {
        let known = known_server(server).unwrap().ready;
        assert!(matches!(known, SaysReady::Never | SaysReady::With("-Ws")), "{server}");
        let world = World::new();
        web(&command(&world)).workers(1).set("ready", "notify").write(&world);
        let daemon = Daemon::start_until(&world, Paths::of(&world).run(), |it| it.workers[0].pid.is_some());
        until("an answer", || get("/", PATIENCE).ok());
        throughout(Duration::from_secs(1), || {
            assert_eq!(daemon.service().workers[0].state, "starting", "{server} says READY=1");
        });
        daemon.stop();
    }
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
