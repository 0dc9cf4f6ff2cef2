//! Workers that do not serve, or not yet: nobody takes them for sick, and `status` and the log say what each lacks.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use reuseport_lb_client::api::{ServiceStatus, WorkerStatus};
use testkit::client::{Connection, ask};
use testkit::config::Config;
use testkit::counters::{Counters, SHUNNED};
use testkit::daemon::{Daemon, Paths, settled, throughout, until};
use testkit::server;
use testkit::world::World;

/// What a process lacks that has not touched any of its sockets.
const BOTH: &str = "does not wait for work yet on tcp://127.0.0.1:3000, tcp://127.0.0.1:3001";

/// What the log says of a process that has not touched any of its sockets.
const BOTH_LOGGED: &str = "it does not wait for work yet on tcp://127.0.0.1:3000 (descriptor 3), \
                           tcp://127.0.0.1:3001 (descriptor 4) worker=\"web/0\"";

fn two_listeners() -> Config {
    Config::web().listen("tcp://127.0.0.1:3001").set("start_timeout", "1s")
}

fn to() -> SocketAddr {
    "127.0.0.1:3000".parse().unwrap()
}

fn first(daemon: &Daemon) -> WorkerStatus {
    daemon.service().workers.remove(0)
}

/// Starts a daemon and waits until `status` shows that the first worker lacks something.
fn lacking(world: &World, config: &Config) -> Daemon {
    config.write(world);
    Daemon::start_until(world, Paths::of(world).run(), |it| it.workers[0].lacks.is_some())
}

/// Waits until `status` shows `lacks` for the first worker, in both of its forms.
fn shows(daemon: &Daemon, lacks: &str) {
    until(&format!("status to show {lacks:?}"), || {
        (first(daemon).lacks.as_deref() == Some(lacks)).then_some(())
    });
    let shown = daemon.run(&["status"]);
    assert!(shown.contains(&format!("\n web/0 {lacks}\n")), "{shown}");
}

#[test]
fn a_worker_that_never_touches_its_sockets_gets_nothing_and_is_left_alone() {
    let world = World::new();
    let words = server::words(&world, "").join(" ");
    let script = format!("[ $REUSEPORT_LB_INDEX = 0 ] && exec sleep 1000; exec {words}");
    let daemon = lacking(&world, &two_listeners().workers(2).command(&["sh", "-c", &script]));
    let pid = first(&daemon).pid;
    shows(&daemon, BOTH);
    daemon
        .says(&format!("not ready within start_timeout (1s), and left to go on: it {BOTH} worker=\"web/0\""));
    daemon.says(BOTH_LOGGED);
    for _ in 0..20 {
        assert_eq!(ask(to()).unwrap().worker, "web/1");
    }
    let service = daemon.service();
    let [silent, serving] = &service.workers[..] else { panic!("{:?}", service.workers) };
    assert_eq!((&*silent.state, silent.pid, silent.restarts), ("starting", pid, 0));
    assert_eq!((silent.member, silent.buckets), (false, 0));
    assert_eq!((&*serving.state, serving.buckets, serving.lacks.as_deref()), ("ready", 65_536, None));
    Counters::of(&service).assert_only(&["arrival_packet", "owner_taken"], &[]);
    let told = daemon.log().matches("within start_timeout").count();
    assert_eq!(told, 1, "it is said once, and not of the other one: {}", daemon.log());
    daemon.stop();
}

#[test]
fn a_worker_that_is_to_say_that_it_is_ready_and_does_not_is_shown_as_that_although_it_waits_for_work() {
    let world = World::new();
    let daemon = lacking(&world, &two_listeners().workers(1).set("ready", "notify").server(&world, ""));
    shows(&daemon, "has not said READY=1 yet");
    daemon.says("not ready within start_timeout (1s), and left to go on: it has not said READY=1 yet");
    let worker = first(&daemon);
    assert_eq!((&*worker.state, worker.member, worker.restarts), ("starting", false, 0));
    daemon.stop();

    let daemon =
        lacking(&world, &two_listeners().workers(1).set("ready", "notify").command(&["sleep", "1000"]));
    shows(&daemon, &format!("has not said READY=1 yet, and {BOTH}"));
    daemon.stop();
}

