//! One service: its groups, its table and its workers, and the task that owns them all. Not: what
//! to do when (`domain/`) or how the kernel is told (`kernel/`).

mod attend;
mod claims;
mod command;
mod door;
mod flows;
mod guests;
mod membership;
mod readiness;
mod reload;
mod repairs;
mod rollout;
pub mod sd_notify;
mod start;
pub mod state_file;
mod status;
mod surroundings;
mod takeover;
pub mod trace;
mod workers;

pub use claims::Claims;
pub use command::Command;
use command::Commands;
pub use membership::{Drained, Scaled, Target};
pub use reload::{Prepare, TRIAL};
pub use rollout::{Progress, START, Wish};
pub use start::find_program;
pub use status::{Report, coming, complete, left};
pub use surroundings::Surroundings;
pub use takeover::{abandon, is_left};

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use crate::config::{self, Ready};
use crate::daemon::services::Shown;
use crate::domain::slots::Slots;
use crate::domain::sparing::Sparing;
use crate::domain::table::{Member, Table};
use crate::domain::worker::{Event, Origin, State, Step};
use crate::kernel::host::{self, User};
use crate::kernel::opened::Opened;
use crate::kernel::process::{Exit, Process};
use crate::offload::{Slices, in_thread_within};
use crate::service::sd_notify::Said;
use crate::service::state_file::StateFile;
use crate::service::trace::Tracer;
use attend::Looks;
use door::Door;
use flows::Flows;
use rollout::Rollout;
use workers::{Id, Worker};

/// A worker that counts as ready at once must also run for this long before the start is a success.
const SETTLING: Duration = Duration::from_secs(1);

/// How long the name service may take to know a user.
const LOOKING_UP: Duration = Duration::from_secs(10);

/// Whom embedded workers run as, unless they are told.
const NOBODY: &str = "nobody";

/// After this time without `READY=1` the log says what may be wrong.
const NAG_AFTER: Duration = Duration::from_secs(5);

/// So much is done before the rest is looked at: workers started, and what they say heard.
const AT_ONCE: usize = 16;

/// What happened to one process of a worker.
enum Happening {
    Said(Said),
    Ended(Exit),
    /// It was found out what it opened by itself.
    Opened(Opened),
    /// It joined, but was not there any more to hear it.
    Lost,
}

/// Which process something happened to: its worker, and which of that worker's processes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Whom {
    id: Id,
    incarnation: u64,
}

/// The state of one service; owned by its task.
pub struct Service {
    config: config::Service,
    /// What the configuration said, before `scale` and `drain`.
    configured: config::Service,
    user: Option<User>,
    surroundings: Rc<Surroundings>,
    /// One per listener, in their order.
    doors: Vec<Door>,
    table: Table,
    members: Vec<Member>,
    moved: u64,
    flows: Flows,
    slots: Slots,
    workers: BTreeMap<Id, Worker>,
    /// Counts up with each worker and each process.
    count: u64,
    /// Tells what workers are started with: a hash of those settings.
    release: u64,
    rollout: Option<Rollout>,
    prepared: Option<reload::Prepared>,
    /// Workers whose first process is still to be started.
    starts: VecDeque<Id>,
    /// Steps that many workers take at once.
    later: VecDeque<(Id, Step)>,
    /// Workers whose sockets are looked at next, and put right.
    repairs: VecDeque<Id>,
    /// Whom buckets are to be spread over now, which takes its time with many listeners.
    spreading: Option<Vec<Member>>,
    looks: Looks,
    /// Who said `WATCHDOG=1` since the last look.
    pings: BTreeSet<Id>,
    sender: mpsc::UnboundedSender<(Whom, Happening)>,
    receiver: mpsc::UnboundedReceiver<(Whom, Happening)>,
    /// Users whose processes may not join.
    refused: Sparing<u32>,
    tracer: Tracer,
    settled: bool,
    stopping: bool,
    join_at: Option<Instant>,
    nag_at: Option<Instant>,
    state_file: StateFile,
    /// Who waits until it decides for all of its listeners.
    tell_decides: Vec<oneshot::Sender<()>>,
    /// Workers whose process ended while there was no daemon.
    ended_meanwhile: Vec<Id>,
    /// Something changed that the next daemon must know.
    unsaved: bool,
    /// A process among it.
    has_spawned: bool,
    /// Not before this.
    save_at: Option<Instant>,
    /// What is shown of it while it is busy.
    shown: Option<Shown>,
}

