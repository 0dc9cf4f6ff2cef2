//! Sessions by what the examples' functions say.

use std::collections::{BTreeMap, BTreeSet};

use testkit::client::ask_from;
use testkit::counters::Counters;
use testkit::daemon::{Daemon, settled, until};
use testkit::statistics::assert_fair;
use testkit::world::World;

use crate::compiled::{object, object_of_rust};
use crate::protocols::{ALL, Protocol, RTP, SIP};
use crate::{TO, address, ask, keyed};

const SESSIONS: u32 = 200;

/// Who answers each session's packet of this kind, each time from another address and port.
fn ask_all(protocol: &Protocol, nth: u32) -> BTreeMap<u32, String> {
    (0..SESSIONS)
        .map(|session| (session, ask(nth * SESSIONS + session, &(protocol.packet)(session, nth))))
        .collect()
}

/// One worker for each session, whatever kind of packet it is and wherever it comes from; sessions are spread over all; what
/// belongs to none goes by its flow, and is counted.
fn assert_by_session(daemon: &Daemon, protocol: &Protocol) {
    let name = protocol.example;
    let before = daemon.service();
    let first = ask_all(protocol, 0);
    for nth in 1..protocol.kinds {
        assert_eq!(ask_all(protocol, nth), first, "{name}: packets of kind {nth}");
    }
    let mut shares: BTreeMap<&str, u64> = before.workers.iter().map(|it| (&*it.name, 0)).collect();
    first.values().for_each(|worker| *shares.get_mut(worker.as_str()).unwrap() += 1);
    assert_fair(&shares.into_values().collect::<Vec<_>>(), &[1.0; 4]);
    let all = u64::from(protocol.kinds * SESSIONS);
    assert_eq!(Counters::difference(&before, &daemon.service()), Counters::all_taken(all), "{name}");

    let before = daemon.service();
    let others = (protocol.others)();
    for (at, packet) in others.iter().enumerate() {
        ask(at as u32, packet);
    }
    let all = others.len() as u64;
    let expected = [("arrival_packet", all), ("owner_taken", all), ("key_fallback", all)];
    assert_eq!(Counters::difference(&before, &daemon.service()), Counters::expected(&expected), "{name}");
}

/// A reload changes the function as it changes any affinity: from the next packet on.
// vm: short
#[test]
fn each_session_has_one_worker_from_whatever_address() {
    let world = World::new();
    let config = |protocol: &Protocol| keyed(&object(&world, protocol.example), 4).set("flows", "none");
    let daemon = Daemon::with(&world, &config(&ALL[0]));
    for protocol in &ALL {
        config(protocol).write(&world);
        daemon.run(&["reload"]);
        assert_by_session(&daemon, protocol);
    }
    keyed(&object_of_rust(&world), 4).set("flows", "none").write(&world);
    daemon.run(&["reload"]);
    assert_by_session(&daemon, &RTP);
    daemon.stop();
}

/// As flows do that are known by their addresses: while one joins, when one leaves, and over a daemon's death.
#[test]
fn sessions_keep_their_worker_while_workers_join_and_leave() {
    let world = World::new();
    let config = keyed(&object(&world, "sip"), 4).set("idle_timeout", "10m").set("drain_timeout", "1s");
    let daemon = Daemon::with(&world, &config);
    let first = ask_all(&SIP, 0);
    let changed = |daemon: &Daemon, arguments: &[&str], count: usize| {
        daemon.run(arguments);
        until("the workers", || {
            let service = daemon.service();
            (service.workers.len() == count && settled(&service)).then_some(())
        });
    };
    let before = daemon.service();
    changed(&daemon, &["scale", "own", "5"], 5);
    assert_eq!(ask_all(&SIP, 1), first);
    let mut counted = Counters::difference(&before, &daemon.service());
    let taken = counted.take(&["owner_taken"]);
    let kept = counted.take(&["owner_kept"]);
    // A fifth of the buckets moved, and sessions did not.
    assert!(kept > 0, "{taken} taken, {kept} kept");
    let all = u64::from(SESSIONS);
    assert_eq!((taken + kept, counted), (all, Counters::expected(&[("arrival_packet", all)])));
    let new = (SESSIONS..2 * SESSIONS).map(|session| ask(session, &(SIP.packet)(session, 0)));
    assert!(new.into_iter().any(|worker| worker == "own/4"), "the newcomer gets new sessions");

    daemon.kill();
    assert_eq!(ask_all(&SIP, 2), first);
    let daemon = Daemon::with(&world, &config.workers(5));
    assert_eq!(ask_all(&SIP, 3), first);

    // Those of the one that leaves move, and no others.
    changed(&daemon, &["drain", "own/0"], 4);
    let after = ask_all(&SIP, 4);
    let (of_it, of_others): (Vec<_>, Vec<_>) = first.iter().partition(|(_, worker)| *worker == "own/0");
    assert!(of_others.iter().all(|(session, worker)| after[session] == **worker));
    assert!(!of_it.is_empty() && of_it.iter().all(|(session, _)| after[session] != "own/0"));
    daemon.stop();
}

/// A function that looks at the IP header is one for connections as well.
#[test]
fn a_network_has_one_worker_over_tcp_and_udp() {
    let world = World::new();
    let object = object(&world, "subnet");
    let daemon = Daemon::with(&world, &keyed(&object, 4).listen("tcp://127.0.0.1:3000"));
    let before = daemon.service();
    let of_network = |network: u32| -> BTreeSet<String> {
        let clients = [1, 77, 254].map(|host| network << 8 | host);
        let over_tcp = clients.map(|client| ask_from(TO.into(), Some(address(client))).unwrap().worker);
        let over_udp = clients.map(|client| ask(client, b"?"));
        over_tcp.into_iter().chain(over_udp).collect()
    };
    let mut workers = BTreeSet::new();
    for network in 0..40 {
        let of_network = of_network(network);
        assert_eq!(of_network.len(), 1, "network {network}: {of_network:?}");
        workers.extend(of_network);
    }
    assert_eq!(workers.len(), 4);
    assert_eq!(Counters::difference(&before, &daemon.service()), Counters::all_taken(40 * 6));
    daemon.stop();
}
