//! The experiment that all began with: three threads that each open a socket on one address.

use std::collections::BTreeMap;

use reuseport_lb_client::api::ServiceStatus;
use testkit::counters::Counters;
use testkit::daemon::{Daemon, settled, until};
use testkit::patience::fewer;
use testkit::world::World;

use crate::family::Alone;
use crate::programs::acceptors;
use crate::protocol::Protocol::Greeting;
use crate::row::names;

/// How often each thread answers so many clients.
fn answers(clients: usize) -> BTreeMap<String, u64> {
    let mut tally = BTreeMap::new();
    for _ in 0..clients {
        *tally.entry(Greeting.ask().unwrap().trim().to_owned()).or_default() += 1;
    }
    tally
}

fn three_threads(option: &str) {
    let world = World::new();
    let command = acceptors(&world, option);
    let daemon = Daemon::start(
        &world,
        &[
            "--listen",
            "tcp://127.0.0.1:3000",
            "--workers",
            "1",
            "--sockets",
            "bind",
            "--",
            &command[0],
            &command[1],
        ],
    );
    let service = until("three members", || {
        Some(daemon.service()).filter(|service| service.workers.len() == 3 && settled(service))
    });
    let named = names(&service);
    assert!(
        named[0].ends_with("/0") && named[1].ends_with("/0.1") && named[2].ends_with("/0.2"),
        "{named:?}"
    );
    assert!(service.workers.iter().all(|worker| worker.pid == service.workers[0].pid), "{service:?}");
    assert_eq!(service.workers.iter().map(|it| u64::from(it.buckets)).sum::<u64>(), 65_536);

    let clients = fewer(3_000);
    let tally = answers(clients);
    let after = daemon.service();
    let selected: Vec<u64> = after.workers.iter().map(|worker| worker.sockets[0].selected).collect();
    println!("{option:?}: {tally:?}, selected {selected:?}");
    assert_eq!(tally.values().sum::<u64>(), clients as u64);
    // Which thread has bound first is chance.
    let sorted = |mut all: Vec<u64>| {
        all.sort_unstable();
        all
    };
    assert_eq!(sorted(tally.values().copied().collect()), sorted(selected.clone()), "{after:?}");
    assert_eq!(Counters::difference(&service, &after), Counters::all_taken(clients as u64));
    let (count, part) = (clients as f64, 1.0 / 3.0);
    let most = 6.0 * (count * part * (1.0 - part)).sqrt();
    assert!(selected.iter().all(|it| (*it as f64 - count * part).abs() <= most), "{selected:?}");

    let drained = named[1].to_owned();
    daemon.run(&["drain", &drained]);
    let of = |service: &ServiceStatus| {
        service.workers.iter().find(|it| it.name == drained).map(|it| it.sockets[0].selected)
    };
    let rest = of(&daemon.service());
    let tally = answers(fewer(300));
    println!("{drained} drained: {tally:?}");
    assert_eq!((tally.len(), of(&daemon.service())), (2, rest), "{tally:?}");
    daemon.stop();
}

#[test]
fn three_threads_of_the_seeds_with_so_reuseport() {
    three_threads("reuseport");
}

#[test]
fn three_threads_of_the_seeds_without_so_reuseport() {
    three_threads("plain");
}

/// Alone, one of three has the port, or all if they share it.
#[test]
fn three_threads_alone_need_so_reuseport() {
    for (option, threads) in [("plain", 1), ("reuseport", 3)] {
        let world = World::new();
        let _alone = Alone::start(&acceptors(&world, option));
        until("it to serve", || Greeting.ask().ok());
        let answering = || answers(100).len();
        // The last thread may still be on its way.
        let most = (0..10).map(|_| answering()).max();
        assert_eq!(most, Some(threads), "{option}");
    }
}
