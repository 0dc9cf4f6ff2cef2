//! A worker of another user that tries to get more than its service's sockets by its calls of bind.

use testkit::config::Config;
use testkit::daemon::{Daemon, settled, until};
use testkit::patience::fewer;
use testkit::world::World;

use crate::addresses::answers;
use crate::programs::hostile;

/// The number in front of `what` in what the worker says.
fn number(said: &str, what: &str) -> usize {
    let before = said.split(what).next().unwrap();
    before.rsplit(' ').find(|word| !word.is_empty()).unwrap().parse().unwrap()
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
    println!("{said}");
    assert_eq!(number(&said, " wrong"), 0, "{said}");
    assert!(number(&said, " right") >= binds / 2 && number(&said, " refused") > 0, "{said}");
    let service = until("it alone to be left", || {
        let service = daemon.service();
        (service.workers.len() == 1 && settled(&service) && service.workers[0].lacks.is_none())
            .then_some(service)
    });
    assert!((0..20).all(|_| answers("127.0.0.1:80")), "{}", daemon.log());
    assert_eq!((service.workers[0].restarts, service.groups[0].strangers), (0, Some(0)));
    daemon.stop();
}
