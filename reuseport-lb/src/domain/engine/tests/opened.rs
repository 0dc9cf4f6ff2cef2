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
        let (socket, bound) = self.bind(key, listener);
        let listens = listener.protocol == Protocol::Tcp && bound == Some(CallOutcome::Done);
        let listened = listens.then(|| self.listen(key, socket)).flatten();
        bound.into_iter().chain(listened).collect()
    }

    /// A process opens a socket, and binds it to the address of a listener; the answer to its call.
    fn bind(&mut self, key: ProcessKey, listener: Listener) -> (Cookie, Option<CallOutcome>) {
        self.proven.insert(key.worker);
        let socket = self.world(|world| world.open(key, listener.protocol));
        (socket, self.call(key, CallKind::Bind(listener.address), socket))
    }

    fn listen(&mut self, key: ProcessKey, socket: Cookie) -> Option<CallOutcome> {
        self.call(key, CallKind::Listen, socket)
    }

    /// What `status` says that the first worker lacks.
    fn lacks(&self) -> Option<String> {
        let (engine, worker) = (self.engine.as_ref()?, self.worker(0));
        engine.lacks(worker, self.now, engine.counted(worker))
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
    wait_for_work(&scene, key);
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
    wait_for_work(&scene, key);
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
    wait_for_work(&scene, key);
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

/// What a worker is said to lack whose process has bound a socket and does not listen on it.
const UNHEARD: &str = "does not listen on a socket that it has bound to tcp://127.0.0.1:8000";

/// A service of one worker whose process has bound a socket, does not listen on it, and listens on two others.
fn scene_with_bound() -> (Scene, ProcessKey, Cookie) {
    let mut scene = Scene::new(opening(&[Protocol::Tcp], 1));
    let key = process(&scene);
    wait_for_work(&scene, key);
    let bound = bind_and_open_two(&mut scene, key);
    (scene, key, bound)
}

/// A process waits on all sockets that it has.
fn wait_for_work(scene: &Scene, key: ProcessKey) {
    scene.world(|world| world.processes.get_mut(&key).into_iter().for_each(|process| process.waits = true));
}

fn bind_and_open_two(scene: &mut Scene, key: ProcessKey) -> Cookie {
    let (bound, answer) = scene.bind(key, listener(0));
    assert_eq!(answer, Some(CallOutcome::Done));
    scene.wait(Duration::from_secs(1));
    assert_eq!(scene.worker(0).life.state(), State::Starting, "nobody listens");
    (0..2).for_each(|_| drop(scene.open(key, listener(0))));
    scene.wait(Duration::from_secs(1));
    bound
}

/// All of a process with two sockets that listen is as if it had no other.
fn serves_on_two(scene: &Scene) {
    assert_eq!(states(scene), [("web/0", State::Ready), ("web/0.1", State::Ready)]);
    assert_eq!(shares(scene), [24, 24]);
}

#[test]
fn a_socket_that_is_bound_and_does_not_listen_holds_nothing_up_and_is_shown() {
    let (mut scene, key, bound) = scene_with_bound();
    serves_on_two(&scene);
    assert_eq!(scene.lacks().as_deref(), Some(UNHEARD));
    // Nothing is taken for its stall, nor for its end.
    (0..48).for_each(|bucket| scene.connect(bucket));
    scene.accept();
    scene.wait(Duration::from_secs(20));
    serves_on_two(&scene);
    // It is a member as soon as it listens.
    assert_eq!(scene.listen(key, bound), Some(CallOutcome::Done));
    scene.wait(Duration::from_secs(1));
    assert_eq!((states(&scene)[2], shares(&scene)), (("web/0.2", State::Ready), vec![16; 3]));
    assert_eq!((scene.lacks(), scene.refused), (None, 0));
}

#[test]
fn a_socket_that_only_was_bound_is_forgotten_with_its_end() {
    let (mut scene, _, bound) = scene_with_bound();
    scene.world(|world| world.opened.remove(&bound));
    scene.wait(Duration::from_secs(2));
    assert_eq!(scene.lacks(), None);
    serves_on_two(&scene);
}

#[test]
fn a_process_with_a_socket_that_only_is_bound_crashes_and_is_replaced_as_others_are() {
    let (mut scene, key, _) = scene_with_bound();
    (0..48).for_each(|bucket| scene.connect(bucket));
    scene.end(key, Exit::Signal(9, "SIGKILL"), None);
    scene.wait(Duration::from_millis(100));
    assert_eq!(states(&scene), [("web/0", State::Starting), ("web/0.1", State::Held)]);
    let next = process(&scene);
    let (_, answer) = scene.bind(next, listener(0));
    assert_eq!((answer, scene.worker(0).life.state()), (Some(CallOutcome::Done), State::Starting));
    (0..2).for_each(|_| drop(scene.open(next, listener(0))));
    scene.wait(Duration::from_secs(1));
    serves_on_two(&scene);
    let queues = scene.world(|world| world.sockets.values().map(|socket| socket.queue).sum::<u32>());
    assert_eq!((queues, scene.refused), (48, 0), "all of it waits for the next process");
    wait_for_work(&scene, next);
    scene.accept();

    scene.restart(RestartOptions::in_turn(Duration::ZERO), None);
    scene.wait(Duration::from_millis(10));
    let new = scene.running().into_iter().find(|it| *it != next).expect("a successor");
    let _ = scene.bind(new, listener(0));
    (0..2).for_each(|_| drop(scene.open(new, listener(0))));
    scene.wait(Duration::from_secs(1));
    serves_on_two(&scene);
    assert_eq!(scene.running(), [new]);

    let reply = scene.reply();
    scene.handle(Input::Drain(0.into(), None, reply), None);
    scene.wait(Duration::from_secs(1));
    assert_eq!((scene.workers().count(), scene.running().len()), (0, 0), "it holds no drain up");
}

#[test]
fn the_next_daemon_knows_of_sockets_that_only_are_bound() {
    let (mut scene, key, bound) = scene_with_bound();
    scene.die();
    scene.take_over();
    scene.wait(Duration::from_secs(1));
    serves_on_two(&scene);
    assert_eq!(scene.lacks().as_deref(), Some(UNHEARD));
    assert_eq!(scene.listen(key, bound), Some(CallOutcome::Done));
    scene.wait(Duration::from_secs(1));
    assert_eq!((shares(&scene), scene.lacks()), (vec![16; 3], None));
}

/// While it leaves, a process gets no further socket.
#[test]
fn a_process_that_leaves_may_neither_bind_nor_listen() {
    let (mut scene, key, bound) = scene_with_bound();
    (0..48).for_each(|bucket| scene.connect(bucket));
    let reply = scene.reply();
    scene.handle(Input::Drain(0.into(), None, reply), None);
    let in_use = Some(CallOutcome::Fails(98));
    assert_eq!((scene.bind(key, listener(0)).1, scene.listen(key, bound)), (in_use, in_use));
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
