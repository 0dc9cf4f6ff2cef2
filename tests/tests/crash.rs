//! Workers die, and what they had not accepted lives on.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use testkit::client::{Connection, Stream, ask, ask_udp};
use testkit::config::Config;
use testkit::counters::Counters;
use testkit::daemon::{Daemon, counter, settled, signal, until};
use testkit::patience::{fewer, lasts};
use testkit::world::World;

/// One that has been ready for longer is started again at once.
const SERVED: Duration = Duration::from_millis(1050);

#[test]
fn a_hundred_kills_lose_no_connection_that_nobody_had_accepted() {
    let world = World::new();
    let daemon = Daemon::start(&world, &["--listen", "tcp://127.0.0.1:3000", "--workers", "4"]);
    let to: SocketAddr = "127.0.0.1:3000".parse().unwrap();
    let streams: Vec<Stream> = (0..4).map(|_| Stream::start(to)).collect();
    let kills = fewer(100);
    let moved = daemon.service().moved;
    let mut back = [None::<Instant>; 4];
    for kill in 0..kills {
        // One that is killed again in its first second comes back late, and later each time.
        let rest = back[kill % 4].and_then(|at| SERVED.checked_sub(at.elapsed()));
        lasts("its first second", rest.unwrap_or_default());
        let service = until("all workers to be back", || Some(daemon.service()).filter(settled));
        let victim = &service.workers[kill % 4];
        signal(victim.pid.unwrap(), Signal::SIGKILL);
        until("the victim's successor", || {
            let now = daemon.service().workers.remove(kill % 4);
            (now.state == "ready" && now.pid != victim.pid).then_some(())
        });
        back[kill % 4] = Some(Instant::now());
    }
    let mut lost = Vec::new();
    let mut answered = 0;
    for stream in streams {
        let outcome = stream.end();
        answered += outcome.answered.values().sum::<u64>();
        lost.extend(outcome.failed);
    }
    println!("{answered} answered, {} broken after they had been accepted", lost.len());
    // A client that could not connect, or waited in vain, was lost in a queue. One whose connection
    // broke had been accepted: at most one a stream and kill.
    assert!(lost.iter().all(|error| error.contains("answer:") && !error.contains("timed out")), "{lost:?}");
    assert!(lost.len() <= 4 * kills, "{}", lost.len());
    let service = daemon.service();
    assert_eq!(service.workers.iter().map(|worker| worker.restarts).sum::<u32>() as usize, kills);
    assert_eq!(service.moved, moved, "buckets never moved after the start");
    let arrived = counter(&service, "arrival_packet");
    assert_eq!(Counters::of(&service), Counters::all_taken(arrived));
    daemon.stop();
}

// vm: short
#[test]
fn what_is_queued_waits_for_the_successor_on_the_same_socket() {
    let world = World::new();
    let daemon = Daemon::start(&world, &["--listen", "tcp://127.0.0.1:3000", "--workers", "1"]);
    let to: SocketAddr = "127.0.0.1:3000".parse().unwrap();
    let before = daemon.service().workers.remove(0);
    // Stopped, it cannot accept; then it dies with a full queue.
    signal(before.pid.unwrap(), Signal::SIGSTOP);
    let mut queued: Vec<Connection> = (0..50).map(|_| Connection::open(to, None).unwrap()).collect();
    assert_eq!(daemon.service().workers[0].sockets[0].queue, 50);
    signal(before.pid.unwrap(), Signal::SIGKILL);
    for connection in &mut queued {
        let answer = connection.ask().unwrap();
        assert_ne!(answer.pid, before.pid.unwrap());
    }
    let after = daemon.service().workers.remove(0);
    assert_eq!((after.sockets[0].cookie, after.slot), (before.sockets[0].cookie, before.slot));
    assert_eq!((after.restarts, after.sockets[0].selected), (1, 50));
    daemon.stop();
}

// vm: short
#[test]
fn with_migrate_the_others_take_buckets_and_queue_at_once() {
    let world = World::new();
    // The successor of the victim does not serve.
    let flag = world.path("flag");
    let flags = format!("--wait keep --if-worker web/1 --if-file {} --load 60s", flag.display());
    let config = Config::web().workers(2).set("ready", "200ms").set("on_crash", "migrate");
    let daemon = Daemon::with(&world, &config.server(&world, &flags));
    let victim = daemon.service().workers.remove(1);
    signal(victim.pid.unwrap(), Signal::SIGSTOP);
    let to: SocketAddr = "127.0.0.1:3000".parse().unwrap();
    let connections: Vec<Connection> = (0..60).map(|_| Connection::open(to, None).unwrap()).collect();
    let before = daemon.service();
    let queued = before.workers[1].sockets[0].queue;
    assert!(queued > 5, "{queued}");
    std::fs::write(&flag, "").unwrap();
    signal(victim.pid.unwrap(), Signal::SIGKILL);
    let service = until("the queue to move", || {
        Some(daemon.service()).filter(|service| counter(service, "arrival_migration") > 0)
    });
    let migrated = [("arrival_migration", queued.into()), ("owner_taken", queued.into())];
    assert_eq!(Counters::difference(&before, &service), Counters::expected(&migrated));
    until("the survivor to accept all", || (daemon.service().workers[0].sockets[0].queue == 0).then_some(()));
    for connection in connections {
        connection.reset();
    }
    daemon.stop();
}

