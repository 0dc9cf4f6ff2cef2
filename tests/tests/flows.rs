//! Live UDP flows stay where they are while workers join, leave, change weight and are replaced.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use testkit::counters::Counters;
use testkit::daemon::{Daemon, is_alive, until};
use testkit::fault::{Dice, times};
use testkit::flows::scene::{
    DrainReport, EVERY, IDLE, SHORT, WORKERS, begin, by_worker, compare, config, ended, hush,
    no_flow_is_left, on_plain, owners, quiet, scene, shares, to, worker,
};
use testkit::flows::{Flows, scene};
use testkit::patience::{fewer, lasts};
use testkit::statistics::assert_fair;
use testkit::world::World;

// vm: short
#[test]
fn a_join_moves_no_live_flow_and_gets_its_share_of_new_ones_at_once() {
    let world = World::new();
    let (daemon, live) = scene(&world, &config(IDLE));
    let [_, kept, _] = owners(&daemon.service());
    assert_eq!(kept, 0);
    daemon.run(&["scale", "web", "9"]);
    let fresh = Flows::open(&to(), fewer(6_000));
    let service = daemon.service();
    assert_fair(&by_worker(&service, &fresh.tally()), &shares(&service));
    assert!(shares(&service).iter().all(|share| (share - 1.0 / 9.0).abs() < 0.001), "{service:?}");
    let (old, joined) = live.end();
    println!("a 9th joins: {joined}");
    joined.assert_kept(IDLE);
    let service = daemon.service();
    // All buckets that it got and that have a live flow; about one in seven.
    assert!(service.moving > fewer(500) && service.pending.is_none(), "{service:?}");
    let kept: u64 = service.groups.iter().map(|group| group.flows.as_ref().unwrap().kept).sum();
    assert!((fewer(800)..fewer(1_500)).contains(&(kept as usize)), "a 9th of {}: {kept}", scene::flows());
    let newest = worker(&service, "web/8");
    assert!(newest.flows.abs_diff(fresh.with("web/8") as u64) < 10, "{newest:?}");

    // What began during a transition is kept by the next one as well.
    let live = old.and(fresh).keep(EVERY);
    daemon.run(&["scale", "web", "10"]);
    let (mut flows, round) = live.end();
    println!("a 10th joins: {round}");
    round.assert_kept(IDLE);
    assert_eq!(flows.with("web/9"), 0);
    let service = daemon.service();
    let [taken, kept, all] = owners(&service);
    println!("{taken} decisions by the table and {kept} for what was there before, of {all}");
    assert!(kept > 0 && taken + kept == all, "{service:?}");

    // When they have been quiet they go where the table says.
    let service = hush(&world, &daemon);
    no_flow_is_left(&daemon);
    let [_, kept, _] = owners(&service);
    let round = flows.round();
    println!("after a pause: {round}");
    assert_fair(&by_worker(&service, &round.tally), &shares(&service));
    assert!(round.lost.is_empty() && !round.moved.is_empty());
    assert!(round.moved.iter().all(|it| ["web/8", "web/9"].contains(&&*it.to.worker)));
    assert_eq!(owners(&daemon.service())[1], kept, "nothing is kept any more");
    daemon.stop();

    compare("a 9th joins", "", &joined, on_plain(&world, "", |plain| plain.join()));
}

/// Every datagram so far went to the worker of its bucket, or to the previous one.
fn assert_no_detours(daemon: &Daemon) {
    let mut counted = Counters::of(&daemon.service());
    assert!(counted.take(&["arrival_packet", "owner_taken", "owner_kept"]) > 0);
    assert_eq!(counted, Counters::default());
}

#[test]
fn ten_joins_in_a_row_move_no_live_flow() {
    let world = World::new();
    let (daemon, mut live) = scene(&world, &config(IDLE));
    let mut waited = 0;
    for workers in WORKERS + 1..=WORKERS + 10 {
        daemon.run(&["scale", "web", &workers.to_string()]);
        let fresh = Flows::open(&to(), fewer(300));
        let service = daemon.service();
        assert_eq!(service.pending.is_some(), service.waiting > 0, "{service:?}");
        waited = waited.max(service.waiting);
        let (flows, round) = live.end();
        println!(
            "{workers} workers, {} buckets moving, {} waiting: {round}",
            service.moving, service.waiting
        );
        assert_no_detours(&daemon);
        round.assert_kept(IDLE);
        assert!(service.moving > 0);
        live = flows.and(fresh).keep(EVERY);
    }
    let (flows, round) = live.end();
    round.assert_kept(IDLE);
    assert_eq!(flows.len(), scene::flows() + 10 * fewer(300));
    assert!(flows.tally().len() > WORKERS + 5, "the new ones got new flows: {:?}", flows.tally());
    drop(flows);
    let service = hush(&world, &daemon);
    assert_eq!(service.workers.len(), WORKERS + 10);
    println!("at most {waited} buckets waited");
    daemon.stop();
}

