//! Workers that do not read their datagrams: new flows avoid them, live ones wait for them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use reuseport_lb_client::api::{ServiceStatus, WorkerStatus};
use testkit::client::{ask, ask_udp, timeout};
use testkit::config::Config;
use testkit::counters::Counters;
use testkit::daemon::{Daemon, Paths, settled, signal, throughout, until};
use testkit::flows::scene::{IDLE, config, owners, to, worker};
use testkit::flows::{Flows, PATIENCE};
use testkit::patience::lasts;
use testkit::world::World;

/// Live flows when the worker stops, and new ones then: few enough that no two share a sub-bucket.
const LIVE: usize = 200;
const NEW: usize = 200;

const ONE: &str = "udp://127.0.0.1:3000";

fn one() -> SocketAddr {
    "127.0.0.1:3000".parse().unwrap()
}

/// Buckets of the worker that stops: a quarter, at each of two listeners.
const MOVED: u64 = 2 * 65_536 / 4;

fn four() -> Config {
    config(IDLE).workers(4).set("stall_timeout", "300ms")
}

/// Has live flows of `web/2` send a datagram each, which it does not read, until it is stalled on both listeners.
fn stall(daemon: &Daemon, flows: &mut Flows) -> (i32, usize) {
    let pid = worker(&daemon.service(), "web/2").pid.unwrap();
    // A worker that was never seen to wait is loading, not stalled; looks at a new one are 20 ms apart.
    lasts("the time to be seen waiting", Duration::from_millis(300));
    signal(pid, Signal::SIGSTOP);
    let sent = flows.send("web/2", LIVE);
    assert!(sent > 20, "{sent} flows of it");
    for to in to() {
        daemon.says(&format!("it does not read from udp://{to}: others get new flows"));
    }
    assert_eq!(worker(&daemon.service(), "web/2").state, "stalled");
    (pid, sent)
}

fn counted(before: &ServiceStatus, daemon: &Daemon) -> [u64; 3] {
    let (before, after) = (owners(before), owners(&daemon.service()));
    std::array::from_fn(|at| after[at] - before[at])
}

// vm: short
#[test]
fn new_flows_avoid_a_stopped_worker_and_live_ones_are_answered_when_it_goes_on() {
    let world = World::new();
    let daemon = Daemon::with(&world, &four());
    let mut flows = Flows::open(&to(), LIVE);
    let before = daemon.service();
    let (pid, sent) = stall(&daemon, &mut flows);
    until("its buckets to be others'", || (daemon.service().moved == before.moved + MOVED).then_some(()));
    assert_eq!(counted(&before, &daemon), [sent as u64, 0, sent as u64], "all before it was stalled");

    let before_new = daemon.service();
    let mut new = Flows::open(&to(), NEW);
    assert_eq!(new.with("web/2"), 0, "{:?}", new.tally());
    assert_eq!(new.tally().len(), 3, "{:?}", new.tally());
    assert_eq!(counted(&before_new, &daemon), [NEW as u64, 0, NEW as u64]);
    // What is live with it stays with it.
    let again = flows.send("web/2", LIVE);
    assert_eq!(again, sent);
    assert_eq!(counted(&before_new, &daemon), [NEW as u64, again as u64, (NEW + again) as u64]);

    signal(pid, Signal::SIGCONT);
    let back = until("it to be back", || {
        Some(daemon.service()).filter(|it| settled(it) && it.moved == before.moved + 2 * MOVED)
    });
    assert_eq!((back.workers[2].pid, back.workers[2].restarts), (Some(pid), 0));
    let answers = flows.receive(PATIENCE);
    assert!(answers.moved.is_empty() && answers.lost.is_empty(), "{answers}");
    assert_eq!(
        answers.answered, sent,
        "both datagrams of each flow were read, the last answer counts: {answers}"
    );
    // Those that began elsewhere stay there, and it gets new ones again.
    new.round().assert_kept(IDLE);
    flows.round().assert_kept(IDLE);
    assert!(Flows::open(&to(), NEW).with("web/2") > 20);
    daemon.stop();
}

#[test]
fn without_flows_all_that_comes_avoids_it() {
    let world = World::new();
    let daemon = Daemon::with(&world, &four().set("flows", "none"));
    let mut flows = Flows::open(&to(), LIVE);
    let before = daemon.service();
    let (pid, _) = stall(&daemon, &mut flows);
    until("its buckets to be others'", || (daemon.service().moved == before.moved + MOVED).then_some(()));
    let round = flows.round();
    assert!(round.lost.is_empty() && flows.with("web/2") == 0, "{round}");
    signal(pid, Signal::SIGCONT);
    until("it to be back", || {
        Some(daemon.service()).filter(|it| settled(it) && it.moved == before.moved + 2 * MOVED)
    });
    flows.round();
    assert!(flows.with("web/2") > 20, "{:?}", flows.tally());
    daemon.stop();
}

