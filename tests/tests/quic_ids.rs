//! Whom connection ids of QUIC name: bytes of them, without QUIC.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};

use nix::sys::signal::Signal;
use reuseport_lb_client::api::ServiceStatus;
use testkit::client::{ask_udp_on, ask_udp_with};
use testkit::config::Config;
use testkit::counters::Counters;
use testkit::daemon::{Daemon, settled, signal, until};
use testkit::fault::Dice;
use testkit::patience::fewer;
use testkit::world::World;

const TO: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 4433);

/// Workers that answer whatever comes.
fn echo() -> Config {
    Config::service("echo").listen("udp://127.0.0.1:4433").workers(4).set("quic", "quic-lb")
}

/// The server id that a process was told.
fn server_id(pid: i32) -> [u8; 4] {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    let told = environment.split(|byte| *byte == 0).find_map(|it| it.strip_prefix(b"REUSEPORT_LB_QUIC_ID="));
    u32::from_str_radix(std::str::from_utf8(told.unwrap()).unwrap(), 16).unwrap().to_be_bytes()
}

/// A datagram with a short header, or a long one, to a connection id with this server id.
fn datagram(long: bool, server_id: [u8; 4]) -> Vec<u8> {
    let header: &[u8] = if long { &[0xc0, 0, 0, 0, 1, 11] } else { &[0x40] };
    [header, &[0x0b], &server_id, &[0; 30]].concat()
}

/// Who answers, of two datagrams from a new port.
fn ask(server_id: [u8; 4]) -> String {
    let [one, other] =
        [true, false].map(|long| ask_udp_with(TO.into(), None, &datagram(long, server_id)).unwrap().worker);
    assert_eq!(one, other);
    one
}

/// Whose datagrams are, of so many ports.
fn ask_often(server_id: [u8; 4], ports: usize) -> BTreeMap<String, usize> {
    let mut answered = BTreeMap::new();
    for _ in 0..ports {
        *answered
            .entry(ask_udp_with(TO.into(), None, &datagram(false, server_id)).unwrap().worker)
            .or_default() += 1;
    }
    answered
}

/// A worker is named as long as it is there, and so is the next process in its place after a crash; an id of one that is gone
/// names nobody, also if another has its slot.
// vm: short
#[test]
fn an_id_names_one_worker_for_its_time() {
    let world = World::new();
    let config = echo().server(&world, "");
    let daemon = Daemon::with(&world, &config);
    let ids = |daemon: &Daemon| -> BTreeMap<String, [u8; 4]> {
        daemon.service().workers.into_iter().filter_map(|it| Some((it.name, server_id(it.pid?)))).collect()
    };
    let first = ids(&daemon);
    let before = daemon.service();
    for (worker, id) in &first {
        assert_eq!(ask_often(*id, 20), BTreeMap::from([(worker.clone(), 20)]));
        assert_eq!(&ask(*id), worker);
    }
    let counted = Counters::difference(&before, &daemon.service());
    assert_eq!(
        counted,
        Counters::expected(&[("arrival_packet", 88), ("owner_taken", 88), ("quic_routed", 88)])
    );

    // Whoever has the place of one that crashed is meant by its ids, and makes the same.
    let (victim, id) = first.first_key_value().unwrap();
    let pid = |service: &ServiceStatus| service.workers.iter().find(|it| it.name == *victim)?.pid;
    let killed = pid(&daemon.service());
    signal(killed.unwrap(), Signal::SIGKILL);
    until("its successor", || {
        let service = daemon.service();
        (pid(&service) != killed && settled(&service)).then_some(())
    });
    assert_eq!((&ask(*id), ids(&daemon)), (victim, first.clone()));

    // Over a daemon's death and a reload.
    daemon.kill();
    assert_eq!(&ask(*id), victim);
    let daemon = Daemon::with(&world, &config);
    config.clone().set("affinity", "source").write(&world);
    daemon.run(&["reload"]);
    assert_eq!((&ask(*id), ids(&daemon)), (victim, first.clone()));

    // The next worker in the same slot is another one. All comes from one address, so to one worker.
    daemon.run(&["drain", victim]);
    daemon.run(&["scale", "echo", "4"]);
    until("the next one", || settled(&daemon.service()).then_some(()));
    let next = ids(&daemon);
    assert_eq!(next.len(), 4);
    let same = next.iter().filter(|(name, id)| first.get(*name) == Some(id)).count();
    assert_eq!(same, 3, "{first:?}, then {next:?}");
    let before = daemon.service();
    let answered = ask_often(*id, 20);
    assert_eq!(answered.len(), 1, "all by the client's address: {answered:?}");
    let counted = Counters::difference(&before, &daemon.service());
    let expected = [("arrival_packet", 20), ("owner_taken", 20), ("quic_unroutable", 20)];
    assert_eq!(counted, Counters::expected(&expected));
    daemon.stop();
}

/// Ids by chance reach nobody but the worker of the flow.
#[test]
fn random_ids_go_by_their_flow() {
    let world = World::new();
    let daemon = Daemon::with(&world, &echo());
    let ports: Vec<(UdpSocket, String)> = (0..10)
        .map(|_| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect(TO).unwrap();
            let worker = ask_udp_on(&socket, b"who?").unwrap().worker;
            (socket, worker)
        })
        .collect();
    let before = daemon.service();
    let mut dice = Dice::new();
    let each = fewer(100_000);
    let mut datagram = [0u8; 40];
    for _ in 0..each {
        for (socket, _) in &ports {
            datagram.iter_mut().for_each(|byte| *byte = dice.roll(256) as u8);
            // Short headers, and long ones with an id of the length that is looked at.
            (datagram[0], datagram[5]) = if dice.roll(2) == 0 { (0x40, datagram[5]) } else { (0xc0, 11) };
            // Who answers is not waited for: what is dropped at a queue has been decided before.
            socket.send(&datagram).unwrap();
        }
    }
    let after = daemon.service();
    let all = 10 * each as u64;
    let expected = [("arrival_packet", all), ("owner_taken", all), ("quic_unroutable", all)];
    assert_eq!(Counters::difference(&before, &after), Counters::expected(&expected));
    for (before, after) in before.workers.iter().zip(&after.workers) {
        let flows = ports.iter().filter(|(_, worker)| *worker == after.name).count() as u64;
        assert_eq!(after.selected() - before.selected(), flows * each as u64, "{}", after.name);
    }
    daemon.stop();
}
