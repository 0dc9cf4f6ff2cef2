//! Live flows and the flood, tried on plain SO_REUSEPORT.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use testkit::daemon::{signal, until};
use testkit::flood::Flood;
use testkit::flows::{Flows, PATIENCE};
use testkit::patience::{at_most, lasts};
use testkit::plain::Plain;
use testkit::world::World;

#[test]
fn flows_that_move_are_seen() {
    let world = World::new();
    let mut plain = Plain::udp(&world, 4000, 8);
    let mut flows = Flows::open(&plain.addresses(), 4_000);
    let before = flows.tally();
    assert_eq!((before.len(), before.values().sum::<u64>()), (8, 4_000));
    let round = flows.round();
    println!("steady: {round}");
    round.assert_kept(at_most(PATIENCE));
    assert_eq!((round.answered, &round.tally), (4_000, &before));

    plain.join();
    let round = flows.round();
    println!("a 9th joins: {round}");
    // Eight equal parts become nine: half of all of them change hands.
    assert!((1_800..2_200).contains(&round.moved.len()));
    assert!(round.lost.is_empty() && round.tally.len() == 9);
    assert_eq!(round.ways().keys().filter(|(from, to)| from == to).count(), 0);
    let to_the_9th = round.moved.iter().filter(|it| it.to.worker == "plain/8").count();
    assert_eq!((to_the_9th, flows.with("plain/8")), (round.tally["plain/8"] as usize, to_the_9th));
    flows.round().assert_kept(at_most(PATIENCE));
}

#[test]
fn flows_go_on_in_the_background_and_a_successor_of_the_same_name_is_another_one() {
    let world = World::new();
    let mut plain = Plain::udp(&world, 4000, 1);
    let flows = Flows::open(&plain.addresses(), 500);
    let live = flows.keep(Duration::from_millis(20));
    lasts("the flows", at_most(Duration::from_millis(300)));
    let round = live.look();
    round.assert_kept(at_most(PATIENCE));
    assert!(round.rounds > 5 && round.answered >= round.rounds * 500, "{round}");
    let old = plain.pids()[0];
    signal(old, Signal::SIGKILL);
    let (mut flows, round) = live.end();
    println!("killed: {round}");
    assert!(!round.lost.is_empty() && round.lost.iter().all(|it| it.why.contains("no answer")));
    drop(plain);

    plain = Plain::udp(&world, 4000, 1);
    let round = flows.round().then(flows.round());
    println!("restarted: {round}");
    assert_eq!(round.moved.len(), 500);
    let new = plain.pids()[0];
    assert!(round.moved.iter().all(|it| (it.from.pid, it.to.pid) == (old, new)));
    assert_eq!(round.ways().into_iter().collect::<Vec<_>>(), [(("plain/0", "plain/0"), 500)]);
}

#[test]
fn what_is_lost_is_said_and_late_answers_are_told_apart() {
    let world = World::new();
    let plain = Plain::udp(&world, 4000, 2);
    let mut flows = Flows::open(&plain.addresses(), 100);
    let theirs = flows.with("plain/1");
    signal(plain.pids()[1], Signal::SIGSTOP);
    let begun = Instant::now();
    let round = flows.round();
    println!("one is stopped: {round}");
    assert!((PATIENCE..2 * PATIENCE).contains(&begun.elapsed()));
    assert_eq!((round.lost.len(), round.late, round.answered), (theirs, 0, 100 - theirs));
    assert!(round.lost.iter().all(|it| it.with.as_ref().is_some_and(|with| with.worker == "plain/1")));
    assert_eq!(flows.send("plain/1", 10), 10);
    signal(plain.pids()[1], Signal::SIGCONT);
    let round = flows.receive(PATIENCE);
    println!("it goes on: {round}");
    // Nobody can tell which of two answers belongs to which of two datagrams: the first counts, and a second one may come
    // when the round is over.
    let (mut round, mut sent) = (round.then(flows.round()), theirs + 10 + 100);
    while round.late + round.answered < sent && begun.elapsed() < 10 * PATIENCE {
        (round, sent) = (round.then(flows.round()), sent + 100);
    }
    assert_eq!((round.lost.len(), round.late + round.answered), (0, sent));
    assert!(round.moved.is_empty());

    let rest = flows.without("plain/1");
    assert_eq!((rest.len(), rest.with("plain/1")), (100 - theirs, 0));
    let mut both = rest.and(Flows::open(&plain.addresses(), 50));
    let round = both.round();
    assert_eq!((round.answered, round.moved.len()), (150 - theirs, 0));
}

#[test]
fn a_flood_comes_from_everywhere() {
    let world = World::new();
    let plain = Plain::udp(&world, 4000, 2);
    let mut flows = Flows::open(&plain.addresses(), 1_000);
    let flood = Flood::start(4000, 100_000);
    let mut during = flows.volley(Duration::from_millis(20));
    while !flood.is_over() {
        during = during.then(flows.volley(Duration::from_millis(20)));
    }
    assert!((100_000..101_000).contains(&flood.end()));
    println!("during the flood: {during}");
    assert!(during.moved.is_empty() && during.answered > 0);
    drop(plain);

    // What came is what was meant.
    let receivers = ["127.0.0.1:4001", "[::1]:4001"].map(|at| UdpSocket::bind(at).unwrap());
    assert_eq!(Flood::start(4001, 512).end(), 512);
    for receiver in receivers {
        receiver.set_nonblocking(true).unwrap();
        let mut sources = std::collections::BTreeSet::new();
        until("what is queued", || match receiver.recv_from(&mut [0; 9]) {
            Ok((length, source)) => {
                assert_eq!(length, 2);
                sources.insert(source);
                None
            }
            Err(_) => Some(()),
        });
        assert!(sources.len() > 200, "{}", sources.len());
        println!("{} sources, like {}", sources.len(), sources.first().unwrap());
    }
}
