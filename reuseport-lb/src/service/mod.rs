//! One service: its engine, the ports that the engine acts through, and the task that runs it. Not: decisions
//! (`domain/engine`), nor system calls (`kernel/`).

mod admitting;
mod adopting;
mod calls;
mod claims;
mod command;
mod dataplane;
mod directed;
mod direction;
pub mod event_log;
mod explain;
mod groups;
pub mod joining;
mod opening;
mod processes;
mod report;
mod saving;
pub mod sd_notify;
mod sightings;
pub mod state_file;
mod status;
mod surroundings;
mod takeover;
pub mod trace;

pub use claims::Claims;
pub use command::{Asked, Command, MOVING, Prepare};
pub use direction::{Directed, DirectedAt};
pub use opening::with_user;
pub use report::{ServiceReport, Shown, coming, complete, left};
pub use surroundings::{Outputs, Sight, Surroundings};
pub use takeover::{abandon, is_left, unknown_life};

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use reuseport_lb_client::api::{Progress, Requester};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::config;
use crate::domain::Reply;
use crate::domain::engine::{CheckKind, Input, ProcessEvent, Reconfiguration, Work};
use crate::domain::log_limit::LogLimit;
use crate::domain::ports::{ProcessKey, Processes};
use crate::offload::Slices;
use command::{Commands, answering};
use processes::OwnEngine;
use saving::Saver;
use sightings::Sightings;
use trace::Tracer;

/// How long a service that takes a listener over from another service may take to become ready.
pub const START: Duration = Duration::from_secs(30);

/// How many process events are handled before the engine works again.
const AT_ONCE: usize = 16;

/// A service; owned by its task.
pub struct Service {
    engine: OwnEngine,
    events: mpsc::UnboundedReceiver<(ProcessKey, ProcessEvent)>,
    saver: Saver,
    /// Settings that [`Command::Prepare`] made everything ready for.
    prepared: Option<Box<Reconfiguration>>,
    /// What is looked for, if the service adopts sockets of others.
    sightings: Sightings,
    /// Limits the log lines about refused joins, by user id.
    refused: LogLimit<u32>,
    tracer: Tracer,
    /// The report that status requests get while the service is busy.
    shown: Option<Shown>,
    /// The daemon waits until this service is up.
    starting: bool,
    /// When the service begins to end, if the daemon is to end and `lame_duck` lets the service go on; and who asked.
    retires: Option<(Instant, Option<Requester>)>,
    surroundings: Rc<Surroundings>,
}

impl Service {
    fn new(
        engine: OwnEngine,
        events: mpsc::UnboundedReceiver<(ProcessKey, ProcessEvent)>,
        tracer: Tracer,
        surroundings: &Rc<Surroundings>,
    ) -> Self {
        let name = &engine.settings().config.name;
        Self {
            saver: Saver::new(&surroundings.runtime_dir, name),
            events,
            prepared: None,
            sightings: Sightings::default(),
            refused: LogLimit::default(),
            tracer,
            shown: None,
            starting: false,
            retires: None,
            surroundings: surroundings.clone(),
            engine,
        }
    }

    /// The settings in force: as configured, with the changes of `scale` and `drain` since.
    #[must_use]
    pub fn config(&self) -> &config::ServiceConfig {
        &self.engine.settings().config
    }

