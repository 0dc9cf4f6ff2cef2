//! What workers do to their sockets: their successors get sockets that are as new, and the group keeps its program.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::net::SocketAddr;

use nix::sys::signal::Signal;
use reuseport_lb_client::api::WorkerStatus;
use testkit::client::{Tally, ask, ask_udp, tally};
use testkit::config::Config;
use testkit::counters::Counters;
use testkit::daemon::{Daemon, settled, signal, until};
use testkit::world::World;

fn to() -> SocketAddr {
    "127.0.0.1:3000".parse().unwrap()
}

/// A server on both protocols. The first worker does something to its sockets when it is told to.
fn service(world: &World, workers: usize) -> (Daemon, impl Fn(&str)) {
    let file = world.path("deeds");
    let flags = format!("--if-worker web/0 --tick 20ms --deeds {}", file.display());
    let config = Config::web().listen("udp://127.0.0.1:3000").workers(workers).server(world, &flags);
    (Daemon::with(world, &config), move |deeds: &str| std::fs::write(&file, deeds).unwrap())
}

fn cookies(worker: &WorkerStatus) -> Vec<u64> {
    worker.sockets.iter().map(|socket| socket.cookie).collect()
}

#[test]
fn what_was_done_to_a_socket_is_undone_for_the_successor() {
    let world = World::new();
    let (daemon, harm) = service(&world, 1);
    let before = daemon.service().workers.remove(0);
    // What makes a socket deaf, or its reader fail; each can be undone.
    harm("deafen,sleep");
    until("harm to be done", || ask_udp(to(), None).is_err().then_some(()));
    signal(before.pid.unwrap(), Signal::SIGKILL);
    let after = daemon.settled_without(before.pid.unwrap()).workers.remove(0);
    assert_eq!(ask_udp(to(), None).unwrap().pid, after.pid.unwrap(), "{}", daemon.log());
    assert_eq!(ask(to()).unwrap().pid, after.pid.unwrap(), "{}", daemon.log());
    assert_eq!(cookies(&after), cookies(&before), "the same sockets, with what waited there");
    assert!(!daemon.log().contains("gets a new socket"), "{}", daemon.log());
    daemon.stop();
}

#[test]
fn where_that_cannot_be_undone_the_successor_gets_new_sockets() {
    let world = World::new();
    let (daemon, harm) = service(&world, 2);
    let before = daemon.service();
    harm("lock-filter,fail");
    let after = daemon.settled_without(before.workers[0].pid.unwrap());
    assert_eq!(cookies(&after.workers[1]), cookies(&before.workers[1]));
    let same = |(old, new): (u64, u64)| old == new;
    assert!(!cookies(&before.workers[0]).into_iter().zip(cookies(&after.workers[0])).any(same));
    for protocol in ["tcp", "udp"] {
        let said = format!(
            "{protocol}://127.0.0.1:3000 gets a new socket: its filter cannot be taken off (SO_LOCK_FILTER)"
        );
        daemon.says(&said);
    }
    both_serve(&|| tally(40, || ask(to())));
    both_serve(&|| tally(40, || ask_udp(to(), None)));
    assert_eq!(after.groups.iter().map(|group| group.strangers).collect::<Vec<_>>(), [Some(0), Some(0)]);
    daemon.stop();
}

/// 40 clients of the hash, and none of them is lost.
fn both_serve(asked: &dyn Fn() -> Tally) {
    let tally = asked();
    assert_eq!((tally.len(), tally.values().sum::<u64>()), (2, 40), "{tally:?}");
}

#[test]
fn a_worker_that_locks_its_group_on_a_program_of_its_own_is_replaced() {
    let world = World::new();
    // The program of all its groups gives everything to the first socket, which is its own.
    let (daemon, harm) = service(&world, 2);
    let before = daemon.service();
    harm("lock-program");
    let after = until("its successor", || {
        Some(daemon.service())
            .filter(|it| it.workers.len() == 2 && settled(it) && it.workers[0].pid != before.workers[0].pid)
    });
    let said = "it has locked its socket of tcp://127.0.0.1:3000 (SO_LOCK_FILTER)";
    daemon.says(said);
    assert_eq!(after.workers[1].pid, before.workers[1].pid);
    assert_eq!(after.workers[0].lacks, None);
    // The daemon's program decides again, in each group.
    let before = daemon.service();
    both_serve(&|| tally(40, || ask(to())));
    both_serve(&|| tally(40, || ask_udp(to(), None)));
    let after = daemon.service();
    for (before, after) in before.groups.iter().zip(&after.groups) {
        let counted = Counters::of_group(after).less(&Counters::of_group(before));
        assert_eq!(counted, Counters::all_taken(40), "{}", after.listen);
    }
    daemon.stop();
}
