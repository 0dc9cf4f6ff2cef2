//! Workers die, and what they had not accepted lives on.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use testkit::client::{Connection, Stream, ask};
use testkit::daemon::{Daemon, counter, settled, signal, until};
use testkit::patience::fewer;
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
        std::thread::sleep(rest.unwrap_or_default());
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
    assert_eq!(counter(&service, "owner_taken"), counter(&service, "arrival_packet"));
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
    let server = world.file(
        "once.py",
        "import os, socket, sys, time\n\
         if os.path.exists(sys.argv[1]) and os.environ['REUSEPORT_LB_WORKER'] == 'web/1': time.sleep(60)\n\
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
    until("it not to be started", || daemon.log().contains("it is tried again each second").then_some(()));
    // Longer than eight crashes in a row take to make it `failed`, and once more.
    std::thread::sleep(Duration::from_secs(4));
    of(room.unwrap());
    let after = until("it to be back", || Some(daemon.service()).filter(settled));
    assert_eq!(after.workers[1].restarts, 1, "{}", daemon.log());
    assert_eq!(after.workers[1].sockets[0].cookie, before.workers[1].sockets[0].cookie, "{}", daemon.log());
    assert_eq!(daemon.log().matches("it is tried again each second").count(), 1, "{}", daemon.log());
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
    until("the other one to be back", || Some(daemon.service()).filter(settled));
    assert_eq!(connection.ask().unwrap().pid, workers[1]);
    ask(to).unwrap();
    daemon.stop();
}

#[test]
fn a_successor_that_is_late_keeps_its_socket_and_its_queue() {
    let world = World::new();
    let server = world.file(
        "late.py",
        "import os, socket, sys, time\nif os.path.exists(sys.argv[1]): time.sleep(1.5)\n\
         listener = socket.socket(fileno=3)\n\
         notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
         notify.sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])\n\
         while True:\n    listener.accept()[0].sendall(os.environ['REUSEPORT_LB_WORKER'].encode())\n",
    );
    let flag = world.path("flag");
    let configuration = format!(
        "[[service]]\nname = \"web\"\nlisten = [\"tcp://127.0.0.1:3000\"]\nworkers = 2\nhold_timeout = \"300ms\"\n\
         command = [\"python3\", \"{}\", \"{}\"]\n",
        server.display(),
        flag.display()
    );
    let daemon = Daemon::configured(&world, &configuration);
    std::fs::write(&flag, "").unwrap();
    let victim = daemon.service().workers.remove(1);
    signal(victim.pid.unwrap(), Signal::SIGKILL);
    until("its buckets to move after hold_timeout", || {
        let worker = daemon.service().workers.remove(1);
        (worker.buckets == 0 && worker.state == "starting").then_some(())
    });
    // Shutting the socket down would have broken the successor that already has it.
    assert_eq!(counter(&daemon.service(), "arrival_migration"), 0);
    until("the successor to be ready", || Some(daemon.service()).filter(settled));
    let to: SocketAddr = "127.0.0.1:3000".parse().unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let mut name = String::new();
        std::io::Read::read_to_string(&mut timely(to), &mut name).unwrap();
        seen.insert(name);
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
    daemon.stop();
}

#[test]
fn a_successor_gets_a_usable_socket_whatever_its_predecessor_did_to_it() {
    let world = World::new();
    let server = world.file(
        "vandal.py",
        "import os, socket, sys\ntcp, udp = socket.socket(fileno=3), socket.socket(fileno=4)\n\
         if not os.path.exists(sys.argv[1]):\n    open(sys.argv[1], 'w').close()\n    tcp.accept()\n    \
         tcp.shutdown(socket.SHUT_RDWR)\n    udp.connect(('127.0.0.1', 9))\n    sys.exit(1)\n\
         tcp.accept()[0].sendall(b'tcp')\nudp.sendto(b'udp', udp.recvfrom(9)[1])\nimport time\ntime.sleep(60)\n",
    );
    let configuration = format!(
        "[[service]]\nname = \"web\"\nlisten = [\"tcp://127.0.0.1:3000\", \"udp://127.0.0.1:3000\"]\nready = \"100ms\"\n\
         command = [\"python3\", \"{}\", \"{}\"]\n",
        server.display(),
        world.path("flag").display()
    );
    let daemon = Daemon::configured(&world, &configuration);
    let to: SocketAddr = "127.0.0.1:3000".parse().unwrap();
    drop(std::net::TcpStream::connect(to).unwrap());
    until("the successor", || Some(daemon.service()).filter(|s| s.workers[0].restarts == 1 && settled(s)));
    let mut said = String::new();
    std::io::Read::read_to_string(&mut std::io::Read::take(timely(to), 3), &mut said).unwrap();
    assert_eq!(said, "tcp");
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    udp.send_to(b"?", to).unwrap();
    assert_eq!(udp.recv(&mut [0; 9]).unwrap(), 3);
    assert_eq!(daemon.log().matches("is back in service").count(), 2, "{}", daemon.log());
}

#[test]
fn a_port_that_the_kernel_chose_stays() {
    let world = World::new();
    let daemon = Daemon::configured(
        &world,
        "[[service]]\nname = \"web\"\nlisten = [\"tcp://127.0.0.1:0\"]\nworkers = 2\non_crash = \"migrate\"\n",
    );
    let service = daemon.service();
    let to: SocketAddr = service.groups[0].listen.strip_prefix("tcp://").unwrap().parse().unwrap();
    for victim in service.workers {
        // Its socket is shut down, and listens again.
        signal(victim.pid.unwrap(), Signal::SIGKILL);
        until("its successor", || {
            Some(daemon.service())
                .filter(|it| settled(it) && !it.workers.iter().any(|it| it.pid == victim.pid))
        });
    }
    let mut seen = std::collections::BTreeSet::new();
    until("both to answer", || {
        seen.insert(ask(to).unwrap().worker);
        (seen.len() == 2).then_some(())
    });
    assert_eq!(counter(&daemon.service(), "select_failed"), 0);
    daemon.stop();
}

/// A connection on which reading does not take for ever.
fn timely(to: SocketAddr) -> std::net::TcpStream {
    let stream = std::net::TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream
}
