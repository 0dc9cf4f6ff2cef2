//! Tests of sockets that processes open themselves (`sockets = "bind"`).

use std::time::Duration;

use super::fake::World;
use super::scene::{Scene, config};
use crate::config::{Ready, ServiceConfig, SocketSource};
use crate::domain::engine::{Called, Input, ProcessEvent, RestartOptions};
use crate::domain::listener::{Listener, Protocol};
use crate::domain::number::Number;
use crate::domain::observed::{CallId, CallKind, Exit};
use crate::domain::ports::{CallOutcome, Cookie, ProcessKey};
use crate::domain::worker::State;

impl Scene {
    /// A process opens a socket for a listener itself; the answers to its calls.
    pub(super) fn open(&mut self, key: ProcessKey, listener: Listener) -> Vec<CallOutcome> {
        self.proven.insert(key.worker);
        let socket = self.world(|world| world.open(key, listener.protocol));
        let bound = self.call(key, CallKind::Bind(listener.address), socket);
        let listens = listener.protocol == Protocol::Tcp && bound == Some(CallOutcome::Done);
        let listened = listens.then(|| self.call(key, CallKind::Listen, socket)).flatten();
        bound.into_iter().chain(listened).collect()
    }

    /// A process calls for something; the answer, if it comes.
    fn call(&mut self, key: ProcessKey, kind: CallKind, socket: Cookie) -> Option<CallOutcome> {
        let id = CallId(self.world(World::next));
        self.tell(key, ProcessEvent::Called(Called { id, kind, socket }), None);
        self.world(|world| world.answers.remove(&id))
    }
}

fn opening(protocols: &[Protocol], workers: usize) -> ServiceConfig {
    let (sockets, ready) = (SocketSource::Bind, Ready::Listening);
    ServiceConfig { sockets, ready, ..config(protocols, workers) }
}

/// A service of one worker whose process has opened three sockets.
fn scene() -> (Scene, ProcessKey) {
    let mut scene = Scene::new(opening(&[Protocol::Tcp], 1));
    let key = process(&scene);
    (0..3).for_each(|_| drop(scene.open(key, listener(0))));
    scene.wait(Duration::from_millis(300));
    (scene, key)
}

fn process(scene: &Scene) -> ProcessKey {
    scene.worker(0).process.expect("a process").key
}

pub(super) fn listener(at: usize) -> Listener {
    config(&[Protocol::Tcp, Protocol::Udp], 0).listen[at].listener
}

/// Names and states of all workers.
pub(super) fn states(scene: &Scene) -> Vec<(&str, State)> {
    scene.workers().map(|worker| (&*worker.name, worker.life.state())).collect()
}

/// How many buckets each worker has.
pub(super) fn shares(scene: &Scene) -> Vec<usize> {
    let owners = scene.owners().into_values().next().expect("a listener");
    scene.workers().map(|worker| owners.iter().filter(|owner| **owner == worker.slot).count()).collect()
}

#[test]
fn what_comes_before_the_process_has_opened_a_socket_waits_and_goes_there() {
    let mut scene = Scene::new(opening(&[Protocol::Tcp], 1));
    scene.connect(1);
    scene.connect(2);
    let key = process(&scene);
    assert_eq!(states(&scene), [("web/0", State::Starting)]);
    assert_eq!(scene.open(key, listener(0)), [CallOutcome::Done, CallOutcome::Done]);
    assert_eq!(states(&scene), [("web/0", State::Ready)]);
    let cookie = scene.worker(0).sockets[0].cookie;
    let (queue, holders) =
        scene.world(|world| (world.sockets[&cookie].queue, world.sockets[&cookie].holders.clone()));
    assert_eq!((queue, holders.into_iter().collect::<Vec<_>>(), scene.refused), (2, vec![key], 0));
}

#[test]
fn each_further_socket_is_a_member_of_its_own_and_a_drained_one_gets_nothing() {
    let (mut scene, key) = scene();
    let ready = State::Ready;
    assert_eq!(states(&scene), [("web/0", ready), ("web/0.1", ready), ("web/0.2", ready)]);
    assert_eq!(shares(&scene), [16, 16, 16]);
    let reply = scene.reply();
    scene.handle(Input::Drain(Number { worker: 0, part: 1 }, None, reply), None);
    scene.wait(Duration::from_secs(1));
    assert_eq!(states(&scene), [("web/0", ready), ("web/0.2", ready)]);
    assert_eq!(shares(&scene), [24, 24]);
    assert!(scene.answered.borrow()[0].contains("goes on without this socket"), "{:?}", scene.answered);
    assert_eq!(scene.running(), [key], "the process goes on");
}

#[test]
fn the_next_process_gets_what_waits_for_as_many_sockets_as_it_opens() {
    let (mut scene, key) = scene();
    (0..48).for_each(|bucket| scene.connect(bucket));
    scene.end(key, Exit::Signal(9, "SIGKILL"), None);
    scene.wait(Duration::from_millis(100));
    let next = process(&scene);
    assert!(next.incarnation > key.incarnation);
    scene.open(next, listener(0));
    scene.open(next, listener(0));
    let states = states(&scene);
    assert_eq!(states, [("web/0", State::Ready), ("web/0.1", State::Ready), ("web/0.2", State::Held)]);
    // The third one of the process before is given up, and others get what waits there.
    scene.wait(Duration::from_secs(3));
    assert_eq!(shares(&scene), [24, 24]);
    let queues = scene.world(|world| world.sockets.values().map(|socket| socket.queue).sum::<u32>());
    assert_eq!((queues, scene.refused), (48, 0));
}

