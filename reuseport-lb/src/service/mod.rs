//! One service: its groups, its table and its workers, and the task that owns them all. Not: what
//! to do when (`worker.rs`) or how the kernel is told (`kernel/`).

mod membership;
mod report;
mod start;

pub use start::find_command;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rustix::process::Rlimit;
use socket2::Socket;
use tokio::sync::{broadcast, mpsc, oneshot};
use tracing::{info, warn};

use crate::config::{self, Ready};
use crate::kernel::bpffs::Pins;
use crate::kernel::group::Group;
use crate::kernel::host::{self, User};
use crate::kernel::process::{Exit, Process};
use crate::kernel::socket;
use crate::listener::Listener;
use crate::notify::Notify;
use crate::slots::Slots;
use crate::status;
use crate::table::{Member, Table};
use crate::trace::{Decision, Tracer};
use crate::worker::{Event, Life, State, Step};

/// A worker that is ready waits this long for others that are starting, so that buckets move once
/// for all of them.
const JOIN_TOGETHER: Duration = Duration::from_millis(200);

/// A worker that counts as ready at once must also run for this long before the start is a success.
const SETTLING: Duration = Duration::from_secs(1);

/// After this time without `READY=1` the log says what may be wrong.
const NAG_AFTER: Duration = Duration::from_secs(5);

/// Largest weight of a worker; the smallest is 0, which means no new flows.
const MAX_WEIGHT: u32 = 1_000_000;

/// What a service is asked to do.
pub enum Command {
    /// Tell everything.
    Status(oneshot::Sender<Result<status::Service>>),
    /// Have this many workers.
    Scale(usize, oneshot::Sender<Result<Scaled, String>>),
    /// Give the worker with this number this weight.
    Weight(usize, u32, oneshot::Sender<Result<(), String>>),
    /// Report single decisions.
    Trace(oneshot::Sender<broadcast::Receiver<Decision>>),
    /// A subscriber of [`Command::Trace`] is gone.
    TraceEnded,
    /// Let nothing new in, let the workers finish, end.
    Stop,
    /// End now.
    Kill,
}

/// What [`Command::Scale`] has begun.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Scaled {
    /// Workers before, without those that are leaving.
    pub before: usize,
    /// Workers to come.
    pub after: usize,
}

/// What happened to one process of a worker.
pub enum Happening {
    /// It said `READY=1`.
    SaidReady,
    /// It ended.
    Ended(Exit),
}

/// Which worker something happened to: its number, and which of its processes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Whom {
    number: usize,
    incarnation: u64,
}

/// What a daemon gives to all its services.
pub struct Surroundings {
    /// Where pins go.
    pub pins: Pins,
    /// SO_COOKIE of every socket of every service; all others on our ports are strangers.
    pub ours: RefCell<HashSet<u64>>,
    /// Where notification sockets go.
    pub runtime_dir: PathBuf,
    /// The limit of open files for workers.
    pub open_files: Rlimit,
}

/// The state of one service; owned by its task.
pub struct Service {
    config: config::Service,
    user: Option<User>,
    surroundings: Rc<Surroundings>,
    groups: Vec<Group>,
    listeners: Vec<Listener>,
    table: Table,
    members: Vec<Member>,
    moved: u64,
    slots: Slots,
    workers: BTreeMap<usize, Worker>,
    incarnations: u64,
    sender: mpsc::UnboundedSender<(Whom, Happening)>,
    receiver: mpsc::UnboundedReceiver<(Whom, Happening)>,
    tracer: Tracer,
    failures: mpsc::UnboundedSender<anyhow::Error>,
    settled: bool,
    stopping: bool,
    join_at: Option<Instant>,
    nag_at: Option<Instant>,
}

struct Worker {
    name: String,
    slot: u16,
    weight: u32,
    life: Life,
    /// One per listener, in their order.
    sockets: Vec<Socket>,
    /// What the counters of the slot said when this worker got it, per listener.
    selected_before: Vec<u64>,
    process: Option<Running>,
}

struct Running {
    incarnation: u64,
    process: Arc<Process>,
    /// Its end closes the notification socket.
    _notify: Notify,
}

