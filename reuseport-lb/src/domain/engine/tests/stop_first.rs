//! Tests of `replace = "stop-first"`.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::scene::{Scene, config};
use crate::config::Replace;
use crate::domain::engine::{Input, RestartOptions, RolloutEvent};
use crate::domain::listener::Protocol;
use crate::domain::observed::Exit;
use crate::domain::ports::ProcessKey;
use crate::domain::worker::State;

/// A service of one worker that is ready, with the key of its process.
fn scene() -> (Scene, ProcessKey) {
    let mut config = config(&[Protocol::Tcp, Protocol::Udp], 1);
    config.replace = Replace::StopFirst;
    let mut scene = Scene::new(config);
    let key = scene.worker(0).process.expect("a process").key;
    scene.be_ready(key, None);
    (scene, key)
}

/// Begins to replace the worker; what is told of it is in the answer.
fn restart(scene: &mut Scene) -> Rc<RefCell<Vec<RolloutEvent>>> {
    let events = Rc::new(RefCell::new(Vec::new()));
    let told = events.clone();
    let options = RestartOptions::in_turn(Duration::from_secs(1));
    scene.handle(Input::Restart(options, Box::new(move |event| told.borrow_mut().push(event))), None);
    events
}

fn named<T>(make: impl Fn(String) -> T) -> T {
    make("web/0".into())
}

#[test]
fn a_successor_is_started_when_the_old_process_has_ended_and_gets_what_came_meanwhile() {
    let (mut scene, old) = scene();
    let owners = scene.owners();
    let events = restart(&mut scene);
    assert_eq!(*events.borrow(), [named(|worker| RolloutEvent::Stopping { worker })]);
    // The old process still has what came before, and is not told yet; what comes from now on waits.
    scene.connect(1);
    scene.accept();
    assert_eq!(scene.running(), [old]);
    assert_eq!(scene.worker(0).life.state(), State::Held);
    let waiting = |scene: &Scene| {
        let cookie = scene.worker(0).sockets[0].cookie;
        scene.world(|world| world.sockets[&cookie].queue)
    };
    assert_eq!(waiting(&scene), 1);
    scene.wait(Duration::from_millis(500));
    let new = scene.worker(0).process.expect("its successor").key;
    assert_eq!(scene.running(), [new]);
    assert_eq!((scene.owners(), waiting(&scene)), (owners, 1));
    scene.be_ready(new, None);
    scene.accept();
    assert_eq!(waiting(&scene), 0);
    scene.wait(Duration::from_secs(2));
    let expected = [
        named(|worker| RolloutEvent::Stopping { worker }),
        named(|worker| RolloutEvent::Starting { worker, pid: i32::try_from(new.incarnation).ok() }),
        named(|worker| RolloutEvent::Ready { worker }),
        named(|worker| RolloutEvent::Replaced { worker }),
        RolloutEvent::Done { replaced: 1, error: None },
    ];
    assert_eq!(*events.borrow(), expected);
    assert_eq!(scene.refused, 0);
}

#[test]
fn a_successor_that_ends_is_started_again_and_the_caller_is_told() {
    let (mut scene, _) = scene();
    let events = restart(&mut scene);
    scene.wait(Duration::from_millis(500));
    let new = scene.worker(0).process.expect("its successor").key;
    scene.end(new, Exit::Status(3), None);
    let told = events.borrow().last().cloned();
    let Some(RolloutEvent::Done { replaced: 0, error: Some(error) }) = told else { panic!("{told:?}") };
    assert_eq!(
        error,
        "the new web/0 exited with status 3 before it was ready: the old one had to end before (replace = \
         \"stop-first\"), and the others stay"
    );
    scene.wait(Duration::from_millis(500));
    let next = scene.worker(0).process.expect("the next process").key;
    assert!(next.incarnation > new.incarnation);
}

#[test]
fn the_next_daemon_starts_the_successor_only_when_the_old_process_has_ended() {
    let (mut scene, old) = scene();
    scene.world(|world| world.processes.get_mut(&old).into_iter().for_each(|it| it.hangs = true));
    restart(&mut scene);
    scene.die();
    scene.take_over();
    scene.wait(Duration::from_secs(1));
    assert_eq!(scene.running(), [old]);
    scene.end(old, Exit::Status(0), None);
    scene.wait(Duration::from_millis(100));
    let running = scene.running();
    assert!(running.len() == 1 && running != [old], "{running:?}");
}
