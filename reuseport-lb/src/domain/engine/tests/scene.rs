//! A service under test: an engine over fake ports, and a loop as in `service/`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use reuseport_lb_common::slots::NO_SLOT;

use super::fake::{BUCKETS, Fake, Group, Process, Stage, World};
use crate::config::{Ready, ServiceConfig};
use crate::domain::Reply;
use crate::domain::engine::{
    Engine, Input, NewGroup, ProcessEvent, Reconfiguration, RestartOptions, RolloutEvent, Settings, Snapshot,
    Worker,
};
use crate::domain::listener::{Listener, Protocol};
use crate::domain::observed::{Exit, Said};
use crate::domain::placement::Placement;
use crate::domain::ports::{ListenerId, ProcessKey, Processes, WorkerId};
use crate::domain::table::BucketTable;
use crate::domain::worker::Origin;

/// An engine that has more parts of work than this after one event does not come to rest.
const MOST_PARTS: usize = 20_000;

/// One service, with what its clients and the test know of it.
pub(super) struct Scene {
    pub(super) fake: Fake,
    pub(super) engine: Option<Engine<Fake, Fake>>,
    pub(super) now: Instant,
    /// What the last daemon has saved.
    pub(super) saved: Snapshot,
    /// Workers that were ready at some time.
    pub(super) proven: BTreeSet<WorkerId>,
    /// The process of each live UDP flow.
    homes: BTreeMap<(ListenerId, usize, u32), ProcessKey>,
    /// Number of replies that are due, and those that have come.
    pub(super) asked: usize,
    pub(super) answered: Rc<RefCell<Vec<String>>>,
    pub(super) refused: usize,
    serial: u64,
    saves: usize,
}

pub(super) fn config(protocols: &[Protocol], workers: usize) -> ServiceConfig {
    let listen = (8000..)
        .zip(protocols)
        .map(|(port, protocol)| Listener::new(*protocol, ([127, 0, 0, 1], port).into()));
    let mut config = ServiceConfig::new("web", listen.collect(), workers);
    config.command = vec!["server".into()];
    config.ready = Ready::Notify;
    config
}

pub(super) fn settings(config: ServiceConfig) -> Settings {
    Settings { configured: config.clone(), config, user: None, join: None }
}

impl Scene {
    /// Starts a service.
    pub(super) fn new(config: ServiceConfig) -> Self {
        Self::begin(config, None)
    }

    /// Starts a service while `what` fails once.
    pub(super) fn broken(config: ServiceConfig, what: super::fake::Broken) -> Self {
        Self::begin(config, Some(what))
    }

    fn begin(config: ServiceConfig, broken: Option<super::fake::Broken>) -> Self {
        let (fake, now) = (Fake::default(), Instant::now());
        let mut listeners = Vec::new();
        for (at, listener) in (1..).zip(config.listeners()) {
            let id = ListenerId(at);
            fake.0.borrow_mut().groups.insert(id, Group::new(*listener));
            listeners.push((id, *listener));
        }
        let settings = settings(config);
        let engine = Engine::new(settings, listeners, (fake.clone(), fake.clone()), now);
        let placement = Placement::of(BucketTable::of(vec![NO_SLOT; BUCKETS]), 0);
        let mut engine = Engine { placement, ..engine };
        while engine.add_configured() == Ok(true) {}
        fake.0.borrow_mut().broken.extend(broken);
        engine.begin(now);
        let saved = engine.snapshot();
        let mut scene = Self {
            fake,
            engine: Some(engine),
            now,
            saved,
            proven: BTreeSet::new(),
            homes: BTreeMap::new(),
            asked: 0,
            answered: Rc::default(),
            refused: 0,
            serial: 1_000_000,
            saves: 0,
        };
        scene.run(None);
        scene
    }

    pub(super) fn engine(&mut self) -> &mut Engine<Fake, Fake> {
        self.engine.as_mut().expect("an engine")
    }