    /// Serves until [`Command::Stop`] or [`Command::Kill`] has ended every worker, or [`Command::Keep`] leaves
    /// everything to the next daemon.
    pub async fn run(mut self, commands: mpsc::UnboundedReceiver<Asked>, shown: Shown) {
        let mut commands = Commands::new(commands);
        self.shown = Some(shown);
        self.engine.begin(Instant::now());
        self.sightings.begin(&self.engine.settings().config);
        let mut slices = Slices::begin();
        loop {
            let more = self.work(&slices);
            self.engine.settle(Instant::now());
            self.report_start();
            self.save();
            self.tell_incidents();
            if self.engine.is_over() {
                return self.end().await;
            }
            if self.engine.busy().is_some() {
                self.pause(&mut slices, &mut commands).await;
                continue;
            }
            self.idle();
            if let Some((_, by)) = self.retires.take_if(|(at, _)| *at <= Instant::now()) {
                self.engine.asked_by(by.map(Into::into));
                self.handle(Command::Stop, None).await;
                continue;
            }
            let deadline = self.deadline(more);
            tokio::select! {
                biased;
                command = commands.next() => match command {
                    Some(Asked { command: Command::Keep, .. }) => return self.keep(),
                    Some(Asked { command, by }) => {
                        if !matches!(
                            command,
                            Command::Status(_) | Command::Buckets(_) | Command::Explain(..)
                        ) {
                            // A client may rely on an answered change, so that is saved without a pause.
                            self.saver.at_once();
                            self.engine.asked_by(by.clone().map(Into::into));
                        }
                        self.handle(command, by).await;
                    }
                    None => self.engine.handle(Input::Stop, Instant::now()),
                },
                Some((key, event)) = self.events.recv() => self.hear(key, event),
                sighting = self.sightings.next() => self.saw(&sighting),
                () = sleep_until(deadline) => {}
            }
            // Several events together cost one round of the engine, which is dear with many workers.
            for _ in 0..AT_ONCE {
                if slices.is_over() || self.engine.busy().is_some() {
                    break;
                }
                let Ok((key, event)) = self.events.try_recv() else { break };
                self.hear(key, event);
            }
            self.pause(&mut slices, &mut commands).await;
        }
    }

    fn hear(&mut self, key: ProcessKey, event: ProcessEvent) {
        self.engine.asked_by(None);
        self.engine.handle(Input::Process(key, event), Instant::now());
    }

    /// Does work that is due until the slice is over; true if more is due.
    fn work(&mut self, slices: &Slices) -> bool {
        loop {
            let begun = Instant::now();
            let Some(work) = self.engine.advance(begun) else { return false };
            self.engine.took(work, begun.elapsed());
            if work == Work::Check(CheckKind::Repairs) {
                self.saver.look(&self.engine);
            }
            if slices.is_over() {
                return true;
            }
        }
    }

    fn deadline(&self, more: bool) -> Option<Instant> {
        let now = Instant::now();
        if more {
            return Some(now);
        }
        let deadlines =
            [self.engine.next_deadline(now), self.saver.deadline(), self.retires.as_ref().map(|(at, _)| *at)];
        deadlines.into_iter().flatten().min()
    }

    /// Lets other tasks run if the slice is over, in the middle of the work; status requests are answered first.
    async fn pause(&mut self, slices: &mut Slices, commands: &mut Commands) {
        // Halfway through a change of settings a report would show neither the old state nor the new one.
        if slices.is_over() && self.engine.is_whole() {
            let asked = commands.questions();
            if !asked.is_empty() {
                self.save_what_is_shown();
            }
            asked.into_iter().for_each(|answer| drop(answer.send(self.report())));
        }
        slices.turn().await;
    }

    /// Saves without a pause: a client may act on what it is shown, so the next daemon must know that as well.
    fn save_what_is_shown(&mut self) {
        self.saver.at_once();
        self.save();
    }

    /// Saves what the next daemon must know; then unblocks new processes, which wait for that.
    fn save(&mut self) {
        if self.engine.is_whole() && self.saver.save(&self.engine, &self.surroundings.claims) {
            self.engine.ports().1.unblock();
        }
    }

    /// Tells what has happened to those who watch the daemon.
    fn tell_incidents(&mut self) {
        for incident in self.engine.take_incidents() {
            self.surroundings.events.add_incident(&self.config().name, incident);
        }
    }

    fn report_start(&mut self) {
        if let Some(failure) = self.engine.take_failure() {
            if !self.surroundings.starting.is_over() {
                // Sending fails if the daemon is ending already.
                let _ = self.surroundings.failures.send(anyhow!(failure));
            }
        } else if self.engine.is_up() {
            self.started();
        }
    }

    /// Tells the daemon, once, that it need not wait for this service any more.
    fn started(&mut self) {
        if std::mem::take(&mut self.starting) {
            self.surroundings.starting.done();
        }
    }