#[test]
fn a_stall_outlives_the_daemon() {
    let world = World::new();
    let daemon = Daemon::with(&world, &four());
    let mut flows = Flows::open(&to(), LIVE);
    let before = daemon.service();
    let (pid, sent) = stall(&daemon, &mut flows);
    until("its buckets to be others'", || (daemon.service().moved == before.moved + MOVED).then_some(()));
    daemon.kill();
    assert_eq!(Flows::open(&to(), NEW).with("web/2"), 0, "no daemon runs");
    let daemon = Daemon::start_until(&world, Paths::of(&world).run(), |service| service.busy.is_none());
    let service = daemon.service();
    assert_eq!((&*service.workers[2].state, service.workers[2].pid), ("stalled", Some(pid)));
    assert_eq!(Flows::open(&to(), NEW).with("web/2"), 0);
    assert_eq!(service.moved, before.moved + MOVED, "the takeover moves nothing");
    signal(pid, Signal::SIGCONT);
    until("it to be back", || Some(daemon.service()).filter(settled));
    let answers = flows.receive(PATIENCE);
    assert_eq!((answers.answered, answers.moved.len()), (sent, 0), "{answers}");
    until("new flows to come to it", || (Flows::open(&to(), NEW).with("web/2") > 20).then_some(()));
    daemon.stop();
}

#[test]
fn a_stalled_worker_that_is_killed_has_its_queue_and_flows_again() {
    let world = World::new();
    let daemon = Daemon::with(&world, &four());
    let mut flows = Flows::open(&to(), LIVE);
    let before = daemon.service();
    let (pid, sent) = stall(&daemon, &mut flows);
    signal(pid, Signal::SIGKILL);
    let back = daemon.settled_without(pid);
    let answers = flows.receive(PATIENCE);
    assert_eq!((answers.answered, answers.lost.len()), (sent, 0), "its successor reads the queue: {answers}");
    assert!(answers.moved.iter().all(|it| it.to.worker == "web/2"), "{answers}");
    until("it to have its buckets", || (daemon.service().moved == before.moved + 2 * MOVED).then_some(()));
    assert_eq!(back.workers[2].restarts, 1);
    daemon.stop();
}

fn first(daemon: &Daemon) -> WorkerStatus {
    daemon.service().workers.remove(0)
}

/// One that stops before that is not stalled but loading.
fn seen_waiting() {
    lasts("the time in which it is seen to wait for work", Duration::from_millis(500));
}

/// Clients that send the same again and again, each from an address of its own.
struct Clients(Vec<UdpSocket>);

impl Clients {
    fn new(count: usize) -> Self {
        let client = |_| {
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.connect(one()).unwrap();
            client
        };
        Self((0..count).map(client).collect())
    }

    fn send(&self, times: usize) {
        let send = |client: &UdpSocket| drop(client.send(b"the same"));
        (0..times).for_each(|_| self.0.iter().for_each(send));
    }
}

#[test]
fn one_that_sleeps_in_its_handler_is_avoided_until_it_reads() {
    let world = World::new();
    let config = Config::service("web").listen(ONE).workers(3).set("stall_timeout", "300ms");
    let daemon = Daemon::with(&world, &config.server(&world, "--if-worker web/0 --pause 4s"));
    let clients = Clients::new(30);
    lasts("the time to be seen waiting", Duration::from_millis(300));
    clients.send(2);
    daemon.says("it does not read from udp://127.0.0.1:3000: others get new flows");
    let stalled = until("it to be stalled", || Some(first(&daemon)).filter(|it| it.state == "stalled"));
    until("others to have its buckets", || (daemon.service().moved > 65_536).then_some(()));
    for _ in 0..40 {
        assert_ne!(ask_udp(one(), None).unwrap().worker, "web/0");
    }
    assert_eq!(first(&daemon).pid, stalled.pid);
    daemon.says("stall on udp://127.0.0.1:3000 over");
    daemon.stop();
}

#[test]
fn one_that_serves_its_connections_only_gets_no_new_flows_but_connections() {
    let world = World::new();
    let config = Config::service("web").listen("tcp://127.0.0.1:3000").listen(ONE).workers(3);
    let config = config.set("ready", "500ms").set("stall_timeout", "200ms");
    // web/0 does nothing with its second socket, and is busy all the time.
    let config = config.server(&world, "--wait poll --tick 10ms --if-worker web/0 --sockets 1");
    let daemon = Daemon::with(&world, &config);
    Clients::new(12).send(1);
    daemon.says("it does not read from udp://127.0.0.1:3000 yet (it has never): others get new flows");
    let half = first(&daemon);
    assert_eq!(half.state, "loading", "it has never read at any of its UDP listeners");
    assert_eq!(half.lacks.as_deref(), Some("does not read from udp://127.0.0.1:3000"));
    assert_eq!(half.buckets / 10, 2184, "its part of the service's buckets, with which it gets connections");
    until("others to have its buckets", || (daemon.service().moved > 65_536).then_some(()));
    for _ in 0..40 {
        assert_ne!(ask_udp(one(), None).unwrap().worker, "web/0");
    }
    until("it to serve a connection", || (ask(one()).unwrap().worker == "web/0").then_some(()));
    let counted = Counters::of_group(&daemon.service().groups[0]);
    counted.assert_only(&["arrival_packet", "owner_taken"], &[]);
    daemon.stop();
}