impl Service {
    async fn empty(configured: config::Service, surroundings: Rc<Surroundings>) -> Result<Self> {
        let asked = configured.clone();
        let (config, user) =
            in_thread_within(LOOKING_UP, "looking up a user", move || with_user(asked)).await??;
        let (sender, receiver) = mpsc::unbounded_channel();
        Ok(Self {
            user,
            doors: Vec::new(),
            table: Table::default(),
            members: Vec::new(),
            moved: 0,
            flows: Flows::default(),
            slots: Slots::default(),
            workers: BTreeMap::new(),
            count: 0,
            release: reload::release_of(&config),
            rollout: None,
            prepared: None,
            starts: VecDeque::new(),
            later: VecDeque::new(),
            repairs: VecDeque::new(),
            spreading: None,
            looks: Looks::new(Instant::now()),
            pings: BTreeSet::new(),
            sender,
            receiver,
            refused: Sparing::default(),
            tracer: Tracer::default(),
            settled: false,
            stopping: false,
            join_at: None,
            nag_at: (config.ready == Ready::Notify).then(|| Instant::now() + NAG_AFTER),
            state_file: StateFile::new(&surroundings.runtime_dir, &config.name),
            tell_decides: Vec::new(),
            ended_meanwhile: Vec::new(),
            unsaved: true,
            has_spawned: false,
            save_at: None,
            shown: None,
            configured,
            config,
            surroundings,
        })
    }

    /// Serves until it is told to stop and every worker is gone, or to keep everything as it is.
    pub async fn run(mut self, commands: mpsc::UnboundedReceiver<Command>, shown: Shown) {
        let mut commands = Commands::new(commands);
        self.shown = Some(shown);
        let mut slices = Slices::begin();
        self.say_if_blind();
        self.start_workers();
        self.replace_outdated();
        self.plan_rotation();
        loop {
            self.pause(&mut slices, &mut commands).await;
            self.start_some(&slices);
            self.pause(&mut slices, &mut commands).await;
            self.spread().await;
            self.go_on(&slices);
            self.advance_rollout(Instant::now());
            self.follow_keepers();
            self.spread().await;
            self.settle();
            self.take_listeners();
            self.tell_rosters(None);
            self.pause(&mut slices, &mut commands).await;
            self.write_down();
            self.idle();
            if self.stopping && self.workers.is_empty() {
                self.came_up();
                self.state_file.remove();
                self.pull_down().await;
                return;
            }
            let deadline = self.deadline();
            tokio::select! {
                biased;
                command = commands.next() => match command {
                    Some(Command::Keep) => return self.keep(),
                    Some(command) => {
                        if !matches!(command, Command::Status(_)) {
                            // Whoever asked may rely on it as soon as it is answered.
                            self.save_at = None;
                        }
                        self.obey(command).await;
                    }
                    None => self.stop(),
                },
                Some((whom, happening)) = self.receiver.recv() => self.happened(whom, happening),
                () = sleep_until(deadline) => {}
            }
            // Much may have happened at once, and what follows costs more with many workers.
            for _ in 0..AT_ONCE {
                if slices.is_over() {
                    break;
                }
                let Ok((whom, happening)) = self.receiver.try_recv() else { break };
                self.happened(whom, happening);
            }
            self.pause(&mut slices, &mut commands).await;
            self.tick(&slices).await;
        }
    }