#[test]
fn a_worker_ends_when_all_of_its_sockets_are_done_with() {
    let (mut scene, key) = scene();
    (0..48).for_each(|bucket| scene.connect(bucket));
    let reply = scene.reply();
    scene.handle(Input::Drain(0.into(), None, reply), None);
    scene.wait(Duration::from_millis(500));
    assert_eq!(scene.running(), [key], "connections wait");
    scene.world(|world| world.processes.get_mut(&key).into_iter().for_each(|process| process.waits = true));
    scene.accept();
    scene.wait(Duration::from_millis(500));
    assert_eq!((scene.workers().count(), scene.running().len(), scene.answered.borrow().len()), (0, 0, 1));
}

#[test]
fn a_restart_replaces_all_sockets_of_a_process() {
    let (mut scene, key) = scene();
    scene.restart(RestartOptions::in_turn(Duration::ZERO), None);
    scene.wait(Duration::from_millis(10));
    let new = scene.running().into_iter().find(|it| *it != key).expect("a successor");
    (0..3).for_each(|_| drop(scene.open(new, listener(0))));
    scene.wait(Duration::from_secs(1));
    let ready = State::Ready;
    assert_eq!(states(&scene), [("web/0", ready), ("web/0.1", ready), ("web/0.2", ready)]);
    assert_eq!((shares(&scene), scene.running()), (vec![16, 16, 16], vec![new]));
}

/// The process closes the socket of a part.
fn close(scene: &Scene, key: ProcessKey, part: usize) {
    let worker = scene.workers().find(|it| it.id.part == part).expect("a part");
    let cookie = worker.sockets[0].cookie;
    scene.world(|world| {
        world.sockets.get_mut(&cookie).into_iter().for_each(|it| it.holders.retain(|it| *it != key));
        world.processes.get_mut(&key).into_iter().for_each(|it| it.sockets.retain(|it| *it != cookie));
    });
}

#[test]
fn a_socket_that_is_opened_again_takes_the_place_of_the_one_that_was_closed() {
    let (mut scene, key) = scene();
    close(&scene, key, 1);
    (0..48).for_each(|bucket| scene.connect(bucket));
    scene.open(key, listener(0));
    let ready = State::Ready;
    assert_eq!(states(&scene), [("web/0", ready), ("web/0.1", ready), ("web/0.2", ready)]);
    scene.world(|world| world.processes.get_mut(&key).into_iter().for_each(|process| process.waits = true));
    scene.accept();
    let queues = scene.world(|world| world.sockets.values().map(|socket| socket.queue).sum::<u32>());
    assert_eq!((queues, scene.refused), (0, 0));
}

#[test]
fn a_socket_that_is_opened_after_ready_1_serves_as_well() {
    let mut scene = Scene::new(ServiceConfig { ready: Ready::Notify, ..opening(&[Protocol::Tcp], 1) });
    let key = process(&scene);
    scene.open(key, listener(0));
    scene.be_ready(key, None);
    scene.open(key, listener(0));
    scene.wait(Duration::from_millis(300));
    assert_eq!(shares(&scene), [24, 24]);
}

#[test]
fn what_nobody_holds_any_more_is_handed_over_and_freed() {
    let (mut scene, key) = scene();
    scene.world(|world| world.processes.get_mut(&key).into_iter().for_each(|process| process.waits = true));
    close(&scene, key, 1);
    (0..48).for_each(|bucket| scene.connect(bucket));
    scene.wait(Duration::from_secs(3));
    assert_eq!(states(&scene), [("web/0", State::Ready), ("web/0.2", State::Ready)]);
    assert_eq!(shares(&scene), [24, 24]);
    close(&scene, key, 0);
    scene.wait(Duration::from_secs(2));
    assert_eq!(states(&scene), [("web/0", State::Loading), ("web/0.2", State::Ready)]);
    assert_eq!(shares(&scene), [0, 48]);
    scene.accept();
    let queues = scene.world(|world| world.sockets.values().map(|socket| socket.queue).sum::<u32>());
    assert_eq!((queues, scene.refused), (0, 0));
    // It has its place again with the next one.
    scene.open(key, listener(0));
    scene.wait(Duration::from_secs(1));
    assert_eq!(shares(&scene), [24, 24]);
}

#[test]
fn a_datagram_socket_is_replaced_by_the_worker_s_with_what_waits_there() {
    let mut scene = Scene::new(opening(&[Protocol::Tcp, Protocol::Udp], 1));
    let key = process(&scene);
    let own = scene.worker(0).sockets[1].cookie;
    assert_eq!(scene.open(key, listener(1)), [CallOutcome::Instead(own)]);
    // It waits for its other socket.
    assert_eq!(states(&scene), [("web/0", State::Starting)]);
    scene.open(key, listener(0));
    assert_eq!(states(&scene), [("web/0", State::Ready)]);
    let other: Listener = "tcp://127.0.0.1:9999".parse().expect("a listener");
    assert_eq!(scene.open(key, other), [CallOutcome::GoOn]);
}
