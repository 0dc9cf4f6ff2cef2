//! Workers of another user that try to get more than their service's sockets by their calls of bind.

use std::fs;

use testkit::config::Config;
use testkit::daemon::{Daemon, settled, until};
use testkit::guests::{Guests, USER};
use testkit::patience::fewer;
use testkit::world::World;

use crate::addresses::answers;
use crate::joined::{Joined, joining_into};
use crate::programs::hostile;

/// The number in front of `what` in what the worker says.
fn number(said: &str, what: &str) -> usize {
    let before = said.split(what).next().unwrap();
    before.rsplit(' ').find(|word| !word.is_empty()).unwrap().parse().unwrap()
}

/// What it says after so many calls: all that was bound was its service's, and most calls were answered.
fn assert_right(said: &str, binds: usize) {
    println!("{said}");
    assert_eq!(number(said, " wrong"), 0, "{said}");
    assert!(number(said, " right") >= binds / 2 && number(said, " refused") > 0, "{said}");
}

/// Only what was looked at is bound: neither an address that is written there afterwards nor another file at the number.
#[test]
fn a_worker_of_another_user_gets_nothing_but_its_service_s() {
    let world = World::new();
    let binds = fewer(10_000);
    let config = Config::service("web").listen("tcp://127.0.0.1:80").workers(1).set("sockets", "bind");
    let config = config.set("user", "nobody").command(&hostile(&world, binds));
    let daemon = Daemon::with(&world, &config);
    let said =
        until("what it got", || daemon.log().lines().find(|it| it.contains(" wrong")).map(str::to_owned));
    assert_right(&said, binds);
    let service = until("it alone to be left", || {
        let service = daemon.service();
        (service.workers.len() == 1 && settled(&service) && service.workers[0].lacks.is_none())
            .then_some(service)
    });
    assert!((0..20).all(|_| answers("127.0.0.1:80")), "{}", daemon.log());
    assert_eq!((service.workers[0].restarts, service.groups[0].strangers), (0, Some(0)));
    daemon.stop();
}

/// Nor one that has joined: it is followed from its process on, and not from the daemon's.
#[test]
fn one_that_joins_gets_nothing_else_either() {
    let world = World::new();
    let guests = Guests::new(&world);
    let binds = fewer(2_000);
    let config = Config::service("web").listen("tcp://127.0.0.1:80").workers(0).set("user", "nobody");
    let daemon = Daemon::with(&world, &config);
    let output = world.file("output", "");
    let joined = Joined::start(&mut joining_into(&guests, USER, &hostile(&world, binds), &output));
    let said = until("what it got", || {
        fs::read_to_string(&output).unwrap().lines().find(|it| it.contains(" wrong")).map(str::to_owned)
    });
    assert_right(&said, binds);
    let service = joined.serves(&daemon, 1);
    assert!((0..20).all(|_| answers("127.0.0.1:80")), "{}", daemon.log());
    assert_eq!((service.workers.len(), service.groups[0].strangers), (1, Some(0)));
    drop(joined);
    daemon.stop();
}