#[test]
fn joins_leaves_and_weights_in_any_order_move_no_live_flow() {
    let world = World::new();
    let (daemon, live) = scene(&world, &config(IDLE));
    let mut dice = Dice::new();
    // One that has no flows yet leaves at once.
    for (command, wanted) in
        [(["scale", "web", "9"], 9), (["scale", "web", "8"], 8), (["scale", "web", "9"], 9)]
    {
        daemon.run(&command);
        until("the workers", || (daemon.service().workers.len() == wanted).then_some(()));
        let round = live.look();
        println!("{command:?}: {round}");
        round.assert_kept(IDLE);
    }
    daemon.run(&["drain", "web/8"]);
    let [weighty, light] = ["web/0", "web/1"];
    for (who, weight) in [(weighty, "4"), (light, "0"), (weighty, "1"), (light, "3")] {
        daemon.run(&["weight", who, weight]);
        let round = live.look();
        println!("weight {who} {weight}: {round}");
        round.assert_kept(IDLE);
    }
    for _ in 0..times(4) {
        let who = format!("web/{}", dice.roll(WORKERS));
        let weight = dice.roll(5).to_string();
        daemon.run(&["weight", &who, &weight]);
    }
    // Others come while one leaves.
    let drain = begin(&daemon, &["drain", "web/4", "--timeout", "60s"]);
    until("it to leave", || (worker(&daemon.service(), "web/4").buckets == 0).then_some(()));
    // (Without waiting: the command would wait for the one that leaves as well.)
    daemon.run(&["scale", "web", "10", "--no-wait"]);
    until("the others", || {
        (daemon.service().workers.iter().filter(|it| it.member).count() == 10).then_some(())
    });
    let (flows, round) = live.end();
    println!("and so on: {round}");
    round.assert_kept(IDLE);
    assert!(!drain.is_finished());
    drop(flows);
    let _ = hush(&world, &daemon);
    let said = ended(drain);
    println!("{said}");
    assert_eq!(DrainReport::parse(&said).unwrap().cut, 0);
    let service = daemon.service();
    assert_eq!((service.workers.len(), service.flows_cut), (10, 0));
    daemon.stop();
}

#[test]
fn a_change_that_would_move_live_flows_waits_and_says_why() {
    let world = World::new();
    let (daemon, live) = scene(&world, &config(IDLE));
    // Half of all buckets move, so that there are some in which flows of two workers meet, also where flows
    // are few.
    daemon.run(&["scale", "web", "16"]);
    let fresh = Flows::open(&to(), fewer(8_000));
    let (old, round) = live.end();
    round.assert_kept(IDLE);
    let live = old.and(fresh).keep(EVERY);
    // All shall go to one. Where flows of two others live there is no room for its own.
    for nth in (0..16).filter(|nth| *nth != 7) {
        daemon.run(&["weight", &format!("web/{nth}"), "0"]);
    }
    let service = daemon.service();
    println!("{} buckets moving, {:?}", service.moving, service.pending);
    // Two flows must meet, so a part of the flows makes a part of a part.
    assert!((fewer(fewer(60))..500).contains(&(service.waiting as usize)), "{service:?}");
    assert!(service.pending.unwrap().starts_with(&service.waiting.to_string()));
    let fresh = Flows::open(&to(), fewer(4_000));
    assert!(fresh.with("web/7") * 100 > fresh.len() * 98, "{:?}", fresh.tally());
    let (flows, round) = live.end();
    println!("all but one have weight 0: {round}");
    round.assert_kept(IDLE);
    drop((flows, fresh));
    assert_eq!(worker(&hush(&world, &daemon), "web/7").buckets, 65_536);
    daemon.stop();
}

