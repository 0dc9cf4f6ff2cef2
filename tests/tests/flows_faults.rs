//! Live UDP flows while workers crash, the daemon dies, and a flood comes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::Duration;

use aya::maps::MapData;
use nix::sys::signal::Signal;
use testkit::daemon::{Daemon, settled, signal, until};
use testkit::fault::times;
use testkit::flood::Flood;
use testkit::flows::scene::{
    EVERY, IDLE, PORT, SHORT, WORKERS, begin, by_worker, compare, config, ended, hush, no_flow_is_left,
    on_plain, owners, quiet, scene, shares, to, worker,
};
use testkit::flows::{Flows, Round, scene};
use testkit::patience::{fewer, lasts};
use testkit::statistics::assert_fair;
use testkit::world::World;

/// Kills a worker and waits until its successor has its part.
fn kill(daemon: &Daemon, name: &str) {
    let victim = worker(&daemon.service(), name);
    signal(victim.pid.unwrap(), Signal::SIGKILL);
    until("its successor", || {
        let service = daemon.service();
        let successor = worker(&service, name);
        (successor.restarts > victim.restarts && settled(&service)).then_some(())
    });
}

/// The flows of `name`, and no others, have another process now; nothing of others is lost.
fn only_theirs(round: &Round, name: &str, had: u64) {
    round.assert_lively(IDLE);
    assert!(round.moved.iter().all(|it| it.from.worker == name), "{:?}", round.ways());
    assert!(round.lost.iter().all(|it| it.with.as_ref().is_some_and(|it| it.worker == name)), "{round}");
    // One whose datagram waited for the successor had its answer and moved then.
    let moved: BTreeSet<SocketAddr> = round.moved.iter().map(|it| it.flow).collect();
    assert_eq!(moved.len() as u64, had, "{:?}", round.ways());
}

#[test]
fn a_crash_moves_only_the_victims_flows_and_spreads_them() {
    let world = World::new();
    let (daemon, live) = scene(&world, &config(IDLE).set("on_crash", "migrate"));
    let before = live.look();
    before.assert_kept(IDLE);
    kill(&daemon, "web/5");
    let (mut flows, round) = live.end();
    println!("one of {WORKERS} crashes: {round}");
    only_theirs(&round, "web/5", before.tally["web/5"]);
    assert_eq!(round.tally.get("web/5"), None, "others have them");
    let gained: Vec<u64> = round
        .tally
        .iter()
        .filter(|(name, _)| *name != "web/5")
        .map(|(name, now)| now - before.tally[name])
        .collect();
    assert_fair(&gained, &[1.0; WORKERS - 1]);
    // The successor is back, with its share for new flows, and the flows stay where the crash moved them.
    let fresh = Flows::open(&to(), fewer(4_000));
    let service = daemon.service();
    assert_fair(&by_worker(&service, &fresh.tally()), &shares(&service));
    flows.round().assert_kept(IDLE);
    assert_eq!((service.flows_cut, worker(&service, "web/5").restarts), (0, 1));
    drop((flows, fresh));
    let _ = hush(&world, &daemon);
    daemon.stop();

    let plain = on_plain(&world, "plain/5", |plain| plain.end(5, Signal::SIGKILL));
    compare("one of 8 crashes", "web/5", &round, plain);
}

