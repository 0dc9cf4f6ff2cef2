//! Workers join and leave under load.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::net::SocketAddr;

use reuseport_lb_client::api::{Drain, Drained, Scale, Scaled, Wait};
use reuseport_lb_client::control::{ControlClient, ControlError, Line};
use testkit::client::{Connection, Stream, ask};
use testkit::config::Config;
use testkit::counters::Counters;
use testkit::daemon::{Daemon, until};
use testkit::guests::{Guest, Guests, Manner};
use testkit::patience::fewer;
use testkit::world::World;

#[test]
fn live_connections_stay_and_new_ones_succeed_while_workers_come_and_go() {
    let world = World::new();
    let daemon = Daemon::start(&world, &["--listen", "tcp://127.0.0.1:3000", "--workers", "4"]);
    let to: SocketAddr = "127.0.0.1:3000".parse().unwrap();
    let mut live = Vec::new();
    for _ in 0..fewer(2_000) {
        let mut connection = Connection::open(to, None).unwrap();
        let answer = connection.ask().unwrap();
        live.push((connection, answer));
    }
    let stream = Stream::start(to);
    let mut members = 4u64;
    for workers in [5u64, 8, 3] {
        let moved = daemon.service().moved;
        let said = daemon.run(&["scale", "demo", &workers.to_string()]);
        let moved = daemon.service().moved - moved;
        // Joins take the new ones' share, leaves give theirs away; rounding is at most one a member.
        let minimum = 65536 * workers.abs_diff(members) / workers.max(members);
        assert!(moved.abs_diff(minimum) <= 8, "{said}: the minimum is {minimum}");
        assert!(said.contains(&format!("{moved} of 65536 buckets moved")), "{said}");
        members = workers;

        let service = daemon.service();
        assert_eq!(service.workers.len() as u64, workers);
        let there = |name: &str| service.workers.iter().any(|worker| worker.name == name);
        live.retain(|(_, answer)| there(&answer.worker));
        for (connection, first) in &mut live {
            assert_eq!(connection.ask().unwrap(), *first);
        }
        // Exactly even: 65,536 over the workers, to within one bucket.
        assert!(
            service.workers.iter().all(|worker| u64::from(worker.buckets).abs_diff(65536 / workers) <= 1)
        );
        ask(to).unwrap();
    }
    assert!(
        live.len() > fewer(1_000),
        "three of four workers stayed, with their connections: {}",
        live.len()
    );
    let outcome = stream.end();
    assert_eq!(outcome.failed, Vec::<String>::new());
    assert_eq!(outcome.answered.len(), 8, "every worker that ever was got some: {:?}", outcome.answered);
    let counters = Counters::of(&daemon.service());
    counters.assert_only(&["arrival_packet", "owner_taken"], &["arrival_migration"]);
    drop(live);
    daemon.stop();
}

#[test]
fn a_worker_that_leaves_hands_over_what_it_has_not_accepted() {
    let world = World::new();
    // A worker that never accepts, so that everything stays in its queue.
    let config = Config::web().workers(2).set("ready", "immediate").set("drain_timeout", "300ms");
    let daemon = Daemon::with(&world, &config.command(&["sleep", "1000"]));
    let to: SocketAddr = "127.0.0.1:3000".parse().unwrap();
    let connections: Vec<Connection> = (0..100).map(|_| Connection::open(to, None).unwrap()).collect();
    let queue = |name: &str| {
        let service = daemon.service();
        service.workers.iter().find(|worker| worker.name == name).map_or(0, |worker| worker.sockets[0].queue)
    };
    let (stays, leaves) = (queue("web/0"), queue("web/1"));
    assert_eq!(stays + leaves, 100);
    assert!(leaves > 10, "{leaves}");
    let before = daemon.service();
    daemon.run(&["scale", "web", "1"]);
    assert_eq!(queue("web/0"), 100, "the queue of the other one holds all of them now");
    let leaves = u64::from(leaves);
    let migrated = [("arrival_migration", leaves), ("owner_taken", leaves)];
    assert_eq!(Counters::difference(&before, &daemon.service()), Counters::expected(&migrated));
    drop(connections);
    daemon.stop();
}

#[test]
fn datagrams_that_are_queued_are_answered_before_their_worker_leaves() {
    let world = World::new();
    let config = Config::service("web").listen("udp://127.0.0.1:3000").workers(2).set("ready", "200ms");
    let config = config.server(&world, "--wait accept --answer echo --pause 5ms");
    let daemon = Daemon::with(&world, &config);
    let clients: Vec<std::net::UdpSocket> = (0..100)
        .map(|_| {
            let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            client.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
            client.send_to(b"?", "127.0.0.1:3000").unwrap();
            client
        })
        .collect();
    daemon.run(&["scale", "web", "1"]);
    let answered = clients.iter().filter(|client| client.recv(&mut [0; 9]).is_ok()).count();
    assert_eq!(answered, 100);
    daemon.stop();
}

