//! `affinity = { payload = … }`: sessions by bytes of their datagrams, here those of RTP (RFC 3550): its SSRC.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use reuseport_lb_common::steer::payload_key;
use testkit::client::ask_udp_with;
use testkit::config::Config;
use testkit::counters::Counters;
use testkit::daemon::{Daemon, settled, until};
use testkit::said::assert_said;
use testkit::statistics::assert_fair;
use testkit::tracing::traced;
use testkit::world::World;

const TO: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 3000);

/// `affinity` for RTP.
const SSRC: &str = "{ payload = { offset = 8, length = 4 } }";

const SESSIONS: u32 = 400;

fn media(workers: usize) -> Config {
    Config::service("media").listen("udp://127.0.0.1:3000").workers(workers).toml("affinity", SSRC.into())
}

/// A packet of a source of synchronisation: version 2, payload type 0 (RFC 3550, 5.1).
fn rtp(ssrc: u32, sequence: u16) -> Vec<u8> {
    let mut packet = vec![0x80, 0];
    packet.extend(sequence.to_be_bytes());
    packet.extend((u32::from(sequence) * 160).to_be_bytes());
    packet.extend(ssrc.to_be_bytes());
    packet.extend([0xff; 160]);
    packet
}

/// Sessions whose numbers have nothing in common.
fn ssrc(session: u32) -> u32 {
    session.wrapping_mul(0x9e37_79b1) ^ 0x5bd1_e995
}

/// Who answers `packet`, from a port of its own.
fn ask(packet: &[u8]) -> String {
    ask_udp_with(TO.into(), None, packet).unwrap().worker
}

/// Who answers each session, each time from another port.
fn ask_all(sequence: u16) -> BTreeMap<u32, String> {
    (0..SESSIONS).map(|session| (session, ask(&rtp(ssrc(session), sequence)))).collect()
}

/// As QUIC's connections do with their ids, sessions keep their worker whatever port and address they come from: while all
/// stay, when one joins and when one leaves.
#[test]
fn sessions_keep_their_worker_from_whatever_port_while_workers_join_and_leave() {
    let world = World::new();
    let daemon = Daemon::with(&world, &media(4).set("idle_timeout", "10m").set("drain_timeout", "1s"));
    let before = daemon.service();
    let first = ask_all(0);
    assert_eq!(ask_all(1), first);
    let all = 2 * u64::from(SESSIONS);
    assert_eq!(Counters::difference(&before, &daemon.service()), Counters::all_taken(all));
    let mut by_worker = BTreeMap::<&str, u64>::new();
    first.values().for_each(|worker| *by_worker.entry(worker).or_default() += 1);
    assert_fair(&by_worker.into_values().collect::<Vec<_>>(), &[1.0; 4]);

    let changed = |arguments: &[&str], count: usize| {
        daemon.run(arguments);
        until("the workers", || {
            let service = daemon.service();
            (service.workers.len() == count && settled(&service)).then_some(())
        });
    };
    let before = daemon.service();
    changed(&["scale", "media", "5"], 5);
    assert_eq!(ask_all(2), first);
    let mut counted = Counters::difference(&before, &daemon.service());
    let kept = counted.take(&["owner_taken", "owner_kept"]);
    assert_eq!(
        (kept, counted),
        (u64::from(SESSIONS), Counters::expected(&[("arrival_packet", u64::from(SESSIONS))]))
    );
    // Sessions that are new go to the newcomer as well.
    let new: BTreeSet<String> = (SESSIONS..2 * SESSIONS).map(|session| ask(&rtp(ssrc(session), 0))).collect();
    assert!(new.contains("media/4"), "{new:?}");

    changed(&["scale", "media", "4"], 4);
    // Those of the one that stayed away are the only ones that may have moved: it had none of these.
    assert_eq!(ask_all(3), first);
    daemon.stop();
}

#[test]
fn what_is_too_short_goes_by_its_flow_and_is_counted() {
    let world = World::new();
    let daemon = Daemon::with(&world, &media(3));
    let before = daemon.service();
    // One byte less than there must be.
    let short: BTreeSet<String> = (0..100).map(|_| ask(&rtp(7, 0)[..11])).collect();
    assert_eq!(short.len(), 3, "by their ports");
    let whole: BTreeSet<String> = (0..100).map(|_| ask(&rtp(7, 0)[..12])).collect();
    assert_eq!(whole.len(), 1, "by their session");
    let expected =
        Counters::expected(&[("arrival_packet", 200), ("owner_taken", 200), ("key_fallback", 100)]);
    assert_eq!(Counters::difference(&before, &daemon.service()), expected);
    daemon.stop();
}

#[test]
fn keys_are_those_of_the_bytes_and_change_with_a_reload() {
    let world = World::new();
    let config = media(3).set("flows", "none");
    let daemon = Daemon::with(&world, &config);
    let keys = |count: usize| -> Vec<u32> {
        let mut sequence = 0;
        let decisions = traced(&daemon, "media", count, || {
            sequence += 1;
            ask(&rtp(0x1234_5678, sequence));
        });
        decisions.into_iter().map(|decision| decision.key).collect()
    };
    assert_eq!(keys(3), [payload_key(&[0x12, 0x34, 0x56, 0x78]); 3]);
    let output = daemon.paths().output(&["trace", "media", "--explain", "127.0.0.1"]);
    assert_said(&output, 0, &["the bytes of each datagram say where it goes", "33.33%  media/0 (ready)"]);

    // Sixteen bytes, of which the last ones are the first of the sound.
    config.clone().toml("affinity", "{ payload = { offset = 8, length = 16 } }".into()).write(&world);
    daemon.run(&["reload"]);
    let longer = [&[0x12, 0x34, 0x56, 0x78][..], &[0xff; 12]].concat();
    assert_eq!(keys(3), [payload_key(&longer); 3]);
    assert_eq!(daemon.service().affinity, "payload:8+16");

    // Something else than datagrams: refused, and all goes on.
    config.listen("tcp://127.0.0.1:3000").write(&world);
    let output = daemon.paths().output(&["reload"]);
    assert_said(&output, 2, &["`affinity = { payload = … }`", "tcp://127.0.0.1:3000 has connections"]);
    assert_eq!(keys(1), [payload_key(&longer)]);
    daemon.stop();
}
