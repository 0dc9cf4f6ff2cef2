//! Tests of random histories: after any events in any order, and any death of the daemon, the invariants hold.

use std::time::Duration;

use proptest::prelude::*;

use super::fake::Broken;
use super::scene::{Scene, config};
use crate::config::{Affinity, OnCrash, Ready, Replace, SocketSource, WhenEmpty};
use crate::domain::engine::{Input, JoinRequest, ProcessEvent, RestartOptions, Target};
use crate::domain::listener::{Listener, Protocol};
use crate::domain::observed::{Exit, Said};
use crate::domain::worker::State;

#[derive(Clone, Debug)]
enum Event {
    Wait(u64),
    Ready(usize),
    Stopping(usize),
    Alive(usize),
    Crash(usize, bool),
    Hang(usize),
    /// A process opens a socket of its own for each listener.
    Open(usize),
    Awake(usize),
    Lock(usize),
    Connect(usize),
    Accept,
    Send(usize, u32),
    Forget(usize, u32),
    Scale(usize),
    Weight(usize, u32),
    Drain(usize),
    Restart {
        parallel: usize,
        trial: bool,
        only: Option<usize>,
    },
    Reload(usize),
    Join,
    Break(usize),
    Stop,
    /// The daemon dies after so many parts of the work that the next event makes, and another one takes over.
    Die(usize),
}

fn event() -> impl Strategy<Value = Event> {
    use Event::*;
    prop_oneof![
        6 => (0..4000u64).prop_map(Wait),
        8 => (0..8usize).prop_map(Ready),
        1 => (0..8usize).prop_map(Stopping),
        1 => (0..8usize).prop_map(Alive),
        3 => (0..8usize, any::<bool>()).prop_map(|(at, killed)| Crash(at, killed)),
        1 => (0..8usize).prop_map(Hang),
        3 => (0..8usize).prop_map(Open),
        1 => (0..8usize).prop_map(Awake),
        1 => (0..8usize).prop_map(Lock),
        6 => (0..64usize).prop_map(Connect),
        2 => Just(Accept),
        4 => (0..64usize, 0..4u32).prop_map(|(bucket, flow)| Send(bucket, flow)),
        1 => (0..64usize, 0..4u32).prop_map(|(bucket, flow)| Forget(bucket, flow)),
        3 => (0..6usize).prop_map(Scale),
        1 => (0..6usize, 0..4u32).prop_map(|(number, weight)| Weight(number, weight)),
        2 => (0..6usize).prop_map(Drain),
        2 => (1..3usize, any::<bool>(), proptest::option::of(0..4usize))
            .prop_map(|(parallel, trial, only)| Restart { parallel, trial, only }),
        2 => (0..5usize).prop_map(Reload),
        1 => Just(Join),
        1 => (0..5usize).prop_map(Break),
        1 => Just(Stop),
        3 => (0..12usize).prop_map(Die),
    ]
}

#[derive(Clone, Debug)]
struct Beginning {
    protocols: Vec<Protocol>,
    workers: usize,
    ready: Ready,
    on_crash: OnCrash,
    when_empty: WhenEmpty,
    replace: Replace,
    watchdog: Option<Duration>,
    /// Whether processes open their sockets themselves.
    opens: bool,
    /// Whether stalls and overload are looked for.
    monitored: bool,
    affinity: Affinity,
}