#[test]
fn what_the_machine_lacks_is_not_held_against_a_worker() {
    let world = World::new();
    let daemon = Daemon::start(&world, &["--listen", "tcp://127.0.0.1:3000", "--workers", "2"]);
    let before = daemon.service();
    // Not one descriptor more, so no pipe to start a process with.
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let of = |soft| {
        let limit = rustix::process::Rlimit { current: Some(soft), maximum: hard };
        let pid = rustix::process::Pid::from_raw(daemon.pid());
        rustix::process::prlimit(pid, rustix::process::Resource::Nofile, limit).unwrap().current
    };
    let room = of(3);
    signal(before.workers[1].pid.unwrap(), Signal::SIGKILL);
    daemon.says("it is tried again each second");
    lasts("more than eight crashes in a row, which would make it `failed`", Duration::from_secs(4));
    of(room.unwrap());
    let after = daemon.settled_without(before.workers[1].pid.unwrap());
    assert_eq!(after.workers[1].restarts, 1, "{}", daemon.log());
    assert_eq!(after.workers[1].sockets[0].cookie, before.workers[1].sockets[0].cookie, "{}", daemon.log());
    assert_eq!(daemon.log().matches("it is tried again each second").count(), 1, "{}", daemon.log());
    daemon.stop();
}

#[test]
fn a_worker_that_crashes_again_and_again_is_given_pauses() {
    let world = World::new();
    let config = Config::web().set("ready", "immediate").command(&["sh", "-c", "sleep 1.2; exit 7"]);
    let daemon = Daemon::with(&world, &config);
    until("three restarts", || (daemon.service().workers[0].restarts >= 3).then_some(()));
    daemon.says("it exited with status 7");
    daemon.stop();
}

#[test]
fn ready_workers_are_not_disturbed_by_one_that_is_killed() {
    let world = World::new();
    let daemon = Daemon::start(&world, &["--listen", "tcp://127.0.0.1:3000", "--workers", "2"]);
    let to: SocketAddr = "127.0.0.1:3000".parse().unwrap();
    let workers = daemon.workers();
    signal(workers[0], Signal::SIGKILL);
    let mut connection = loop {
        let mut connection = Connection::open(to, None).unwrap();
        if connection.ask().is_ok_and(|answer| answer.pid == workers[1]) {
            break connection;
        }
    };
    daemon.settled_without(workers[0]);
    assert_eq!(connection.ask().unwrap().pid, workers[1]);
    ask(to).unwrap();
    daemon.stop();
}

#[test]
fn a_successor_that_is_late_keeps_its_socket_and_its_queue() {
    let world = World::new();
    let flag = world.path("flag");
    let flags = format!("--ready notify --if-file {} --load 1500ms", flag.display());
    let config = Config::web().workers(2).set("hold_timeout", "300ms").server(&world, &flags);
    let daemon = Daemon::with(&world, &config);
    std::fs::write(&flag, "").unwrap();
    let victim = daemon.service().workers.remove(1);
    signal(victim.pid.unwrap(), Signal::SIGKILL);
    until("its buckets to move after hold_timeout", || {
        let worker = daemon.service().workers.remove(1);
        (worker.buckets == 0 && worker.state == "starting").then_some(())
    });
    // Shutting the socket down would have broken the successor that already has it.
    assert_eq!(Counters::of(&daemon.service()), Counters::default());
    until("the successor to be ready", || Some(daemon.service()).filter(settled));
    let to: SocketAddr = "127.0.0.1:3000".parse().unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..40 {
        seen.insert(ask(to).unwrap().worker);
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
    daemon.stop();
}

#[test]
fn a_successor_gets_a_usable_socket_whatever_its_predecessor_did_to_it() {
    let world = World::new();
    let flag = world.path("flag").display().to_string();
    let flags = format!("--once {flag} --at-accept shut-down,connect,fail");
    let config = Config::web().listen("udp://127.0.0.1:3000").set("ready", "100ms").server(&world, &flags);
    let daemon = Daemon::with(&world, &config);
    let to: SocketAddr = "127.0.0.1:3000".parse().unwrap();
    drop(std::net::TcpStream::connect(to).unwrap());
    let service = until("the successor", || {
        Some(daemon.service()).filter(|s| s.workers[0].restarts == 1 && settled(s))
    });
    assert_eq!(Some(ask(to).unwrap().pid), service.workers[0].pid);
    assert_eq!(Some(ask_udp(to, None).unwrap().pid), service.workers[0].pid);
    assert_eq!(daemon.log().matches("is back in service").count(), 2, "{}", daemon.log());
}

#[test]
fn a_port_that_the_kernel_chose_stays() {
    let world = World::new();
    let config = Config::service("web").listen("tcp://127.0.0.1:0").workers(2).set("on_crash", "migrate");
    let daemon = Daemon::with(&world, &config);
    let service = daemon.service();
    let to: SocketAddr = service.groups[0].listen.strip_prefix("tcp://").unwrap().parse().unwrap();
    for victim in service.workers {
        // Its socket is shut down, and listens again.
        signal(victim.pid.unwrap(), Signal::SIGKILL);
        daemon.settled_without(victim.pid.unwrap());
    }
    let mut seen = std::collections::BTreeSet::new();
    until("both to answer", || {
        seen.insert(ask(to).unwrap().worker);
        (seen.len() == 2).then_some(())
    });
    let service = daemon.service();
    let arrived = counter(&service, "arrival_packet");
    assert_eq!(Counters::of(&service), Counters::all_taken(arrived));
    daemon.stop();
}
