//! The daemon: runs services, signals and sockets together, and ends in order.

mod abandoned;
mod adopting;
mod agent;
mod answers;
mod apply;
mod forgotten;
mod host_drain;
mod http;
mod listener_moves;
mod orders;
mod own_rights;
mod paths;
mod preview;
mod reloading;
mod runtime_dir;
mod served;
mod services;
mod sockets;
mod source;
pub mod startable;

pub use paths::Paths;
pub use runtime_dir::{about_directory, is_locked, leaves_services, left_in};
pub use source::{HERE, Overruling, Source};

use std::cell::RefCell;
use std::io::{self, IsTerminal};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use reuseport_lb_client::api::{EventKind, Requester, Stop};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use tracing::{info, warn};

use crate::config::{self, Configuration};
use crate::handle::{Handle, Order};
use crate::kernel::bpffs::Pins;
use crate::kernel::cgroup::Cgroups;
use crate::kernel::host;
use crate::kernel::rights;
use crate::kernel::systemd::{self, Starting};
use crate::kernel::waits::Waits;
use crate::offload;
use crate::service::state_file::{self, SavedService, StateFile};
use crate::service::{self, Claims, Command, Outputs, Service, Sight, Surroundings};
use abandoned::{claimant, deciding, end_abandoned, end_in_time, holders, successors};
use answers::{Answers, Opened};
use apply::{Configurator, Occasion};
use host_drain::HostDraining;
use runtime_dir::Files;
use services::Registry;
use sockets::Sockets;

/// Time limit of the search for workers of an earlier daemon.
const PATIENCE: Duration = Duration::from_secs(5);

/// How the daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Workers finish; no process, pin or file is left.
    InOrder,
    /// Workers, sockets and buckets stay for the next daemon.
    Keep,
    /// The start failed: services that were taken over stay as with [`End::Keep`].
    Failed,
}

/// Runs the services of `source` until SIGTERM, SIGINT or `stop`; a second signal kills the workers. Returns when no
/// process, pin or socket file is left; with `stop --keep`, at once.
pub fn run(source: &Source, paths: &Paths) -> Result<()> {
    let Configuration { services, answers, .. } = source.read()?;
    config::warnings(&services).iter().for_each(|line| warn!("{line}"));
    rights::require()?;
    for service in &services {
        startable::require(service, &paths.runtime_dir).map_err(anyhow::Error::msg)?;
    }
    host::expect_signals();
    host::only_write_to_terminal();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    host::return_memory();
    let open_files = host::raise_open_files();
    let files = Rc::new(Files::make(paths)?);
    let answers = {
        let _entered = runtime.enter();
        answers::open(answers, paths)?
    };
    let waits = Waits::load().inspect_err(|error| warn!("{error:#}")).ok();
    let pins = Pins::prepare(&paths.bpffs, &paths.runtime_dir)?;
    let (ours, runtime_dir) = (RefCell::default(), paths.runtime_dir.clone());
    let (failures, failed) = mpsc::unbounded_channel();
    let surroundings = Rc::new(Surroundings {
        pins,
        ours,
        claims: Claims::default(),
        held: RefCell::default(),
        cgroups: Cgroups::prepare(),
        runtime_dir,
        sight: Sight::new(waits),
        open_files,
        failures,
        events: Rc::default(),
        outputs: Outputs::default(),
        starting: Starting::default(),
    });
    let registry = Rc::<Registry>::default();
    let daemon = Daemon {
        source,
        files: files.clone(),
        configurator: Configurator::new(registry.clone(), surroundings.clone()),
        registry,
        surroundings: surroundings.clone(),
        abandoned: Rc::default(),
    };
    let end = LocalSet::new()
        .block_on(&runtime, offload::measured("the daemon", daemon.serve(services, answers, failed)));
    if matches!(end, Ok(End::Keep | End::Failed)) {
        files.keep.set(true);
        anyhow::ensure!(matches!(end, Ok(End::Keep)), "the start failed; see above");
        return Ok(());
    }
    surroundings.cgroups.remove();
    surroundings.pins.remove()?;
    end.map(drop)
}

struct Daemon<'a> {
    source: &'a Source,
    files: Rc<Files>,
    registry: Rc<Registry>,
    configurator: Rc<Configurator>,
    surroundings: Rc<Surroundings>,
    /// Services that could not be taken over and whose workers have not been told to end.
    abandoned: Rc<RefCell<Vec<SavedService>>>,
}

