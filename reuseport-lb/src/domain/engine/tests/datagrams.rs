//! Tests of workers that do not read at a UDP listener: new flows avoid them there, and only there.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fake::{BUCKETS, FLOWS};
use super::scene::{Scene, config};
use crate::config::Flows;
use crate::domain::engine::{Input, Target};
use crate::domain::listener::Protocol;
use crate::domain::observed::Exit;
use crate::domain::ports::{ListenerId, ProcessKey};

/// A service of workers that are all ready, with the keys of their processes.
fn scene(protocols: &[Protocol], workers: usize) -> (Scene, Vec<ProcessKey>) {
    let mut scene = Scene::new(config(protocols, workers));
    let keys: Vec<ProcessKey> =
        (0..workers).map(|number| scene.worker(number).process.expect("a process").key).collect();
    keys.iter().for_each(|key| scene.be_ready(*key, None));
    scene.wait(Duration::from_secs(1));
    (scene, keys)
}

/// Lets a worker stop, with a datagram of a live flow in each of its queues, until it is stalled.
fn stall(scene: &mut Scene, key: ProcessKey) {
    set_stopped(scene, key, true);
    (0..BUCKETS).for_each(|bucket| scene.send(bucket, 0));
    scene.wait(Duration::from_millis(2_500));
}

fn set_stopped(scene: &mut Scene, key: ProcessKey, stopped: bool) {
    scene.world(|world| {
        let process = world.processes.get_mut(&key).expect("a process");
        (process.hangs, process.suspended) = (stopped, stopped);
    });
    scene.accept();
}

/// How many buckets of a listener each slot has.
fn shares(scene: &Scene, listener: u64) -> BTreeMap<u16, usize> {
    let mut shares = BTreeMap::new();
    for owner in &scene.owners()[&ListenerId(listener)] {
        *shares.entry(*owner).or_default() += 1;
    }
    shares
}

fn is_stalled(scene: &Scene, number: usize) -> (bool, Vec<u16>) {
    let engine = scene.engine.as_ref().expect("an engine");
    let standing = engine.standing(scene.worker(number));
    (standing.is_stalled(), standing.stalled.iter().map(|it| it.address.port()).collect())
}

#[test]
fn new_flows_avoid_a_worker_that_does_not_read_and_live_ones_stay() {
    let (mut scene, keys) = scene(&[Protocol::Tcp, Protocol::Udp], 3);
    let before = scene.owners();
    stall(&mut scene, keys[1]);
    assert_eq!(is_stalled(&scene, 1), (true, vec![8001]));
    assert_eq!(shares(&scene, 1), BTreeMap::from([(0, 16), (1, 16), (2, 16)]), "TCP is as before");
    assert_eq!(shares(&scene, 2), BTreeMap::from([(0, 24), (2, 24)]));
    // `send` checks that live flows stay with their worker; new ones must not reach it.
    let count = |scene: &Scene| scene.world(|world| world.groups[&ListenerId(2)].selected[1]);
    let selected = count(&scene);
    (0..BUCKETS).for_each(|bucket| scene.send(bucket, 1));
    assert_eq!(count(&scene), selected);
    (0..BUCKETS).for_each(|bucket| scene.send(bucket, 0));
    assert_eq!(count(&scene), selected + 16);

    set_stopped(&mut scene, keys[1], false);
    scene.wait(Duration::from_secs(1));
    assert_eq!(is_stalled(&scene, 1), (false, vec![]));
    assert_eq!(scene.owners(), before, "it has its buckets again");
    // Those that began elsewhere meanwhile stay there.
    (0..BUCKETS).for_each(|bucket| (0..2).for_each(|flow| scene.send(bucket, flow)));
}

#[test]
fn each_listener_is_by_itself() {
    let (mut scene, keys) = scene(&[Protocol::Udp, Protocol::Udp], 2);
    let listener = ListenerId(2);
    let cookie = scene.worker(0).socket_of(listener).expect("a socket").cookie;
    // A datagram that nobody reads.
    scene.world(|world| {
        world.sockets.get_mut(&cookie).expect("a socket").datagrams.push_back(1);
        world.processes.get_mut(&keys[0]).expect("a process").suspended = true;
    });
    scene.wait(Duration::from_millis(2_500));
    assert_eq!(is_stalled(&scene, 0), (false, vec![8001]));
    assert_eq!(shares(&scene, 1), BTreeMap::from([(0, 24), (1, 24)]));
    assert_eq!(shares(&scene, 2), BTreeMap::from([(1, 48)]));
    let engine = scene.engine.as_ref().expect("an engine");
    let lacks = engine.lacks(scene.worker(0), scene.now, |_| 0);
    assert_eq!(lacks.as_deref(), Some("does not read from udp://127.0.0.1:8001"));
}

