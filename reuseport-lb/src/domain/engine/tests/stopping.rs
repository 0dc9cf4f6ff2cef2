//! Tests of how processes are told to end.

use std::time::Duration;

use super::scene::{Scene, config};
use crate::config::{ServiceConfig, StopMode, StopSettings, StopSignal};
use crate::domain::engine::{Input, JoinRequest};
use crate::domain::listener::Protocol;
use crate::domain::ports::ProcessKey;

const FIRST: StopSettings = StopSettings { signal: StopSignal::Usr1, mode: StopMode::Group };
const SECOND: StopSettings = StopSettings { signal: StopSignal::Quit, mode: StopMode::Main };

/// A service of one worker that is told to end by `FIRST`, and a process that joined.
fn scene() -> (Scene, [ProcessKey; 2]) {
    let mut config = config(&[Protocol::Tcp], 1);
    config.stop = FIRST;
    let mut scene = Scene::new(config);
    let reply = scene.reply();
    scene.handle(Input::Join(JoinRequest { number: None, weight: 1, uid: 0, opens: false }, reply), None);
    let keys = [0, 1].map(|number| scene.worker(number).process.expect("a process").key);
    keys.iter().for_each(|key| scene.be_ready(*key, None));
    (scene, keys)
}

/// How processes are told to end when the service ends.
fn told(mut scene: Scene, keys: &[ProcessKey]) -> Vec<Option<StopSettings>> {
    scene.handle(Input::Stop, None);
    scene.wait(Duration::from_secs(1));
    scene.world(|world| keys.iter().map(|key| world.processes[key].stop).collect())
}

#[test]
fn a_process_is_told_to_end_as_the_settings_say() {
    let (scene, keys) = scene();
    assert_eq!(told(scene, &keys), [Some(FIRST); 2]);
}

#[test]
fn another_signal_alone_counts_at_once() {
    let (mut scene, keys) = scene();
    scene.reload(|config| config.stop = SECOND, None);
    assert_eq!(told(scene, &keys), [Some(SECOND); 2]);
}

#[test]
fn another_command_has_its_signal_and_the_old_one_keeps_its_own() {
    let (mut scene, [old, joined]) = scene();
    let change = |config: &mut ServiceConfig| {
        config.command.push("more".into());
        config.stop = SECOND;
    };
    scene.reload(change, None);
    // The next daemon goes on with the reload: how the old worker ends was saved.
    scene.die();
    scene.take_over();
    scene.wait(Duration::from_millis(10));
    let new = scene.running().into_iter().find(|key| key.worker.number == 0 && *key != old);
    let new = new.expect("a successor");
    scene.be_ready(new, None);
    scene.wait(Duration::from_secs(10));
    assert_eq!(scene.world(|world| world.processes[&old].stop), Some(FIRST));
    assert_eq!(told(scene, &[new, joined]), [Some(SECOND); 2]);
}

#[test]
fn a_command_that_does_not_work_leaves_the_signal_of_the_old_one() {
    let (mut scene, [old, joined]) = scene();
    let change = |config: &mut ServiceConfig| {
        config.command.push("broken".into());
        config.stop = SECOND;
    };
    scene.reload(change, None);
    // The successor does not become ready within `start_timeout`.
    scene.wait(Duration::from_secs(60));
    assert_eq!(scene.engine().settings().config.stop, FIRST);
    assert_eq!(told(scene, &[old, joined]), [Some(FIRST); 2]);
}