impl Daemon<'_> {
    async fn serve(
        self,
        services: Vec<config::ServiceConfig>,
        opened: Opened,
        mut failures: mpsc::UnboundedReceiver<anyhow::Error>,
    ) -> Result<End> {
        let mut signals = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
        let mut hangup = signal(SignalKind::hangup())?;
        let sockets = Sockets::make(&self.files.paths, opened.control.clone())?;
        let interactive = io::stderr().is_terminal();

        let (orders, mut ordered) = mpsc::unbounded_channel();
        let registry = &self.registry;
        let handle = Handle::new(registry.services.clone(), orders, self.surroundings.events.clone());
        let events = self.surroundings.events.clone();
        let draining = HostDraining::new(&self.surroundings.runtime_dir, handle.clone(), events);
        let answers = Rc::new(Answers::new(&handle, opened));
        let (pid, version) = (std::process::id(), env!("CARGO_PKG_VERSION").to_owned());
        self.surroundings.events.add(EventKind::Started { pid, version }, None, None);
        self.surroundings.starting.begun();
        // The control socket answers from the first moment, with services that are still to come.
        let (left, damaged) = self.look_for_states();
        let expected = left.iter().filter(|state| state.abandoned.is_none());
        expected.for_each(|state| registry.expect(service::left(state)));
        self.configurator.note_adopted(&left);
        services.iter().for_each(|service| registry.expect(service::coming(service, "is being started")));
        let (files, around) = (self.files.clone(), self.surroundings.clone());
        let look = move || {
            files.look();
            around.pins.look();
            around.look();
        };
        tokio::task::spawn_local(sockets.serve(
            self.files.paths.clone(),
            handle.clone(),
            registry.clone(),
            look,
        ));
        tokio::task::spawn_local(systemd::stay_alive());
        info!("control socket {}", self.files.paths.control().display());
        if let Err(error) = self.start(left, services.clone()).await {
            return self.fail(error).await;
        }
        // Damaged files of services that are not configured any more are removed.
        let wanted = |file: &&StateFile| services.iter().any(|service| service.name == file.service());
        damaged.iter().filter(|file| !wanted(file)).for_each(StateFile::remove);
        self.surroundings.starting.done();

        let mut outcome = Ok(End::InOrder);
        let mut announce = None;
        let asker = loop {
            tokio::select! {
                signal = any(&mut signals) => break Some(signal),
                Some(order) = ordered.recv() => match order {
                    Order::Stop(Stop { keep, announce_ms }, asker) => {
                        outcome = Ok(if keep { End::Keep } else { End::InOrder });
                        announce = announce_ms.map(Duration::from_millis);
                        break asker;
                    }
                    other => self.obey(other, &handle, &answers, &draining),
                },
                () = registry.ended.notified() => {
                    if let Some(error) = registry.broken() {
                        outcome = Err(anyhow!(error));
                        break None;
                    }
                }
                // With a terminal, the terminal was closed; without one, SIGHUP asks for a reload.
                _ = hangup.recv() => {
                    let asker = Some(Requester::Signal { signal: "SIGHUP".into() });
                    if interactive {
                        break asker;
                    }
                    // The answer is dropped: the log has the outcome.
                    self.reload(oneshot::channel().0, asker, &handle, &answers);
                }
                Some(error) = failures.recv() => {
                    outcome = Err(error);
                    break None;
                }
            }
        };
        systemd::stopping();
        let (keep, reason) =
            (matches!(outcome, Ok(End::Keep)), outcome.as_ref().err().map(|error| format!("{error:#}")));
        self.surroundings.events.add(EventKind::Stopping { keep }, reason, asker.clone());
        if matches!(outcome, Ok(End::Keep)) {
            info!("ending; workers, sockets and buckets stay for the next daemon");
            registry.tell(&asker, || Command::Keep);
        } else {
            info!("stopping: workers finish what they have");
            registry.tell(&asker, || Command::Retire(announce));
            // Abandoned workers need not wait for new ones to be ready.
            for state in self.abandoned.take() {
                end_abandoned(&state).await;
            }
            let (left, _) = state_file::read_all(&self.surroundings.runtime_dir, &host::boot());
            let told = left.iter().filter(|state| state.abandoned.is_some());
            told.for_each(|state| state.file(&self.surroundings.runtime_dir).remove());
        }
        if outcome.is_err() {
            registry.tell(&asker, || Command::Kill);
        }
        while !registry.services.is_empty() {
            tokio::select! {
                () = registry.ended.notified() => {}
                Some(order) = ordered.recv() => match order {
                    // The time of lame ducks is over.
                    Order::Stop(_, asker) => registry.tell(&asker, || Command::Stop),
                    other => Self::refuse(other),
                },
                signal = any(&mut signals) => {
                    warn!("a second signal: workers are killed");
                    registry.tell(&Some(signal), || Command::Kill);
                }
            }
        }
        if !matches!(outcome, Ok(End::Keep)) {
            self.surroundings.outputs.are_written_soon().await;
        }
        info!("stopped");
        match registry.broken() {
            Some(error) => outcome.and(Err(anyhow!(error))),
            None => outcome,
        }
    }

    /// Takes over services of an earlier daemon, and applies the configuration to them. The loop runs
    /// meanwhile; orders to the daemon wait until this is done.
    async fn start(&self, left: Vec<SavedService>, services: Vec<config::ServiceConfig>) -> Result<()> {
        let (known, coming) = (left.clone(), services.clone());
        let runtime_dir = self.surroundings.runtime_dir.clone();
        let look = move || forgotten::look(&known, &coming, &runtime_dir);
        let look = offload::in_thread_within(PATIENCE, "looking for workers", look);
        self.surroundings.claims.hold(true);
        let (forgotten, mut abandoned) = tokio::join!(look, self.take_over(left));
        match forgotten {
            Ok(forgotten) => abandoned.extend(forgotten.into_iter().inspect(|state| {
                self.hold(state);
                state.file(&self.surroundings.runtime_dir).write(state);
            })),
            Err(error) => warn!("it is not known whether an earlier daemon has left workers: {error:#}"),
        }
        let all = self.configurator.with_adopted(services.clone()).unwrap_or_default();
        let wanted = |name: &str| services.iter().chain(&all).any(|service| service.name == name);
        self.registry.forget(|name| !wanted(name));
        let applied = self.configurator.apply(services.clone(), Occasion::Start, None).await;
        applied.map_err(anyhow::Error::msg)?;
        for state in &abandoned {
            let (state, successors) = (state.clone(), successors(state, &services));
            let (registry, surroundings) = (self.registry.clone(), self.surroundings.clone());
            tokio::task::spawn_local(end_in_time(
                state,
                successors,
                registry,
                surroundings,
                self.abandoned.clone(),
            ));
        }
        self.abandoned.replace(abandoned);
        own_rights::give_up(&self.files.paths)
    }

    /// Ends the daemon after a failed start. Services that were taken over stay.
    async fn fail(&self, error: anyhow::Error) -> Result<End> {
        let registry = &self.registry;
        registry.forget(|_| true);
        let kept = self.surroundings.starting.is_over();
        registry.tell(&None, || if kept { Command::Keep } else { Command::Kill });
        while !registry.services.is_empty() {
            registry.ended.notified().await;
        }
        if !kept {
            return Err(error);
        }
        warn!("{error:#}; the workers of the daemon before go on without one");
        Ok(End::Failed)
    }

    /// Services that an earlier daemon has saved, and files that cannot be used.
    fn look_for_states(&self) -> (Vec<SavedService>, Vec<StateFile>) {
        let (states, wrong) = state_file::read_all(&self.surroundings.runtime_dir, &host::boot());
        for (_, wrong) in &wrong {
            warn!("a state file cannot be used, so its service is not taken over: {wrong}");
        }
        let names: Vec<&str> = states.iter().map(|state| state.config.name.as_str()).collect();
        let counts = states.iter().any(|state| state.config.counts_connections());
        self.surroundings.pins.sweep(&names, counts);
        (states, wrong.into_iter().map(|(file, _)| file).collect())
    }

    /// Takes services over; returns those that cannot be. These decide for their listeners until others are ready to.
    async fn take_over(&self, states: Vec<SavedService>) -> Vec<SavedService> {
        let (mut abandoned, states): (Vec<SavedService>, Vec<SavedService>) =
            states.into_iter().partition(|state| state.abandoned.is_some());
        let claims = &self.surroundings.claims;
        // Later entries count: services that are taken over come before abandoned ones.
        claims.keep(holders(&abandoned, claimant));
        claims.keep(holders(&states, |state| state.config.name.clone()));
        abandoned.iter().for_each(|state| self.hold(state));
        for state in states {
            let name = state.config.name.clone();
            match Service::take_over(state.clone(), self.surroundings.clone()).await {
                Ok(service) => self.registry.add(name, service),
                Err(error) => {
                    warn!("{error:#}; it is started anew, and then its old workers are told to end");
                    self.surroundings.pins.forget_service(&name);
                    claims.reassign(&name, &claimant(&state));
                    self.hold(&state);
                    abandoned.push(self.set_aside(state));
                }
            }
        }
        claims.open();
        abandoned
    }

    /// Claims the listeners of an abandoned service for it, until another service takes them.
    fn hold(&self, state: &SavedService) {
        let listeners = deciding(state).map(|saved| saved.asked);
        listeners.for_each(|listener| drop(self.surroundings.claims.claim(listener, &claimant(state))));
    }

    /// Saves the state of an abandoned service in a file of its own: another daemon may have to end its workers.
    fn set_aside(&self, state: SavedService) -> SavedService {
        let runtime_dir = &self.surroundings.runtime_dir;
        let aside =
            SavedService { abandoned: Some(state_file::abandoned_name(&state.config.name)), ..state.clone() };
        let mut file = aside.file(runtime_dir);
        file.write(&aside);
        if file.failure().is_none() {
            state.file(runtime_dir).remove();
        }
        aside
    }
}

/// Waits for a signal that ends the daemon.
async fn any(signals: &mut [Signal; 2]) -> Requester {
    let [terminate, interrupt] = signals;
    tokio::select! {
        _ = terminate.recv() => Requester::Signal { signal: "SIGTERM".into() },
        _ = interrupt.recv() => Requester::Signal { signal: "SIGINT".into() },
    }
}