#[test]
fn who_joins_during_a_stall_gets_its_share_of_both_tables() {
    let (mut scene, keys) = scene(&[Protocol::Tcp, Protocol::Udp], 2);
    stall(&mut scene, keys[0]);
    let reply = scene.reply();
    scene.handle(Input::Scale(Target::Exactly(3), reply), None);
    let key = scene.worker(2).process.expect("a process").key;
    scene.be_ready(key, None);
    scene.wait(Duration::from_secs(1));
    assert_eq!(shares(&scene, 1), BTreeMap::from([(0, 16), (1, 16), (2, 16)]));
    assert_eq!(shares(&scene, 2), BTreeMap::from([(1, 24), (2, 24)]));
    set_stopped(&mut scene, keys[0], false);
    scene.wait(Duration::from_secs(1));
    (0..BUCKETS).for_each(|bucket| (0..FLOWS).for_each(|flow| scene.forget(bucket, flow)));
    scene.wait(Duration::from_secs(100));
    assert_eq!(scene.owners()[&ListenerId(1)], scene.owners()[&ListenerId(2)]);
}

#[test]
fn a_stall_outlives_the_daemon() {
    for protocols in [&[Protocol::Tcp, Protocol::Udp][..], &[Protocol::Udp]] {
        let (mut scene, keys) = scene(protocols, 3);
        stall(&mut scene, keys[1]);
        let before = scene.owners();
        scene.die();
        scene.take_over();
        scene.wait(Duration::from_secs(3));
        assert_eq!(scene.owners(), before);
        assert!(is_stalled(&scene, 1).0);
        set_stopped(&mut scene, keys[1], false);
        scene.wait(Duration::from_secs(1));
        assert!(!is_stalled(&scene, 1).0);
        let udp = protocols.len() as u64;
        assert_eq!(shares(&scene, udp), BTreeMap::from([(0, 16), (1, 16), (2, 16)]));
    }
}

#[test]
fn the_next_process_of_a_stalled_worker_has_its_buckets_again() {
    let (mut scene, keys) = scene(&[Protocol::Udp], 3);
    let before = scene.owners();
    stall(&mut scene, keys[1]);
    scene.end(keys[1], Exit::Signal(9, "SIGKILL"), None);
    scene.wait(Duration::from_millis(500));
    assert_eq!(scene.owners(), before, "with on_crash = \"hold\" its flows wait for its next process");
    assert!(!is_stalled(&scene, 1).0);
}

#[test]
fn a_stalled_worker_that_leaves_is_gone_from_all_tables() {
    let (mut scene, keys) = scene(&[Protocol::Tcp, Protocol::Udp], 3);
    stall(&mut scene, keys[1]);
    let reply = scene.reply();
    scene.handle(Input::Drain(1.into(), Some(Duration::from_secs(2)), reply), None);
    scene.wait(Duration::from_secs(4));
    scene.end(keys[1], Exit::Signal(9, "SIGKILL"), None);
    scene.wait(Duration::from_secs(1));
    assert_eq!(shares(&scene, 2), BTreeMap::from([(0, 24), (2, 24)]));
    assert_eq!(scene.owners()[&ListenerId(1)], scene.owners()[&ListenerId(2)]);
    let engine = scene.engine.as_ref().expect("an engine");
    assert!(engine.listeners().all(|listener| listener.apart.is_none()));
}

#[test]
fn without_flows_or_time_there_is_nothing_to_wait_for() {
    let (mut scene, keys) = scene(&[Protocol::Udp], 3);
    let before = scene.owners();
    stall(&mut scene, keys[1]);
    scene.reload(|config| config.flows = Flows::None, None);
    assert_eq!(shares(&scene, 1), BTreeMap::from([(0, 24), (2, 24)]));
    scene.reload(|config| config.stall_timeout = None, None);
    scene.wait(Duration::from_secs(1));
    assert_eq!(scene.owners(), before);
    assert!(!is_stalled(&scene, 1).0);
}