    async fn handle(&mut self, command: Command, by: Option<Requester>) {
        let now = Instant::now();
        // Answers are dropped where the client has gone away meanwhile.
        match command {
            // A report is not worth making for a client that has given up.
            Command::Status(answer) if answer.is_closed() => {}
            Command::Status(answer) => {
                // All else was saved before the command was taken.
                if self.saver.deadline().is_some() {
                    self.save_what_is_shown();
                }
                drop(answer.send(self.report()));
            }
            Command::Buckets(answer) => drop(answer.send(Ok(self.bucket_owners()))),
            Command::Scale(to, answer) => {
                self.busy("is being scaled");
                self.engine.handle(Input::Scale(to, answering(answer)), now);
            }
            Command::Weight(number, weight, answer) => {
                self.engine.handle(Input::Weight(number, weight, answering(answer)), now);
            }
            Command::Drain(number, patience, answer) => {
                self.engine.handle(Input::Drain(number, patience, answering(answer)), now);
            }
            Command::Restart(options, progress) => {
                let listener = move |event| drop(progress.send(Progress::from(event)));
                self.engine.handle(Input::Restart(options, Box::new(listener)), now);
            }
            Command::Join(request) => self.join(request, now),
            Command::Prepare(request, answer) => {
                self.busy("is being changed");
                drop(answer.send(self.prepare(*request).await));
            }
            Command::Commit(answer) => {
                self.busy("is being changed");
                let reply = Reply::new(move |outcome| drop(answer.send(outcome)));
                let change = self.prepared.take();
                self.engine.handle(Input::Reconfigure(change, reply), now);
            }
            Command::Preview(answer) => {
                drop(answer.send(self.engine.preview(self.prepared.as_deref())));
            }
            Command::Abort => self.forget_prepared(),
            Command::Decides(answer) => {
                let reply = Reply::new(move |()| answer.send(()).unwrap_or_default());
                self.engine.handle(Input::Decides(reply), now);
            }
            Command::Explain(what, listen, answer) => {
                drop(answer.send(self.explain(what, listen)));
            }
            Command::Direct(number, listen, answer) => {
                if let Err(Ok(directed)) = answer.send(self.direct(number, listen)) {
                    self.undirect(directed.at);
                }
            }
            Command::Directed(at, answer) => drop(answer.send(Ok(self.has_met(at)))),
            Command::Undirect(at) => self.undirect(at),
            Command::Trace(answer) => {
                let subscribed = self.tracer.subscribe();
                self.engine.dataplane().trace();
                drop(answer.send(subscribed));
            }
            Command::TraceEnded => self.engine.dataplane().trace(),
            Command::Retire(announce) => self.retire(announce, by, now),
            Command::Stop => {
                self.retires = None;
                self.engine.handle(Input::Stop, now);
            }
            Command::Kill => self.engine.handle(Input::Kill, now),
            // `run` handles this one; should it ever come here, everything stays as it is too.
            Command::Keep => warn!("told to keep everything in the middle of something else"),
        }
    }

    /// Ends the service after this time, or after `lame_duck`.
    fn retire(&mut self, announce: Option<Duration>, by: Option<Requester>, now: Instant) {
        let config::ServiceConfig { name: service, lame_duck, .. } = self.config();
        let (goes_on, whose) = match announce {
            Some(announce) => (announce, "announce"),
            None => (*lame_duck, "lame_duck"),
        };
        if goes_on.is_zero() {
            return self.engine.handle(Input::Stop, now);
        }
        info!(service, "goes on for {goes_on:?} ({whose}), and says that it is ending");
        self.retires = Some((now + goes_on, by));
    }

    /// Drops the prepared settings and what was made for them.
    fn forget_prepared(&mut self) {
        self.prepared = None;
        self.engine.set_prepared(false);
        self.engine.ports().0.forget_prepared();
    }

    /// Removes the state file and all pins, after the last worker's end.
    async fn end(mut self) {
        self.started();
        self.tell_incidents();
        self.saver.remove();
        self.unpin_all().await;
    }

    /// Removes the pins of all groups.
    async fn unpin_all(&mut self) {
        let mut slices = Slices::begin();
        let name = self.config().name.clone();
        for group in self.engine.ports().0.take_all() {
            slices.turn().await;
            self.surroundings.pins.forget(&name, &group.name);
        }
        self.engine.ports().0.end_counting();
    }

    /// Ends and leaves sockets, programs and processes to the next daemon.
    fn keep(mut self) {
        self.surroundings.claims.freeze();
        self.engine.leave_to_itself(Instant::now());
        self.tell_incidents();
        self.saver.at_once();
        self.saver.save(&self.engine, &self.surroundings.claims);
        self.engine.ports().1.unblock();
        info!(service = self.config().name, "its workers go on without a daemon");
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
