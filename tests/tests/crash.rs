//! Workers die, and what they had not accepted lives on.

use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::signal::Signal;
use tests::client::{Connection, Stream, ask};
use tests::daemon::{Daemon, counter, settled, signal, until};
use tests::world::World;

#[test]
fn a_hundred_kills_lose_no_connection_that_nobody_had_accepted() {
    let world = World::new();
    let daemon = Daemon::start(&world, &["--listen", "tcp://127.0.0.1:3000", "--workers", "4"]);
    let to: SocketAddr = "127.0.0.1:3000".parse().unwrap();
    let streams: Vec<Stream> = (0..4).map(|_| Stream::start(to)).collect();
    for kill in 0..100 {
        let service = until("all workers to be back", || Some(daemon.service()).filter(settled));
        let victim = &service.workers[kill % 4];
        signal(victim.pid.unwrap(), Signal::SIGKILL);
        until("the victim's successor", || {
            let now = daemon.service().workers.remove(kill % 4);
            (now.pid.is_some() && now.pid != victim.pid).then_some(())
        });
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
    assert!(lost.len() <= 400, "{}", lost.len());
    let service = daemon.service();
    assert_eq!(service.workers.iter().map(|worker| worker.restarts).sum::<u32>(), 100);
    assert_eq!(service.moved, 65536, "buckets never moved after the first table");
    assert_eq!(counter(&service, "owner_taken"), counter(&service, "arrival_packet"));
    daemon.stop();
}

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

#[test]
fn with_migrate_the_others_take_buckets_and_queue_at_once() {
    let world = World::new();
    // It ends when its first connection is there, and cannot be started again.
    let server = world.file(
        "once.py",
        "import os, socket, sys, time\nif os.path.exists(sys.argv[1]): time.sleep(60)\n\
         listener = socket.socket(fileno=3)\nwhile True:\n    listener.accept()[0].sendall(b'hello')\n",
    );
    let flag = world.path("flag");
    let configuration = format!(
        "[[service]]\nname = \"web\"\nlisten = [\"tcp://127.0.0.1:3000\"]\nworkers = 2\nready = \"200ms\"\n\
         on_crash = \"migrate\"\ncommand = [\"python3\", \"{}\", \"{}\"]\n",
        server.display(),
        flag.display()
    );
    let daemon = Daemon::configured(&world, &configuration);
    let victim = daemon.service().workers.remove(1);
    signal(victim.pid.unwrap(), Signal::SIGSTOP);
    let to: SocketAddr = "127.0.0.1:3000".parse().unwrap();
    let connections: Vec<Connection> = (0..60).map(|_| Connection::open(to, None).unwrap()).collect();
    let queued = daemon.service().workers[1].sockets[0].queue;
    assert!(queued > 5, "{queued}");
    std::fs::write(&flag, "").unwrap();
    signal(victim.pid.unwrap(), Signal::SIGKILL);
    let service = until("the queue to move", || {
        Some(daemon.service()).filter(|service| counter(service, "arrival_migration") > 0)
    });
    assert_eq!(counter(&service, "arrival_migration"), u64::from(queued));
    until("the survivor to accept all", || (daemon.service().workers[0].sockets[0].queue == 0).then_some(()));
    for connection in connections {
        connection.reset();
    }
    daemon.stop();
}

#[test]
fn a_worker_that_crashes_again_and_again_is_given_pauses() {
    let world = World::new();
    let server = world.file("crash.py", "import time\ntime.sleep(1.2)\nraise SystemExit(7)\n");
    let configuration = format!(
        "[[service]]\nname = \"web\"\nlisten = [\"tcp://127.0.0.1:3000\"]\nready = \"immediate\"\n\
         command = [\"python3\", \"{}\"]\n",
        server.display()
    );
    let daemon = Daemon::configured(&world, &configuration);
    until("three restarts", || (daemon.service().workers[0].restarts >= 3).then_some(()));
    assert!(daemon.log().contains("it exited with status 7"), "{}", daemon.log());
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
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(connection.ask().unwrap().pid, workers[1]);
    ask(to).unwrap();
    daemon.stop();
}
