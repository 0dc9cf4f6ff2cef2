//! `affinity = "random"`: what one sender sends is shared by all workers, and connections lose nothing by it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use reuseport_lb_client::api::{ServiceStatus, WorkerStatus};
use testkit::client::{Tally, ask, ask_udp, tally};
use testkit::config::Config;
use testkit::counters::Counters;
use testkit::daemon::{Daemon, selected, until};
use testkit::patience::fewer;
use testkit::said::assert_said;
use testkit::statistics::assert_fair;
use testkit::tracing::traced;
use testkit::world::World;

/// Where datagrams, or connections, are sent to.
fn to(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A service without flows at this port.
fn service(name: &str, port: u16, affinity: &str) -> Config {
    let config = Config::service(name).listen(&format!("udp://127.0.0.1:{port}"));
    config.set("flows", "none").set("affinity", affinity)
}

fn named(daemon: &Daemon, name: &str) -> ServiceStatus {
    daemon.status().services.into_iter().find(|service| service.name == name).unwrap()
}

/// Datagrams that found no room in the queues of a service.
fn dropped(service: &ServiceStatus) -> u64 {
    service.workers.iter().flat_map(|worker| &worker.sockets).map(|socket| u64::from(socket.drops)).sum()
}

fn shares(workers: &[WorkerStatus]) -> Vec<u64> {
    workers.iter().map(selected).collect()
}

/// No worker reads, so what is dropped is a matter of room alone, not of time: half as much again as one queue has room for.
// vm: short
#[test]
fn where_one_worker_would_drop_a_third_of_what_one_sender_sends_four_drop_nothing() {
    let world = World::new();
    let flags = format!("--gate {}", world.path("gate").display());
    let reads_nothing = |config: Config| {
        let config = config.workers(4).set("ready", "immediate").set("stall_timeout", "off");
        let config = config.set("drain_timeout", "100ms");
        config.server(&world, &flags)
    };
    let [flow, random] = [("flow", 3000), ("random", 3001)]
        .map(|(affinity, port)| reads_nothing(service(affinity, port, affinity)));
    let daemon = Daemon::with(&world, &flow.and(random));
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    let send = |port: u16, count: u64| {
        (0..count).for_each(|_| {
            sender.send_to(b"<13>one line of syslog", to(port)).unwrap();
        })
    };

    let mut sent = 0;
    let room = until("a queue to be full", || {
        send(3000, 100);
        sent += 100;
        Some(sent - dropped(&named(&daemon, "flow"))).filter(|room| *room < sent)
    });
    let all = room + room / 2;
    send(3000, all.checked_sub(sent).unwrap());
    let flow = named(&daemon, "flow");
    let mut busiest = shares(&flow.workers);
    busiest.sort_unstable();
    assert_eq!((busiest, dropped(&flow)), (vec![0, 0, 0, all], all - room));
    assert_eq!(Counters::of(&flow), Counters::all_taken(all));

    send(3001, all);
    let random = named(&daemon, "random");
    assert_eq!(dropped(&random), 0);
    assert_fair(&shares(&random.workers), &[1.0; 4]);
    assert_eq!(Counters::of(&random), Counters::all_taken(all));
    println!(
        "{all} datagrams of one sender, {room} have room in one queue: flow drops {}, random none",
        all - room
    );
    daemon.stop();
}

#[test]
fn each_datagram_and_each_connection_goes_to_a_worker_by_chance_and_weight() {
    let world = World::new();
    let config = service("web", 3000, "random").listen("tcp://127.0.0.1:3000").workers(3);
    let daemon = Daemon::with(&world, &config);
    daemon.run(&["weight", "web/2", "2"]);
    let count = fewer(4000);
    let fair = |tally: Tally| {
        let seen: Vec<u64> = tally.into_values().collect();
        // The table's quotas are exact.
        assert_fair(&seen, &[16_384.0, 16_384.0, 32_768.0]);
    };
    let client = Some(IpAddr::from([127, 0, 0, 2]));
    fair(tally(count, || ask_udp(to(3000), client)));
    fair(tally(count, || ask(to(3000))));
    assert_eq!(Counters::of(&daemon.service()), Counters::all_taken(2 * count as u64));

    let output = daemon.paths().output(&["trace", "web", "--explain", "127.0.0.2"]);
    assert_said(
        &output,
        0,
        &["by chance, whoever sends it", " 25.00%  web/0 (ready)", " 50.00%  web/2 (ready)"],
    );

    let decisions = traced(&daemon, "web", 20, || drop(ask_udp(to(3000), client).unwrap()));
    let keys: BTreeSet<u32> = decisions.iter().map(|decision| decision.key).collect();
    // Two of 20 random numbers of 32 bits are the same once in 20 million times.
    assert_eq!(keys.len(), 20, "{decisions:?}");
    daemon.stop();
}

/// The last packet of a handshake is decided anew where the SYN was answered with a cookie, and meets another worker than
/// the SYN three times of four: that worker accepts the connection.
// vm: short
#[test]
fn a_handshake_with_a_cookie_may_begin_at_one_worker_and_end_at_another() {
    let world = World::new();
    let daemon = Daemon::with(&world, &Config::web().workers(4).set("affinity", "random"));
    let cookies = |when: &str| fs::write("/proc/sys/net/ipv4/tcp_syncookies", when).unwrap();
    let count = fewer(1000) as u64;
    cookies("0");
    let answered = tally(count as usize, || ask(to(3000)));
    assert_fair(&answered.into_values().collect::<Vec<_>>(), &[1.0; 4]);
    let before = daemon.service();
    assert_eq!(Counters::of(&before), Counters::all_taken(count));
    cookies("2");
    let answered = tally(count as usize, || ask(to(3000)));
    assert_fair(&answered.into_values().collect::<Vec<_>>(), &[1.0; 4]);
    assert_eq!(Counters::difference(&before, &daemon.service()), Counters::all_taken(2 * count));
    daemon.stop();
}
