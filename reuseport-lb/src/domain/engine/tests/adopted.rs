//! Tests of sockets of servers that others have started (`adopt`).

use std::time::Duration;

use super::scene::{Scene, config};
use crate::config::adopt::Adoption;
use crate::config::{Ready, ServiceConfig};
use crate::domain::engine::{Input, RestartOptions, Sighted, Target};
use crate::domain::listener::Protocol;
use crate::domain::number::Number;
use crate::domain::ports::{Cookie, ListenerId, ProcessKey, Processes as _, WorkerId};
use crate::domain::whose::Whose;
use crate::domain::worker::State;

/// A service that adopts, with these listeners.
fn adopting(protocols: &[Protocol]) -> ServiceConfig {
    let adopt = Adoption { whose: Whose::Any, replace_program: false, by_command: false };
    let mut config = ServiceConfig { adopt: Some(adopt), ready: Ready::Immediate, ..config(protocols, 0) };
    config.command.clear();
    config
}

/// The server, as processes that the engine knows nothing of.
fn process(pid: i32) -> ProcessKey {
    ProcessKey { worker: WorkerId { number: 0, instance: 0, part: 0 }, incarnation: pid as u64 }
}

struct Server {
    scene: Scene,
    open: Vec<Sighted>,
}

impl Server {
    fn new(protocols: &[Protocol]) -> Self {
        Self { scene: Scene::new(adopting(protocols)), open: Vec::new() }
    }

    /// A process opens a socket of the listener with this number.
    fn open(&mut self, listener: u64, pid: i32) -> Cookie {
        let listener = ListenerId(listener);
        let cookie = self.scene.world(|world| world.open_outside(listener, process(pid)));
        self.open.push(Sighted { listener, cookie, pid });
        cookie
    }

    fn close(&mut self, cookie: Cookie) {
        self.scene.world(|world| world.close_outside(cookie));
        self.open.retain(|it| it.cookie != cookie);
    }

    /// The engine is told what is open.
    fn see(&mut self) {
        self.scene.handle(Input::Sighted(self.open.clone()), None);
        self.scene.wait(Duration::from_millis(300));
    }

    /// Names, states and process ids of all workers.
    fn workers(&self) -> Vec<(String, State, Option<i32>)> {
        let fake = &self.scene.fake;
        let pid = |key: Option<ProcessKey>| key.and_then(|key| fake.pid(key));
        let shown = self
            .scene
            .workers()
            .map(|it| (it.name.clone(), it.life.state(), pid(it.process.map(|running| running.key))));
        shown.collect()
    }

    fn assert_workers(&self, expected: &[(&str, i32)]) {
        let found = self.workers();
        let expected: Vec<_> =
            expected.iter().map(|(name, pid)| ((*name).to_owned(), State::Ready, Some(*pid))).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn sockets_are_workers_as_long_as_they_are_open() {
    let mut server = Server::new(&[Protocol::Tcp]);
    let cookies = [server.open(1, 7), server.open(1, 8), server.open(1, 9)];
    server.see();
    server.assert_workers(&[("web/0", 7), ("web/1", 8), ("web/2", 9)]);
    let buckets: Vec<usize> = (0..3).map(|at| owned(&server, at)).collect();
    assert_eq!(buckets, [16; 3]);
    // What waits goes where the program says, and not by the engine.
    (0..48).for_each(|bucket| server.scene.connect(bucket));
    server.close(cookies[1]);
    server.see();
    server.assert_workers(&[("web/0", 7), ("web/2", 9)]);
    assert_eq!([owned(&server, 0), owned(&server, 2)], [24; 2]);
    // The next one gets the free name.
    server.open(1, 10);
    server.see();
    server.assert_workers(&[("web/0", 7), ("web/1", 10), ("web/2", 9)]);
}

/// How many buckets the worker with this number has.
fn owned(server: &Server, number: usize) -> usize {
    let slot = server.scene.worker(number).slot;
    server.scene.world(|world| {
        world.groups[&ListenerId(1)].entries.iter().filter(|entry| entry.slot() == slot).count()
    })
}

#[test]
fn sockets_of_one_process_for_several_listeners_are_one_worker() {
    let mut server = Server::new(&[Protocol::Tcp, Protocol::Udp]);
    for (listener, pid) in [(1, 7), (1, 8), (2, 8), (2, 7)] {
        server.open(listener, pid);
    }
    server.see();
    server.assert_workers(&[("web/0", 7), ("web/1", 8)]);
    assert!(server.scene.workers().all(|worker| worker.sockets.len() == 2));
    // A process of which one socket only is closed stays.
    let udp = server.scene.worker(0).sockets[1].cookie;
    server.close(udp);
    server.see();
    server.assert_workers(&[("web/0", 7), ("web/1", 8)]);
    assert_eq!(server.scene.worker(0).sockets.len(), 1);
}

#[test]
fn another_process_that_polls_a_socket_is_its_worker_s_from_then_on() {
    let mut server = Server::new(&[Protocol::Tcp]);
    server.open(1, 7);
    server.see();
    server.open[0].pid = 70;
    server.see();
    server.assert_workers(&[("web/0", 70)]);
}

#[test]
fn what_was_drained_stays_so_while_it_is_open_also_for_the_next_daemon() {
    let mut server = Server::new(&[Protocol::Tcp]);
    let cookies = [server.open(1, 7), server.open(1, 8)];
    server.see();
    let reply = server.scene.reply();
    server.scene.handle(Input::Drain(Number::from(1), None, reply), None);
    server.scene.wait(Duration::from_millis(300));
    server.see();
    server.assert_workers(&[("web/0", 7)]);
    server.scene.die();
    server.scene.take_over();
    server.see();
    server.assert_workers(&[("web/0", 7)]);
    server.close(cookies[1]);
    server.see();
    server.open(1, 9);
    server.see();
    server.assert_workers(&[("web/0", 7), ("web/1", 9)]);
}

#[test]
fn the_next_daemon_goes_on_with_what_is_open() {
    let mut server = Server::new(&[Protocol::Tcp, Protocol::Udp]);
    let cookies = [server.open(1, 7), server.open(1, 8), server.open(1, 9)];
    server.see();
    let slots: Vec<u16> = server.scene.workers().map(|worker| worker.slot).collect();
    server.scene.die();
    server.close(cookies[1]);
    server.open(1, 10);
    server.scene.take_over();
    server.see();
    server.assert_workers(&[("web/0", 7), ("web/1", 10), ("web/2", 9)]);
    let after: Vec<u16> = server.scene.workers().map(|worker| worker.slot).collect();
    assert_eq!((after[0], after[2]), (slots[0], slots[2]));
}

#[test]
fn what_others_have_started_is_not_restarted_and_not_scaled() {
    let mut server = Server::new(&[Protocol::Tcp]);
    server.open(1, 7);
    server.see();
    server.scene.restart(RestartOptions::in_turn(Duration::ZERO), None);
    let reply = server.scene.reply();
    server.scene.handle(Input::Scale(Target::Exactly(3), reply), None);
    let said = server.scene.answered.borrow().join("\n");
    assert!(said.contains("in its own configuration"), "{said}");
    server.assert_workers(&[("web/0", 7)]);
    let sockets = server.scene.world(|world| world.sockets.len());
    server.scene.handle(Input::Stop, None);
    server.scene.wait(Duration::from_millis(300));
    assert!(server.scene.engine.is_none(), "it ends at once");
    server.scene.world(|world| {
        assert_eq!(world.sockets.len(), sockets, "its sockets stay");
        assert!(world.processes.is_empty(), "nothing was started");
    });
}