#[test]
fn without_any_weight_all_workers_are_equal() {
    let world = World::new();
    let daemon = Daemon::start(&world, &["--listen", "tcp://127.0.0.1:3000", "--workers", "2"]);
    daemon.run(&["weight", "demo/0", "0"]);
    assert_eq!(daemon.service().workers[1].buckets, 65536);
    daemon.run(&["weight", "demo/1", "0"]);
    assert_eq!(daemon.service().workers[0].buckets, 32768);
    daemon.run(&["scale", "demo", "1"]);
    assert_eq!(daemon.service().workers[0].buckets, 65536);
    ask("127.0.0.1:3000".parse().unwrap()).unwrap();
    daemon.stop();
}

#[test]
fn a_service_can_be_scaled_to_nothing_and_back() {
    let world = World::new();
    let daemon = Daemon::start(&world, &["--listen", "tcp://127.0.0.1:3000", "--workers", "2"]);
    let to: SocketAddr = "127.0.0.1:3000".parse().unwrap();
    daemon.run(&["scale", "demo", "0"]);
    assert!(ask(to).is_err());
    daemon.run(&["scale", "demo", "3"]);
    ask(to).unwrap();
    // A worker that is not to blame for a start does not end the daemon either.
    let victim = daemon.service().workers[0].pid.unwrap();
    testkit::daemon::signal(victim, nix::sys::signal::Signal::SIGKILL);
    daemon.settled_without(victim);
    daemon.stop();
}

#[test]
fn guests_do_not_count_for_scale() {
    let world = World::new();
    let daemon = Daemon::with(&world, &Config::web().workers(1).set("user", "nobody"));
    let guests = Guests::new(&world);
    let ready = guests.join(&["web", "--name", "1"], Manner::Polite);
    let hanging = guests.join(&["web", "--name", "2"], Manner::Hangs);
    until("both", || {
        let service = daemon.service();
        let there = |guest: &Guest| guest.worker(&service).map(|worker| worker.state.clone());
        (there(&ready)? == "ready" && there(&hanging)? == "starting").then_some(())
    });
    for (to, names) in [(3, "web/0 web/1 web/2 web/3 web/4"), (0, "web/1 web/2"), (1, "web/0 web/1 web/2")] {
        let said = daemon.run(&["scale", "web", &to.to_string()]);
        assert!(said.contains(&format!("→ {to} workers")), "{said}");
        let workers = daemon.service().workers;
        assert_eq!(workers.iter().map(|worker| &*worker.name).collect::<Vec<_>>().join(" "), names);
        assert!(workers.iter().all(|worker| worker.joined == ["web/1", "web/2"].contains(&&*worker.name)));
    }
    drop((ready, hanging));
    daemon.stop();
}

/// The lines of an answer: what was waited for, worker by worker with its state, and the last line.
fn followed<T: std::fmt::Debug>(
    lines: impl Iterator<Item = Result<Line<Wait<T>>, ControlError>>,
) -> (Vec<Vec<(String, String)>>, Wait<T>) {
    let mut waited = Vec::new();
    for line in lines {
        match line.unwrap().value {
            Wait::Waiting(waiting) => {
                assert!(waiting.seconds >= 1.0, "{waiting:?}");
                waited.push(waiting.workers.into_iter().map(|it| (it.worker, it.state)).collect());
            }
            last => return (waited, last),
        }
    }
    panic!("no last line after {waited:?}");
}

#[test]
fn scale_and_drain_tell_what_is_waited_for_and_end_with_their_answer() {
    let world = World::new();
    // Each is ready after a while, and leaves only when it is killed.
    let config = Config::web().workers(1).set("ready", "notify").set("drain_timeout", "1500ms");
    let config = config.server(&world, "--ready notify --load 1500ms --term ignore");
    let daemon = Daemon::with(&world, &config);
    let client = ControlClient::new(daemon.paths().control());
    let (waited, last) = followed(client.scale_and_wait("web", &Scale::by(1)).unwrap());
    assert_eq!(last, Wait::Done(Scaled { before: 1, after: 2 }));
    assert!(!waited.is_empty(), "it takes more than a second");
    for line in waited {
        assert_eq!(line, [("web/1".to_owned(), "starting".to_owned())]);
    }
    let (waited, last) = followed(client.drain_and_wait("web/1", &Drain::default()).unwrap());
    let Wait::Done(Drained { worker, end, .. }) = last else { panic!("{last:?}") };
    assert_eq!((&*worker, end.as_deref()), ("web/1", Some("was killed by SIGKILL")));
    assert!(!waited.is_empty(), "it takes more than a second");
    for line in waited {
        assert_eq!(line, [("web/1".to_owned(), "draining".to_owned())]);
    }
    // The commands say so, too.
    let said = daemon.run(&["scale", "web", "2"]);
    let (waits, done) = said.trim_end().rsplit_once('\n').unwrap();
    assert!(waits.starts_with("web: waits for web/1 (starting"), "{said}");
    assert!(done.starts_with("web: 1 → 2 workers, "), "{said}");
    let said = daemon.run(&["drain", "web/1"]);
    assert!(said.starts_with("web/1: waits for web/1 (draining") && said.contains("gone after"), "{said}");
    // A command that waits is told that another one came after it.
    let lines = client.scale_and_wait("web", &Scale::to(3)).unwrap();
    client.scale("web", &Scale::to(1)).unwrap();
    let (_, last) = followed(lines);
    let Wait::Refused(body) = last else { panic!("{last:?}") };
    assert!(body.error.contains("somebody else has scaled web to 1 workers"), "{}", body.error);
    daemon.stop();
}