    /// Others get their turn, in the middle of what it does; who asks is answered.
    async fn pause(&mut self, slices: &mut Slices, commands: &mut Commands) {
        if slices.is_over() {
            let asked = commands.questions();
            if !asked.is_empty() {
                // What is shown is there for the next daemon as well.
                self.write_down();
            }
            asked.into_iter().for_each(|answer| drop(answer.send(self.report())));
        }
        slices.turn().await;
    }

    fn write_down(&mut self) {
        self.save();
        if !self.unsaved {
            self.let_go();
        }
    }

    async fn obey(&mut self, command: Command) {
        // Whoever asked may have gone away meanwhile.
        match command {
            // It may have been too late already.
            Command::Status(answer) if answer.is_closed() => {}
            Command::Status(answer) => drop(answer.send(self.report())),
            Command::Scale(to, answer) => {
                self.busy("is being scaled");
                drop(answer.send(self.scale_to(to).await));
            }
            Command::Weight(number, weight, answer) => {
                let weighed = self.weigh(number, weight);
                self.spread().await;
                drop(answer.send(weighed));
            }
            Command::Drain(number, patience, answer) => self.drain(number, patience, answer),
            Command::Restart(wish, progress) => self.restart(wish, progress),
            Command::Join(request) => self.join(request),
            Command::Prepare(wish, answer) => {
                self.busy("is being changed");
                drop(answer.send(self.prepare(*wish).await));
            }
            Command::Commit(answer) => {
                self.busy("is being changed");
                self.commit(answer).await;
            }
            Command::Abort => self.forget_prepared(),
            Command::Decides(answer) => self.tell_decides.push(answer),
            Command::Trace(answer) => {
                self.doors.iter().for_each(|door| door.group.trace(true));
                drop(answer.send(self.tracer.subscribe()));
            }
            Command::TraceEnded => {
                let wanted = self.tracer.wanted();
                self.doors.iter().for_each(|door| door.group.trace(wanted));
            }
            Command::Stop | Command::Keep => self.stop(),
            Command::Kill => {
                self.stop();
                self.each(Event::Kill);
            }
        }
        // Nobody is answered any more from what was shown meanwhile.
        self.idle();
    }

    /// As configured, and changed since.
    #[must_use]
    pub fn config(&self) -> &config::Service {
        &self.config
    }

    fn happened(&mut self, whom: Whom, happening: Happening) {
        let Some(worker) = self.workers.get_mut(&whom.id) else { return };
        if worker.process.as_ref().is_none_or(|running| running.incarnation != whom.incarnation) {
            return;
        }
        match happening {
            Happening::Said(said) => {
                if worker.life.state() != State::Draining {
                    worker.alive(self.config.watchdog);
                }
                match said {
                    Said::Ready => self.happen(whom.id, Event::SaidReady),
                    Said::Stopping => self.said_stopping(whom.id),
                    Said::Alive => self.pinged(whom.id),
                }
            }
            Happening::Ended(exit) => self.ended(whom.id, exit),
            Happening::Opened(opened) => self.opened(whom.id, opened),
            Happening::Lost => self.ended(whom.id, Exit::Unknown),
        }
    }

    fn said_stopping(&mut self, id: Id) {
        self.rollout_saw_end(id, "is ending");
        self.happen(id, Event::SaidStopping);
        if self.workers.get(&id).is_some_and(|worker| worker.life.state() == State::Draining) {
            self.with_process(id, Process::expect_end);
        }
    }