#[test]
fn a_flow_stays_for_idle_timeout_and_is_forgotten_soon_after() {
    let world = World::new();
    let daemon = Daemon::with(&world, &config(SHORT));
    let live = Flows::open(&to(), fewer(1_000)).keep(SHORT.mul_f64(0.85));
    daemon.run(&["scale", "web", "9"]);
    lasts("three times idle_timeout", SHORT * 3);
    let service = daemon.service();
    assert!(service.moving > fewer(50), "{service:?}");
    let (flows, round) = live.end();
    println!("one datagram in {:?}: {round}", SHORT.mul_f64(0.85));
    round.assert_kept(SHORT);
    let silent = Instant::now();
    drop(flows);
    let service = quiet(&daemon);
    let took = silent.elapsed();
    println!("quiet after {took:.2?}");
    assert!((SHORT.mul_f64(0.95)..SHORT.mul_f64(1.5) + Duration::from_secs(1)).contains(&took), "{took:?}");
    no_flow_is_left(&daemon);
    assert_eq!(service.flows_cut, 0);
    daemon.stop();
}

#[test]
fn a_worker_that_leaves_keeps_its_flows_until_they_are_quiet() {
    let world = World::new();
    let (daemon, live) = scene(&world, &config(SHORT));
    let leaver = worker(&daemon.service(), "web/3");
    let drain = begin(&daemon, &["drain", "web/3", "--timeout", "60s"]);
    until("it to leave", || (worker(&daemon.service(), "web/3").buckets == 0).then_some(()));
    let fresh = Flows::open(&to(), fewer(6_000));
    let service = daemon.service();
    println!("{} of {} new flows go to the leaver", fresh.with("web/3"), fresh.len());
    // Those that share a sub-bucket with one of its live flows.
    assert!(fresh.with("web/3") * 400 < fresh.len());
    let mut others = by_worker(&service, &fresh.tally());
    others.remove(service.workers.iter().position(|it| it.name == "web/3").unwrap());
    assert_fair(&others, &[1.0; WORKERS - 1]);
    let round = live.look();
    println!("it leaves: {round}");
    round.assert_kept(SHORT);
    assert!(!drain.is_finished() && is_alive(leaver.pid.unwrap()));

    let (flows, _) = live.end();
    let flows = flows.and(fresh);
    let had = flows.with("web/3");
    let rest = flows.without("web/3");
    let silent = Instant::now();
    let live = rest.keep(EVERY);
    let said = ended(drain);
    println!("its {had} flows have ended; {:.2?} later: {said}", silent.elapsed());
    assert!((SHORT / 2..3 * SHORT).contains(&silent.elapsed()));
    let report = DrainReport::parse(&said).unwrap();
    assert!(report.flows.abs_diff(had as u64) < 20 && report.cut == 0, "{had}: {said}");
    let (flows, round) = live.end();
    println!("the others: {round}");
    round.assert_kept(SHORT);
    drop(flows);
    let service = quiet(&daemon);
    assert_eq!((service.workers.len(), service.flows_cut), (WORKERS - 1, 0));
    daemon.stop();

    compare(
        "one of 8 leaves",
        "web/3",
        &round,
        on_plain(&world, "plain/3", |plain| plain.end(3, Signal::SIGTERM)),
    );
}

#[test]
fn a_deadline_cuts_the_flows_of_the_worker_that_leaves_and_no_others() {
    let world = World::new();
    let (daemon, live) = scene(&world, &config(IDLE));
    let deadline = Duration::from_millis(2_500);
    let before = live.look();
    before.assert_kept(IDLE);
    let begun = Instant::now();
    let said = ended(begin(&daemon, &["drain", "web/2", "--timeout", "2500ms"]));
    let took = begun.elapsed();
    let (flows, round) = live.end();
    println!("{took:.2?}, {said}: {round}");
    round.assert_lively(IDLE);
    assert!((deadline..deadline + IDLE).contains(&took), "{took:?}");
    assert!(round.lost.is_empty(), "{:?}", round.lost[0]);
    assert_eq!((round.moved.len(), flows.with("web/2")), (before.tally["web/2"] as usize, 0));
    assert!(round.moved.iter().all(|it| it.from.worker == "web/2" && it.sent >= begun + deadline));
    let mut takers = BTreeMap::new();
    round.moved.iter().for_each(|it| *takers.entry(&it.to.worker).or_insert(0) += 1);
    assert_fair(&takers.into_values().collect::<Vec<u64>>(), &[1.0; WORKERS - 1]);
    let cut = DrainReport::parse(&said).unwrap().cut;
    assert!((round.moved.len() as u64 - 20..=round.moved.len() as u64).contains(&cut), "{cut}");
    assert_eq!(daemon.service().flows_cut, cut);
    drop(flows);
    let service = hush(&world, &daemon);
    assert_eq!((service.workers.len(), service.flows_cut), (WORKERS - 1, cut));
    daemon.stop();
}