    pub(super) fn world<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        look(&mut self.fake.0.borrow_mut())
    }

    pub(super) fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.engine.iter().flat_map(|engine| engine.pool().iter())
    }

    pub(super) fn worker(&self, number: usize) -> &Worker {
        self.engine.as_ref().and_then(|engine| engine.pool().find(number)).expect("a worker")
    }

    /// Does all work that there is now, as `service/` does; with `parts`, the daemon dies after so many parts.
    pub(super) fn run(&mut self, parts: Option<usize>) {
        for done in 0..MOST_PARTS {
            if parts == Some(done) {
                return self.die();
            }
            let now = self.now;
            let Some(engine) = self.engine.as_mut() else { return };
            let more = engine.advance(now).is_some();
            engine.settle(now);
            self.save();
            self.check_always();
            let engine = self.engine();
            if !more && engine.next_deadline(now).is_none_or(|at| at > now) {
                if engine.is_over() {
                    self.engine = None;
                    return;
                }
                return self.check_at_rest();
            }
        }
        panic!("it does not come to rest");
    }

    /// Saves the snapshot for the next daemon; only then new processes are unblocked.
    fn save(&mut self) {
        let saved = &mut self.saved;
        // Not in the middle of a change of settings.
        let Some(engine) = self.engine.as_mut().filter(|engine| engine.is_whole()) else { return };
        self.saves += 1;
        // Compared now and then only: making a snapshot takes longer than all the rest.
        let same = || engine.snapshot() == *saved;
        assert!(!self.saves.is_multiple_of(16) || same() == engine.is_as(saved), "a change is not seen");
        if !engine.is_as(saved) {
            *saved = engine.snapshot();
        }
        engine.ports().1.unblock();
        // A process that joins gets its sockets with the answer.
        for worker in engine.pool().iter().filter(|worker| worker.life.origin() == Origin::Joined) {
            let Some(key) = worker.process.map(|running| running.key) else { continue };
            let mut world = self.fake.0.borrow_mut();
            for cookie in worker.sockets.iter().map(|socket| socket.cookie) {
                world.give(key, cookie);
            }
        }
    }

    pub(super) fn handle(&mut self, input: Input, parts: Option<usize>) {
        let now = self.now;
        if let Some(engine) = self.engine.as_mut() {
            engine.handle(input, now);
            self.run(parts);
        }
    }

    pub(super) fn tell(&mut self, key: ProcessKey, event: ProcessEvent, parts: Option<usize>) {
        self.handle(Input::Process(key, event), parts);
    }

    /// Keys of the processes that run.
    pub(super) fn running(&self) -> Vec<ProcessKey> {
        self.world(|world| {
            let runs = |(_, process): &(&ProcessKey, &Process)| process.stage == Stage::Runs;
            world.processes.iter().filter(runs).map(|(key, _)| *key).collect()
        })
    }

    /// A process says that it is ready, and waits for work.
    pub(super) fn be_ready(&mut self, key: ProcessKey, parts: Option<usize>) {
        self.world(|world| {
            if let Some(process) = world.processes.get_mut(&key) {
                process.waits = true;
            }
        });
        self.proven.insert(key.worker);
        self.tell(key, ProcessEvent::Said(Said::Ready), parts);
    }

    pub(super) fn end(&mut self, key: ProcessKey, exit: Exit, parts: Option<usize>) {
        self.world(|world| world.end(key));
        self.homes.retain(|_, home| *home != key);
        self.tell(key, ProcessEvent::Ended(exit), parts);
    }

    /// Lets time pass, from one deadline to the next.
    pub(super) fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let next = self.engine.as_ref().and_then(|engine| engine.next_deadline(self.now));
            self.now = next.map_or(until, |at| at.clamp(self.now, until));
            self.run(None);
            self.end_those_told();
            if self.now >= until {
                return;
            }
        }
    }

    /// Ends processes that were told to end and do not hang, and those that were killed.
    pub(super) fn end_those_told(&mut self) {
        for key in self.running() {
            let (told, killed, hangs) = self.world(|world| {
                let process = &world.processes[&key];
                (process.told, process.killed, process.hangs)
            });
            if killed {
                self.end(key, Exit::Signal(9, "SIGKILL"), None);
            } else if told && !hangs {
                self.end(key, Exit::Status(0), None);
            }
        }
    }

    /// Processes that wait for work accept what is queued.
    pub(super) fn accept(&self) {
        self.world(|world| {
            for process in world.processes.values_mut() {
                if process.stage != Stage::Runs || !process.waits || process.hangs {
                    continue;
                }
                for cookie in &process.sockets {
                    let socket = world.sockets.get_mut(cookie);
                    let waits = |it: &&mut super::fake::Socket| it.queue > 0 || !it.datagrams.is_empty();
                    if let Some(socket) = socket.filter(waits) {
                        socket.queue = 0;
                        socket.datagrams.clear();
                        process.switches += 1;
                    }
                }
            }
        });
    }

    /// Connections come in at a TCP listener.
    pub(super) fn connect(&mut self, bucket: usize) {
        let tcp: Vec<ListenerId> = self.world(|world| {
            let tcp = world.groups.iter().filter(|(_, it)| it.listener.protocol == Protocol::Tcp);
            tcp.map(|(id, _)| *id).collect()
        });
        for listener in tcp {
            let there = self.world(|world| {
                let group = &world.groups[&listener];
                let listens =
                    |slot: &u16| group.slots.get(slot).is_some_and(|cookie| world.sockets[cookie].listens);
                group.rosters.ready.iter().any(listens)
            });
            let taken = self.world(|world| world.connect(listener, bucket % BUCKETS));
            assert!(taken || !there, "refused while a worker is ready");
            self.refused += usize::from(!taken);
        }
    }

    /// A datagram of a flow comes in at each UDP listener.
    pub(super) fn send(&mut self, bucket: usize, flow: u32) {
        let udp: Vec<ListenerId> = self.world(|world| {
            let udp = world.groups.iter().filter(|(_, it)| it.listener.protocol == Protocol::Udp);
            udp.map(|(id, _)| *id).collect()
        });
        for listener in udp {
            let Some(slot) = self.world(|world| world.send(listener, bucket % BUCKETS, flow)) else {
                continue;
            };
            let holder = |worker: &&Worker| worker.holds_slot() && worker.slot == slot;
            let worker = self.workers().find(holder);
            let Some(key) = worker.and_then(|worker| worker.process).map(|running| running.key) else {
                continue;
            };
            let leaves = worker.is_some_and(|worker| !worker.life.keeps_flows());
            let flow = (listener, bucket % BUCKETS, flow);
            if leaves {
                self.homes.remove(&flow);
                continue;
            }
            let home = *self.homes.entry(flow).or_insert(key);
            let old = self.workers().find(|it| it.process.is_some_and(|running| running.key == home));
            let kept = old.is_some_and(|old| old.is_member() && old.life.keeps_flows());
            assert!(home == key || !kept, "flow {flow:?} of {home:?} went to {key:?}");
            self.homes.insert(flow, key);
        }
    }

    /// A flow is silent for so long that it is forgotten.
    pub(super) fn forget(&mut self, bucket: usize, flow: u32) {
        self.world(|world| {
            for group in world.groups.values_mut() {
                group.marks[bucket % BUCKETS].iter_mut().for_each(|marks| *marks &= !(1 << flow));
            }
        });
        self.homes.retain(|(_, at, of), _| (*at, *of) != (bucket % BUCKETS, flow));
    }

    /// The daemon is killed.
    pub(super) fn die(&mut self) {
        self.engine = None;
        self.world(World::lose_daemon);
    }

    /// Another daemon takes over.
    pub(super) fn take_over(&mut self) {
        let snapshot = self.saved.clone();
        let found = self.world(|world| world.find(&snapshot));
        let before = self.owners();
        let ports = (self.fake.clone(), self.fake.clone());
        let engine = Engine::restore(snapshot.clone(), found, false, ports, self.now);
        let mut engine = engine.expect("a takeover");
        self.check_buckets_are(&engine, &before);
        self.check_known(&engine);
        engine.begin(self.now);
        self.engine = Some(engine);
        self.run(None);
    }

    /// Makes a reply that counts itself when it comes.
    pub(super) fn reply<T: std::fmt::Debug + 'static>(&mut self) -> Reply<T> {
        self.asked += 1;
        let answered = self.answered.clone();
        Reply::new(move |answer| answered.borrow_mut().push(format!("{answer:?}")))
    }

    pub(super) fn restart(&mut self, options: RestartOptions, parts: Option<usize>) {
        self.asked += 1;
        let answered = self.answered.clone();
        let listener = move |event| {
            if let RolloutEvent::Done { .. } = event {
                answered.borrow_mut().push(format!("{event:?}"));
            }
        };
        self.handle(Input::Restart(options, Box::new(listener)), parts);
    }

    /// Other settings are prepared and applied.
    pub(super) fn reload(&mut self, change: impl FnOnce(&mut ServiceConfig), parts: Option<usize>) {
        let Some(engine) = self.engine.as_mut() else { return };
        if engine.is_stopping() || engine.is_replacing() {
            return;
        }
        let mut config = engine.settings().configured.clone();
        change(&mut config);
        let known: Vec<Listener> = engine.listeners().map(|it| it.asked).collect();
        let mut groups = Vec::new();
        for listener in config.listeners().filter(|listener| !known.contains(listener)) {
            self.serial += 1;
            let id = ListenerId(self.serial);
            self.world(|world| world.groups.insert(id, Group::new(*listener)));
            groups.push(NewGroup { id, asked: *listener });
        }
        let change = Reconfiguration { settings: settings(config), groups };
        let reply = self.reply();
        self.handle(Input::Reconfigure(Some(Box::new(change)), reply), parts);
    }
}
