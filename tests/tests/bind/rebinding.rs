//! Sockets that are opened while no daemon runs: those of the service wait for the next one, all others do not.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use reuseport_lb_client::api::ServiceStatus;
use testkit::background::beside;
use testkit::config::Config;
use testkit::daemon::{Daemon, selected, settled, signal, throughout, until};
use testkit::world::World;

use crate::family::{Alone, kill};
use crate::joined::keepers_of;
use crate::programs::{keeps, nginx, rebinds};
use crate::protocol::Protocol::Http;
use crate::protocol::ask_all;
use crate::reloads::{reload, tell_to_reload};
use crate::row::names;

/// How many other sockets a server says that it has opened.
pub(crate) fn others(file: &Path) -> u64 {
    fs::read_to_string(file).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn opened_again(daemon: &Daemon) -> usize {
    daemon.log().matches("opened again").count()
}

/// Asks one client after the other until it is told to end; what went wrong.
pub(crate) fn asking(over: &std::sync::atomic::AtomicBool) -> Vec<String> {
    let mut failed = Vec::new();
    while !over.load(std::sync::atomic::Ordering::Relaxed) {
        failed.extend(ask_all(&[Http], 5));
    }
    failed
}

#[test]
fn a_server_that_opens_its_socket_again_alone() {
    let world = World::new();
    let file = world.path("others");
    let _alone = Alone::start(&rebinds(&world, &file));
    until("it to serve", || Http.ask().ok());
    until("others", || (others(&file) > 5).then_some(()));
}

#[test]
fn a_server_that_opens_its_socket_again_keeps_its_place() {
    let world = World::new();
    let config = Config::web().workers(3).set("sockets", "bind");
    let file = world.path("others-{index}").display().to_string();
    let daemon = Daemon::with(&world, &config.command(&rebinds(&world, file.as_ref())));
    let before = daemon.service();
    let again = || {
        for turn in 1..=5 {
            signal(before.workers[0].pid.unwrap(), Signal::SIGUSR1);
            until("it to open its socket again", || (opened_again(&daemon) == turn).then_some(()));
            until("it to be back", || {
                Some(daemon.service()).filter(|it| it.workers.len() == 3 && settled(it))
            });
        }
    };
    let ((), failed) = beside(asking, again);
    assert!(failed.is_empty(), "{failed:?}\n{}", daemon.log());
    let after = daemon.service();
    assert_eq!((names(&after), after.workers[0].pid), (names(&before), before.workers[0].pid));
    assert_eq!(after.workers[0].restarts, 0);
    assert_eq!(after.groups[0].strangers, Some(0));
    daemon.stop();
}

#[test]
fn what_binds_while_no_daemon_runs_waits_for_the_next_and_nothing_else_does() {
    let world = World::new();
    let config = Config::web().workers(3).set("sockets", "bind");
    let file = world.path("others-{index}").display().to_string();
    let config = config.command(&rebinds(&world, file.as_ref()));
    let daemon = Daemon::with(&world, &config);
    let pid = daemon.service().workers[0].pid.unwrap();
    let file = world.path("others-0");
    until("others", || (others(&file) > 5).then_some(()));
    daemon.kill();
    signal(pid, Signal::SIGUSR1);
    // It waits for the next daemon with the signal handled, so its old socket is closed.
    let before = others(&file);
    let ((), failed) = beside(asking, || {
        until("others beside it", || (others(&file) > before + 50).then_some(()));
    });
    assert!(failed.is_empty(), "without a daemon: {failed:?}");
    let log = fs::read_to_string(world.path("daemon.log")).unwrap();
    assert!(!log.contains("opened again"), "nobody has let it: {log}");
    let daemon = Daemon::with(&world, &config);
    daemon.says("opened again");
    until("it to be back", || Some(daemon.service()).filter(|it| it.workers.len() == 3 && settled(it)));
    assert_eq!(daemon.service().workers[0].pid, Some(pid));
    let failed = ask_all(&[Http], 100);
    assert!(failed.is_empty(), "{failed:?}\n{}", daemon.log());
    assert!(daemon.service().workers.iter().all(|worker| worker.sockets[0].selected > 0));
    daemon.stop();
}

/// A socket that is bound and kept without listening on it is no member, is shown, and holds nothing up; also one of another
/// family, for which the process gets another.
#[test]
fn a_socket_that_is_bound_and_does_not_listen_is_a_member_when_it_does() {
    for host in ["127.0.0.1", "::"] {
        let world = World::new();
        let config = Config::web().workers(1).set("sockets", "bind").command(&keeps(&world, host));
        let daemon = Daemon::with(&world, &config);
        let lacks = "does not listen on a socket that it has bound to tcp://127.0.0.1:3000";
        let shown = |daemon: &Daemon| {
            until("it to be shown", || {
                members(daemon, 1).workers[0].lacks.as_deref().filter(|it| *it == lacks).map(drop)
            });
            let said = daemon.run(&["status"]);
            assert!(said.contains(lacks), "{said}");
            assert!(ask_all(&[Http], 40).is_empty(), "{}", daemon.log());
        };
        shown(&daemon);
        let before = daemon.service();
        assert_eq!((selected(&before.workers[0]), before.groups[0].strangers), (40, Some(0)));
        daemon.kill();
        let daemon = Daemon::with(&world, &config);
        shown(&daemon);
        signal(before.workers[0].pid.unwrap(), Signal::SIGUSR1);
        let after = members(&daemon, 2);
        assert_eq!((names(&after), &after.workers[0].lacks), (vec!["web/0", "web/0.1"], &None));
        assert_eq!((after.workers[0].pid, after.workers[0].restarts), (before.workers[0].pid, 0));
        until("shares", || daemon.service().workers.iter().all(|it| it.buckets > 0).then_some(()));
        assert!(ask_all(&[Http], 40).is_empty(), "{}", daemon.log());
        assert!(daemon.service().workers.iter().all(|it| selected(it) > 0), "{:?}", daemon.service());
        daemon.stop();
    }
}

/// Whoever takes the place of a keeper that is killed answers as that did.
#[test]
fn a_keeper_that_is_killed_is_replaced_by_one_that_answers() {
    let world = World::new();
    let config = Config::web().workers(1).set("sockets", "bind");
    let file = world.path("others");
    let daemon = Daemon::with(&world, &config.command(&rebinds(&world, &file)));
    kill(&keepers_of("web/0"));
    daemon.says("the process that kept its output is gone");
    let before = others(&file);
    until("others", || (others(&file) > before + 5).then_some(()));
    signal(daemon.service().workers[0].pid.unwrap(), Signal::SIGUSR1);
    daemon.says("opened again");
    assert!(ask_all(&[Http], 20).is_empty());
    assert_eq!(daemon.service().workers[0].restarts, 0);
    daemon.stop();
}

/// Waits until so many members serve.
fn members(daemon: &Daemon, count: usize) -> ServiceStatus {
    until(&format!("{count} members"), || {
        Some(daemon.service()).filter(|it| it.workers.len() == count && settled(it))
    })
}

/// nginx opens and closes sockets at each reload that changes how many processes it has.
#[test]
fn nginx_reloads_with_more_and_fewer_processes_also_without_a_daemon() {
    let world = World::new();
    let config = Config::web().workers(1).set("sockets", "bind").set("stop_signal", "QUIT");
    let config = config.command(&nginx(&world, " reuseport", 2));
    let daemon = Daemon::with(&world, &config);
    let pid = members(&daemon, 2).workers[0].pid.unwrap();
    let reloads = || {
        for processes in [4, 2, 6, 3] {
            reload(&world, pid, processes);
            members(&daemon, processes);
            assert!(ask_all(&[Http], 60).is_empty());
        }
    };
    let ((), failed) = beside(asking, reloads);
    println!("4, 2, 6, 3 processes: {} failed: {failed:?}", failed.len());
    assert!(failed.is_empty(), "{failed:?}\n{}", daemon.log());
    assert_eq!(daemon.service().workers[0].restarts, 0);
    daemon.kill();
    let ((), failed) = beside(asking, || {
        tell_to_reload(&world, pid, 5);
        throughout(Duration::from_secs(1), || assert!(testkit::daemon::is_alive(pid)));
    });
    assert!(failed.is_empty(), "without a daemon: {failed:?}");
    let daemon = Daemon::with(&world, &config);
    members(&daemon, 5);
    assert!(ask_all(&[Http], 100).is_empty());
    daemon.stop();
}
