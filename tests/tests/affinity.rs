//! `affinity = "source"`: a client keeps its worker, and the kernel agrees with the pure model.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reuseport_lb::domain::table::{BucketTable, Member};
use reuseport_lb_common::steer::{source_v4, source_v6};
use testkit::client::{ask_from, ask_udp};
use testkit::config::Config;
use testkit::counters::Counters;
use testkit::daemon::{Daemon, until};
use testkit::fault::times;
use testkit::patience::fewer;
use testkit::world::{World, run};

const PORT: u16 = 4000;

fn v4(n: u32) -> IpAddr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 1)) + n * 7).into()
}

fn v6(n: u32) -> IpAddr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1 + n as u16).into()
}

fn key(client: IpAddr) -> u32 {
    match client {
        IpAddr::V4(v4) => source_v4(v4.octets()),
        IpAddr::V6(v6) => source_v6(v6.octets()),
    }
}

/// The worker that the model gives to each client: tables computed with the same history.
struct Model {
    table: BucketTable,
}

impl Model {
    fn change(&mut self, workers: u16) -> usize {
        let members: Vec<Member> = (0..workers).map(|n| Member::new(&format!("web/{n}"), n, 1)).collect();
        self.table.rebalance(&members).len()
    }

    fn worker(&self, client: IpAddr) -> String {
        format!("web/{}", self.table.owners()[key(client) as usize & 0xffff])
    }
}

/// Asks `times` over TCP and as often over UDP for each client; each must always meet the model's worker.
fn check(model: &Model, clients: &[(IpAddr, SocketAddr)], times: usize) -> BTreeMap<IpAddr, String> {
    let mut met = BTreeMap::new();
    for (client, to) in clients {
        let expected = model.worker(*client);
        for _ in 0..times {
            assert_eq!(ask_from(*to, Some(*client)).unwrap().worker, expected, "{client} over TCP");
            assert_eq!(ask_udp(*to, Some(*client)).unwrap().worker, expected, "{client} over UDP");
        }
        met.insert(*client, expected);
    }
    met
}

#[test]
fn a_client_keeps_its_worker_except_for_the_share_that_must_move() {
    let world = World::new();
    let count = fewer(200) as u32;
    for n in 0..count {
        // Without duplicate address detection they can be used at once.
        run("ip", &["-6", "address", "add", &format!("{}/128", v6(n)), "dev", "lo", "nodad"]);
    }
    let config = Config::service("web").workers(4).set("affinity", "source").set("idle_timeout", "200ms");
    let hosts = ["tcp://127.0.0.1", "udp://127.0.0.1", "tcp://[::1]", "udp://[::1]"];
    let listen = |config: Config, host: &str| config.listen(&format!("{host}:{PORT}"));
    let daemon = Daemon::with(&world, &hosts.into_iter().fold(config, listen));
    let clients: Vec<(IpAddr, SocketAddr)> = (0..count)
        .flat_map(|n| {
            [(v4(n), (Ipv4Addr::LOCALHOST, PORT).into()), (v6(n), (Ipv6Addr::LOCALHOST, PORT).into())]
        })
        .collect();
    let mut model = Model { table: BucketTable::default() };
    model.change(4);
    // More of them show nothing else, but take their time.
    let (times, again) = (times(100), fewer(20));
    let first = check(&model, &clients, times);
    assert_eq!(first.values().collect::<std::collections::BTreeSet<_>>().len(), 4, "all workers are used");

    let mut before = first.clone();
    for (workers, minimum) in [(5, 65536 / 5), (7, 65536 * 2 / 7), (3, 65536 * 4 / 7), (4, 65536 / 4)] {
        let moved = daemon.service().moved;
        daemon.run(&["scale", "web", &workers.to_string()]);
        // Clients whose datagrams were seen just now keep their worker until they are silent.
        let service = until("clients to be silent", || Some(daemon.service()).filter(|it| it.moving == 0));
        let moved = service.moved - moved;
        assert_eq!(moved, model.change(workers) as u64);
        assert!(
            moved.abs_diff(minimum) <= 2,
            "{moved} buckets moved for {workers} workers, the minimum is {minimum}"
        );
        let after = check(&model, &clients, again);
        let changed = before.iter().filter(|(client, worker)| after[client] != **worker).count();
        println!("{workers} workers: {moved} buckets and {changed} of {} clients moved", clients.len());
        before = after;
    }
    let back = first.iter().filter(|(client, worker)| before[client] == **worker).count();
    println!("4 → 5 → 7 → 3 → 4: {back} of {} clients are back where they were", clients.len());
    assert!(back * 100 >= clients.len() * 85, "only {back}");

    let service = daemon.service();
    let asked = u64::from(count) * 2 * 2 * (times + 4 * again) as u64;
    assert_eq!(Counters::of(&service), Counters::all_taken(asked));
    daemon.stop();
}