#[test]
fn a_leaver_with_two_kinds_of_flows_beside_it_moves_neither_before_its_deadline() {
    let world = World::new();
    let (daemon, live) = scene(&world, &config(IDLE));
    daemon.run(&["scale", "web", "9"]);
    let fresh = Flows::open(&to(), fewer(4_000));
    let theirs = fresh.with("web/8");
    assert!(theirs > fewer(300), "{theirs}");
    let (old, round) = live.end();
    round.assert_kept(IDLE);
    let live = old.and(fresh).keep(EVERY);
    live.look().assert_kept(IDLE);
    let deadline = Duration::from_millis(3_500);
    let begun = Instant::now();
    let drain = begin(&daemon, &["drain", "web/8", "--timeout", "3500ms"]);
    until("it to leave", || (worker(&daemon.service(), "web/8").state == "draining").then_some(()));
    let service = daemon.service();
    println!("{} buckets moving, {} waiting, {:?}", service.moving, service.waiting, service.pending);
    let fresh = Flows::open(&to(), fewer(4_000));
    println!("{} of {} new flows go to the leaver", fresh.with("web/8"), fresh.len());
    // Those in buckets with both kinds of flows, one in a thousand.
    assert!(fresh.with("web/8") * 100 < fresh.len());
    assert!(begun.elapsed() < deadline, "{:?}: this machine is too busy", begun.elapsed());
    live.look().assert_kept(IDLE);
    let said = ended(drain);
    let (mut flows, round) = live.end();
    println!("{said}: {round}");
    round.assert_lively(IDLE);
    assert!(round.lost.is_empty(), "{:?}", round.lost[0]);
    assert!(round.moved.iter().all(|it| it.from.worker == "web/8" && it.sent >= begun + deadline));
    assert_eq!((round.moved.len(), flows.with("web/8")), (theirs, 0));
    let cut = DrainReport::parse(&said).unwrap().cut;
    assert!(cut.abs_diff((theirs + fresh.with("web/8")) as u64) < 20, "{cut}");
    // Afterwards each stays where it is.
    flows.round().assert_kept(IDLE);
    drop((flows, fresh));
    assert_eq!(hush(&world, &daemon).workers.len(), WORKERS);
    daemon.stop();
}

#[test]
fn a_restart_of_all_moves_no_flow_while_its_worker_may_stay() {
    let world = World::new();
    let drain_timeout = Duration::from_millis(800);
    let (daemon, live) = scene(&world, &config(IDLE).set("drain_timeout", "800ms"));
    let (flows, before) = live.end();
    let before = before.tally;
    let live = flows.keep(Duration::from_millis(200));
    let old: BTreeMap<String, i32> =
        daemon.service().workers.into_iter().map(|it| (it.name, it.pid.unwrap())).collect();
    let begun = Instant::now();
    let said = daemon.run(&["restart", "web", "--trial", "10ms"]);
    assert!(said.contains("web: 8 replaced"), "{said}");
    let (flows, round) = live.end();
    println!("all are restarted: {round}");
    round.assert_lively(IDLE);
    assert!(round.lost.is_empty(), "{:?}", round.lost[0]);
    // Each flow is with the successor of its worker now, which has its buckets,
    assert_eq!((round.moved.len(), &round.tally), (scene::flows(), &before));
    // and stayed with that until its time was up. It had its turn when the one before was gone, at the
    // earliest when that was seen last.
    let mut turns: BTreeMap<i32, (Instant, Instant)> = BTreeMap::new();
    for it in &round.moved {
        assert_eq!((&it.from.worker, it.from.pid), (&it.to.worker, old[&it.from.worker]));
        let (last, first) = turns.entry(it.from.pid).or_insert((begun, it.sent));
        (*last, *first) = ((*last).max(it.sent - it.silent), (*first).min(it.sent));
    }
    let mut turns: Vec<_> = turns.into_values().collect();
    turns.sort();
    let mut since = begun;
    for (last, first) in turns {
        println!("seen for at least {:.2?} of its turn, moved after {:.2?}", last - since, first - since);
        assert!(first - since >= drain_timeout);
        since = last;
    }
    let service = daemon.service();
    let all = scene::flows() as u64;
    assert!((all - 50..=all).contains(&service.flows_cut), "{}", service.flows_cut);
    drop(flows);
    let service = hush(&world, &daemon);
    assert!(service.workers.iter().all(|it| it.pid.is_some_and(|pid| pid != old[&it.name])));
    daemon.stop();
}
