//! Tests of processes that join and open their sockets themselves, though those of the service get theirs.

use std::time::Duration;

use super::opened::{listener, shares, states};
use super::scene::{Scene, config};
use crate::config::{Ready, ServiceConfig};
use crate::domain::engine::{Input, JoinRequest, ProcessEvent};
use crate::domain::listener::Protocol;
use crate::domain::observed::{Exit, Said};
use crate::domain::ports::{CallOutcome, ProcessKey};
use crate::domain::worker::State;

/// A service with one worker of its own, `web/0`, and a process that has joined as `web/1` and opened three sockets.
fn scene() -> (Scene, ProcessKey) {
    let config = ServiceConfig { ready: Ready::Accepting, ..config(&[Protocol::Tcp], 1) };
    let mut scene = Scene::new(config);
    let own = scene.worker(0).process.expect("a process").key;
    scene.be_ready(own, None);
    let reply = scene.reply();
    scene.handle(Input::Join(JoinRequest { number: None, weight: 1, uid: 0, opens: true }, reply), None);
    let key = scene.worker(1).process.expect("a process").key;
    assert_eq!(states(&scene)[1], ("web/1", State::Starting));
    for _ in 0..3 {
        assert_eq!(scene.open(key, listener(0)), [CallOutcome::Done, CallOutcome::Done]);
    }
    scene.wait(Duration::from_millis(300));
    (scene, key)
}

#[test]
fn each_socket_of_a_joined_process_is_a_member_that_is_ready_when_it_listens() {
    let (scene, _) = scene();
    let names: Vec<(&str, State)> = states(&scene);
    let ready = State::Ready;
    assert_eq!(names, [("web/0", ready), ("web/1", ready), ("web/1.1", ready), ("web/1.2", ready)]);
    assert_eq!(shares(&scene), [12; 4]);
}

#[test]
fn they_end_with_the_process_and_others_get_what_waits() {
    let (mut scene, key) = scene();
    (0..48).for_each(|bucket| scene.connect(bucket));
    scene.end(key, Exit::Signal(9, "SIGKILL"), None);
    scene.wait(Duration::from_millis(300));
    assert_eq!(states(&scene), [("web/0", State::Ready)]);
    assert_eq!((shares(&scene), scene.refused), (vec![48], 0));
    let queue = scene.world(|world| world.sockets.values().map(|socket| socket.queue).sum::<u32>());
    assert_eq!(queue, 48, "all that waited does so for the other");
}

#[test]
fn they_leave_with_a_process_that_says_so_and_goes_on() {
    let (mut scene, key) = scene();
    scene.tell(key, ProcessEvent::Said(Said::Stopping), None);
    let draining = State::Draining;
    assert_eq!(states(&scene)[1..], [("web/1", draining), ("web/1.1", draining), ("web/1.2", draining)]);
    scene.wait(Duration::from_secs(1));
    assert_eq!(states(&scene), [("web/0", State::Ready)]);
    assert_eq!(shares(&scene), [48]);
}

#[test]
fn the_next_daemon_knows_that_it_opens_its_sockets() {
    let (mut scene, key) = scene();
    scene.die();
    scene.take_over();
    scene.wait(Duration::from_millis(300));
    assert_eq!((states(&scene).len(), shares(&scene)), (4, vec![12; 4]));
    assert_eq!(scene.open(key_of(&scene, key), listener(0)), [CallOutcome::Done, CallOutcome::Done]);
    scene.wait(Duration::from_millis(300));
    assert_eq!(states(&scene)[4], ("web/1.3", State::Ready));
    scene.end(key_of(&scene, key), Exit::Unknown, None);
    scene.wait(Duration::from_millis(300));
    assert_eq!(states(&scene), [("web/0", State::Ready)]);
}

/// The process as the daemon of now knows it.
fn key_of(scene: &Scene, before: ProcessKey) -> ProcessKey {
    scene.worker(before.worker.number).process.expect("a process").key
}
