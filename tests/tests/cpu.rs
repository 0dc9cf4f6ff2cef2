//! `affinity = "cpu"`: each CPU has a worker, which gets what that CPU receives.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use nix::sys::signal::Signal;
use reuseport_lb_client::api::ServiceStatus;
use testkit::client::{Connection, Tally, ask, ask_udp, tally};
use testkit::config::Config;
use testkit::counters::Counters;
use testkit::cpus::{cpus_of, on_cpu};
use testkit::daemon::{Daemon, Paths, settled, signal, until};
use testkit::patience::{fewer, lasts};
use testkit::said::assert_said;
use testkit::world::World;

const TO: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 3000);

fn web(workers: usize) -> Config {
    let config = Config::web().listen("udp://127.0.0.1:3000").workers(workers);
    config.set("affinity", "cpu").set("flows", "none").set("overload", "off")
}

/// The CPUs that these tests use: all of a small machine.
fn cpus() -> Vec<usize> {
    cpus_of(0).into_iter().take(4).collect()
}

/// Who answers what a CPU receives: so many connections, and as many datagrams.
fn answers(cpu: usize, each: usize) -> Tally {
    on_cpu(cpu, || {
        let mut seen = tally(each, || ask(TO));
        tally(each, || ask_udp(TO, None))
            .into_iter()
            .for_each(|(worker, n)| *seen.entry(worker).or_default() += n);
        seen
    })
}

fn all_of(worker: usize, each: usize) -> Tally {
    Tally::from([(format!("web/{worker}"), 2 * each as u64)])
}

fn counted(before: &ServiceStatus, daemon: &Daemon) -> Counters {
    Counters::difference(before, &daemon.service())
}

// vm: short
#[test]
fn what_a_cpu_receives_is_its_workers() {
    let world = World::new();
    let (cpus, each) = (cpus(), fewer(400));
    // One more than there are CPUs has none; with fewer, they are counted around.
    let most = cpus_of(0).len() + 1;
    let config = web(cpus.len()).set("cpus", "each").server(&world, "--ready notify");
    let daemon = Daemon::with(&world, &config);
    let service = daemon.service();
    for (at, cpu) in cpus.iter().enumerate() {
        assert_eq!(cpus_of(service.workers[at].pid.unwrap()), [*cpu], "cpus = \"each\"");
        assert_eq!(answers(*cpu, each), all_of(at, each));
    }
    let all = (2 * each * cpus.len()) as u64;
    assert_eq!(Counters::of(&daemon.service()), Counters::all_taken(all));

    daemon.run(&["scale", "web", "1"]);
    let before = daemon.service();
    for cpu in &cpus {
        assert_eq!(answers(*cpu, each), all_of(0, each));
    }
    assert_eq!(counted(&before, &daemon), Counters::all_taken(all));

    daemon.run(&["scale", "web", &most.to_string()]);
    daemon.says(&format!("no CPU is left for web/{}: with", most - 1));
    let before = daemon.service();
    for (at, cpu) in cpus.iter().enumerate() {
        assert_eq!(answers(*cpu, each), all_of(at, each));
    }
    assert_eq!(counted(&before, &daemon), Counters::all_taken(all));
    daemon.stop();
}