#[test]
fn a_worker_that_is_ready_and_never_touches_its_sockets_is_shown_and_others_get_what_waits_for_it() {
    for (ready, flags) in [("notify", "--ready notify"), ("immediate", "")] {
        let world = World::new();
        let config = two_listeners().workers(2).set("ready", ready).set("stall_timeout", "200ms");
        let flags = format!("{flags} --if-worker web/0 --answer never");
        let daemon = lacking(&world, &config.server(&world, &flags));
        let pid = first(&daemon).pid;
        shows(&daemon, &BOTH.replace("does not wait", "was not seen to wait"));
        daemon
            .says(&BOTH_LOGGED.replace("it does not wait for", "it is ready, but was not seen to wait for"));
        // Nobody knows: it may be at its first request.
        until("its buckets", || Some(daemon.service()).filter(settled));
        for _ in 0..20 {
            let mut waits = Connection::open(to(), None).unwrap();
            assert_eq!(waits.ask().unwrap().worker, "web/1");
        }
        shows(&daemon, "does not accept on tcp://127.0.0.1:3000");
        daemon.says("it does not accept on tcp://127.0.0.1:3000 yet (it has never): others get what waits");
        let ServiceStatus { workers, .. } = daemon.service();
        assert_eq!((&*workers[0].state, workers[0].pid, workers[0].restarts), ("ready", pid, 0), "{ready}");
        assert_eq!(workers[1].lacks, None);

        let other = "127.0.0.1:3001".parse().unwrap();
        for _ in 0..20 {
            assert_eq!(ask(other).unwrap().worker, "web/1");
        }
        shows(&daemon, "does not accept on tcp://127.0.0.1:3000, tcp://127.0.0.1:3001");
        let worker = first(&daemon);
        assert_eq!((&*worker.state, worker.pid, worker.restarts), ("loading", pid, 0), "{ready}");
        assert!(worker.member, "it keeps its buckets, which are passed over");
        Counters::of(&daemon.service()).assert_only(&SHUNNED, &["detour_owner", "detour_ready"]);
        daemon.stop();
    }
}

#[test]
fn a_wrapper_whose_child_loads_beyond_start_timeout_goes_on_and_serves_what_has_waited() {
    let world = World::new();
    let gate = world.path("gate");
    let words = server::words(&world, &format!("--gate {}", gate.display())).join(" ");
    // The shell stays, and its child is the server.
    let script = format!("sh -c 'export LISTEN_PID=$$; exec {words}' & wait $!");
    let daemon = lacking(&world, &two_listeners().workers(1).command(&["sh", "-c", &script]));
    let wrapper = first(&daemon).pid;
    let mut early = Connection::open(to(), None).unwrap();
    let early = thread::spawn(move || early.ask());
    daemon.says(&format!("not ready within start_timeout (1s), and left to go on: it {BOTH}"));
    throughout(Duration::from_millis(500), || {
        let worker = first(&daemon);
        assert_eq!((&*worker.state, worker.lacks.as_deref(), worker.pid), ("starting", Some(BOTH), wrapper));
    });
    fs::write(&gate, "").unwrap();
    let service = until("it to be ready", || Some(daemon.service()).filter(settled));
    let worker = &service.workers[0];
    assert_eq!((worker.pid, worker.restarts, worker.lacks.as_deref()), (wrapper, 0, None));
    let answer = early.join().unwrap().unwrap();
    assert_eq!(answer.worker, "web/0", "what came before it was ready has waited for it");
    assert_ne!(Some(answer.pid), wrapper, "its child serves");
    daemon.says("state changed worker=\"web/0\" slot=0 from=starting to=ready");
    daemon.stop();
}
