//! What workers do to their sockets: their successors get sockets that are as new, and the group keeps its program.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::net::SocketAddr;

use nix::sys::signal::Signal;
use reuseport_lb_client::api::WorkerStatus;
use testkit::client::{Tally, ask, ask_udp, tally};
use testkit::daemon::{Daemon, counter, settled, signal, until};
use testkit::server::python;
use testkit::world::World;

fn to() -> SocketAddr {
    "127.0.0.1:3000".parse().unwrap()
}

/// A server on both protocols. The first worker does `harm` to its sockets, `tcp` and `udp`, when it has begun to
/// serve and the file is there; it then ends, or goes on.
fn service(world: &World, workers: usize, harm: &str, then: &str) -> (Daemon, impl Fn()) {
    let server = python(
        world,
        "spoil.py",
        &format!(
            "import ctypes, os, select, socket, struct, sys, time\n\
             tcp, udp = socket.socket(fileno=3), socket.socket(fileno=4)\n\
             def filter(it, option, code, value):\n    \
                 program = ctypes.create_string_buffer(struct.pack('HBBI', code, 0, 0, value))\n    \
                 it.setsockopt(socket.SOL_SOCKET, option, struct.pack('HxxxxxxQ', 1, ctypes.addressof(program)))\n\
             def harm():\n    {harm}\n    {then}\n\
             first = os.environ['REUSEPORT_LB_WORKER'] == 'web/0'\n\
             while True:\n    \
                 ready = select.select([tcp, udp], [], [], 0.02)[0]\n    \
                 if first and os.path.exists(sys.argv[1]): os.remove(sys.argv[1]); harm()\n    \
                 if tcp in ready:\n        \
                     stream, peer = tcp.accept()\n        \
                     answer_and_close(stream, peer)\n    \
                 if udp in ready:\n        \
                     peer = udp.recvfrom(99)[1]\n        \
                     body = f'worker={{os.environ[\"REUSEPORT_LB_WORKER\"]}}\\npid={{os.getpid()}}\\npeer={{peer[0]}}:{{peer[1]}}\\n'\n        \
                     udp.sendto(body.encode(), peer)\n"
        ),
    );
    let file = world.path("harm");
    let daemon = Daemon::configured(
        world,
        &format!(
            "[[service]]\nname = \"web\"\nlisten = [\"tcp://127.0.0.1:3000\", \"udp://127.0.0.1:3000\"]\n\
             workers = {workers}\ncommand = [\"python3\", {server:?}, {file:?}]\n"
        ),
    );
    (daemon, move || std::fs::write(&file, "").unwrap())
}

fn cookies(worker: &WorkerStatus) -> Vec<u64> {
    worker.sockets.iter().map(|socket| socket.cookie).collect()
}

/// What makes a socket deaf, or its reader fail; each can be undone.
const UNDONE: &str = "for it in (tcp, udp):\n        \
        filter(it, 26, 6, 0); it.setsockopt(0, 21, 255); it.setblocking(False)\n        \
        it.setsockopt(1, 20, struct.pack('ll', 0, 1)); it.setsockopt(1, 8, 1); it.setsockopt(1, 18, 1 << 20)\n    \
    udp.setsockopt(17, 104, 1)";

#[test]
fn what_was_done_to_a_socket_is_undone_for_the_successor() {
    let world = World::new();
    let (daemon, harm) = service(&world, 1, UNDONE, "time.sleep(60)");
    let before = daemon.service().workers.remove(0);
    harm();
    until("harm to be done", || ask_udp(to(), None).is_err().then_some(()));
    signal(before.pid.unwrap(), Signal::SIGKILL);
    let after = until("its successor", || Some(daemon.service()).filter(settled)).workers.remove(0);
    assert_eq!(ask_udp(to(), None).unwrap().pid, after.pid.unwrap(), "{}", daemon.log());
    assert_eq!(ask(to()).unwrap().pid, after.pid.unwrap(), "{}", daemon.log());
    assert_eq!(cookies(&after), cookies(&before), "the same sockets, with what waited there");
    assert!(!daemon.log().contains("gets a new socket"), "{}", daemon.log());
    daemon.stop();
}

#[test]
fn where_that_cannot_be_undone_the_successor_gets_new_sockets() {
    let world = World::new();
    let harm = "for it in (tcp, udp): filter(it, 26, 6, 0); it.setsockopt(1, 44, 1)";
    let (daemon, harm) = service(&world, 2, harm, "os._exit(1)");
    let before = daemon.service();
    harm();
    let after = until("its successor", || {
        Some(daemon.service()).filter(|it| settled(it) && it.workers[0].pid != before.workers[0].pid)
    });
    assert_eq!(cookies(&after.workers[1]), cookies(&before.workers[1]));
    let same = |(old, new): (u64, u64)| old == new;
    assert!(!cookies(&before.workers[0]).into_iter().zip(cookies(&after.workers[0])).any(same));
    for protocol in ["tcp", "udp"] {
        let said = format!(
            "{protocol}://127.0.0.1:3000 gets a new socket: its filter cannot be taken off (SO_LOCK_FILTER)"
        );
        assert!(daemon.log().contains(&said), "{}", daemon.log());
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
    let harm = "for it in (tcp, udp): filter(it, 51, 6, 0); it.setsockopt(1, 44, 1)";
    let (daemon, harm) = service(&world, 2, harm, "pass");
    let before = daemon.service();
    harm();
    let after = until("its successor", || {
        Some(daemon.service())
            .filter(|it| it.workers.len() == 2 && settled(it) && it.workers[0].pid != before.workers[0].pid)
    });
    let said = "it has locked its socket of tcp://127.0.0.1:3000 (SO_LOCK_FILTER)";
    assert!(daemon.log().contains(said), "{}", daemon.log());
    assert_eq!(after.workers[1].pid, before.workers[1].pid);
    assert_eq!(after.workers[0].lacks, None);
    // Ours decides again, for each of them.
    let decided = |nth: usize| daemon.service().groups[nth].counters["arrival_packet"];
    let (tcp, udp) = (decided(0), decided(1));
    both_serve(&|| tally(40, || ask(to())));
    both_serve(&|| tally(40, || ask_udp(to(), None)));
    assert_eq!((decided(0) - tcp, decided(1) - udp), (40, 40));
    assert_eq!(counter(&daemon.service(), "refused"), 0);
    daemon.stop();
}