/// Another worker gets what its own cannot take, by the hash of the flow; and the own one again when it is there.
// vm: short
#[test]
fn what_the_worker_of_a_cpu_cannot_take_others_get() {
    let world = World::new();
    let (cpu, each) = (cpus()[0], fewer(200));
    let config = web(3).set("on_crash", "migrate").set("stall_timeout", "300ms");
    let daemon = Daemon::with(&world, &config);
    let others = |why: &str| {
        let before = daemon.service();
        let seen = answers(cpu, each);
        assert_eq!(seen.keys().collect::<Vec<_>>(), ["web/1", "web/2"], "{why}: {seen:?}");
        let mut counted = counted(&before, &daemon);
        let detours = counted.take(&["detour_candidate", "detour_ready"]);
        let all = 2 * each as u64;
        assert_eq!(
            (counted, detours),
            (Counters::expected(&[("arrival_packet", all), ("owner_none", all)]), all)
        );
    };
    let own = || {
        let before = daemon.service();
        assert_eq!(answers(cpu, each), all_of(0, each));
        assert_eq!(counted(&before, &daemon), Counters::all_taken(2 * each as u64));
    };
    own();
    daemon.run(&["weight", "web/0", "0"]);
    others("it takes nothing new");
    daemon.run(&["weight", "web/0", "5"]);
    daemon.says("a weight other than 0 makes no difference");
    own();

    daemon.run(&["drain", "web/0"]);
    // There is no worker 0 now, so its CPU is one of the others'.
    let before = daemon.service();
    let seen = answers(cpu, each);
    assert!(seen == all_of(1, each) || seen == all_of(2, each), "{seen:?}");
    assert_eq!(counted(&before, &daemon), Counters::all_taken(2 * each as u64));
    daemon.run(&["scale", "web", "3"]);
    own();
    daemon.stop();
}

#[test]
fn a_stalled_worker_is_passed_over_and_the_choice_outlives_the_daemon() {
    let world = World::new();
    let (cpu, each) = (cpus()[0], fewer(200));
    let daemon = Daemon::with(&world, &web(2).set("stall_timeout", "300ms"));
    assert_eq!(answers(cpu, each), all_of(0, each));
    let pid = daemon.service().workers[0].pid.unwrap();
    daemon.kill();
    assert_eq!(answers(cpu, each), all_of(0, each), "no daemon runs");
    let daemon = Daemon::start_until(&world, Paths::of(&world).run(), settled);
    assert_eq!(answers(cpu, each), all_of(0, each));
    assert_eq!(Counters::of(&daemon.service()), Counters::all_taken(3 * 2 * each as u64));

    // A worker that was never seen to wait is loading, not stalled; looks at a new one are 20 ms apart.
    lasts("the time to be seen waiting", Duration::from_millis(300));
    signal(pid, Signal::SIGSTOP);
    let waits = on_cpu(cpu, || Connection::open(TO, None).unwrap());
    let before = until("it to be stalled, and its queue another's", || {
        let handed_over = |it: &ServiceStatus| Counters::of(it).get("arrival_migration") == 1;
        Some(daemon.service()).filter(|it| it.workers[0].state == "stalled" && handed_over(it))
    });
    let seen = on_cpu(cpu, || tally(each, || ask(TO)));
    assert_eq!(seen, Tally::from([("web/1".into(), each as u64)]));
    let mut counted = counted(&before, &daemon);
    assert_eq!(counted.take(&["detour_candidate", "detour_ready"]), each as u64);
    assert_eq!(
        counted,
        Counters::expected(&[("arrival_packet", each as u64), ("owner_ejected", each as u64)])
    );
    signal(pid, Signal::SIGCONT);
    drop(waits);
    until("it to be back", || Some(daemon.service()).filter(settled));
    assert_eq!(answers(cpu, each), all_of(0, each));
    daemon.stop();
}

#[test]
fn where_a_client_goes_is_said_by_cpu_and_affinity_changes_in_place() {
    let world = World::new();
    let (cpu, each) = (cpus()[0], fewer(100));
    let daemon = Daemon::with(&world, &web(2));
    let says = ["the CPU that receives a packet has a worker of its own", "web/0 (ready)"];
    assert_said(&daemon.paths().output(&["trace", "web", "--explain", "127.0.0.1"]), 0, &says);
    assert_eq!(answers(cpu, each), all_of(0, each));
    for (affinity, own) in [("flow", false), ("cpu", true)] {
        web(2).set("affinity", affinity).write(&world);
        daemon.run(&["reload"]);
        assert_eq!(answers(cpu, each) == all_of(0, each), own, "{affinity}");
    }
    daemon.stop();
}