    fn ended(&mut self, id: Id, exit: Exit) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let hung = std::mem::take(&mut worker.hung);
        let advice = worker.advice_on(exit);
        worker.end_of_process(exit);
        let name = worker.name.clone();
        if worker.trial {
            warn!(worker = name, "its successor {exit}{advice}");
        } else if worker.life.state() == State::Draining {
            info!(worker = name, "it {exit}");
        } else {
            warn!(worker = name, "it {exit}{advice}");
            if self.is_first_start(id) {
                self.fail_start(&format!("worker {name} {exit} while the service was being started{advice}"));
            }
        }
        self.forget_health(id);
        self.rollout_saw_end(id, &format!("{exit}{advice}"));
        let killed = exit == Exit::Signal(libc::SIGKILL) && !hung;
        self.happen(id, Event::Ended { killed });
    }

    /// Whether a worker has never served: its end is then part of the start, not a crash.
    fn is_first_start(&self, id: Id) -> bool {
        let Some(worker) = self.workers.get(&id) else { return false };
        worker.life.origin() == Origin::Started
            && worker.life.restarts() == 0
            && worker
                .life
                .ready_since()
                .is_none_or(|since| self.config.ready == Ready::Immediate && since.elapsed() < SETTLING)
    }

    /// An error before the service is up ends the start; later it is a crash like any other.
    fn fail_start(&mut self, why: &str) {
        if !self.settled && !self.stopping && !self.surroundings.starting.is_over() {
            let hint = "its own output, if any, is above; `ready` says when a worker counts as started";
            let report =
                anyhow!("{why} ({hint})").context(format!("service {} does not start", self.config.name));
            let _ = self.surroundings.failures.send(report);
        }
    }

    /// Some of what is still to be done; with hundreds of workers others do not wait for all of it.
    fn go_on(&mut self, slices: &Slices) {
        while !slices.is_over() && self.spreading.is_none() {
            let Some((id, step)) = self.later.pop_front() else { break };
            self.step(id, step);
        }
        while !slices.is_over() && self.rotate_next() {}
        let begun = Instant::now();
        while !slices.is_over() {
            let Some(id) = self.repairs.pop_front() else { break };
            self.repair(id, true);
        }
        self.looks.repair_took += begun.elapsed();
    }

    async fn tick(&mut self, slices: &Slices) {
        let now = Instant::now();
        let due: Vec<Id> = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.life.deadline().is_some_and(|at| at <= now))
            .map(|(id, _)| *id)
            .collect();
        for (at, id) in due.into_iter().enumerate() {
            if at > 0 && slices.is_over() {
                // They are due at once again.
                break;
            }
            let Some(worker) = self.workers.get(&id) else { continue };
            if worker.life.wants_look(now) {
                let flows = self.staying_with(worker);
                // Datagrams of flows that go on come and go.
                let queue = if flows > 0 { worker.connections() } else { worker.queue() };
                self.happen(id, Event::Looked { queue, flows });
            }
            self.happen(id, Event::Tick);
        }
        if self.join_at.is_some_and(|at| at <= now) {
            self.rebalance();
        }
        self.look_at_flows(now).await;
        if self.looks.next.is_some_and(|at| at <= now) {
            self.attend(now);
        }
        if self.nag_at.is_some_and(|at| at <= now) {
            self.nag_at = None;
            for worker in self.workers.values().filter(|worker| worker.life.state() == State::Starting) {
                warn!(
                    worker = worker.name,
                    "no READY=1 for {NAG_AFTER:?}; if the command does not speak sd_notify(3), set ready = \"accepting\""
                );
            }
        }
    }

    /// Notices that all workers have been started.
    fn settle(&mut self) {
        let now = Instant::now();
        let settled = |worker: &Worker| match (self.config.ready, worker.life.ready_since()) {
            _ if worker.life.origin() == Origin::Joined => true,
            (_, None) => false,
            (Ready::Immediate, Some(since)) => now - since >= SETTLING,
            _ => true,
        };
        if !self.settled && !self.stopping && self.own().all(settled) {
            self.came_up();
            info!("service {} is up: {}", self.config.name, self.summary());
        }
    }

    /// Workers that it starts itself: what becomes of others says nothing about the start.
    fn own(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values().filter(|worker| worker.life.origin() == Origin::Started)
    }

    /// From here on an exit is a crash and not a failed start.
    fn came_up(&mut self) {
        if !std::mem::replace(&mut self.settled, true) {
            self.nag_at = None;
            self.surroundings.starting.done();
        }
    }

    fn summary(&self) -> String {
        let listeners: Vec<String> =
            self.doors.iter().map(|door| door.group.listener().to_string()).collect();
        let workers = match self.workers.len() {
            1 => "1 worker".into(),
            n => format!("{n} workers"),
        };
        format!("{workers} on {}", listeners.join(" "))
    }

    fn deadline(&mut self) -> Option<Instant> {
        let settling = if self.settled || self.stopping || self.config.ready != Ready::Immediate {
            None
        } else {
            let last = self.own().filter_map(|worker| worker.life.ready_since()).max();
            // A moment that has passed without settling is nothing to wait for.
            last.map(|at| at + SETTLING).filter(|at| *at > Instant::now())
        };
        let lists = self.starts.is_empty() && self.later.is_empty() && self.repairs.is_empty();
        if !lists || self.spreading.is_some() || self.is_rotating() {
            return Some(Instant::now());
        }
        self.plan_look();
        let rollout = self.rollout.as_ref().and_then(Rollout::deadline);
        let save = if self.unsaved { self.save_at } else { self.state_file.again_at() };
        let own =
            [self.join_at, self.nag_at, settling, rollout, self.looks.next, self.flows.deadline(), save];
        self.workers
            .values()
            .filter_map(|worker| worker.life.deadline())
            .chain(own.into_iter().flatten())
            .min()
    }

    fn each(&mut self, event: Event) {
        let all: Vec<Id> = self.workers.keys().copied().collect();
        for id in all {
            let Some(worker) = self.workers.get_mut(&id) else { continue };
            let steps = worker.life.on(event, Instant::now(), &self.config);
            self.later.extend(steps.into_iter().map(|step| (id, step)));
        }
    }

    fn stop(&mut self) {
        if !std::mem::replace(&mut self.stopping, true) {
            self.end_rollout("the service is ending");
            self.leave(&self.workers.keys().copied().collect::<Vec<_>>(), None);
        }
    }

    fn happen(&mut self, id: Id, event: Event) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let before = worker.life.state();
        let steps = worker.life.on(event, Instant::now(), &self.config);
        let after = worker.life.state();
        if before != after && after == State::Ready {
            worker.alive(self.config.watchdog);
        }
        if before != after {
            info!(worker = worker.name, slot = worker.slot, "{before} → {after}");
            self.unsaved = true;
        }
        self.take(id, steps);
    }

    /// Takes steps in their order; those that rely on what the kernel has still to be told wait for that.
    fn take(&mut self, id: Id, steps: Vec<Step>) {
        self.unsaved |= !steps.is_empty();
        let mut waits = self.later.iter().any(|(other, _)| *other == id);
        for step in steps {
            let relies = !matches!(step, Step::Withdraw | Step::Cut | Step::Spawn | Step::Admit);
            waits |= relies && self.spreading.is_some();
            if waits {
                self.later.push_back((id, step));
            } else {
                self.step(id, step);
            }
        }
    }

    fn step(&mut self, id: Id, step: Step) {
        match step {
            Step::Spawn => self.spawn(id),
            Step::Admit => self.admit(id),
            Step::Withdraw | Step::Cut => self.rebalance(),
            Step::Rescue => self.rescue(id, None),
            Step::HandOn => self.hand_on(id),
            Step::HandOver => self.hand_over(id),
            Step::Terminate => self.with_process(id, Process::terminate),
            Step::Kill => self.with_process(id, Process::kill),
            Step::Release => self.part(id),
        }
    }

    fn with_process(&self, id: Id, act: impl Fn(&Process)) {
        if let Some(running) = self.workers.get(&id).and_then(|worker| worker.process.as_ref()) {
            act(&running.process);
        }
    }
}

/// Looks up whom workers run as.
pub(crate) fn with_user(mut config: config::Service) -> Result<(config::Service, Option<User>)> {
    if config.embedded && config.user.is_none() {
        // The embedded worker needs no rights at all.
        config.user = host::user(NOBODY).ok().map(|user| user.name);
    }
    let user = config.user.as_deref().map(host::user).transpose()?;
    Ok((config, user))
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