#[test]
fn a_crash_of_either_side_in_a_transition_moves_only_the_victims_flows() {
    let world = World::new();
    let (daemon, live) = scene(&world, &config(IDLE).set("on_crash", "migrate"));
    daemon.run(&["scale", "web", "9"]);
    let (old, round) = live.end();
    round.assert_kept(IDLE);
    let live = old.and(Flows::open(&to(), fewer(4_000))).keep(EVERY);
    let before = live.look();
    before.assert_kept(IDLE);
    let moving = daemon.service().moving;
    assert!(moving > fewer(500), "{moving}");

    kill(&daemon, "web/8");
    let (flows, round) = live.end();
    println!("the one that had joined crashes: {round}");
    only_theirs(&round, "web/8", before.tally["web/8"]);

    let live = flows.keep(EVERY);
    let before = live.look();
    before.assert_kept(IDLE);
    kill(&daemon, "web/0");
    let (flows, round) = live.end();
    println!("one that had been there before crashes: {round}");
    only_theirs(&round, "web/0", before.tally["web/0"]);

    let live = flows.keep(EVERY);
    let before = live.look();
    let drain = begin(&daemon, &["drain", "web/2", "--timeout", "60s"]);
    let leaver =
        until("it to leave", || Some(worker(&daemon.service(), "web/2")).filter(|it| it.buckets == 0));
    live.look().assert_kept(IDLE);
    signal(leaver.pid.unwrap(), Signal::SIGKILL);
    println!("{}", ended(drain));
    let (mut flows, round) = live.end();
    println!("one that leaves crashes: {round}");
    only_theirs(&round, "web/2", before.tally["web/2"]);
    flows.round().assert_kept(IDLE);
    drop(flows);
    let service = hush(&world, &daemon);
    assert_eq!((service.workers.len(), service.flows_cut), (WORKERS, 0));
    daemon.stop();
}

// vm: short
#[test]
fn with_hold_a_successor_has_the_flows_and_the_queue() {
    let world = World::new();
    let (daemon, live) = scene(&world, &config(IDLE).set("on_crash", "hold"));
    let (mut flows, round) = live.end();
    round.assert_kept(IDLE);
    let moved = daemon.service().moved;
    for victim in ["web/1", "web/6"].iter().cycle().take(times(2)) {
        let old = worker(&daemon.service(), victim);
        let pid = old.pid.unwrap();
        signal(pid, Signal::SIGSTOP);
        // About half of them to each of its two sockets, which have room for 256.
        let most = fewer(400);
        let sent = flows.send(victim, most);
        let queued = worker(&daemon.service(), victim).sockets;
        assert!(sent == most && queued.iter().all(|it| it.queue > 0), "{queued:?}");
        signal(pid, Signal::SIGKILL);
        let round = flows.receive(Duration::from_secs(5));
        println!("{sent} were queued for {victim} when it was killed: {round}");
        assert_eq!((round.answered, round.lost.len(), round.moved.len()), (sent, 0, sent));
        let all = round.then(flows.round());
        println!("all flows: {all}");
        all.assert_lively(IDLE);
        assert!(all.lost.is_empty(), "{:?}", all.lost[0]);
        let new = until("its successor", || Some(daemon.service()).filter(settled));
        let (new, had) = (worker(&new, victim), all.tally[*victim] as usize);
        assert_eq!((new.restarts, new.slot, all.moved.len()), (old.restarts + 1, old.slot, had));
        for it in &all.moved {
            assert_eq!((&*it.from.worker, &*it.to.worker), (*victim, *victim));
            assert_eq!((it.from.pid, Some(it.to.pid)), (pid, new.pid));
        }
    }
    assert_eq!(daemon.service().moved, moved, "no bucket has moved");
    daemon.stop();
}

