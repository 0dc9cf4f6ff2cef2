//! The kernel makes the keys that the same function makes on this machine.

use std::collections::BTreeSet;
use std::net::SocketAddrV4;
use std::path::Path;

use reuseport_lb_common::steer::{NO_KEY, spread};
use serde_json::Value;
use testkit::counters::Counters;
use testkit::daemon::Daemon;
use testkit::fault::Dice;
use testkit::patience::fewer;
use testkit::tracing::traced;
use testkit::world::World;

use crate::compiled::{OnHost, object, object_of_rust};
use crate::protocols::{ALL, DTLS, GAME, GTPU, Protocol, RTP, SIP, WIREGUARD};
use crate::{ask, keyed, number};

/// Packets of sessions, most of them as they should be; some are cut off or have wrong bytes, as chance has it.
fn packets(protocol: &Protocol, count: usize) -> Vec<Vec<u8>> {
    let mut dice = Dice::new();
    let mut packets = (protocol.others)();
    while packets.len() < count {
        let mut packet = (protocol.packet)(dice.roll(1 << 32) as u32, dice.roll(1 << 16) as u32);
        let at = dice.roll(packet.len());
        match dice.roll(10) {
            0 => packet.truncate(at),
            1 => packet[at] = dice.roll(256) as u8,
            _ => {}
        }
        packets.push(packet);
    }
    packets
}

/// Without the kernel: one key for a session, whatever kind of packet it is, another one for each, and none for the rest.
#[test]
fn on_this_machine_each_session_has_a_key_of_its_own() {
    let world = World::new();
    for protocol in ALL {
        let host = OnHost::of(&world, protocol.example);
        let of_kind = |nth| host.keys(&(0..1_000).map(|it| (protocol.packet)(it, nth)).collect::<Vec<_>>());
        let first = of_kind(0);
        for nth in 1..protocol.kinds {
            assert_eq!(of_kind(nth), first, "{}: kind {nth}", protocol.example);
        }
        let different: BTreeSet<&u32> = first.iter().collect();
        assert!(!different.contains(&NO_KEY), "{}", protocol.example);
        assert_eq!(different.len(), first.len(), "{}", protocol.example);
        // Of so many by chance: 65,536 x (1 - e^(-1,000 / 65,536)) = 992.
        let buckets: BTreeSet<u16> = first.iter().map(|key| spread(*key) as u16).collect();
        assert!(buckets.len() > 950, "{}: {} buckets", protocol.example, buckets.len());
        for (at, key) in host.keys(&(protocol.others)()).into_iter().enumerate() {
            assert_eq!(key, NO_KEY, "{}: packet {at} that belongs to none", protocol.example);
        }
    }
}

/// Packets of each example: 10,500 of all seven.
const PACKETS: usize = 1_500;

/// As many are sent before a look at whether the trace has had enough.
const AT_ONCE: usize = 100;

/// Those of them that are tried before.
const TRIED: usize = 50;

/// What `policy … test` says of packets: the key, and who would get it.
fn try_all(daemon: &Daemon, object: &Path, packets: &[Vec<u8>]) -> Vec<(Option<u32>, Option<String>)> {
    let hex = |packet: &Vec<u8>| packet.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut words: Vec<String> =
        ["policy", "own", "test", &object.display().to_string(), "--json"].map(str::to_owned).into();
    words.extend(packets.iter().map(|packet| format!("--packet={}", hex(packet))));
    let said = daemon.run(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let told = said.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        let goes_to = line.pointer("/listeners/0/goes_to/worker").and_then(Value::as_str);
        (line["key"].as_u64().map(|key| key as u32), goes_to.map(str::to_owned))
    });
    told.collect()
}

/// The kernel makes the same keys as this machine, where it tries the function and where it decides by it; and they lead to
/// whom the trial names.
fn assert_agrees(protocol: &Protocol, in_rust: bool) {
    let world = World::new();
    let name = protocol.example;
    let packets = packets(protocol, fewer(PACKETS));
    let keys: Vec<Option<u32>> = OnHost::of(&world, name)
        .keys(&packets)
        .into_iter()
        .map(|key| Some(key).filter(|it| *it != NO_KEY))
        .collect();
    let object = if in_rust { object_of_rust(&world) } else { object(&world, name) };
    let daemon = Daemon::with(&world, &keyed(&object, 3).set("flows", "none"));
    let tried = try_all(&daemon, &object, &packets[..TRIED]);
    assert_eq!(tried.len(), TRIED);
    for (at, (key, _)) in tried.iter().enumerate() {
        assert_eq!(*key, keys[at], "{name}: {:02x?}", packets[at]);
    }

    let before = daemon.service();
    // Each comes from an address of its own, by which its decision is found.
    let mut sent = 0;
    // Twice, since the trace may begin, and miss some, in the middle of the first time.
    let decisions = traced(&daemon, "own", 2 * packets.len(), || {
        for _ in 0..AT_ONCE {
            let at = sent % packets.len();
            ask(at as u32, &packets[at]);
            sent += 1;
        }
    });
    let counted = Counters::difference(&before, &daemon.service());
    let without_key = (0..sent).filter(|at| keys[at % packets.len()].is_none()).count();
    let expected = [("arrival_packet", sent), ("owner_taken", sent), ("key_fallback", without_key)];
    assert_eq!(counted, Counters::expected(&expected.map(|(name, count)| (name, count as u64))), "{name}");
    let mut seen = BTreeSet::new();
    for decision in decisions {
        let client: SocketAddrV4 = decision.client.unwrap().parse().unwrap();
        let at = number(*client.ip()) as usize;
        seen.insert(at);
        if let Some(key) = keys[at] {
            assert_eq!(decision.key, spread(key), "{name}: {:02x?}", packets[at]);
            if let Some((_, goes_to)) = tried.get(at) {
                assert_eq!(decision.worker, *goes_to, "{name}: {:02x?}", packets[at]);
            }
        }
    }
    assert_eq!(seen.len(), packets.len(), "{name}: each packet has a decision");
    daemon.stop();
}

#[test]
fn rtp() {
    assert_agrees(&RTP, false);
}

#[test]
fn rtp_in_rust() {
    assert_agrees(&RTP, true);
}

#[test]
fn gtpu() {
    assert_agrees(&GTPU, false);
}

#[test]
fn sip() {
    assert_agrees(&SIP, false);
}

#[test]
fn game() {
    assert_agrees(&GAME, false);
}

#[test]
fn wireguard() {
    assert_agrees(&WIREGUARD, false);
}

#[test]
fn dtls() {
    assert_agrees(&DTLS, false);
}
