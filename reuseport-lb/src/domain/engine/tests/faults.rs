//! Tests of single faults.

use std::time::Duration;

use super::fake::Broken;
use super::scene::{Scene, config};
use crate::config::Ready;
use crate::domain::engine::{Input, ProcessEvent};
use crate::domain::listener::Protocol;
use crate::domain::observed::{Exit, Said};
use crate::domain::worker::State;

/// A process that said `STOPPING=1` is started again, unless its worker is drained; that holds for the next daemon.
#[test]
fn a_worker_that_is_ending_and_is_drained_is_not_started_by_the_next_daemon() {
    let mut scene = Scene::new(config(&[Protocol::Tcp], 2));
    scene.running().into_iter().for_each(|key| scene.be_ready(key, None));
    let key = scene.worker(1).process.expect("a process").key;
    scene.tell(key, ProcessEvent::Said(Said::Stopping), None);
    assert!(scene.worker(1).life.returns());
    let reply = scene.reply();
    scene.handle(Input::Drain(1.into(), None, reply), None);
    assert!(!scene.worker(1).life.returns());
    let written = scene.saved.workers.iter().find(|worker| worker.id.number == 1).expect("a record");
    assert!(!written.life.returns, "that it is drained is written down");
    assert_eq!(scene.saved.settings.config.workers, 1);
    scene.die();
    scene.end(key, Exit::Status(0), None);
    scene.take_over();
    assert_eq!(scene.workers().map(|worker| worker.id.number).collect::<Vec<usize>>(), [0]);
}

/// With `ready = "immediate"`, a worker is not ready before its process exists.
#[test]
fn a_worker_that_could_not_be_started_is_not_ready_and_has_no_watchdog() {
    let mut config = config(&[Protocol::Tcp], 1);
    (config.ready, config.watchdog) = (Ready::Immediate, Some(Duration::from_secs(1)));
    let mut scene = Scene::broken(config, Broken::Spawn);
    let worker = scene.worker(0);
    assert_eq!(worker.life.state(), State::Held);
    assert!(!worker.life.admitted() && !worker.watchdog.is_armed() && worker.process.is_none());
    let lacks = scene.engine().take_failure();
    assert!(lacks.is_some_and(|why| why.contains("Spawn fails")), "the start has failed");
    scene.wait(Duration::from_secs(2));
    assert_eq!(scene.worker(0).life.state(), State::Ready, "it is tried again");
    assert!(scene.worker(0).watchdog.is_armed());
}

/// The refusal names the workers that exist, and is told apart from other refusals.
#[test]
fn an_unknown_worker_is_unknown_whatever_is_asked_of_it() {
    let mut scene = Scene::new(config(&[Protocol::Tcp], 1));
    let reply = scene.reply();
    scene.handle(Input::Weight(7.into(), 1, reply), None);
    let reply = scene.reply();
    scene.handle(Input::Drain(7.into(), None, reply), None);
    let answered = scene.answered.borrow();
    assert_eq!(answered.len(), 2);
    assert!(answered.iter().all(|it| it.contains("UnknownWorker") && it.contains("web/0")), "{answered:?}");
}

/// When a daemon ends and leaves its workers, no process is stopped or signalled.
#[test]
fn what_is_left_to_itself_goes_on() {
    let mut scene = Scene::new(config(&[Protocol::Tcp], 2));
    scene.running().into_iter().for_each(|key| scene.be_ready(key, None));
    let now = scene.now;
    scene.engine().leave_to_itself(now);
    assert!(!scene.engine().is_stopping());
    let ready = scene.workers().filter(|worker| worker.life.state() == State::Ready).count();
    assert_eq!(ready, 2);
    let told = scene.world(|world| world.processes.values().any(|it| it.told || it.killed));
    assert!(!told, "no process is told to end");
}