#[test]
fn one_that_serves_its_datagrams_only_keeps_its_flows() {
    let world = World::new();
    let config = Config::service("web").listen(ONE).listen("tcp://127.0.0.1:3000").workers(3);
    let config = config.set("ready", "500ms").set("stall_timeout", "200ms");
    let config = config.server(&world, "--wait poll --tick 10ms --if-worker web/0 --sockets 1");
    let daemon = Daemon::with(&world, &config);
    let before = daemon.service();
    until("it to be stalled at TCP", || {
        let _ = ask(one()).unwrap();
        daemon.log().contains("it does not accept on tcp://127.0.0.1:3000").then_some(())
    });
    until("it to answer a datagram", || (ask_udp(one(), None).unwrap().worker == "web/0").then_some(()));
    assert_eq!(daemon.service().moved, before.moved);
    assert!(!daemon.log().contains("it does not read"), "{}", daemon.log());
    daemon.stop();
}

#[test]
fn one_that_reads_slowly_is_never_avoided() {
    let world = World::new();
    let config = Config::service("web").listen(ONE).workers(2).set("stall_timeout", "300ms");
    let daemon = Daemon::with(&world, &config.server(&world, "--if-worker web/0 --pause 100ms"));
    let clients = Clients::new(20);
    let before = daemon.service();
    // More than it can read, and always the same.
    let mut longest = 0;
    throughout(Duration::from_secs(4), || {
        clients.send(1);
        let worker = first(&daemon);
        longest = longest.max(worker.sockets[0].queue);
        assert_eq!(worker.state, "ready");
    });
    assert!(longest > 50_000, "{longest} bytes waited at most");
    assert_eq!(daemon.service().moved, before.moved);
    assert!(!daemon.log().contains("it does not read"), "{}", daemon.log());
    daemon.stop();
}

#[test]
fn a_full_queue_that_is_not_read_is_a_stall_and_is_read_afterwards() {
    let world = World::new();
    let config = Config::service("web").listen(ONE).workers(2).set("stall_timeout", "300ms");
    let daemon = Daemon::with(&world, &config);
    let pid = first(&daemon).pid.unwrap();
    seen_waiting();
    signal(pid, Signal::SIGSTOP);
    let clients = Clients::new(20);
    until("datagrams to be dropped", || {
        clients.send(50);
        let worker = first(&daemon);
        let queue = &worker.sockets[0];
        (queue.drops > 0 && queue.queue > queue.backlog / 2).then_some(())
    });
    until("it to be stalled", || (first(&daemon).state == "stalled").then_some(()));
    for _ in 0..40 {
        assert_eq!(ask_udp(one(), None).unwrap().worker, "web/1");
    }
    signal(pid, Signal::SIGCONT);
    until("it to be back", || Some(daemon.service()).filter(settled));
    until("its queue to be read", || (first(&daemon).sockets[0].queue == 0).then_some(()));
    daemon.stop();
}

#[test]
fn the_last_worker_and_one_without_a_limit_are_never_avoided() {
    let world = World::new();
    let config = Config::service("web").listen(ONE).workers(2).set("stall_timeout", "200ms");
    let daemon = Daemon::with(&world, &config);
    let pids: Vec<i32> = daemon.service().workers.iter().filter_map(|it| it.pid).collect();
    seen_waiting();
    pids.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
    Clients::new(20).send(1);
    let is_stalled =
        |daemon: &Daemon| daemon.service().workers.iter().filter(|it| it.state == "stalled").count();
    until("one to be stalled", || (is_stalled(&daemon) == 1).then_some(()));
    let begun = Instant::now();
    throughout(Duration::from_secs(3), || assert!(is_stalled(&daemon) == 1));
    assert!(begun.elapsed() < timeout());
    // A reload that looks for stalls no more takes it back, though it does not read.
    config.set("stall_timeout", "off").write(&world);
    daemon.run(&["reload"]);
    until("none to be stalled", || (is_stalled(&daemon) == 0).then_some(()));
    let shares: Vec<u32> = daemon.service().workers.iter().map(|it| it.buckets).collect();
    assert_eq!(shares, [32_768, 32_768]);
    pids.iter().for_each(|pid| signal(*pid, Signal::SIGCONT));
    daemon.stop();
}