fn beginning(protocols: &'static [&'static [Protocol]]) -> impl Strategy<Value = Beginning> {
    let protocols = prop::sample::select(protocols).prop_map(<[Protocol]>::to_vec);
    let ready = prop_oneof![
        Just(Ready::Notify),
        Just(Ready::Immediate),
        Just(Ready::Accepting),
        Just(Ready::After(Duration::from_millis(300))),
    ];
    let on_crash = prop_oneof![Just(OnCrash::Hold), Just(OnCrash::Migrate)];
    let when_empty = prop_oneof![Just(WhenEmpty::Hold), Just(WhenEmpty::Reject)];
    let replace = prop_oneof![2 => Just(Replace::StartFirst), 1 => Just(Replace::StopFirst)];
    let watchdog = proptest::option::of(Just(Duration::from_secs(1)));
    let affinity = prop_oneof![Just(Affinity::Flow), Just(Affinity::Cpu)];
    let others = (any::<bool>(), prop::bool::weighted(0.3), affinity);
    (protocols, 0..4usize, ready, on_crash, when_empty, replace, watchdog, others).prop_map(
        |(
            protocols,
            workers,
            ready,
            on_crash,
            when_empty,
            replace,
            watchdog,
            (monitored, opens, affinity),
        )| {
            Beginning {
                protocols,
                workers,
                ready,
                on_crash,
                when_empty,
                replace,
                watchdog,
                opens,
                monitored,
                affinity,
            }
        },
    )
}

fn begin(beginning: &Beginning) -> Scene {
    let mut config = config(&beginning.protocols, beginning.workers);
    config.ready = beginning.ready;
    config.on_crash = beginning.on_crash;
    config.when_empty = beginning.when_empty;
    config.watchdog = beginning.watchdog;
    config.replace = beginning.replace;
    config.affinity = beginning.affinity.clone();
    if beginning.opens {
        config.sockets = SocketSource::Bind;
        if config.ready == Ready::Accepting {
            config.ready = Ready::Listening;
        }
    }
    if !beginning.monitored {
        (config.stall_timeout, config.overload) = (None, None);
    }
    Scene::new(config)
}

/// Applies one event; with `parts`, the daemon dies after so many parts of the work that follows.
fn apply(scene: &mut Scene, what: &Event, parts: Option<usize>) {
    let running = scene.running();
    let one = |at: usize| running.get(at % running.len().max(1)).copied();
    let set = |scene: &Scene, at: usize, change: fn(&mut super::fake::Process)| {
        if let Some(key) = one(at) {
            scene.world(|world| world.processes.get_mut(&key).into_iter().for_each(change));
        }
    };
    match *what {
        Event::Wait(ms) => scene.wait(Duration::from_millis(ms)),
        Event::Ready(at) => one(at).into_iter().for_each(|key| scene.be_ready(key, parts)),
        Event::Stopping(at) => {
            if let Some(key) = one(at) {
                scene.world(|world| world.processes.get_mut(&key).into_iter().for_each(|it| it.told = true));
                scene.tell(key, ProcessEvent::Said(Said::Stopping), parts);
            }
        }
        Event::Alive(at) => {
            one(at).into_iter().for_each(|key| scene.tell(key, ProcessEvent::Said(Said::Alive), parts));
        }
        Event::Crash(at, killed) => {
            let exit = if killed { Exit::Signal(9, "SIGKILL") } else { Exit::Status(1) };
            one(at).into_iter().for_each(|key| scene.end(key, exit, parts));
        }
        Event::Hang(at) => set(scene, at, |process| process.hangs = true),
        Event::Open(_) if scene.saved.settings.config.sockets == SocketSource::Pass => {}
        Event::Open(at) => {
            let listeners: Vec<Listener> =
                scene.world(|world| world.groups.values().map(|group| group.listener).collect());
            for listener in listeners {
                one(at).into_iter().for_each(|key| drop(scene.open(key, listener)));
            }
        }
        Event::Awake(at) => set(scene, at, |process| process.hangs = false),
        Event::Lock(at) => {
            if let Some(key) = one(at) {
                scene.world(|world| {
                    for cookie in world.processes[&key].sockets.clone() {
                        world.sockets.get_mut(&cookie).into_iter().for_each(|socket| socket.locked = true);
                    }
                });
            }
        }
        Event::Connect(bucket) => scene.connect(bucket),
        Event::Accept => scene.accept(),
        Event::Send(bucket, flow) => scene.send(bucket, flow),
        Event::Forget(bucket, flow) => scene.forget(bucket, flow),
        Event::Scale(to) => {
            let reply = scene.reply();
            scene.handle(Input::Scale(Target::Exactly(to), reply), parts);
        }
        Event::Weight(number, weight) => {
            let reply = scene.reply();
            scene.handle(Input::Weight(number.into(), weight, reply), parts);
        }
        Event::Drain(number) => {
            let reply = scene.reply();
            scene.handle(Input::Drain(number.into(), Some(Duration::from_secs(2)), reply), parts);
        }
        Event::Restart { parallel, trial, only } => {
            let trial = Duration::from_millis(if trial { 500 } else { 0 });
            scene.restart(RestartOptions { only, parallel, timeout: None, trial }, parts);
        }
        Event::Reload(which) => scene.reload(
            |config| match which {
                0 => config.command.push("more".into()),
                1 => config.workers = 3,
                2 => config.backlog += 1,
                3 => config.listen.extend(super::scene::config(&[Protocol::Tcp; 3], 0).listen.pop()),
                _ => config.listen.truncate(1),
            },
            parts,
        ),
        Event::Join => {
            let reply = scene.reply();
            scene.handle(
                Input::Join(JoinRequest { number: None, weight: 1, uid: 0, opens: false }, reply),
                parts,
            );
        }
        Event::Break(which) => {
            let all = [Broken::Spawn, Broken::Open, Broken::Insert, Broken::Adopt, Broken::Install];
            scene.world(|world| world.broken.insert(all[which]));
        }
        Event::Stop => scene.handle(Input::Stop, parts),
        Event::Die(_) => scene.die(),
    }
}