impl Service {
    /// Loads a program for each listener and opens the sockets of all workers; starts no process.
    pub fn open(
        mut config: config::Service,
        surroundings: Rc<Surroundings>,
        failures: mpsc::UnboundedSender<anyhow::Error>,
    ) -> Result<Self> {
        if config.command.is_empty() && config.user.is_none() {
            // The embedded worker needs no rights at all.
            config.user = host::user("nobody").ok().map(|user| user.name);
        }
        let user = config.user.as_deref().map(host::user).transpose()?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut service = Self {
            user,
            surroundings,
            groups: Vec::new(),
            listeners: config.listen.clone(),
            table: Table::default(),
            members: Vec::new(),
            moved: 0,
            slots: Slots::default(),
            workers: BTreeMap::new(),
            incarnations: 0,
            sender,
            receiver,
            tracer: Tracer::default(),
            failures,
            settled: false,
            stopping: false,
            join_at: None,
            nag_at: (config.ready == Ready::Notify).then(|| Instant::now() + NAG_AFTER),
            config,
        };
        service.open_groups().with_context(|| format!("service {}", service.config.name))?;
        Ok(service)
    }

    /// Serves until it is told to stop and every worker is gone.
    pub async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let numbers: Vec<usize> = self.workers.keys().copied().collect();
        for number in numbers {
            self.happen(number, Event::Start);
        }
        loop {
            self.settle();
            self.tell_rosters(None);
            if self.stopping && self.workers.is_empty() {
                return;
            }
            let deadline = self.deadline();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => self.stop(),
                },
                Some((whom, happening)) = self.receiver.recv() => self.happened(whom, happening),
                () = sleep_until(deadline) => self.tick(),
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Status(answer) => drop(answer.send(self.status())),
            Command::Scale(to, answer) => drop(answer.send(self.scale(to))),
            Command::Weight(number, weight, answer) => drop(answer.send(self.weigh(number, weight))),
            Command::Trace(answer) => {
                self.groups.iter().for_each(|group| group.trace(true));
                drop(answer.send(self.tracer.subscribe()));
            }
            Command::TraceEnded => {
                let wanted = self.tracer.wanted();
                self.groups.iter().for_each(|group| group.trace(wanted));
            }
            Command::Stop => self.stop(),
            Command::Kill => {
                self.stop();
                self.each(Event::Kill);
            }
        }
    }

    fn happened(&mut self, whom: Whom, happening: Happening) {
        let Some(worker) = self.workers.get_mut(&whom.number) else { return };
        if worker.process.as_ref().is_none_or(|running| running.incarnation != whom.incarnation) {
            return;
        }
        match happening {
            Happening::SaidReady => self.happen(whom.number, Event::SaidReady),
            Happening::Ended(exit) => {
                worker.process = None;
                let name = worker.name.clone();
                if worker.life.state() == State::Draining {
                    info!(worker = name, "it {exit} and is gone");
                } else {
                    warn!(worker = name, "it {exit}");
                    if self.is_first_start(whom.number) {
                        self.fail_start(&format!("worker {name} {exit} while the service was being started"));
                    }
                }
                let killed = exit == Exit::Signal(libc::SIGKILL);
                self.happen(whom.number, Event::Ended { killed });
            }
        }
    }

    /// Whether a worker has never served: its end is then part of the start, not a crash.
    fn is_first_start(&self, number: usize) -> bool {
        let Some(worker) = self.workers.get(&number) else { return false };
        worker.life.restarts() == 0
            && worker
                .life
                .ready_since()
                .is_none_or(|since| self.config.ready == Ready::Immediate && since.elapsed() < SETTLING)
    }

    /// An error before the service is up ends the start; later it is a crash like any other.
    fn fail_start(&mut self, why: &str) {
        if !self.settled && !self.stopping {
            let hint = "its own output, if any, is above; `ready` says when a worker counts as started";
            let report =
                anyhow!("{why} ({hint})").context(format!("service {} does not start", self.config.name));
            let _ = self.failures.send(report);
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        let due: Vec<usize> = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.life.deadline().is_some_and(|at| at <= now))
            .map(|(number, _)| *number)
            .collect();
        for number in due {
            let Some(worker) = self.workers.get(&number) else { continue };
            if worker.life.wants_look(now) {
                let empty = worker.queue_is_empty(&self.listeners);
                self.happen(number, Event::Looked { empty });
            }
            self.happen(number, Event::Tick);
        }
        if self.join_at.is_some_and(|at| at <= now) {
            self.rebalance();
        }
        if self.nag_at.is_some_and(|at| at <= now) {
            self.nag_at = None;
            for worker in self.workers.values().filter(|worker| worker.life.state() == State::Starting) {
                warn!(
                    worker = worker.name,
                    "no READY=1 for {NAG_AFTER:?}; if the command does not speak sd_notify(3), set ready = \"immediate\""
                );
            }
        }
    }

    /// Notices that all workers have been started.
    fn settle(&mut self) {
        let now = Instant::now();
        let settled = |worker: &Worker| match (self.config.ready, worker.life.ready_since()) {
            (_, None) => false,
            (Ready::Immediate, Some(since)) => now - since >= SETTLING,
            _ => true,
        };
        if !self.settled && !self.stopping && self.workers.values().all(settled) {
            self.settled = true;
            self.nag_at = None;
            info!("service {} is up: {}", self.config.name, self.summary());
        }
    }

    fn summary(&self) -> String {
        let listeners: Vec<String> = self.listeners.iter().map(ToString::to_string).collect();
        let workers = match self.workers.len() {
            1 => "1 worker".into(),
            n => format!("{n} workers"),
        };
        format!("{workers} on {}", listeners.join(" "))
    }

    fn deadline(&self) -> Option<Instant> {
        let settling = if self.settled || self.stopping || self.config.ready != Ready::Immediate {
            None
        } else {
            let last = self.workers.values().filter_map(|worker| worker.life.ready_since()).max();
            // A moment that has passed without settling is nothing to wait for.
            last.map(|at| at + SETTLING).filter(|at| *at > Instant::now())
        };
        let own = [self.join_at, self.nag_at, settling];
        self.workers
            .values()
            .filter_map(|worker| worker.life.deadline())
            .chain(own.into_iter().flatten())
            .min()
    }

    fn each(&mut self, event: Event) {
        let numbers: Vec<usize> = self.workers.keys().copied().collect();
        numbers.into_iter().for_each(|number| self.happen(number, event));
    }

    fn stop(&mut self) {
        if !std::mem::replace(&mut self.stopping, true) {
            self.leave(&self.workers.keys().copied().collect::<Vec<_>>());
        }
    }

    /// All of `numbers` leave at once, so that buckets move once.
    fn leave(&mut self, numbers: &[usize]) {
        let now = Instant::now();
        let mut all = Vec::new();
        for number in numbers {
            if let Some(worker) = self.workers.get_mut(number) {
                let before = worker.life.state();
                all.push((*number, worker.life.on(Event::Leave, now, &self.config)));
                info!(worker = worker.name, slot = worker.slot, "{before} → {}", worker.life.state());
            }
        }
        for (number, steps) in all {
            self.take(number, steps);
        }
    }

    fn happen(&mut self, number: usize, event: Event) {
        let Some(worker) = self.workers.get_mut(&number) else { return };
        let before = worker.life.state();
        let steps = worker.life.on(event, Instant::now(), &self.config);
        let after = worker.life.state();
        if before != after {
            info!(worker = worker.name, slot = worker.slot, "{before} → {after}");
        }
        self.take(number, steps);
    }

    fn take(&mut self, number: usize, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Spawn => self.spawn(number),
                Step::Admit => self.admit(),
                Step::Withdraw => self.rebalance(),
                Step::Rescue => self.rescue(number),
                Step::HandOver => self.hand_over(number),
                Step::Terminate => self.with_process(number, Process::terminate),
                Step::Kill => self.with_process(number, Process::kill),
                Step::Release => self.release(number),
            }
        }
    }

    fn with_process(&self, number: usize, act: impl Fn(&Process)) {
        if let Some(running) = self.workers.get(&number).and_then(|worker| worker.process.as_ref()) {
            act(&running.process);
        }
    }

    /// Tells the program who is ready and where to wait; `coming` is about to be one of the latter.
    fn tell_rosters(&self, coming: Option<u16>) {
        let ready = || self.workers.values().filter(|worker| worker.life.state() == State::Ready);
        // Those of weight 0 only where there is nobody else.
        let anybody = ready().all(|worker| worker.weight == 0);
        let wanted = ready().filter(|worker| anybody || worker.weight > 0);
        let ready: Vec<u16> = wanted.map(|worker| worker.slot).collect();
        let waiting = self.workers.values().filter(|worker| worker.life.can_wait()).map(|worker| worker.slot);
        let waiting: Vec<u16> = waiting.chain(coming).collect();
        self.groups.iter().for_each(|group| group.set_rosters(&ready, &waiting));
    }
}

impl Worker {
    fn queue_is_empty(&self, listeners: &[Listener]) -> bool {
        self.sockets.iter().zip(listeners).all(|(socket, listener)| {
            socket::queue(socket, listener.protocol).map_or(true, |queue| queue.queue == 0)
        })
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