#[test]
fn a_transition_outlives_the_daemon() {
    let world = World::new();
    let (daemon, live) = scene(&world, &config(SHORT));
    let mut daemon = daemon;
    daemon.run(&["scale", "web", "9"]);
    // So that it is the new daemon that keeps them, not only what was decided before.
    let (flows, round) = live.end();
    round.assert_kept(SHORT);
    let live = flows.and(Flows::open(&to(), fewer(2_000))).keep(EVERY);
    for _ in 0..times(2) {
        live.look().assert_kept(SHORT);
        let before = daemon.service();
        daemon.kill();
        live.look().assert_kept(SHORT);
        // It finds the ninth worker, although the file says eight: `scale` holds.
        daemon = Daemon::with(&world, &config(SHORT));
        let after = daemon.service();
        println!("{} buckets were moving, {} are", before.moving, after.moving);
        assert!((before.moving / 2..=before.moving).contains(&after.moving) && before.moving > fewer(500));
        assert_eq!((after.workers.len(), after.moved), (WORKERS + 1, before.moved));
    }
    // New flows still go by the new table, for longer than anything is remembered.
    let fresh = Flows::open(&to(), fewer(4_000));
    let service = daemon.service();
    assert_fair(&by_worker(&service, &fresh.tally()), &shares(&service));
    drop(fresh);
    lasts("two times idle_timeout", 2 * SHORT);
    let [_, kept, _] = owners(&service);
    let (flows, round) = live.end();
    println!("all that time: {round}");
    round.assert_kept(SHORT);
    let service = daemon.service();
    assert!(service.moving > fewer(500) && owners(&service)[1] > kept, "{service:?}");

    // They end while there is no daemon; the next one sees that.
    daemon.kill();
    drop(flows);
    let daemon = Daemon::with(&world, &config(SHORT));
    let _ = quiet(&daemon);
    no_flow_is_left(&daemon);
    daemon.stop();
}

/// Memory of a process, in KiB.
fn memory(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Memory of the maps that are pinned below a directory, in bytes (`memlock` in proc_pid_fdinfo(5)).
fn map_memory(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
    let of = |entry: fs::DirEntry| {
        if entry.path().is_dir() {
            return map_memory(&entry.path());
        }
        let Ok(map) = MapData::from_pin(entry.path()) else { return 0 };
        let fd = map.fd().as_fd().as_raw_fd();
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
        let memory = info.lines().find_map(|line| line.strip_prefix("memlock:"));
        memory.map_or(0, |bytes| bytes.trim().parse().unwrap())
    };
    entries.map(of).sum()
}

#[test]
fn a_flood_in_a_transition_moves_nothing_and_takes_no_memory() {
    let world = World::new();
    // All of it takes half a minute.
    let count = times(1).min(17) as u64 * fewer(300_000) as u64;
    let (daemon, live) = scene(&world, &config(IDLE));
    daemon.run(&["scale", "web", "9"]);
    let (flows, round) = live.end();
    round.assert_kept(IDLE);
    let mut flows = flows.and(Flows::open(&to(), fewer(2_000)));
    let before = daemon.service();
    assert!(before.moving > fewer(500), "{before:?}");
    let used = (memory(daemon.pid()), map_memory(&world.bpffs()));

    // Its queues overflow, so few answers come; but what is dropped there has been decided, too.
    let flood = Flood::start(PORT, count);
    let mut during = flows.volley(Duration::from_millis(50));
    while !flood.is_over() {
        during = during.then(flows.volley(Duration::from_millis(50)));
    }
    let sent = flood.end();
    println!("{sent} spoofed datagrams; meanwhile {during}");
    assert!(during.moved.is_empty(), "{:?}", during.ways());
    assert!(during.answered > scene::flows() / 10, "{during}");
    during.assert_lively(IDLE);
    // What is still queued must not stand in the way of the flows.
    until("the queues to be empty", || {
        let workers = daemon.service().workers;
        workers.iter().flat_map(|it| &it.sockets).all(|it| it.queue == 0).then_some(())
    });
    let after = flows.round();
    println!("after it: {after}");
    after.assert_kept(IDLE);
    let service = daemon.service();
    let decided = owners(&service)[2] - owners(&before)[2];
    assert!(decided >= sent, "{decided} decisions for {sent} datagrams and the flows");
    assert_eq!(service.moving, before.moving, "sticky, not loose");
    let uses = (memory(daemon.pid()), map_memory(&world.bpffs()));
    println!("the daemon's memory in KiB and the maps' in bytes: {used:?} before, {uses:?} after");
    assert!(uses.0 <= used.0 + 512 && uses.1 == used.1 && uses.1 > 0);
    daemon.stop();
}