fn histories(protocols: &'static [&'static [Protocol]]) {
    let cases = std::env::var("REUSEPORT_LB_HISTORIES").ok().and_then(|text| text.parse().ok());
    let cases = cases.unwrap_or(1_000);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_time: 60_000,
        ..ProptestConfig::default()
    });
    let strategy = (beginning(protocols), prop::collection::vec(event(), 1..40));
    let outcome = runner.run(&strategy, |(beginning, history)| {
        let mut scene = begin(&beginning);
        let mut parts = None;
        for what in &history {
            if scene.engine.is_none() {
                if scene.saved.workers.is_empty() {
                    break;
                }
                scene.asked = scene.answered.borrow().len();
                scene.take_over();
            }
            match what {
                Event::Die(after) => parts = Some(*after),
                what => apply(&mut scene, what, parts.take()),
            }
        }
        if scene.engine.is_none() {
            scene.asked = scene.answered.borrow().len();
        }
        scene.come_to_an_end();
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

/// REUSEPORT_LB_HISTORIES says how many.
#[test]
fn whatever_happens_to_connections_what_must_hold_does() {
    histories(&[&[Protocol::Tcp], &[Protocol::Tcp, Protocol::Tcp]]);
}

/// REUSEPORT_LB_HISTORIES says how many.
#[test]
fn whatever_happens_to_flows_what_must_hold_does() {
    histories(&[&[Protocol::Udp], &[Protocol::Tcp, Protocol::Udp], &[Protocol::Udp, Protocol::Udp]]);
}

/// The daemon dies when it has added a worker and not started it: the queue of another one goes to its socket, which is
/// closed as well. That says nothing of the process that is started next.
#[test]
fn connections_from_before_its_first_process_do_not_make_a_worker_ready() {
    let mut scene = begin(&Beginning {
        protocols: vec![Protocol::Tcp],
        workers: 2,
        ready: Ready::After(Duration::from_millis(300)),
        on_crash: OnCrash::Hold,
        when_empty: WhenEmpty::Hold,
        replace: Replace::StartFirst,
        watchdog: None,
        opens: false,
        monitored: false,
        affinity: Affinity::Flow,
    });
    for what in
        [Event::Break(0), Event::Drain(0), Event::Wait(105), Event::Crash(0, false), Event::Connect(0)]
    {
        apply(&mut scene, &what, None);
    }
    apply(&mut scene, &Event::Scale(2), Some(1));
    scene.asked = scene.answered.borrow().len();
    scene.take_over();
    scene.wait(Duration::from_millis(500));
    let states: Vec<State> = scene.workers().map(|worker| worker.life.state()).collect();
    assert_eq!(states, [State::Loading; 2]);
}
